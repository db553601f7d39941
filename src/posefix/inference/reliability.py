"""An estimator's reliability, measured by its share of outliers: keypoints far from where the image shows them.

Where the image logits (the network's output before the pose prior) are confident of a place, strong estimators and
annotators have their keypoint there. Weak estimators have it elsewhere five times as often. One person's keypoints say
little about that, the people of an image more, a whole results file most.

Poses that were refined already lie closer to these places than any other estimator's. What the image says is in them,
and must not count twice: they get more weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posefix.network.config import ModelConfig
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.floating]

#: Expected similarity from which the image logits are confident of a place.
CONFIDENT = 0.7
#: Distance from that place, in length scales of keypoint similarity, from which an input keypoint is an outlier.
OUTLIER_DISTANCE = 1.5
#: So many confident keypoints with the reference rate are counted beforehand, so that few people change little.
PRIOR_COUNT = 300.0
#: Weight falls with this power of the share of outliers.
EXPONENT = 1.5
#: Least and largest weight by outliers.
LIMITS = (0.3, 1.75)
#: Distance, in length scales, below which a keypoint is close: about as far as one annotator's from another's.
CLOSE_DISTANCE = 0.3
#: Largest share of close keypoints that estimators reach by themselves, and how many are counted beforehand.
CLOSE_SHARE, CLOSE_PRIOR_COUNT = 0.75, 100.0
#: Largest weight of all.
LARGEST_WEIGHT = 4.0


@dataclass(frozen=True)
class Reliability:
    """An estimator's reliability, measured on some of its people.

    Attributes:
        prior_weight: weight of its poses; 1 is usual, and the value without people or without a pose prior.
        confident: keypoints of which the image is confident.
        outliers: how many of them the poses have elsewhere.
    """

    prior_weight: float = 1.0
    confident: int = 0
    outliers: int = 0


def can_measure_reliability(config: ModelConfig, calibration: Calibration) -> bool:
    """Whether weights have a pose prior and a reference outlier rate."""
    return config.pose_prior and calibration.reference_outlier_rate > 0


def measured_prior_weight(counts: npt.ArrayLike, reference_rate: float) -> Floats:
    """Weight of the pose prior for an estimator: 1 at the reference rate of outliers, 0.35 at twice that rate.

    Where more keypoints are close to the image's places than estimators reach by themselves, the weight is divided by
    the share of those that can still be the estimator's own.

    Args:
        counts: (3, …) confident keypoints, outliers and close ones, as ``decoding.count_outliers`` gives.
        reference_rate: share of outliers at which the weight is 1 (``Calibration.reference_outlier_rate``).

    Returns:
        (…), at least ``LIMITS[0]`` and at most ``LARGEST_WEIGHT``.
    """
    confident, outliers, close = np.asarray(counts, np.float64)
    share = (outliers + PRIOR_COUNT * reference_rate) / (confident + PRIOR_COUNT)
    others = (confident - close + CLOSE_PRIOR_COUNT * (1 - CLOSE_SHARE)) / (confident + CLOSE_PRIOR_COUNT)
    by_outliers: Floats = np.clip((reference_rate / share) ** EXPONENT, *LIMITS)
    weight: Floats = np.minimum(by_outliers / np.minimum(others / (1 - CLOSE_SHARE), 1.0), LARGEST_WEIGHT)
    return weight
