"""Which backend runs the network."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posefix.choices import BACKENDS
from posefix.exceptions import InputError, PosefixError
from posefix.inference.graph_model import GraphModel, OnnxRuntime, OpenVino, Runtime
from posefix.messages import shown
from posefix.tensors import require_torch
from posefix.weights.weights import Weights

if TYPE_CHECKING:
    from posefix.inference.runner import Model

logger = logging.getLogger(__name__)

#: What ``"auto"`` tries on a CPU, and the module that it needs.
_ORDER = (("openvino", "openvino"), ("onnx", "onnxruntime"))


def load_model(weights: Weights, *, backend: str, device: Any, precision: str) -> Model:
    """A network in a backend; arguments as for ``Refiner.from_pretrained``.

    Raises:
        InputError: an unknown backend, device or precision, or a combination that there is not.
        MissingDependencyError: the backend is not installed.
        WeightsError: weights that do not fit their configuration.
    """
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, got {shown(backend)}")
    if not isinstance(precision, str) or precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {shown(precision)}")
    if weights.image_model is not None:
        if backend not in ("auto", "torch"):
            raise InputError(f"backend: weights with an image model run in torch, got {shown(backend)}; use 'auto'")
        backend = "torch"
    asked = backend if backend != "auto" else os.environ.get("POSEFIX_BACKEND", "auto")
    if weights.exported is not None:
        names = _that_run(weights.exported, backend)
    else:
        names = (asked,) if asked != "auto" else _fastest(device, precision)
    *first, last = names
    for name in first:
        try:
            return _load(weights, name, device, precision)
        except PosefixError:
            logger.warning("backend %r does not run this network, the next one is tried", name, exc_info=True)
    return _load(weights, last, device, precision)


def _load(weights: Weights, backend: str, device: Any, precision: str) -> Model:
    if backend == "torch":
        require_torch("backend 'torch'")
        from posefix.inference.torch_model import TorchModel

        return TorchModel(weights, device, precision)
    if str(device) not in ("auto", "cpu"):
        raise InputError(f"device: backend {backend!r} runs on 'cpu', got {shown(str(device))}; use backend='torch'")
    return _graph_model(weights, backend, precision)


def _that_run(folder: Path, backend: str) -> tuple[str, ...]:
    """What runs an exported model, the first one first."""
    openvino = (folder / "network.xml").is_file()
    if backend == "torch" or (openvino and backend == "onnx"):
        can = "openvino" if openvino else "onnx' or 'openvino"
        raise InputError(f"backend: {folder} is an exported model, expected '{can}', got {shown(backend)}")
    if backend != "auto":
        return (backend,)
    if openvino:
        return ("openvino",)
    return tuple(name for name, module in _ORDER if importlib.util.find_spec(module)) or ("onnx",)


def _fastest(device: Any, precision: str) -> tuple[str, ...]:
    """What may run a network, the first one first."""
    if str(device) not in ("auto", "cpu"):
        return ("torch",)
    if str(device) == "auto" and importlib.util.find_spec("torch"):
        from posefix.network.devices import pick_device

        if pick_device("auto").type != "cpu":
            return ("torch",)
    installed = (name for name, module in _ORDER if importlib.util.find_spec(module))
    return (*(name for name in installed if (name, precision) != ("onnx", "bfloat16")), "torch")


def _graph_model(weights: Weights, backend: str, precision: str) -> GraphModel:
    runtime: Runtime = OpenVino(precision) if backend == "openvino" else OnnxRuntime(precision)
    if weights.exported is not None:
        return GraphModel(runtime, weights.exported, weights.calibration.decoder)
    require_torch(f"backend {backend!r}: making its graphs from weights")
    from posefix.inference.tracing import cached_parts

    with cached_parts(weights) as folder:
        return GraphModel(runtime, folder, weights.calibration.decoder)
