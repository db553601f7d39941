"""An estimator's reliability, measured by its share of outliers: keypoints far from where the image shows them.

Where the image logits (the network's output before the pose prior) are confident of a place, strong estimators and
annotators have their keypoint there. Weak estimators have it elsewhere five times as often. One person's keypoints say
little about that, the people of an image more, a whole results file most.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities

Floats = npt.NDArray[np.floating]

#: Expected similarity from which the image logits are confident of a place.
CONFIDENT = 0.7
#: Distance from that place, in length scales of keypoint similarity, from which an input keypoint is an outlier.
OUTLIER_DISTANCE = 1.5
#: So many confident keypoints with the reference rate are counted beforehand, so that few people change little.
PRIOR_COUNT = 300.0
#: Least and largest measured weight.
LIMITS = (0.3, 1.5)


def count_outliers(image_logits: Tensor, heatmap_points: Tensor, valid: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Count the keypoints of which the image is confident, and the outliers among them.

    Args:
        image_logits: (B, K, h, w) logits without the prior.
        heatmap_points: (B, K, 2) input pose in heatmap pixels.
        valid: (B, K) bool.
        std: (B, K) length scale of keypoint similarity in heatmap pixels.

    Returns:
        (B,) and (B,) counts per person.
    """
    points, confidence = expected_similarity_argmax(heatmap_probabilities(image_logits), std)
    confident = valid & (confidence > CONFIDENT)
    outliers = confident & ((points - heatmap_points).norm(dim=-1) >= OUTLIER_DISTANCE * std)
    return confident.sum(-1), outliers.sum(-1)


def prior_weight_from_outliers(confident: npt.ArrayLike, outliers: npt.ArrayLike, reference_rate: float) -> Floats:
    """Weight of the pose prior for an estimator: 1 at the reference rate of outliers, half at twice that rate.

    Args:
        confident: any shape, counts.
        outliers: the same shape.
        reference_rate: share of outliers at which the weight is 1 (``Calibration.reference_outlier_rate``).

    Returns:
        the same shape, within ``LIMITS``.
    """
    share = (np.asarray(outliers, np.float64) + PRIOR_COUNT * reference_rate) / (
        np.asarray(confident, np.float64) + PRIOR_COUNT
    )
    return np.clip(reference_rate / share, *LIMITS)
