"""The network and its decoding as ONNX graphs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from posefix.inference import decoding
from posefix.inference.crops import NEAREST
from posefix.inference.graph_model import CHECK_NAME, PARTS, sample_inputs
from posefix.inference.torch_model import build_network
from posefix.io.atomic import write_file
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.weights.weights import Weights

#: ONNX operator set of the graphs: ONNX Runtime 1.14, OpenVINO 2023.0 and later read it.
OPSET = 18
#: Changes whenever the graphs do, so that no older copy of them is taken from the cache.
_VERSION = 9
_POSE = ("crop_points", "valid", "std", "scores")
_MIRRORED = ("mirrored_image_logits", *(f"mirrored_{name}" for name in _POSE))
_COUNTS = ("confident", "outliers", "close")
_PREDICTION = ("points", "confidence", "input_confidence", "presence")


@dataclass(frozen=True)
class Graph:
    """One graph: its inputs and outputs, and how they are computed."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[..., tuple[Tensor, ...]]
    network: nn.Module


def graphs(weights: Weights, decoder: str | None = None) -> dict[str, Graph]:
    """The graphs of a network by name; every input and output has people as its first dimension.

    ``model`` is all in one. ``network``, ``outliers``, ``decode`` and ``decode_flip`` are its parts.
    """
    network = build_network(weights, torch.device("cpu"), "float32").requires_grad_(False)
    calibration, codec = weights.calibration, weights.config.codec
    chosen = decoder or calibration.decoder
    order = torch.from_numpy(weights.skeleton.flip_indices)

    def seen(points: Tensor, valid: Tensor, std: Tensor, scores: Tensor, crops: Tensor | None = None) -> NetworkInput:
        return NetworkInput(crops=crops, crop_points=points, valid=valid, std=std, scores=scores)

    # Networks without such peaks neither give nor take them.
    peaks = ("peaks",) if weights.config.backbone == "mobilenet_v2" else ()

    def forward(crops: Tensor, points: Tensor, valid: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        found = network.image_logits_and_peaks(seen(points, valid, scores, scores, crops))
        return tuple(part for part in found if part is not None)

    def outliers(
        logits: Tensor, points: Tensor, valid: Tensor, std: Tensor, others: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return decoding.count_outliers(logits, replace(seen(points, valid, std, std), others=others), codec).unbind()

    def decode(logits: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        own, rest = (rest[0], rest[1:]) if peaks else (None, rest)
        views = [(logits, seen(*rest[:4]))]
        if len(rest) > 5:
            views.append((rest[4], seen(*rest[5:9])))
        return decoding.decode(network, calibration, order, chosen, views, own, rest[-1])

    def model(crops: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        points, valid, std, scores, _ = rest
        found = forward(crops, points, valid, scores)
        return (*decode(*found, *rest), *outliers(found[0], points, valid, std), found[0])

    whole = ("crops", *_POSE, "prior_weight"), (*_PREDICTION, *_COUNTS, "image_logits")
    return {
        "model": Graph(*whole, model, network),
        "network": Graph(("crops", "crop_points", "valid", "scores"), ("image_logits", *peaks), forward, network),
        "outliers": Graph(("image_logits", "crop_points", "valid", "std", "others"), _COUNTS, outliers, network),
        "decode": Graph(("image_logits", *peaks, *_POSE, "prior_weight"), _PREDICTION, decode, network),
        "decode_flip": Graph(
            ("image_logits", *peaks, *_POSE, *_MIRRORED, "prior_weight"), _PREDICTION, decode, network
        ),
    }


class _Module(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.compute = graph.compute
        self.network = graph.network  # whose parameters become the file's, not constants of the graph

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.compute(*inputs)


def write_onnx(path: Path, graph: Graph, weights: Weights, metadata: Mapping[str, str]) -> None:
    """Write one graph with a dynamic number of people; the metadata go into the file."""
    config = weights.config
    keypoints, maps = config.num_keypoints, (config.num_keypoints, *config.map_hw)
    rng = np.random.default_rng(0)
    kinds: dict[str, Any] = {
        "crops": rng.integers(0, 256, (2, *config.input_hw, 3)).astype(np.uint8),
        "crop_points": rng.uniform(0, config.input_hw[1], (2, keypoints, 2)).astype(np.float32),
        "valid": np.ones((2, keypoints), bool),
        "std": np.full((2, keypoints), 8, np.float32),
        "scores": np.ones((2, keypoints), np.float32),
        "others": rng.uniform(0, config.input_hw[1], (2, NEAREST, keypoints, 2)).astype(np.float32),
        "peaks": np.ones((2, keypoints), np.float32),
        "image_logits": rng.normal(0, 3, (2, *maps)).astype(np.float32),
        "prior_weight": np.ones(2, np.float32),
    }
    example = tuple(torch.from_numpy(kinds[name.removeprefix("mirrored_")]) for name in graph.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of shapes that are constants here, and of the exporter's age. The newer exporter takes 30 times
        # as long and needs another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Module(graph),
            example,
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: {0: "people"} for name in (*graph.inputs, *graph.outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    with path.open("ab") as stream:
        stream.write(_metadata(metadata))


def _metadata(values: Mapping[str, str]) -> bytes:
    """``metadata_props`` of an ONNX file, to append: protocol buffers join what is written one after another."""

    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    return b"".join(field(14, field(1, k.encode()) + field(2, v.encode())) for k, v in values.items())


@contextmanager
def cached_parts(weights: Weights) -> Iterator[Path]:
    """A folder with the parts of a network as ONNX files, from the cache; of this process where it cannot be written.

    The cache is the folder in ``POSEFIX_CACHE``, else ``~/.cache/posefix``.
    """
    cache = Path(os.environ.get("POSEFIX_CACHE") or Path.home() / ".cache" / "posefix") / "graphs"
    folder = cache / _key(weights)
    if folder.is_dir():
        yield folder
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        place: Path | None = cache
    except OSError:
        place = None
    temporary = Path(tempfile.mkdtemp(prefix="posefix-", dir=place))
    try:
        write_parts(temporary, weights)
        if place is not None:
            try:
                temporary.replace(folder)
            except OSError:
                pass  # another process was faster
            else:
                temporary = folder
        yield temporary
    finally:
        if temporary != folder:
            shutil.rmtree(temporary, ignore_errors=True)


def write_parts(folder: Path, weights: Weights) -> None:
    """Write ``PARTS`` as ONNX files, and what they must give."""
    made = graphs(weights)
    for name in PARTS:
        write_onnx(folder / f"{name}.onnx", made[name], weights, {})
    write_file(folder / CHECK_NAME, check_file(made, weights.config))


@torch.inference_mode()
def check_file(made: Mapping[str, Graph], config: ModelConfig) -> bytes:
    """The parts' outputs for ``graph_model.sample_inputs``, as safetensors."""
    feed = {k: torch.from_numpy(v) for k, v in sample_inputs(config.num_keypoints, *config.map_hw).items()}
    outputs: dict[str, Tensor] = {}
    for name in PARTS:
        found = made[name].compute(*(feed[i] for i in made[name].inputs))
        if name == "network":
            # Half as large, and the same numbers for those parts that read them.
            found = (found[0].half(), *found[1:])
            feed |= {"image_logits": found[0].float(), "mirrored_image_logits": found[0].float()}
            feed |= dict(zip(("peaks",), found[1:], strict=False))
        outputs |= {f"{name}.{number}": value.contiguous() for number, value in enumerate(found)}
    return save(outputs)


def _key(weights: Weights) -> str:
    said = json.dumps([_VERSION, weights.config.to_dict(), weights.calibration.to_dict(), weights.skeleton.to_dict()])
    digest = hashlib.sha256(said.encode())
    for name, value in sorted(weights.state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
