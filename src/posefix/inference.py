"""The network's answer for crops: batches, flip test, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.crops import Answer, Crops
from posefix.exceptions import InputError
from posefix.heatmaps import (
    cell_probabilities,
    expected_position,
    expected_similarity,
    expected_similarity_argmax,
    mirror_maps,
)
from posefix.network.config import DECODERS, POLICIES, STRIDE, Calibration
from posefix.network.refinement import RefinementNetwork


@dataclass(frozen=True)
class Options:
    """How to refine; None takes what the weights recommend.

    Attributes:
        policy: ``"safe"`` leaves a keypoint exactly where it is unless the picture speaks clearly against it,
            ``"always"`` takes the network's answer.
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        flip_test: also look at the mirrored picture and average; twice the time.
        fill_missing: give missing keypoints the network's answer; else they stay missing.
        batch_size: people per pass through the network.
        trust: how far the input pose is trusted: multiplies the power of the pose prior. Below 1 for weak estimators,
            above 1 for strong ones (docs/accuracy.md). Networks without a prior know no trust.
    """

    policy: str | None = None
    decoder: str | None = None
    flip_test: bool = False
    fill_missing: bool = True
    batch_size: int = 32
    trust: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("decoder", DECODERS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, got {self.batch_size!r}")
        if not isinstance(self.trust, int | float) or not 0 <= self.trust < float("inf"):
            raise InputError(f"trust: expected a number of at least 0, got {self.trust!r}")


def make_options(**options: Any) -> Options:
    """``Options`` from keyword arguments.

    Raises:
        InputError: an unknown name or value.
    """
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        known = ", ".join(f.name for f in fields(Options))
        raise InputError(f"unknown option {unknown[0]!r}; known are {known}")
    return replace(Options(), **options)


@torch.inference_mode()
def read_logits(network: RefinementNetwork, crops: Crops, batch_size: int = 32, trust: float = 1.0) -> Tensor:
    """(B, K, h, w) float32 logits of any number of people."""
    parts = [network(*batch, trust=trust).float() for batch in _batches(network, crops, batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0, network.config.num_keypoints, *network.config.map_hw)


@torch.inference_mode()
def answer(
    network: RefinementNetwork,
    calibration: Calibration,
    flip: npt.NDArray[np.int64],
    crops: Crops,
    options: Options,
) -> Answer:
    """Refine any number of people, ``options.batch_size`` at a time.

    Args:
        network: in evaluation mode, on its device.
        calibration: how its logits are read.
        flip: (K,) permutation of the skeleton.
        crops: B people.
        options: decoder, flip test, batch size.

    Returns:
        points and confidences in crop pixels.
    """
    config = network.config
    decoder = options.decoder or calibration.decoder
    trust = options.trust * calibration.trust
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, points, valid, std, scores in _batches(network, crops, options.batch_size):
        temperature = torch.tensor(calibration.temperature or (1.0,), device=std.device)
        logits = network(images, points, valid, std, scores, trust=trust)
        # The point is read from the network's own distribution, how sure it is from the calibrated one.
        sharp, calibrated = cell_probabilities(logits), cell_probabilities(logits, temperature)
        if options.flip_test:
            order = torch.from_numpy(flip).to(std.device)
            mirrored = points[:, order]
            mirrored[..., 0] = config.input_hw[1] - 1 - mirrored[..., 0]
            logits = network(images.flip(2), mirrored, valid[:, order], std[:, order], scores[:, order], trust=trust)
            shift = (STRIDE - 1 - 2 * config.cell_offset) / STRIDE
            # Mirrored keypoint k is keypoint order[k]: the temperature goes by name, not by place.
            heat = temperature[order] if len(temperature) > 1 else temperature
            sharp = (sharp + mirror_maps(cell_probabilities(logits), order, shift)) / 2
            calibrated = (calibrated + mirror_maps(cell_probabilities(logits, heat), order, shift)) / 2
        cell_std = std / STRIDE
        if decoder == "soft_argmax":
            cells = expected_position(sharp)
        else:
            cells, _ = expected_similarity_argmax(sharp, cell_std)
        confidence = expected_similarity(calibrated, cells, cell_std)
        inputs = (points - config.cell_offset) / STRIDE
        own = expected_similarity(calibrated, inputs, cell_std) * valid
        results.append((cells * STRIDE + config.cell_offset, confidence, own))
    if not results:
        shape = (0, config.num_keypoints)
        return Answer(np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape))
    return Answer(*(torch.cat(p).double().cpu().numpy() for p in zip(*results, strict=True)))


def _batches(network: RefinementNetwork, crops: Crops, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    device = network.mean.device
    for start in range(0, len(crops), batch_size):
        part = crops.take(slice(start, start + batch_size))
        yield tuple(torch.from_numpy(getattr(part, f.name)).to(device, non_blocking=True) for f in fields(Crops))
