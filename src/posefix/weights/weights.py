"""Weights with their configuration: embedded in the package, in a folder, or on the Hugging Face hub.

A weights folder holds ``model.safetensors`` and ``config.json`` (model, skeleton, calibration, about). Loading
is strict, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from posefix.exceptions import FileFormatError, InputError, SkeletonError, WeightsError
from posefix.io.atomic import read_file, write_files
from posefix.io.json import parse_small_json
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown
from posefix.network.config import HEATMAP_OFFSET, ImageModelConfig, ModelConfig
from posefix.tensors import require_torch
from posefix.weights.calibration import Calibration
from posefix.weights.hub import HubSource, Snapshot, download, refuse_damaged
from posefix.weights.image_models import (
    SUFFIXES,
    ImageModelFile,
    describe_image_model,
    fused_calibration,
    is_vitpose_config,
)

if TYPE_CHECKING:
    from importlib.abc import Traversable

    from torch import Tensor

    from posefix.network.image_model import ImageModel
    from posefix.network.model import RefinementNetwork

    #: An image model: read from a file, ready to run, or a plain function of crops.
    ImageModelLike = ImageModel | ImageModelFile | Callable[[Tensor], Any]

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
_FORMAT = "posefix-weights-1"
#: ``format`` in the configuration of an exported model.
EXPORT_FORMAT = "posefix-export-1"


@dataclass(frozen=True)
class Weights:
    """Everything that makes a refiner.

    Attributes:
        config: the network.
        skeleton: the keypoint set that it was trained for.
        calibration: how its output is read.
        state: its parameters and buffers.
        about: data, recipe, licence and results, as written by the author of the weights.
        origin: where it was loaded from; with the commit, where that is known.
        image_model: another network that sees the crop too; see ``with_image_model``.
        exported: folder of an exported model, which has no ``state``.
    """

    config: ModelConfig
    skeleton: Skeleton
    calibration: Calibration
    state: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    image_model: ImageModel | ImageModelFile | None = None
    exported: Path | None = None

    def __post_init__(self) -> None:
        count = len(self.skeleton)
        if self.config.num_keypoints != count:
            raise WeightsError(
                f"weights: the model has {self.config.num_keypoints} keypoints, its skeleton "
                f"{self.skeleton.name!r} has {count}"
            )
        for name in ("temperature", "margin"):
            if len(getattr(self.calibration, name)) not in (0, count):
                raise WeightsError(f"weights: calibration.{name} must have {count} values or none")
        if self.image_model is not None:
            _refuse_other_frame(self.config, self.image_model.config)

    def build(self) -> RefinementNetwork:
        """The network with these weights, float32, in evaluation mode.

        Raises:
            WeightsError: names or shapes do not fit the configuration.
        """
        if self.exported is not None:
            raise WeightsError(
                f"weights: {self.exported} is an exported model, without parameters for torch; name the weights that "
                "it was made from"
            )
        torch = require_torch("weights: building the network")
        from posefix.network.image_model import rows_in_skeleton
        from posefix.network.model import RefinementNetwork

        with torch.device("meta"):
            network = RefinementNetwork(self.config)
        expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
        given = {k: tuple(v.shape) for k, v in self.state.items()}
        problems = [f"{k} is missing" for k in sorted(expected.keys() - given.keys())]
        problems += [f"{k} is not known" for k in sorted(given.keys() - expected.keys())]
        problems += [
            f"{k} has shape {given[k]}, expected {expected[k]}"
            for k in sorted(expected.keys() & given.keys())
            if expected[k] != given[k]
        ]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise WeightsError(f"weights {self.origin}: {problems[0]}{more}; they belong to another model")
        check_finite(self.state, f"weights {self.origin}".strip())
        # The first values are overwritten: the user's random numbers stay, whatever device and dtype are the default.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            network = RefinementNetwork(self.config).float()
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in self.state.items()})
        if self.image_model is not None:
            model = self.image_model.load() if isinstance(self.image_model, ImageModelFile) else self.image_model
            network.use_image_model(model, rows_in_skeleton(model.config, self.skeleton))
        return network.eval()


def with_image_model(weights: Weights, model: ImageModelLike, calibration: Calibration | None = None) -> Weights:
    """Weights whose network sees the crop together with another one.

    Args:
        weights: of the package's own kind of network, which takes crops of any size.
        model: the other network; crops become of its size. A function takes (B, 256, 192, 3) uint8 RGB crops and
            gives (B, 17, h, w) heatmaps, about 1 where COCO's keypoint is surely seen, corner to corner (UDP).
        calibration: of both together; None takes the default for its kind of output.

    Raises:
        InputError: ``model`` is none.
        WeightsError: the two share no keypoint, or the weights' heatmaps lie otherwise than posefix's own.
    """
    require_torch("image_model: a network that sees the crops too")
    from posefix.network.image_model import ImageModel, rows_in_skeleton

    if not isinstance(model, ImageModel | ImageModelFile):
        if not callable(model):
            raise InputError(f"image_model: expected a function or an ImageModel, got {type(model).__name__}")
        model = ImageModel(model)
    config = replace(weights.config, input_hw=model.config.input_hw, crop_margin=model.config.crop_margin)
    rows = rows_in_skeleton(model.config, weights.skeleton)
    if calibration is None:
        calibration = fused_calibration(weights.calibration, model.config, rows)
    origin = getattr(model, "origin", "") or str(getattr(model, "path", ""))
    about = {**weights.about, "image_model": {"family": model.config.family, "file": model.config.file}}
    return replace(
        weights, config=config, calibration=calibration, image_model=model, about=about, origin=origin or weights.origin
    )


def _refuse_other_frame(config: ModelConfig, other: ImageModelConfig) -> None:
    if config.codec.offset != HEATMAP_OFFSET:
        raise WeightsError(
            f"weights: an image model needs weights whose heatmap_offset is {HEATMAP_OFFSET}, as the package's are; "
            f"these have {config.codec.offset}"
        )
    if (config.input_hw, config.crop_margin) != (other.input_hw, other.crop_margin):
        raise WeightsError(
            f"weights: expected the image model's input_hw {other.input_hw} and crop_margin {other.crop_margin}, got "
            f"{config.input_hw} and {config.crop_margin}"
        )


def weights_files(weights: Weights, *, half: bool = False) -> dict[str, bytes]:
    """The files of a weights folder: ``model.safetensors``, ``config.json`` with its SHA-256, and an image model's.

    Args:
        weights: what to write.
        half: store parameters as float16.

    Raises:
        WeightsError: a number is not finite, or too large for float16.
    """
    require_torch("weights: writing them")
    from safetensors.torch import save

    state = {
        k: (v.half() if half and v.is_floating_point() else v).detach().cpu().contiguous().clone()
        for k, v in weights.state.items()
    }
    check_finite(state, f"weights {weights.origin}".strip())
    content = save(state)
    model = weights.image_model
    if model is not None and not isinstance(model, ImageModelFile):
        raise WeightsError("weights: an image model that is a function cannot be stored; export it as ONNX")
    config = {
        "format": _FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": weights.config.to_dict(),
        "skeleton": weights.skeleton.to_dict(),
        "calibration": weights.calibration.to_dict(),
        "about": weights.about,
        **({"image_model": model.config.to_dict()} if model else {}),
    }
    others = model.files() if model else {}
    return {**others, WEIGHTS_NAME: content, CONFIG_NAME: (json.dumps(config, indent=2) + "\n").encode()}


def save_weights(folder: str | Path, weights: Weights, *, half: bool = False) -> None:
    """Write ``model.safetensors`` and ``config.json``; both are new or both are old, whenever the process dies.

    Args:
        folder: created where it does not exist.
        weights: what to write.
        half: store parameters as float16.

    Raises:
        InputError: the folder cannot be written to.
        WeightsError: a number is not finite, or too large for float16.
    """
    write_files(folder, weights_files(weights, half=half))


def load_weights(
    source: str | Path | None = None,
    *,
    family: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Weights:
    """Load weights.

    Args:
        source: None for those in the package; a folder or a hub repository ``user/name`` with weights of posefix; or
            an image model for the package's weights: an ``.onnx`` or ``.xml`` file, or a ViTPose of the transformers
            library as a folder or hub repository.
        family: of an image model's file, where it is not recognised (``FAMILIES``).
        revision: branch, tag or commit on the hub.
        cache_dir: of downloads; default the hub's (``HF_HOME``).
        token: for private repositories.
        local_files_only: do not ask the network.
        force_download: do not use the cache.

    Raises:
        WeightsError: they cannot be found or read, or do not fit their configuration.
    """
    if source is None:
        folder = embedded_folder()
        config, tensors = (_read((folder / n).read_bytes, n, "the package") for n in (CONFIG_NAME, WEIGHTS_NAME))
        return _parse(config, tensors, "embedded")
    if not isinstance(source, str | os.PathLike):
        raise WeightsError(f"weights: expected a folder, a file or a hub repository, got {shown(source)}")
    path = Path(source).expanduser()
    if path.suffix in SUFFIXES and (path.is_file() or len(path.parts) != 2):
        return with_image_model(load_weights(), describe_image_model(path, family))
    if path.is_dir():
        if is_vitpose_config(_read(partial(read_file, path, CONFIG_NAME), CONFIG_NAME, str(path))):
            return with_image_model(load_weights(), describe_image_model(path, family))
        exported = _exported(path)
        if exported is not None:
            return exported
        config, tensors = _read_folder(path)
        return _parse(config, tensors, str(path), path)
    if path.exists():
        raise WeightsError(
            f"weights: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or an image model's file "
            f"({' or '.join(SUFFIXES)}), got the file {path}"
        )
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        name, at, rest = str(source).partition("@")
        named = at and "://" not in name  # else a URL, and its password
        hint = f"; pass a revision as from_pretrained({name!r}, revision={rest!r})" if named else ""
        raise WeightsError(
            f"weights: no such folder {str(source)!r}, and not a hub repository 'user/name' either{hint}"
        )
    return _load_from_hub(
        HubSource(
            repository=str(source),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    )


def embedded_folder() -> Traversable:
    """Where the package keeps its own weights."""
    return resources.files("posefix.weights") / "pretrained"


def is_config(path: Path) -> bool:
    """Whether a file is the configuration of posefix weights; one that cannot be read is not."""
    try:
        _parse_config(path.read_bytes(), "")
    except (OSError, WeightsError):
        return False
    return True


def _read_folder(folder: Path) -> list[bytes]:
    """Configuration and tensors of a folder into which another process may be writing."""
    contents: list[bytes] = []
    for _ in range(5):
        last = contents
        contents = [_read(partial(read_file, folder, n), n, str(folder)) for n in (CONFIG_NAME, WEIGHTS_NAME)]
        # Read before and after a new version was decided, the two do not belong together: read again.
        if contents == last or recorded_sha256(contents[0]) in (None, hashlib.sha256(contents[1]).hexdigest()):
            break
    return contents


def _load_from_hub(source: HubSource) -> Weights:
    def accept(snapshot: Snapshot) -> None:
        # Another library's repository is refused before its weights, which may be large, are fetched.
        content = _read((snapshot.folder / CONFIG_NAME).read_bytes, CONFIG_NAME, snapshot.origin)
        refuse_damaged(snapshot.folder / CONFIG_NAME, content)
        if not is_vitpose_config(content):
            _parse_config(content, snapshot.origin)

    snapshot = download(source, (CONFIG_NAME, WEIGHTS_NAME), accept)
    contents = []
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        contents.append(_read((snapshot.folder / name).read_bytes, name, snapshot.origin))
        refuse_damaged(snapshot.folder / name, contents[-1])
    if is_vitpose_config(contents[0]):
        loaded = with_image_model(load_weights(), describe_image_model(snapshot.folder))
        return replace(loaded, origin=snapshot.origin)
    model = _image_model_of(_parse_config(contents[0], snapshot.origin), snapshot.folder)
    for name in model.names() if model else ():
        download(replace(source, revision=snapshot.commit, force_download=False), (CONFIG_NAME, name))
        refuse_damaged(snapshot.folder / name, _read((snapshot.folder / name).read_bytes, name, snapshot.origin))
    return _parse(contents[0], contents[1], snapshot.origin, snapshot.folder)


def _image_model_of(data: dict[str, Any], folder: Path | None) -> ImageModelFile | None:
    if "image_model" not in data:
        return None
    config = ImageModelConfig.from_dict(data["image_model"])
    if folder is None or not config.file:
        raise WeightsError(f"image model: file must be a name in the weights folder, got {shown(config.file)}")
    return ImageModelFile(config, folder / config.file)


def _exported(path: Path) -> Weights | None:
    """The weights of an exported model; None for a folder with other ones."""
    content = _read(partial(read_file, path, CONFIG_NAME), CONFIG_NAME, str(path))
    try:
        data = parse_small_json(content, source=CONFIG_NAME)
    except FileFormatError:
        return None  # the reader of weights says so
    if data.get("format") != EXPORT_FORMAT:
        return None
    return replace(_weights_of(data, {}, str(path), None), exported=path)


def _read(read: Callable[[], bytes], name: str, where: str) -> bytes:
    try:
        return bytes(read())
    except FileNotFoundError:
        inner = Path(where) / "weights"
        hint = f"; did you mean {inner}?" if (inner / name).is_file() else ""
        raise WeightsError(f"weights: {where} has no {name}{hint}") from None
    except OSError as error:
        raise WeightsError(f"weights: cannot read {name} of {where}: {error.strerror}") from error


def recorded_sha256(config: bytes) -> str | None:
    """The hash of the tensors that a configuration has on record; None where it has none or cannot be read."""
    try:
        found = parse_small_json(config, source=CONFIG_NAME).get("sha256")
    except FileFormatError:
        return None
    return found.lower() if isinstance(found, str) else None


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Tell whether every number of a state is finite.

    Raises:
        WeightsError: one is not; the message begins with ``what`` and names the tensor.
    """
    torch = require_torch(what)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{what}: {name} has numbers that are not finite; train or download it again")


def _parse_config(content: bytes, origin: str) -> dict[str, Any]:
    try:
        data = parse_small_json(content, source=CONFIG_NAME)
    except FileFormatError as error:
        raise WeightsError(f"weights {origin}: {error}") from error
    if data.get("format") != _FORMAT:
        raise WeightsError(
            f"weights {origin}: {CONFIG_NAME} is not posefix's (expected format {_FORMAT!r}); name weights that "
            "posefix wrote"
        )
    return data


def _parse(config_bytes: bytes, weights_bytes: bytes, origin: str, folder: Path | None = None) -> Weights:
    data = _parse_config(config_bytes, origin)
    require_torch(f"weights {origin}: reading them")
    from safetensors.torch import load

    try:
        state = load(weights_bytes)
    except SafetensorError as error:
        raise WeightsError(
            f"weights {origin}: {WEIGHTS_NAME} is damaged or no safetensors file ({error}); copy it again, or download "
            "it again with force_download=True"
        ) from error
    if data.get("sha256") is not None:
        found = hashlib.sha256(weights_bytes).hexdigest()
        if recorded_sha256(config_bytes) != found:
            raise WeightsError(
                f"weights {origin}: {WEIGHTS_NAME} is not the file that {CONFIG_NAME} was written with "
                f"(sha256 {found}, recorded {str(data['sha256'])[:64]}); copy or download both again"
            )
    check_finite(state, f"weights {origin}")
    return _weights_of(data, state, origin, folder)


def _weights_of(data: dict[str, Any], state: dict[str, Tensor], origin: str, folder: Path | None) -> Weights:
    try:
        return Weights(
            config=ModelConfig.from_dict(data["model"]),
            skeleton=Skeleton.from_dict(data["skeleton"]),
            calibration=Calibration.from_dict(data["calibration"]),
            state=state,
            about=dict(data.get("about", {})),
            origin=origin,
            image_model=_image_model_of(data, folder),
        )
    except KeyError as error:
        raise WeightsError(f"weights {origin}: {CONFIG_NAME} lacks the key {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, SkeletonError | WeightsError):
            raise WeightsError(f"weights {origin}: {error}") from error
        raise WeightsError(f"weights {origin}: {CONFIG_NAME} has a value of the wrong type: {error}") from error


def fold_batch_norm(network: RefinementNetwork) -> None:
    """Fold batch norm into the convolutions before it, for inference (in place; the function stays the same)."""
    from posefix.network.resnet import ResNetUp

    if isinstance(network.trunk, ResNetUp):
        network.trunk.fold_batch_norm()
