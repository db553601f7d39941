"""The authors' TensorFlow checkpoints → weights of ``RefinementNetwork`` (as in the paper's code).

Names and layouts are facts of the official release: ``resnet_v1_50/block3/unit_2/bottleneck_v1/conv1/weights``
is a convolution (H, W, in, out), ``up1/weights`` a transposed one (H, W, out, in). TensorFlow itself is needed
only to read the file, and is imported only then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.choices import BACKBONES
from posefix.exceptions import MissingDependencyError, SkeletonError, WeightsError
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown
from posefix.network.config import ModelConfig
from posefix.network.resnet import DEPTHS, FEATURES

Variables = Mapping[str, npt.NDArray[Any]]

#: What an optimiser keeps with a variable, under the variable's own name.
_SLOT = re.compile(r"/(Adam|AdaMax|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(_\d+)?$")
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
#: (H, W, in, out) → (out, in, H, W), and for transposed convolutions (H, W, out, in) → (in, out, H, W).
_TO_TORCH = (3, 2, 0, 1)


@dataclass(frozen=True)
class _Entry:
    """One variable of the checkpoint and where it goes."""

    variable: str
    shape: tuple[int, ...]
    ours: str


def _entries(config: ModelConfig) -> Iterator[_Entry]:
    """Every variable that the network of ``config`` has in the authors' release."""
    root = f"resnet_v1_{config.backbone.removeprefix('resnet')}"

    def convolution(theirs: str, shape: tuple[int, ...], ours: str, norm: str, channels: int) -> Iterator[_Entry]:
        yield _Entry(f"{theirs}/weights", shape, f"{ours}.weight")
        for name, our_name in _NORM.items():
            yield _Entry(f"{theirs}/BatchNorm/{name}", (channels,), f"{norm}.{our_name}")

    inputs = 3 + config.num_keypoints
    yield from convolution(f"{root}/conv1", (7, 7, inputs, 64), "trunk.stem", "trunk.stem_norm", 64)
    channels = 64
    for stage, depth in enumerate(DEPTHS[config.backbone]):
        width = 64 * 2**stage
        for unit in range(depth):
            theirs = f"{root}/block{stage + 1}/unit_{unit + 1}/bottleneck_v1"
            ours = f"trunk.stages.{stage}.{unit}"
            shapes = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if unit == 0:
                shape = (1, 1, channels, 4 * width)
                yield from convolution(
                    f"{theirs}/shortcut", shape, f"{ours}.shortcut", f"{ours}.shortcut_norm", 4 * width
                )
            for i, shape in enumerate(shapes, start=1):
                yield from convolution(f"{theirs}/conv{i}", shape, f"{ours}.conv{i}", f"{ours}.norm{i}", shape[3])
            channels = 4 * width
    for i in range(3):
        shape = (4, 4, FEATURES, channels)
        yield from convolution(f"up{i + 1}", shape, f"trunk.up.{i}", f"trunk.up_norm.{i}", FEATURES)
        channels = FEATURES
    yield _Entry("out/weights", (1, 1, FEATURES, config.num_keypoints), "head.weight")
    yield _Entry("out/biases", (config.num_keypoints,), "head.bias")


def _belongs_to_training(name: str, shape: Iterable[int]) -> bool:
    """Optimiser slots, and scalars (global step, learning rate, powers of Adam's betas): no network has any."""
    return not tuple(shape) or _SLOT.search(name) is not None


def infer_config(
    variables: Variables, *, backbone: str | None = None, input_hw: tuple[int, int] | None = None
) -> ModelConfig:
    """The network that a checkpoint is of.

    The weights do not depend on the input's size, so it cannot be recognised: by default a ResNet-152 is taken
    for the paper's best, 384×288, anything else for 256×192.

    Args:
        variables: name → array, as in the checkpoint.
        backbone: ``"resnet50"``, ``"resnet101"`` or ``"resnet152"``; default: by the variables' names.
        input_hw: input size (h, w).

    Returns:
        the paper's configuration for that backbone, size and number of keypoints.

    Raises:
        WeightsError: it is no PoseFix checkpoint, or of another backbone than was said.
    """
    found = sorted({m[1] for name in variables if (m := re.match(r"resnet_v1_(\d+)/", name))})
    known = [name for name in BACKBONES if name in DEPTHS]
    if len(found) != 1 or f"resnet{found[0]}" not in known or "out/biases" not in variables:
        raise WeightsError(
            "not a PoseFix checkpoint: expected the variables of one backbone, 'resnet_v1_50/…', "
            f"'resnet_v1_101/…' or 'resnet_v1_152/…', and 'out/biases', got {_shorten(sorted(variables))}"
        )
    depth = int(found[0])
    if backbone is not None and backbone not in known:
        raise WeightsError(f"backbone: expected one of {', '.join(known)}, got {backbone!r}")
    if backbone is not None and backbone != f"resnet{depth}":
        raise WeightsError(f"backbone: this checkpoint holds a resnet{depth}, not a {backbone}")
    keypoints = int(np.size(variables["out/biases"]))
    return ModelConfig.paper(depth, input_hw or ((384, 288) if depth == 152 else (256, 192)), keypoints)


def variables_to_state(variables: Variables, config: ModelConfig) -> dict[str, Tensor]:
    """The checkpoint's variables as the state of ``RefinementNetwork(config)``.

    Optimiser slots and scalars such as the global step are ignored.

    Args:
        variables: name → array, as in the checkpoint.
        config: the network, one of the paper's (``infer_config`` tells which).

    Returns:
        a state dict that loads strictly, float32.

    Raises:
        WeightsError: names every variable that is missing, too much, or of another shape.
    """
    if config.backbone not in DEPTHS:
        raise WeightsError(f"backbone: only the paper's networks can be converted, got {shown(config.backbone)}")
    entries = list(_entries(config))
    expected = {e.variable for e in entries}
    given = {name: v for name, v in variables.items() if not _belongs_to_training(name, np.shape(v))}
    wrong = [
        f"{e.variable} is {tuple(np.shape(given[e.variable]))}, expected {e.shape}"
        for e in entries
        if e.variable in given and tuple(np.shape(given[e.variable])) != e.shape
    ]
    problems = {
        "missing": [e.variable for e in entries if e.variable not in given],
        "not of this network": sorted(set(given) - expected),
        "of another shape": wrong,
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise WeightsError(
            f"the checkpoint does not fit {config.backbone} with {config.num_keypoints} keypoints: {listed}"
        )
    state: dict[str, Tensor] = {}
    for entry in entries:
        value = np.asarray(given[entry.variable])
        turned = value.transpose(_TO_TORCH) if value.ndim == 4 else value
        state[entry.ours] = torch.from_numpy(np.array(turned, np.float32, order="C"))  # always a copy
        if entry.ours.endswith(".running_var"):
            # PyTorch also counts batches; the count is unused with a fixed momentum.
            state[entry.ours.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state


def checkpoint_prefix(snapshot: str | Path) -> str:
    """The prefix of a TensorFlow checkpoint that is there, from itself or from any of its files.

    Raises:
        WeightsError: there is no checkpoint.
    """
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(snapshot))
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError(f"no TensorFlow checkpoint at {snapshot}: {_what_is_there(Path(prefix))}")
    return prefix


def read_checkpoint(snapshot: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Read a TensorFlow checkpoint, without its optimiser's variables.

    Args:
        snapshot: its prefix (``…/snapshot_140.ckpt``), or any of its ``.index``, ``.meta`` and ``.data-…`` files.

    Returns:
        name → array.

    Raises:
        WeightsError: there is no checkpoint, or it cannot be read.
        MissingDependencyError: TensorFlow is not installed.
    """
    prefix = checkpoint_prefix(snapshot)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependencyError(
            "reading a TensorFlow checkpoint needs TensorFlow, once: pip install posefix[tensorflow]"
        ) from error
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        names = [name for name, shape in sorted(shapes.items()) if not _belongs_to_training(name, shape)]
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"cannot read {prefix} as a TensorFlow checkpoint: {reason}") from error


def convert(
    snapshot: str | Path,
    *,
    backbone: str | None = None,
    input_hw: tuple[int, int] | None = None,
    skeleton: Skeleton,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read the authors' checkpoint as configuration and weights of this library.

    Args:
        snapshot: the checkpoint's prefix or one of its files.
        backbone: default: recognised.
        input_hw: input size (h, w); default as ``infer_config`` says.
        skeleton: the keypoint set that it was trained for.

    Returns:
        the network's configuration and its state dict.

    Raises:
        WeightsError: it is no checkpoint of such a network.
        SkeletonError: it is for another number of keypoints.
        MissingDependencyError: TensorFlow is not installed.
    """
    variables = read_checkpoint(snapshot)
    config = infer_config(variables, backbone=backbone, input_hw=input_hw)
    if config.num_keypoints != len(skeleton):
        raise SkeletonError(
            f"the checkpoint has {config.num_keypoints} keypoints, skeleton {skeleton.name!r} has {len(skeleton)}"
        )
    return config, variables_to_state(variables, config)


def _shorten(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _what_is_there(prefix: Path) -> str:
    folder = prefix if prefix.is_dir() else prefix.parent
    found = sorted(p.with_suffix("").name for p in folder.glob("*.index")) if folder.is_dir() else []
    if found:
        return f"give the prefix of one of those in {folder}: {_shorten(found)}"
    return f"expected a file {prefix}.index next to {prefix}.data-00000-of-00001"
