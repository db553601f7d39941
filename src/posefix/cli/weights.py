"""``posefix weights list|download|verify|card|build``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posefix.choices import ALIGNMENTS, FAMILIES, OUTPUTS
from posefix.cli.options import check_output, report_errors, say, split_revision
from posefix.exceptions import InputError, WeightsError
from posefix.keypoints.skeleton import SKELETONS
from posefix.messages import one_line, shown

if TYPE_CHECKING:
    from posefix.weights.hub import Snapshot
    from posefix.weights.weights import Weights

_NAMES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Stored:
    """Weights and the files that they were read from.

    Attributes:
        weights: strictly loaded.
        config: content of ``config.json``.
        content: of ``model.safetensors``.
        where: their folder.
    """

    weights: Weights
    config: bytes
    content: bytes
    where: str

    @property
    def sha256(self) -> str:
        """Of ``model.safetensors``, as computed."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def recorded_sha256(self) -> str | None:
        """What ``config.json`` says that it is."""
        from posefix.weights.weights import recorded_sha256

        return recorded_sha256(self.config)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Weights: what is here, and whether it is whole.",
)
def weights() -> None:
    """Weights: what is here, where it is from, whether it is whole.

    WHERE is a folder or a hub repository USER/REPO[@REVISION]; without it, the weights in the package are meant.

    \b
    Examples:
      posefix weights list
      posefix weights download USER/REPO --revision v1.0
      posefix weights verify
    """


@weights.command(name="list", short_help="Weights in the package and in the hub's cache.")
@report_errors
def list_weights() -> None:
    """Weights in the package and in the hub's cache: licence, keypoints, input, size, hash, origin.

    Nothing is downloaded. Of the cache (HF_HOME), only repositories of posefix are shown.

    \b
    Examples:
      posefix weights list
    """
    from posefix.weights.hub import cached_snapshots
    from posefix.weights.weights import CONFIG_NAME, is_config

    blocks = []
    for place in [None, *cached_snapshots(_NAMES)]:
        if place is not None and not is_config(place.folder / CONFIG_NAME):
            continue
        try:
            blocks.append(_describe(_read(place)))
        except WeightsError as error:
            blocks.append(f"{place.origin if place else 'embedded'}\n  {error}")
    say("\n\n".join(blocks))


@weights.command(short_help="Fetch weights from the hub into its cache.")
@click.argument("repository", metavar="USER/REPO")
@click.option("--revision", help="Branch, tag or commit; default: the newest on the main branch.")
@click.option("--force", is_flag=True, help="Fetch it again even if it is in the cache.")
@report_errors
def download(repository: str, revision: str | None, force: bool) -> None:
    """Fetch weights from the Hugging Face hub into its cache, for use without a network.

    Private and gated repositories: run 'hf auth login' first, or set HF_TOKEN. A commit as revision pins them.

    \b
    Examples:
      posefix weights download USER/REPO
      posefix weights download USER/REPO --revision v1.0
    """
    from posefix.weights.hub import HubSource, cached
    from posefix.weights.weights import load_weights

    name, at_revision = split_revision(repository)
    if Path(name).exists():
        raise WeightsError(f"download: expected a hub repository USER/REPO, got the folder {name}")
    loaded = load_weights(name, revision=revision or at_revision, force_download=force)
    _, _, commit = loaded.origin.rpartition("@")
    snapshot = cached(HubSource(name, commit), _NAMES)
    assert snapshot is not None  # it was just read from there
    say(_describe(_read(snapshot)))


@weights.command(short_help="Load weights strictly and check the hash.")
@click.argument("where", required=False)
@report_errors
def verify(where: str | None) -> None:
    """Check weights: load them strictly, check every number, compare the hash. Exit status 1 if wrong.

    \b
    Examples:
      posefix weights verify
      posefix weights verify runs/embedded/weights
      posefix weights verify USER/REPO@v1.0
    """
    stored = _read(_place(where))
    network = stored.weights.build()
    say(_describe(stored))
    count = sum(p.numel() for p in network.parameters())
    hashes = "the recorded hash" if stored.recorded_sha256 else "no hash on record"
    say(f"  ok        {count / 1e6:.2f} million parameters, all finite; {hashes}")


@weights.command(short_help="Print the model card.")
@click.argument("where", required=False)
@report_errors
def card(where: str | None) -> None:
    """Print the model card (Markdown with the hub's YAML front matter).

    \b
    Examples:
      posefix weights card
      posefix weights card runs/embedded/weights > README.md
    """
    from posefix.weights.hub import Snapshot
    from posefix.weights.model_card import model_card

    place = _place(where)
    loaded = _read(place).weights
    say(model_card(loaded, place.repository) if isinstance(place, Snapshot) else model_card(loaded), nl=False)


@weights.command(short_help="Add an image network to weights.")
@click.option(
    "--image-model",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="A top-down pose network: .onnx, OpenVINO's .xml, or the folder of a transformers ViTPose.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for the weights.")
@click.option("--family", type=click.Choice(sorted(FAMILIES)), help="Default: what the file's outputs and name tell.")
@click.option("--weights", "base", metavar="WHERE", help="Whose network and prior; default: those in the package.")
@click.option("--output", type=click.Choice(OUTPUTS), help="What it answers with, where the family is another.")
@click.option("--alignment", type=click.Choice(ALIGNMENTS), help="Where its heatmap pixels lie, likewise.")
@click.option("--input-size", metavar="HEIGHTxWIDTH", help="Default: what the file says, else 256x192.")
@click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order that it reads. Default: rgb.")
@click.option("--mean", nargs=3, type=float, help="Of 0…255 pixels, in that order. Default: ImageNet's.")
@click.option("--std", nargs=3, type=float, help="Likewise.")
@click.option(
    "--keypoints", type=click.Choice(sorted(SKELETONS)), help="Its keypoint set. Default: begins with COCO's."
)
@click.option("--sharpness", type=float, help="Multiplies the logarithm of its output.")
@click.option(
    "--offset",
    nargs=2,
    type=float,
    metavar="X Y",
    help="Pixels of its crop by which it shows keypoints away from their labels; posefix calibrate measures it.",
)
@click.option("--own-weight", type=float, help="Of the package's own network; 0 leaves it out.")
@report_errors
def build(
    image_model: str,
    out: str,
    family: str | None,
    base: str | None,
    output: str | None,
    alignment: str | None,
    input_size: str | None,
    channels: str | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    keypoints: str | None,
    sharpness: float | None,
    offset: tuple[float, float] | None,
    own_weight: float | None,
) -> None:
    """Write a weights folder whose network sees the image together with another one.

    \b
    Examples:
      posefix weights build --image-model rtmpose-m.onnx --out stronger/
      posefix weights build --image-model mine.onnx --family hrnet --channels bgr --out stronger/
      posefix refine results.json --images val2017/ --weights stronger/ --out refined.json
    """
    from posefix.network.config import IMAGENET, Normalisation
    from posefix.weights.image_models import describe_image_model
    from posefix.weights.model_card import save_with_card
    from posefix.weights.weights import load_weights, with_image_model

    values = {
        "output": output,
        "alignment": alignment,
        "sharpness": sharpness,
        "own_weight": own_weight,
        "offset": offset,
    }
    changes: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if input_size:
        parts = input_size.lower().split("x")
        if len(parts) != 2 or not all(p.isdecimal() for p in parts):
            raise InputError(f"--input-size: expected HEIGHTxWIDTH, such as 256x192, got {shown(input_size)}")
        changes["input_hw"] = (int(parts[0]), int(parts[1]))
    if channels or mean or std:
        changes["normalisation"] = Normalisation(channels or "rgb", mean or IMAGENET.mean, std or IMAGENET.std)
    if keypoints:
        changes["keypoints"] = SKELETONS[keypoints].keypoints
    name, revision = split_revision(base) if base else (None, None)
    built = with_image_model(
        load_weights(name, revision=revision), describe_image_model(image_model, family, **changes)
    )
    check_output(out, folder=True)
    save_with_card(out, built)
    say(_describe(_read(Path(out))))


def _place(where: str | None) -> Path | Snapshot | None:
    """Where weights are on this computer; those of the hub are fetched."""
    from posefix.weights.hub import HubSource, cached
    from posefix.weights.weights import load_weights

    if where is None:
        return None
    name, revision = split_revision(where)
    if Path(name).exists():
        return Path(name)
    commit = load_weights(name, revision=revision).origin.rpartition("@")[2]
    return cached(HubSource(name, commit), _NAMES)


def _read(place: Path | Snapshot | None) -> Stored:
    """Weights of a place and their files.

    Raises:
        WeightsError: they cannot be loaded.
    """
    from posefix.io.atomic import read_file
    from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, embedded_folder, load_weights

    if place is None:
        loaded, folder, where = load_weights(), embedded_folder(), "in the package"
    elif isinstance(place, Path):
        return Stored(load_weights(place), read_file(place, CONFIG_NAME), read_file(place, WEIGHTS_NAME), str(place))
    else:
        loaded = load_weights(place.repository, revision=place.commit, local_files_only=True)
        folder, where = place.folder, str(place.folder)
    return Stored(loaded, (folder / CONFIG_NAME).read_bytes(), (folder / WEIGHTS_NAME).read_bytes(), where)


def _describe(stored: Stored) -> str:
    from posefix.weights.model_card import licence

    weights = stored.weights
    height, width = weights.config.input_hw
    rows = {
        "licence": licence(weights),
        "network": f"{weights.config.backbone}, input {height}x{width}{_eyes(weights)}",
        "keypoints": f"{len(weights.skeleton)} ({weights.skeleton.name})",
        "size": f"{len(stored.content) / 1e6:.1f} MB",
        "sha256": stored.sha256,
        "folder": stored.where,
    }
    return "\n".join([weights.origin, *(f"  {name:<9} {one_line(value)}" for name, value in rows.items())])


def _eyes(weights: Weights) -> str:
    model = weights.image_model
    return f", with {model.config.file or 'a function'} ({model.config.family})" if model else ""
