"""``posefix export``."""

from __future__ import annotations

from pathlib import Path

import click

from posefix.choices import EXPORT_FORMATS
from posefix.cli.options import check_output, report_errors, say, split_revision, weights_option
from posefix.exceptions import WeightsError


@click.command(short_help="Write the network for ONNX Runtime or OpenVINO.")
@weights_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(EXPORT_FORMATS),
    default="onnx",
    show_default=True,
    help="Format.",
)
@click.option("--half", is_flag=True, help="Store large parameters as float16: half the size.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for the files.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Fail where 99.9 % of the keypoints are not within so many crop pixels of torch.",
)
@report_errors
def export(weights: str | None, file_format: str, half: bool, out: str, limit: float) -> None:
    """Write the network for ONNX Runtime or OpenVINO, with decoding inside, and compare it with torch.

    Refiner.from_pretrained("OUT") runs the folder, also where torch is not installed. The page "Export" of the
    documentation describes inputs and outputs for programs in other languages. Needs posefix[onnx] or
    posefix[openvino].

    \b
    Examples:
      posefix export --out exported/
      posefix export --format openvino --half --out exported/
    """
    import numpy as np

    from posefix.cli.demo_pose import demo_crops
    from posefix.inference.export import check_parity, export_model
    from posefix.weights.weights import load_weights

    source, revision = split_revision(weights) if weights else (None, None)
    loaded = load_weights(source, revision=revision)
    check_output(out, folder=True)
    export_model(loaded, out, file_format=file_format, half=half)
    size = sum(p.stat().st_size for p in Path(out).iterdir() if p.is_file())
    say(f"{out} written: {file_format}, {'float16' if half else 'float32'} parameters, {size / 1e6:.0f} MB")
    parity = check_parity(loaded, out, demo_crops(loaded, np.random.default_rng(0)))
    say(
        f"against torch in float32, {parity.keypoints} keypoints: 99.9 % within {parity.per_mille:.4f} px, "
        f"all within {parity.largest:.4f} px; confidence within {parity.confidence:.1e}"
    )
    if not parity.per_mille <= limit:
        raise WeightsError(f"{out}: the exported model differs from torch by more than {limit:g} px; do not use it")
