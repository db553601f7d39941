"""A refiner as files for ONNX Runtime, OpenVINO and whatever else reads them: posefix and torch are not needed then."""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.choices import EXPORT_FORMATS
from posefix.exceptions import InputError, MissingDependencyError, WeightsError
from posefix.inference.graph_model import CHECK_NAME, PARTS
from posefix.io.atomic import write_files
from posefix.messages import shown
from posefix.network.inputs import NetworkInput
from posefix.weights.model_card import CARD_NAME, model_card
from posefix.weights.weights import CONFIG_NAME, EXPORT_FORMAT, Weights

#: What an ONNX initializer must have at least to be stored as float16.
_LARGE = 1024


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from torch in float32.

    Attributes:
        keypoints: compared.
        largest: px of the crop.
        per_mille: px that 99.9 % of the keypoints stay below.
        confidence: largest difference of confidence.
    """

    keypoints: int
    largest: float
    per_mille: float
    confidence: float


def export_model(weights: Weights, folder: str | Path, *, file_format: str = "onnx", half: bool = False) -> None:
    """Write a folder for other programs and for ``Refiner.from_pretrained``.

    ``model.onnx`` (or ``model.xml`` with ``model.bin``) takes crops and poses and gives points and confidence;
    ``docs/export.md`` describes every input. The files next to it are its parts, which ``Refiner`` runs.

    Args:
        weights: what to export.
        folder: made where it does not exist.
        file_format: one of ``EXPORT_FORMATS``.
        half: store large parameters as float16; they are computed with in float32.

    Raises:
        InputError: an unknown format, or a folder that cannot be written to.
        WeightsError: weights that cannot be exported.
        MissingDependencyError: a package for the format is not installed.
    """
    if file_format not in EXPORT_FORMATS:
        raise InputError(f"file_format: expected one of {', '.join(EXPORT_FORMATS)}, got {shown(file_format)}")
    if weights.image_model is not None:
        raise WeightsError("export: weights with an image model cannot be exported; export the image model by itself")
    if weights.exported is not None:
        raise WeightsError(f"export: {weights.origin} is exported already; name the weights that it was made from")
    onnx = _needed("onnx", file_format)  # torch needs it too, to write the graph
    openvino = _needed("openvino", "openvino") if file_format == "openvino" else None
    from posefix.inference.tracing import check_file, graphs, write_onnx

    config = {
        "format": EXPORT_FORMAT,
        "model": weights.config.to_dict(),
        "skeleton": weights.skeleton.to_dict(),
        "calibration": weights.calibration.to_dict(),
        "about": weights.about,
        "export": {"format": file_format, "half": half},
    }
    text = json.dumps(config, indent=2) + "\n"
    files = {CONFIG_NAME: text.encode(), CARD_NAME: model_card(weights, str(folder)).encode()}
    made = graphs(weights)
    files[CHECK_NAME] = check_file(made, weights.config)
    with tempfile.TemporaryDirectory(prefix="posefix-") as temporary:
        for name in ("model", *PARTS):
            path = Path(temporary) / f"{name}.onnx"
            write_onnx(path, made[name], weights, {"posefix": text, "licence": str(weights.about.get("licence", ""))})
            if openvino is not None:
                _to_openvino(openvino, path, text, half=half)
                path.unlink()
            elif half:
                _halve(onnx, path)
        files |= {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir())}
    write_files(folder, files)


def _to_openvino(openvino: ModuleType, path: Path, config: str, *, half: bool) -> None:
    model = openvino.convert_model(path)
    model.set_rt_info(config, "posefix")
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=half)


def _halve(onnx: ModuleType, path: Path) -> None:
    """Store large float32 parameters as float16, and cast them where they are used."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for value in graph.initializer:
        array = onnx.numpy_helper.to_array(value)
        if array.dtype == np.float32 and array.size >= _LARGE:
            name = value.name
            value.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}_float16"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_float16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def check_parity(weights: Weights, folder: str | Path, inputs: NetworkInput) -> Parity:
    """Compare the exported ``model`` with torch in float32.

    Args:
        weights: what was exported.
        folder: from ``export_model``.
        inputs: arrays of B people; at least two of them show that the number of people is free.
    """
    from posefix.inference.torch_model import TorchModel

    folder = Path(folder)
    feed = {name: getattr(inputs, name) for name in ("crops", "crop_points", "valid", "std", "scores")}
    feed["prior_weight"] = np.ones(len(inputs), np.float32)
    points, confidence = _run_whole(folder, feed)
    torch_model = TorchModel(weights, "cpu", "float32")
    expected = torch_model.decode([torch_model.forward(inputs)], feed["prior_weight"], weights.calibration.decoder)
    distance = np.linalg.norm(points - expected.points, axis=-1)
    return Parity(
        keypoints=distance.size,
        largest=float(distance.max()),
        per_mille=float(np.quantile(distance, 0.999)),
        confidence=float(np.abs(confidence - expected.confidence).max()),
    )


def _run_whole(folder: Path, feed: dict[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if (folder / "model.xml").is_file():
        openvino = _needed("openvino", "openvino")
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled({port: feed[port.node.friendly_name] for port in compiled.inputs})
        return np.asarray(found[0]), np.asarray(found[1])
    session = _needed("onnxruntime", "onnx").InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    points, confidence = session.run(["points", "confidence"], {name: feed[name] for name in names})
    return np.asarray(points), np.asarray(confidence)


def _needed(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"export needs the package {module}: pip install 'posefix[{extra}]'") from error
