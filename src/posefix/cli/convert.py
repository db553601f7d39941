"""``posefix convert``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posefix.choices import BACKBONES
from posefix.cli.options import check_output, report_errors, say, skeleton_named, skeleton_option
from posefix.messages import shown

if TYPE_CHECKING:
    from posefix.network.config import ModelConfig


@click.command(short_help="Turn the authors' TensorFlow checkpoint into weights.")
@click.argument("snapshot", type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for the weights.")
@click.option(
    "--backbone",
    type=click.Choice([b for b in BACKBONES if b.startswith("resnet")]),
    help="Default: what the checkpoint holds.",
)
@click.option(
    "--input-size",
    metavar="HEIGHTxWIDTH",
    help="What the network was trained with. Default: 384x288 for resnet152, else 256x192: the weights do not tell.",
)
@skeleton_option
@report_errors
def convert(snapshot: str, out: str, backbone: str | None, input_size: str | None, skeleton_name: str) -> None:
    """Turn the authors' TensorFlow checkpoint into weights for Refiner.from_pretrained.

    SNAPSHOT is the checkpoint's prefix, output/model_dump/COCO/snapshot_140.ckpt, or any of its files. The converted
    refiner cuts, colours and decodes as the reference does. Needs posefix[tensorflow], for this step only.

    \b
    Examples:
      posefix convert snapshot_140.ckpt --out posefix-r152/
      posefix refine results.json --images val2017/ --weights posefix-r152/ --flip-test --out refined.json
    """
    from posefix.weights.calibration import PAPER_CALIBRATION
    from posefix.weights.tensorflow import checkpoint_prefix
    from posefix.weights.tensorflow import convert as convert_checkpoint
    from posefix.weights.weights import Weights, save_weights

    checkpoint_prefix(snapshot)
    check_output(out, folder=True)
    skeleton = skeleton_named(skeleton_name)
    config, state = convert_checkpoint(snapshot, backbone=backbone, input_hw=_size(input_size), skeleton=skeleton)
    about = _about(Path(snapshot), config)
    save_weights(out, Weights(config, skeleton, PAPER_CALIBRATION, state, about=about))
    height, width = config.input_hw
    say(f"{out} written: {config.backbone}, {height}x{width}, skeleton {skeleton.name}, {len(state)} tensors")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", text.strip().lower())
    if found is None:
        raise click.BadParameter(f"expected HEIGHTxWIDTH, as 384x288, got {shown(text)}", param_hint="--input-size")
    return int(found[1]), int(found[2])


def _about(snapshot: Path, config: ModelConfig) -> dict[str, str]:
    """Where the weights come from; without the user's folders, as weights may be published."""
    return {
        "origin": f"converted by 'posefix convert' from the TensorFlow checkpoint {snapshot.name}",
        "method": "PoseFix (Moon, Chang, Lee, CVPR 2019), official release, github.com/mks0601/PoseFix_RELEASE (MIT)",
        "model": f"{config.backbone}, {config.input_hw[0]}x{config.input_hw[1]}, the reference's pre-processing",
    }
