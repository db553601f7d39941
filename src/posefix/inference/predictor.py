"""From the network's output to points with confidence: reliability, pose prior, flip test, decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.inference.crops import Prediction
from posefix.inference.forward import ForwardOutput, forward_batches
from posefix.inference.options import Options
from posefix.inference.reliability import count_outliers, prior_weight_from_outliers
from posefix.keypoints.heatmaps import heatmap_probabilities, mirror_maps
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration

#: One batch's output, and that of its mirrored crops with the flip test.
Outputs = tuple[ForwardOutput, ...]


def can_measure_reliability(network: RefinementNetwork, calibration: Calibration) -> bool:
    """Whether these weights have a pose prior and a reference outlier rate."""
    return network.prior is not None and calibration.reference_outlier_rate > 0


def outlier_counts(output: ForwardOutput, config: ModelConfig) -> npt.NDArray[np.int64]:
    """(2, B) confident keypoints and outliers among them, see ``count_outliers``."""
    codec = config.codec
    points, std = codec.to_heatmap(output.crop_points), output.std / codec.stride
    counts = torch.stack(count_outliers(output.image_logits, points, output.valid, std))
    return np.asarray(counts.cpu().numpy(), np.int64)


@dataclass(frozen=True)
class Reliability:
    """An estimator's reliability, measured on some of its people.

    Attributes:
        prior_weight: weight of its poses; 1 is usual, and what nobody and weights that cannot tell give.
        confident: keypoints of which the image is confident.
        outliers: how many of them the poses have elsewhere.
    """

    prior_weight: float = 1.0
    confident: int = 0
    outliers: int = 0


@torch.inference_mode()
def measure_reliability(
    outputs: Sequence[ForwardOutput], network: RefinementNetwork, calibration: Calibration
) -> Reliability:
    """Reliability of the estimator whose people went through the network."""
    if not outputs or not can_measure_reliability(network, calibration):
        return Reliability()
    confident, outliers = np.concatenate([outlier_counts(o, network.config) for o in outputs], axis=1).sum(-1).tolist()
    weight = prior_weight_from_outliers(confident, outliers, calibration.reference_outlier_rate)
    return Reliability(float(weight), confident, outliers)


@torch.inference_mode()
def predict(
    network: RefinementNetwork,
    calibration: Calibration,
    flip_indices: npt.NDArray[np.int64],
    inputs: NetworkInput,
    options: Options,
    image_index: npt.NDArray[np.int64],
) -> Prediction:
    """Refine any number of people, ``options.batch_size`` at a time.

    Where reliability is measured, the logits of one image's people are kept until all are there: 0.6 MB for each at
    320×224.

    Args:
        network: in evaluation mode, on its device.
        calibration: how its logits are read.
        flip_indices: (K,) permutation of the skeleton.
        inputs: arrays of B people.
        options: decoder, flip test, batch size, prior weight.
        image_index: (B,) which image each person is in, in ascending order.

    Returns:
        points and confidences in crop pixels.
    """
    order = torch.from_numpy(flip_indices).to(network.mean.device)
    measured = options.prior_weight is None and can_measure_reliability(network, calibration)
    parts: list[Prediction] = []
    for rows in _chunks(image_index, options.batch_size, whole_images=measured):
        flips = order if options.flip_test else None
        outputs = list(forward_batches(network, inputs.take(rows), options.batch_size, flips))
        if measured:
            factor = _measured_by_image(outputs, image_index[rows], calibration, network.config)
        else:
            factor = np.full(rows.stop - rows.start, 1.0 if options.prior_weight is None else options.prior_weight)
        parts.append(decode(outputs, factor, calibration, network.config, order, options))
    return Prediction.join(parts, network.config.num_keypoints)


@torch.inference_mode()
def decode(
    outputs: Sequence[Outputs],
    prior_weight: npt.NDArray[np.floating],
    calibration: Calibration,
    config: ModelConfig,
    order: Tensor,
    options: Options,
) -> Prediction:
    """Points, their confidence and that of the input points.

    Args:
        outputs: of batches with B people in all.
        prior_weight: (B,) as in ``Options``.
        calibration: temperatures and decoder.
        config: of the network.
        order: (K,) permutation for the flip test, on the device.
        options: the decoder.
    """
    weights = torch.from_numpy(calibration.prior_weight * np.asarray(prior_weight)).float().to(order.device)
    split = torch.split(weights, [len(batch[0]) for batch in outputs])
    decoder = options.decoder or calibration.decoder
    results = [_decode_batch(b, w, calibration, config, order, decoder) for b, w in zip(outputs, split, strict=True)]
    arrays = (torch.cat(parts).cpu().double().numpy() for parts in zip(*results, strict=True))
    return Prediction(*arrays) if results else Prediction.join([], config.num_keypoints)


def _decode_batch(
    outputs: Outputs, weight: Tensor, calibration: Calibration, config: ModelConfig, order: Tensor, decoder: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output, codec = outputs[0], config.codec
    temperature = torch.tensor(calibration.temperature or (1.0,), device=weight.device)
    logits = output.logits(weight)
    # The point is read from the network's own distribution, its confidence from the calibrated one.
    sharp, calibrated = heatmap_probabilities(logits), heatmap_probabilities(logits, temperature)
    for mirrored in outputs[1:]:
        logits = mirrored.logits(weight)
        # Mirrored keypoint k is keypoint order[k]: the temperature goes by name, not by place.
        heat = temperature[order] if len(temperature) > 1 else temperature
        sharp = (sharp + mirror_maps(heatmap_probabilities(logits), order, codec.mirror_shift)) / 2
        calibrated = (calibrated + mirror_maps(heatmap_probabilities(logits, heat), order, codec.mirror_shift)) / 2
    points, _ = codec.decode_probabilities(sharp, output.std, decoder)
    confidence = codec.similarity(calibrated, points, output.std)
    own = codec.similarity(calibrated, output.crop_points, output.std) * output.valid
    return points, confidence, own, presence(output.peaks, confidence, calibration)


def presence(peaks: Tensor | None, like: Tensor, calibration: Calibration) -> Tensor:
    """How likely the crop shows each keypoint at all, whatever its place.

    The soft-max over heatmap pixels says where a keypoint is if it is there. Whether it is there shows in the height
    of its own peak and in those of the person's other keypoints, the better half of which is averaged.

    Args:
        peaks: (B, K) of ``ForwardOutput``.
        like: (B, K) whose shape and device the result has.
        calibration: ``presence`` holds the three coefficients of a logistic regression.

    Returns:
        (B, K) in (0, 1]; 1 where the weights cannot tell.
    """
    if peaks is None or not calibration.presence:
        return torch.ones_like(like)
    own, person, bias = calibration.presence
    best = peaks.topk((peaks.shape[1] + 1) // 2, dim=1).values.mean(1, keepdim=True)
    return torch.sigmoid(own * peaks + person * best + bias)


def _measured_by_image(
    outputs: Sequence[Outputs], image_index: npt.NDArray[np.int64], calibration: Calibration, config: ModelConfig
) -> npt.NDArray[np.floating]:
    """(n,) measured prior weight for the people of whole images; mirrored outputs count like others."""
    counts = np.concatenate([np.mean([outlier_counts(o, config) for o in batch], axis=0) for batch in outputs], axis=1)
    _, place = np.unique(image_index, return_inverse=True)
    confident, outliers = (np.bincount(place, count)[place] for count in counts)
    return prior_weight_from_outliers(confident, outliers, calibration.reference_outlier_rate)


def _chunks(image_index: npt.NDArray[np.int64], size: int, *, whole_images: bool) -> Iterator[slice]:
    """People ``size`` at a time; of whole images fewer, or all of one that has more."""
    start, total = 0, len(image_index)
    while start < total:
        stop = min(start + size, total)
        if whole_images and stop < total and image_index[stop - 1] == image_index[stop]:
            first = int(np.searchsorted(image_index, image_index[stop]))
            stop = first if first > start else int(np.searchsorted(image_index, image_index[stop], side="right"))
        yield slice(start, stop)
        start = stop
