"""Image models from files: ONNX, OpenVINO IR, and ViTPose of the transformers library. No pickle, nothing executed.

What a file does not say of itself is taken from the known family that its outputs and its name fit (``FAMILIES``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from posefix.choices import FAMILIES
from posefix.exceptions import FileFormatError, InputError, MissingDependencyError, WeightsError
from posefix.io.json import parse_small_json
from posefix.keypoints.skeleton import COCO, part_name
from posefix.messages import shown
from posefix.network.config import ImageModelConfig
from posefix.weights.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from posefix.network.image_model import ImageModel

#: Both networks together: measured with PP-TinyPose on images of COCO val2017, see docs/research-log.md.
FUSED_PRIOR_WEIGHT, FUSED_OUTLIER_RATE, FUSED_EXPONENT, FUSED_CLOSE_SHARE = 1.2, 0.065, 2.5, 0.5
#: Temperature by part, and that of all other parts.
FUSED_TEMPERATURES = {"nose": 1.35, "eye": 1.0, "ear": 1.6, "knee": 2.5, "ankle": 2.5}
FUSED_TEMPERATURE = 2.0
#: Kinds of file by suffix.
SUFFIXES = (".onnx", ".xml")
#: Second file that belongs to a file with this suffix.
_PARTNER = {".xml": ".bin", ".safetensors": ".json"}
#: Known families. Crop, normalisation and alignment are those of the family's training.
_CONFIGS = {
    # Its vectors are 2.5 px wide where heatmaps are 8: for the same confidence, the logarithm counts less.
    "rtmpose": ImageModelConfig(family="rtmpose", output="simcc", alignment="corner", sharpness=2.5),
    "vitpose": ImageModelConfig(family="vitpose", alignment="udp"),
    # Of PP-TinyPose 256×192 in labelled boxes of COCO, with its own crops.
    "tinypose": ImageModelConfig(family="tinypose", alignment="udp", offset=(1.0, 0.8)),
    "hrnet": ImageModelConfig(family="hrnet", alignment="corner"),
}
#: Parts of file and output names that tell a family.
_HINTS = (
    ("vitpose", "vitpose"),
    ("tinypose", "tinypose"),
    ("rtmpose", "rtmpose"),
    ("rtmw", "rtmpose"),
    ("dwpose", "rtmpose"),
    ("simcc", "rtmpose"),
    ("hrnet", "hrnet"),
    ("simplebaseline", "hrnet"),
    ("argmax_0", "tinypose"),
)
#: Numbers of keypoints of sets that begin with COCO's 17: Halpe 26, COCO-WholeBody 133.
_COCO_FIRST = (17, 26, 133)


@dataclass(frozen=True)
class ImageModelFile:
    """An image model on disk.

    Attributes:
        config: what posefix knows of it.
        path: an ``.onnx`` or ``.xml`` file, or a transformers model's ``.safetensors``, next to its configuration.
    """

    config: ImageModelConfig
    path: Path

    def names(self) -> tuple[str, ...]:
        """The files that it needs in a weights folder."""
        file = Path(self.config.file)
        second = _PARTNER.get(file.suffix)
        return (file.name, str(file.with_suffix(second))) if second else (file.name,)

    def files(self) -> dict[str, bytes]:
        """``names`` and what they hold.

        Raises:
            WeightsError: a file cannot be read.
        """
        first, *second = self.names()
        places = {first: self.path, **{name: _partner(self.path) for name in second}}
        try:
            return {name: place.read_bytes() for name, place in places.items()}
        except OSError as error:
            raise WeightsError(f"image model: cannot read {error.filename}: {error.strerror}") from error

    def load(self) -> ImageModel:
        """The network, ready to run.

        Raises:
            WeightsError: the file cannot be read or is no network with one image as its input.
            MissingDependencyError: what runs it is not installed.
        """
        from posefix.network.image_model import ImageModel, normalise

        if not self.path.exists():
            raise WeightsError(f"image model: no such file {self.path}")
        if self.path.suffix == ".safetensors":
            run = _transformers_network(self.path)
        else:
            run = (_onnx_session if self.path.suffix == ".onnx" else _openvino_network)(self.path)[1]
        config = self.config

        def answer(crops: Tensor) -> Any:
            return run(normalise(crops, config.normalisation))

        return ImageModel(answer, config, str(self.path))


def fused_calibration(own: Calibration, config: ImageModelConfig, rows: npt.NDArray[np.int64]) -> Calibration:
    """How package and image model together are read, until ``posefix calibrate`` has measured it.

    Args:
        own: of the package's weights.
        config: of the image model.
        rows: (K,) from ``rows_in_skeleton``; what the image model does not know keeps its own temperature.
    """
    stored = own.temperature or (1.0,) * len(rows)
    parts = [part_name(config.keypoints[row]) if row >= 0 else "" for row in rows.tolist()]
    temperature = tuple(
        FUSED_TEMPERATURES.get(part, FUSED_TEMPERATURE) if part else t for part, t in zip(parts, stored, strict=True)
    )
    return replace(
        own,
        temperature=temperature,
        prior_weight=FUSED_PRIOR_WEIGHT,
        reference_outlier_rate=FUSED_OUTLIER_RATE if own.reference_outlier_rate else 0.0,
        labelled_close_share=FUSED_CLOSE_SHARE,
        outlier_exponent=FUSED_EXPONENT,
        independent_close_share=Calibration.independent_close_share,
    )


def is_vitpose_config(content: bytes) -> bool:
    """Whether a config.json is that of a ViTPose of transformers."""
    try:
        return parse_small_json(content, source="config.json").get("model_type") == "vitpose"
    except FileFormatError:
        return False


@dataclass(frozen=True)
class _Shapes:
    """Input and output shapes of a network file; −1 where they may vary."""

    input: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]


def describe_image_model(path: str | Path, family: str | None = None, **changes: Any) -> ImageModelFile:
    """An image model's file with what is known of it.

    Args:
        path: an ``.onnx`` or ``.xml`` file, or the folder of a transformers ViTPose.
        family: one of ``FAMILIES``; None recognises it by the file's outputs and name.
        **changes: fields of ``ImageModelConfig`` that are otherwise than the family's.

    Raises:
        InputError: an unknown family or field.
        WeightsError: the file cannot be read, or it is of no known family and ``family`` does not say which.
        MissingDependencyError: what reads it is not installed.
    """
    path = Path(path)
    if family is not None and family not in FAMILIES:
        raise InputError(f"family: expected one of {', '.join(FAMILIES)}, got {shown(family)}")
    if path.is_dir():
        return _describe_transformers(path, changes)
    if not path.is_file():
        raise WeightsError(f"image model: no such file {path}")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"image model: expected a file {' or '.join(SUFFIXES)}, got {path.name}")
    shapes = (_onnx_session if path.suffix == ".onnx" else _openvino_network)(path)[0]
    simcc = len([s for s in shapes.outputs.values() if len(s) == 3]) >= 2
    text = " ".join((path.stem, *shapes.outputs)).lower()
    guess = next((known for part, known in _HINTS if part in text), "rtmpose" if simcc else None)
    chosen = family or guess
    if chosen is None and not {"output", "alignment"} <= set(changes):
        raise WeightsError(
            f"image model: {path.name} does not say which family it is of; name one of {', '.join(FAMILIES)} "
            "(family, --family), or its output and alignment"
        )
    config = _CONFIGS[chosen] if chosen else ImageModelConfig()
    if "input_hw" not in changes and min(shapes.input[2:], default=-1) > 0:
        changes["input_hw"] = shapes.input[2:]
    if "keypoints" not in changes:
        changes["keypoints"] = _keypoints_of(shapes, path)
    return ImageModelFile(replace(config, file=path.name, **changes), path)


def _keypoints_of(shapes: _Shapes, path: Path) -> tuple[str, ...]:
    counts = {s[1] for s in shapes.outputs.values() if len(s) in (3, 4)}
    if counts & set(_COCO_FIRST) or counts == {-1}:
        return COCO.keypoints
    raise WeightsError(
        f"image model: {path.name} answers with {', '.join(map(str, sorted(counts))) or 'no'} keypoints, which is no "
        "set that begins with COCO's 17; name them in order (keypoints, --keypoints)"
    )


def _describe_transformers(folder: Path, changes: dict[str, Any]) -> ImageModelFile:
    try:
        content = (folder / "config.json").read_bytes()
    except OSError as error:
        raise WeightsError(f"image model: cannot read config.json of {folder}: {error.strerror}") from error
    if not is_vitpose_config(content):
        raise WeightsError(f"image model: {folder} is no ViTPose of transformers (model_type 'vitpose' in config.json)")
    backbone = parse_small_json(content, source="config.json").get("backbone_config")
    size = backbone.get("image_size", (256, 192)) if isinstance(backbone, dict) else (256, 192)
    if not isinstance(size, list | tuple):
        raise WeightsError(f"image model: {folder}: expected [height, width] as image_size, got {shown(size)}")
    fields = {"input_hw": tuple(size), "file": "vitpose.safetensors", **changes}
    return ImageModelFile(replace(_CONFIGS["vitpose"], **fields), folder / "model.safetensors")


def _partner(path: Path) -> Path:
    """The file that belongs to an image model's."""
    return (
        path.with_name("config.json") if path.name == "model.safetensors" else path.with_suffix(_PARTNER[path.suffix])
    )


def _transformers_network(path: Path) -> Callable[[Tensor], Any]:
    import torch
    from safetensors.torch import load_file

    transformers = _optional("transformers", "transformers")
    try:
        stored = parse_small_json(_partner(path).read_bytes(), source=_partner(path).name)
        config = transformers.VitPoseConfig.from_dict(stored)
        # From these two files alone: no hub, no pickle, no code from elsewhere.
        network, report = transformers.VitPoseForPoseEstimation.from_pretrained(
            None, config=config, state_dict=load_file(path), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise WeightsError(f"image model: {path} cannot be loaded as ViTPose: {error}") from error
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise WeightsError(f"image model: {path} does not fit its configuration, first at {wrong[0]}")
    network.eval()
    experts = getattr(network.config.backbone_config, "num_experts", 1) > 1

    @torch.inference_mode()
    def run(images: Tensor) -> Any:
        network.to(images.device)
        # ViTPose++ has an expert per data set; COCO's is the first.
        index = torch.zeros(len(images), dtype=torch.long, device=images.device) if experts else None
        return network(pixel_values=images, **({"dataset_index": index} if experts else {})).heatmaps

    return run


def _onnx_session(path: Path) -> tuple[_Shapes, Callable[[Tensor], Any]]:
    import torch

    runtime = _optional("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=runtime.get_available_providers())
    except Exception as error:  # onnxruntime's own exceptions derive from Exception alone
        raise WeightsError(f"image model: {path.name} cannot be loaded: {error}") from error
    given = session.get_inputs()
    _refuse_inputs(path, [i.shape for i in given])
    outputs = {o.name: _sizes(o.shape) for o in session.get_outputs()}
    shapes = _Shapes(_sizes(given[0].shape), outputs)
    names = _useful(shapes)

    def call(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [np.asarray(o) for o in session.run(names, {given[0].name: images})]

    return shapes, _in_batches(call, shapes.input[0])


def _openvino_network(path: Path) -> tuple[_Shapes, Callable[[Tensor], Any]]:
    import torch

    openvino = _optional("openvino", "openvino")
    core = openvino.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise WeightsError(f"image model: {path.name} cannot be loaded: {error}") from error
    _refuse_inputs(path, [i.partial_shape for i in model.inputs])
    given = _sizes(model.inputs[0].partial_shape)
    shapes = _Shapes(given, {_name(o): _sizes(o.partial_shape) for o in model.outputs})
    wanted = [i for i, o in enumerate(model.outputs) if _name(o) in _useful(shapes)]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    def call(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        answer = compiled([images])
        return [np.array(answer[compiled.outputs[i]]) for i in wanted]

    return shapes, _in_batches(call, given[0])


def _name(port: Any) -> str:
    return str(port.get_any_name()) if port.names else str(port.node.friendly_name)


def _useful(shapes: _Shapes) -> list[str]:
    """Outputs that are maps, or else the first two that are vectors: others are decoded points."""
    maps = [n for n, s in shapes.outputs.items() if len(s) == 4]
    return maps[:1] or [n for n, s in shapes.outputs.items() if len(s) == 3][:2]


def _in_batches(
    call: Callable[[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]], size: int
) -> Callable[[Tensor], Any]:
    """As many crops at a time as the file takes: all, or its fixed number with black ones to fill up."""

    import torch

    def run(images: Tensor) -> list[Tensor]:
        array = images.cpu().numpy()
        if size <= 0:
            return [torch.from_numpy(o) for o in call(array)]
        parts = []
        for start in range(0, len(array), size):
            part = array[start : start + size]
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            parts.append([o[: len(part)] for o in call(filled)])
        return [torch.from_numpy(np.concatenate(o)) for o in zip(*parts, strict=True)]

    return run


def _sizes(shape: Any) -> tuple[int, ...]:
    """A runtime's shape; −1 for what may vary."""
    found = []
    for size in shape:
        fixed = size if isinstance(size, int) else (size.get_length() if getattr(size, "is_static", False) else -1)
        found.append(int(fixed))
    return tuple(found)


def _refuse_inputs(path: Path, shapes: list[Any]) -> None:
    if len(shapes) != 1 or len(_sizes(shapes[0])) != 4 or _sizes(shapes[0])[1] not in (3, -1):
        raise WeightsError(
            f"image model: expected one input (N, 3, h, w), got {', '.join(str(_sizes(s)) for s in shapes)} in "
            f"{path.name}; export it with channels before rows"
        )


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependencyError(
            f"{module} is needed for this image model; install it with: pip install 'posefix[{extra}]'"
        ) from None
