"""An estimator's reliability, measured by its share of outliers: keypoints far from where the image shows them.

Where the image logits (the network's output before the pose prior) are confident of a place, strong estimators and
annotators have their keypoint there. Weak estimators have it elsewhere five times as often. One person's keypoints say
little about that, the people of an image more, a whole results file most.
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
#: Least and largest measured weight.
LIMITS = (0.3, 1.5)


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
