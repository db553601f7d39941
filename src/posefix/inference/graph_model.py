"""The network as graphs of ONNX Runtime or OpenVINO; torch is not needed."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from posefix.exceptions import InputError, MissingDependencyError, WeightsError
from posefix.inference.crops import FAR, NEAREST, Prediction
from posefix.inference.runner import View
from posefix.messages import shown
from posefix.network.config import STRIDE
from posefix.network.inputs import NetworkInput
from posefix.network.rounding import rounded_filters

if TYPE_CHECKING:
    from posefix.inference.runner import Floats

Arrays = Mapping[str, npt.NDArray[Any]]

#: The graphs of a network.
PARTS = ("network", "outliers", "decode", "decode_flip")
#: What torch computes for ``sample_inputs``: ``PART.NUMBER`` for each output.
CHECK_NAME = "check.safetensors"
#: How far a part may be from that: in parts of the logits' deviation, keypoints, crop pixels and similarity.
_LIMITS = {"network": 0.02, "outliers": 1.0, "decode": 0.1, "decode_flip": 0.1}
#: Of the logits where they are computed in less than float32.
_REDUCED_LIMIT = 0.5


class Session(Protocol):
    """A graph that is ready to run, by any number of threads at once, each on one core."""

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs in the graph's order; inputs that it does not have are ignored."""


class Runtime(Protocol):
    """What runs graphs."""

    backend: str
    precision: str

    def load(self, file: GraphFile, *, reduced: bool) -> Session:
        """A graph; ``reduced`` lets it compute in the runtime's precision, else in float32."""


class GraphModel:
    """The network and its decoding as four graphs; see ``runner.Model``."""

    def __init__(self, runtime: Runtime, folder: Path, decoder: str) -> None:
        """Load.

        Args:
            runtime: what runs them.
            folder: with ``network``, ``outliers``, ``decode`` and ``decode_flip``, ONNX files or OpenVINO's, and what
                they must give.
            decoder: that of the graphs.

        Raises:
            WeightsError: a file is missing or cannot be read, or a part computes other numbers than torch did.
        """
        self.backend, self.precision = runtime.backend, runtime.precision
        self._runtime, self._decoder = runtime, decoder
        # The content, for the folder may be gone by the time that a part is used.
        self._files = {name: _read_part(folder, name) for name in PARTS}
        self._expected = _read_check(folder)
        self._loaded: dict[str, Session] = {}
        self._lock = threading.Lock()
        for name in PARTS[:3]:
            self._session(name)

    def _session(self, name: str) -> Session:
        """A part; that for the flip test is loaded at its first use, for few calls need it."""
        session = self._loaded.get(name)
        if session is None:
            with self._lock:
                if name not in self._loaded:
                    file = self._files.pop(name)
                    session = self._runtime.load(file, reduced=name == "network")
                    self._check(name, session, file.path)
                    self._loaded[name] = session
                session = self._loaded[name]
        return session

    def _check(self, name: str, session: Session, path: Path) -> None:
        """Refuse a part that was compiled to something else: wrong numbers must not look like right ones."""
        if name not in self._expected:
            return
        logits, *peaks = self._expected["network"]
        feed = {**sample_inputs(*logits.shape[1:]), "image_logits": logits, "mirrored_image_logits": logits}
        limit = _REDUCED_LIMIT if self.precision != "float32" and name == "network" else _LIMITS[name]
        for found, expected in zip(
            session.run(feed | dict(zip(("peaks",), peaks, strict=False))), self._expected[name], strict=True
        ):
            difference = np.abs(found - expected)
            if name == "network":
                difference = np.sqrt(np.square(difference).mean()) / max(float(expected.std()), 1.0)
            # One keypoint of many may have two places that are equally good; NaN is above every limit.
            if not np.mean(~(difference <= limit)) < 0.1:
                raise WeightsError(
                    f"{path}: {self.backend} computes other numbers than torch did; use backend='torch', or another "
                    f"version of {self.backend}"
                )

    def starting_threads(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def enter_thread(self) -> None:
        """Nothing to do."""

    def forward(self, inputs: NetworkInput) -> View:
        """Through the network."""
        image_logits, *peaks = self._session("network").run({"crops": inputs.crops} | _pose(inputs))
        return View(image_logits, peaks[0] if peaks else None, inputs.without_crops())

    def count(self, view: View) -> npt.NDArray[np.int64]:
        """Outliers."""
        others = view.inputs.others
        if others is None:
            others = np.full((len(view.inputs), NEAREST, *view.inputs.crop_points.shape[1:]), FAR, np.float32)
        found = self._session("outliers").run(_view(view) | {"others": others})
        if len(found) != 3:
            raise WeightsError("this model was exported by an earlier version of posefix; export it again")
        return np.stack([np.asarray(part, np.int64) for part in found])

    def decode(self, views: Sequence[View], prior_weight: Floats, decoder: str) -> Prediction:
        """Points and confidence."""
        if decoder != self._decoder:
            raise InputError(
                f"decoder: the graphs of backend {self.backend!r} decode by {self._decoder!r}, got {shown(decoder)}; "
                "use from_pretrained(backend='torch')"
            )
        values: dict[str, Any] = {"prior_weight": np.asarray(prior_weight, np.float32)}
        for prefix, view in zip(("", "mirrored_"), views, strict=False):
            values |= {prefix + name: value for name, value in _view(view).items()}
        found = self._session("decode" if len(views) == 1 else "decode_flip").run(values)
        return Prediction(*(np.asarray(part, np.float64) for part in found))


def sample_inputs(keypoints: int, rows: int, columns: int) -> dict[str, npt.NDArray[Any]]:
    """One person whose crop and pose are the same on every computer: inputs of all parts but for logits and peaks.

    Args:
        keypoints: K.
        rows: of the heatmaps.
        columns: of the heatmaps.
    """
    y, x, channel = np.ogrid[: STRIDE * rows, : STRIDE * columns, :3]
    wave = 110 + 60 * np.sin(x / 17 + channel) * np.cos(y / 23) + 60 * np.sin((x + 2 * y) / 41 - channel)
    k = np.arange(keypoints)
    points = np.stack([columns * (0.6 + k % 5 * 0.7), rows * (0.4 + 3.2 * k / keypoints)], -1)
    pose = {
        "crop_points": points[None].astype(np.float32),
        "valid": (k % 7 != 3)[None],
        "std": (6 + k % 4 * 3.0)[None].astype(np.float32),
        "scores": (1 - k % 3 * 0.3)[None].astype(np.float32),
    }
    mirrored = {f"mirrored_{name}": value for name, value in pose.items()}
    crops = np.clip(wave, 0, 255).astype(np.uint8)[None]
    others = (points + 12.0 * np.arange(1, NEAREST + 1)[:, None, None])[None].astype(np.float32)
    return {"crops": crops, **pose, **mirrored, "others": others, "prior_weight": np.ones(1, np.float32)}


def _read_check(folder: Path) -> dict[str, list[npt.NDArray[np.float32]]]:
    """What each part must give; nothing where a folder of an earlier version does not say."""
    path = folder / CHECK_NAME
    if not path.is_file():
        return {}
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}; export the model again") from error
    expected: dict[str, list[npt.NDArray[np.float32]]] = {}
    for name in sorted(stored):
        expected.setdefault(name.partition(".")[0], []).append(stored[name].astype(np.float32))
    return expected


def _pose(inputs: NetworkInput) -> dict[str, Any]:
    return {name: getattr(inputs, name) for name in ("crop_points", "valid", "std", "scores")}


def _view(view: View) -> dict[str, Any]:
    return {"image_logits": view.image_logits, "peaks": view.peaks} | _pose(view.inputs)


@dataclass(frozen=True)
class GraphFile:
    """A graph as it lies on disk.

    Attributes:
        path: for messages.
        content: of an ONNX file, or of OpenVINO's ``.xml``.
        weights: of OpenVINO's ``.bin``; empty for ONNX.
    """

    path: Path
    content: bytes
    weights: bytes = b""


def _read_part(folder: Path, name: str) -> GraphFile:
    onnx, openvino = folder / f"{name}.onnx", folder / f"{name}.xml"
    try:
        if onnx.is_file():
            return GraphFile(onnx, onnx.read_bytes())
        return GraphFile(openvino, openvino.read_bytes(), openvino.with_suffix(".bin").read_bytes())
    except OSError as error:
        raise WeightsError(f"{folder}: {name}.onnx or {name}.xml cannot be read; export the model again") from error


class OnnxRuntime:
    """ONNX Runtime, on one core per call."""

    backend, precision = "onnx", "float32"

    def __init__(self, precision: str = "auto") -> None:
        if precision == "bfloat16":
            raise InputError("precision: ONNX Runtime computes in float32 on a CPU, got 'bfloat16'; use 'auto'")
        self._module = _needed("onnxruntime", "onnx")

    def load(self, file: GraphFile, *, reduced: bool) -> Session:
        """A graph."""
        if file.weights:
            raise InputError(f"backend: {file.path.name} is for OpenVINO; use backend='openvino', or export as ONNX")
        options = self._module.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised
        try:
            return _OnnxSession(self._module.InferenceSession(file.content, options, ["CPUExecutionProvider"]))
        except Exception as error:  # its errors share no class of their own
            raise WeightsError(f"{file.path}: ONNX Runtime cannot read it: {error}") from error


class _OnnxSession:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [i.name for i in session.get_inputs()]

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs."""
        return self._session.run(None, {name: inputs[name] for name in self._names})  # type: ignore[no-any-return]


class OpenVino:
    """OpenVINO on a CPU, on one core per call."""

    backend = "openvino"

    def __init__(self, precision: str = "auto") -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {shown(precision)}")
        self._module = _needed("openvino", "openvino")
        self._core = self._module.Core()
        if precision == "auto":
            fast = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bfloat16" if fast else "float32"
        self.precision = precision

    def load(self, file: GraphFile, *, reduced: bool) -> Session:
        """A graph, compiled for one person: as fast as many, and with the same numbers whatever the other people."""
        precision = self.precision if reduced else "float32"
        settings = {
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": 1,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            # A stream tied to one core would wait for whatever else runs there.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            weights = self._module.Tensor(np.frombuffer(file.weights, np.uint8)) if file.weights else None
            model = self._core.read_model(file.content, weights) if weights else self._core.read_model(file.content)
            model.reshape({p: [1, *(d.get_length() for d in list(p.partial_shape)[1:])] for p in model.inputs})
            if precision == "bfloat16":
                self._round_filters(model)
            return _OpenVinoSession(self._core, self._core.compile_model(model, "CPU", settings), settings)
        except RuntimeError as error:
            raise WeightsError(f"{file.path}: OpenVINO cannot read it: {error}") from error

    def _round_filters(self, model: Any) -> None:
        """Filters of single channels to what bfloat16 holds, in place."""
        for node in model.get_ordered_ops():
            if node.get_type_name() == "GroupConvolution":
                source = node.input_value(1).get_node()
                while source.get_type_name() in ("Reshape", "Convert"):
                    source = source.input_value(0).get_node()
                rounded = rounded_filters(source.data).reshape(list(node.get_input_shape(1)))
                node.input(1).replace_source_output(self._module.op.Constant(rounded).output(0))


_FIRST_INFERENCE = threading.Lock()


class _OpenVinoSession:
    """A compiled graph, and copies of it for calls at the same time.

    A graph of one stream computes in the calling thread. One of several would hand every call over to threads of its
    own, for 0.1 ms and more.
    """

    def __init__(self, core: Any, compiled: Any, settings: dict[str, Any]) -> None:
        self._core, self._settings = core, settings
        stream = io.BytesIO()
        compiled.export_model(stream)
        self._content = stream.getvalue()
        self._free: list[_OpenVinoRequest] = []
        # OpenVINO's Python module initialises itself at its first inference, and two threads that do so at once wait
        # for each other for ever. So the first one is made here, alone.
        with _FIRST_INFERENCE:
            first = _OpenVinoRequest(compiled)
            first.run({name: np.zeros_like(place) for name, place in first.inputs.items()})
        self._free.append(first)

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs of one person."""
        try:
            request = self._free.pop()
        except IndexError:
            request = _OpenVinoRequest(self._core.import_model(self._content, "CPU", self._settings))
        try:
            return request.run(inputs)
        finally:
            self._free.append(request)


class _OpenVinoRequest:
    """A compiled graph with the memory of its inputs and outputs."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        # An input may also be named after a node that its optimiser removed.
        names = [port.node.friendly_name for port in compiled.inputs]
        self.inputs = {n: self._request.get_input_tensor(i).data for i, n in enumerate(names)}
        self._outputs = [self._request.get_output_tensor(i).data for i in range(len(compiled.outputs))]

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs of one person."""
        # Copies on both sides: graphs compute in the place of their inputs, and the next results come where these are.
        for name, place in self.inputs.items():
            place[...] = inputs[name]
        self._request.infer(share_outputs=True)
        return [place.copy() for place in self._outputs]


def _needed(module: str, extra: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"backend {extra!r} needs the package {module}: pip install 'posefix[{extra}]'"
        ) from error
