"""From image logits to points with confidence, in torch: pose prior, flip test, decoder, outliers.

These functions are what every backend computes: torch runs them, the others run graphs traced from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posefix.inference.reliability import AT_ANOTHER, CLOSE_DISTANCE, CONFIDENT, OUTLIER_DISTANCE
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import heatmap_probabilities, mirror_maps
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration


def count_outliers(image_logits: Tensor, inputs: NetworkInput, codec: HeatmapCodec) -> Tensor:
    """Count the keypoints of which the image is confident, and among them the outliers and the close ones.

    Where the place is that of another person, the network looked at that one: this is no outlier.

    Args:
        image_logits: (B, K, h, w) logits without the prior.
        inputs: tensors of the B people.
        codec: ``ModelConfig.codec``.

    Returns:
        (3, B) int64, confident, outliers and close.
    """
    return count_near(*codec.decode(image_logits, inputs.std), inputs)


def count_near(points: Tensor, confidence: Tensor, inputs: NetworkInput) -> Tensor:
    """``count_outliers`` of points that the image logits were decoded to."""
    confident = inputs.valid & (confidence > CONFIDENT)
    distance = (points - inputs.crop_points).square().sum(-1).sqrt()
    outliers = confident & (distance >= OUTLIER_DISTANCE * inputs.std)
    if inputs.others is not None:
        to_others = (points[:, None] - inputs.others).square().sum(-1).amin(1).sqrt()
        outliers = outliers & (to_others >= AT_ANOTHER * distance)
    close = confident & (distance < CLOSE_DISTANCE * inputs.std)
    return torch.stack([confident.sum(-1), outliers.sum(-1), close.sum(-1)])


def decode(
    network: RefinementNetwork,
    calibration: Calibration,
    flip_indices: Tensor,
    decoder: str,
    views: Sequence[tuple[Tensor, NetworkInput]],
    peaks: Tensor | None,
    prior_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, their confidence, that of the input points, and presence.

    Args:
        network: whose logits they are.
        calibration: temperatures and weight of the prior.
        flip_indices: (K,) permutation for the flip test.
        decoder: one of ``codec.DECODERS``.
        views: (B, K, h, w) image logits and the inputs they came from; with the flip test a second pair, mirrored.
        peaks: (B, K) see ``RefinementNetwork.image_logits_and_peaks``; None without.
        prior_weight: (B,) as in ``Options``, 1 is usual.

    Returns:
        (B, K, 2) crop pixels, and three times (B, K).
    """
    codec, inputs = network.config.codec, views[0][1]
    temperature = torch.tensor(calibration.temperature or (1.0,), dtype=torch.float32, device=prior_weight.device)
    sharp, calibrated = [], []
    for index, (image_logits, seen) in enumerate(views):
        logits, heat = image_logits, temperature
        log_prior = network.log_prior(image_logits, seen)
        if log_prior is not None:
            logits = logits + (calibration.prior_weight * prior_weight)[:, None, None, None] * log_prior
        if index and len(temperature) > 1:
            # Mirrored keypoint k is keypoint flip_indices[k]: the temperature goes by name, not by place.
            heat = temperature[flip_indices]
        # The point is read from the network's own distribution, its confidence from the calibrated one.
        maps = heatmap_probabilities(logits), heatmap_probabilities(logits, heat)
        if index:
            maps = tuple(mirror_maps(m, flip_indices, codec.mirror_shift) for m in maps)  # type: ignore[assignment]
        sharp.append(maps[0])
        calibrated.append(maps[1])
    mean_sharp, mean_calibrated = (m[0] if len(m) == 1 else (m[0] + m[1]) / 2 for m in (sharp, calibrated))
    points, _ = codec.decode_probabilities(mean_sharp, inputs.std, decoder)
    both = torch.stack([points, inputs.crop_points], 2)
    confidence, own = codec.similarity(mean_calibrated, both, inputs.std.unsqueeze(2)).unbind(2)
    return points, confidence, own * inputs.valid, presence(peaks, confidence, calibration)


def presence(peaks: Tensor | None, like: Tensor, calibration: Calibration) -> Tensor:
    """How likely the crop shows each keypoint at all, whatever its place.

    The soft-max over heatmap pixels says where a keypoint is if it is there. Whether it is there shows in the height
    of its own peak and in those of the person's other keypoints, the better half of which is averaged.

    Args:
        peaks: (B, K) see ``RefinementNetwork.image_logits_and_peaks``; None without.
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
