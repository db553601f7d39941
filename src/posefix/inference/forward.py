"""The network's answer for crops: batches, flip test, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.inference.crops import Answer, Crops
from posefix.inference.options import Options
from posefix.inference.reliability import count_outliers, prior_weight_from_outliers
from posefix.keypoints.heatmaps import (
    expected_position,
    expected_similarity,
    expected_similarity_argmax,
    heatmap_probabilities,
    mirror_maps,
)
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration


@torch.inference_mode()
def read_logits(network: RefinementNetwork, crops: Crops, batch_size: int = 32, prior_weight: float = 1.0) -> Tensor:
    """(B, K, h, w) float32 logits of any number of people."""
    parts = [network(*batch, prior_weight=prior_weight).float() for batch in _batches(network, crops, batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0, network.config.num_keypoints, *network.config.map_hw)


def can_measure_reliability(network: RefinementNetwork, calibration: Calibration) -> bool:
    """Whether these weights have a pose prior and a reference outlier rate."""
    return network.prior is not None and calibration.reference_outlier_rate > 0


@torch.inference_mode()
def outliers(network: RefinementNetwork, crops: Crops, batch_size: int = 32) -> tuple[int, int]:
    """Keypoints that the image is sure of, and how many of them any number of people have elsewhere."""
    counts = [_outliers(_forward(network, batch)).sum(-1) for batch in _batches(network, crops, batch_size)]
    confident, outliers = np.sum(counts or [(0, 0)], axis=0)
    return int(confident), int(outliers)


@torch.inference_mode()
def answer(
    network: RefinementNetwork,
    calibration: Calibration,
    flip_indices: npt.NDArray[np.int64],
    crops: Crops,
    options: Options,
    images: npt.NDArray[np.int64],
) -> Answer:
    """Refine any number of people, ``options.batch_size`` at a time.

    Where reliability is measured, the logits of one image's people are kept until all are there: 0.6 MB for each at
    320×224.

    Args:
        network: in evaluation mode, on its device.
        calibration: how its logits are read.
        flip_indices: (K,) permutation of the skeleton.
        crops: B people.
        options: decoder, flip test, batch size, prior weight.
        images: (B,) which image each person is in, in ascending order.

    Returns:
        points and confidences in crop pixels.
    """
    config = network.config
    order = torch.from_numpy(flip_indices).to(network.mean.device)
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    measured = options.prior_weight is None and can_measure_reliability(network, calibration)
    for chunk in _chunks(images, options.batch_size, whole_images=measured):
        outputs: list[tuple[_ForwardOutput, ...]] = []
        for batch in _batches(network, crops.take(chunk), options.batch_size):
            mirrored = [_forward(network, _mirror(batch, order, config))] if options.flip_test else []
            outputs.append((_forward(network, batch), *mirrored))
        if measured:
            prior_weight = _prior_weight_by_image(outputs, images[chunk], calibration)
        else:
            factor = 1.0 if options.prior_weight is None else options.prior_weight
            prior_weight = torch.full(
                (chunk.stop - chunk.start,), factor * calibration.prior_weight, device=order.device
            )
        parts = torch.split(prior_weight, [len(output[0].valid) for output in outputs])
        results += [_decode(k, t, calibration, config, order, options) for k, t in zip(outputs, parts, strict=True)]
    if not results:
        shape = (0, config.num_keypoints)
        return Answer(np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape))
    return Answer(*(torch.cat(p).cpu().double().numpy() for p in zip(*results, strict=True)))


@dataclass(frozen=True)
class _ForwardOutput:
    """What image and pose each say, apart; ``std`` is in heatmap pixels too."""

    image_logits: Tensor
    prior: Tensor | None
    heatmap_points: Tensor
    valid: Tensor
    std: Tensor

    def logits(self, prior_weight: Tensor) -> Tensor:
        return (
            self.image_logits
            if self.prior is None
            else self.image_logits + prior_weight[:, None, None, None] * self.prior
        )


def _forward(network: RefinementNetwork, batch: tuple[Tensor, ...]) -> _ForwardOutput:
    images, points, valid, std, scores = batch
    image_logits = network.image_logits(images, points, valid, scores)
    prior = network.log_prior(image_logits, points, valid, std, scores)
    return _ForwardOutput(image_logits, prior, (points - network.config.heatmap_offset) / STRIDE, valid, std / STRIDE)


def _mirror(batch: tuple[Tensor, ...], order: Tensor, config: ModelConfig) -> tuple[Tensor, ...]:
    images, points, valid, std, scores = batch
    mirrored = points[:, order]
    mirrored[..., 0] = config.input_hw[1] - 1 - mirrored[..., 0]
    return images.flip(2), mirrored, valid[:, order], std[:, order], scores[:, order]


def _outliers(output: _ForwardOutput) -> npt.NDArray[np.int64]:
    """(2, n) ``count_outliers``."""
    counts: npt.NDArray[np.int64] = (
        torch.stack(count_outliers(output.image_logits, output.heatmap_points, output.valid, output.std)).cpu().numpy()
    )
    return counts


def _prior_weight_by_image(
    outputs: list[tuple[_ForwardOutput, ...]], images: npt.NDArray[np.int64], calibration: Calibration
) -> Tensor:
    """(n,) power of the prior for the people of whole images; mirrored looks count like others."""
    counts = np.concatenate([np.mean([_outliers(output) for output in pair], axis=0) for pair in outputs], axis=1)
    _, place = np.unique(images, return_inverse=True)
    confident, outliers = (np.bincount(place, count)[place] for count in counts)
    prior_weight = calibration.prior_weight * prior_weight_from_outliers(
        confident, outliers, calibration.reference_outlier_rate
    )
    return torch.from_numpy(prior_weight).float().to(outputs[0][0].std.device)


def _decode(
    outputs: tuple[_ForwardOutput, ...],
    prior_weight: Tensor,
    calibration: Calibration,
    config: ModelConfig,
    order: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Points, their confidence and that of the input points; the second look, if any, is the mirrored one."""
    output = outputs[0]
    temperature = torch.tensor(calibration.temperature or (1.0,), device=prior_weight.device)
    logits = output.logits(prior_weight)
    # The point is read from the network's own distribution, how sure it is from the calibrated one.
    sharp, calibrated = heatmap_probabilities(logits), heatmap_probabilities(logits, temperature)
    for mirrored in outputs[1:]:
        logits = mirrored.logits(prior_weight)
        shift = (STRIDE - 1 - 2 * config.heatmap_offset) / STRIDE
        # Mirrored keypoint k is keypoint order[k]: the temperature goes by name, not by place.
        heat = temperature[order] if len(temperature) > 1 else temperature
        sharp = (sharp + mirror_maps(heatmap_probabilities(logits), order, shift)) / 2
        calibrated = (calibrated + mirror_maps(heatmap_probabilities(logits, heat), order, shift)) / 2
    if (options.decoder or calibration.decoder) == "soft_argmax":
        heatmap_points = expected_position(sharp)
    else:
        heatmap_points, _ = expected_similarity_argmax(sharp, output.std)
    confidence = expected_similarity(calibrated, heatmap_points, output.std)
    own = expected_similarity(calibrated, output.heatmap_points, output.std) * output.valid
    return heatmap_points * STRIDE + config.heatmap_offset, confidence, own


def _chunks(images: npt.NDArray[np.int64], size: int, *, whole_images: bool) -> Iterator[slice]:
    """People ``size`` at a time; of whole images fewer, or all of one that has more."""
    start, total = 0, len(images)
    while start < total:
        stop = min(start + size, total)
        if whole_images and stop < total and images[stop - 1] == images[stop]:
            first = int(np.searchsorted(images, images[stop]))
            stop = first if first > start else int(np.searchsorted(images, images[stop], side="right"))
        yield slice(start, stop)
        start = stop


def _batches(network: RefinementNetwork, crops: Crops, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    device = network.mean.device
    for start in range(0, len(crops), batch_size):
        part = crops.take(slice(start, start + batch_size))
        yield tuple(torch.from_numpy(getattr(part, f.name)).to(device, non_blocking=True) for f in fields(Crops))
