"""An estimator's reliability, measured by its share of outliers: keypoints far from where the image shows them.

Where the image logits (the network's output before the pose prior) are confident of a place, strong estimators and
annotators have their keypoint there. Weak estimators have it elsewhere five times as often. One person's keypoints say
little about that, the people of an image more, a whole results file most.

Where the image's place is another person's keypoint, the network looked at that person. Of strong estimators' outliers
a quarter to a half are such, and where reliability is measured image by image they would lower the weight just there.
So these do not count.

Some of the outliers are the image's own errors: however good an estimator is, its share does not fall below that of
labelled poses. So poses with few outliers that are also as close to the image's places as labelled poses are, neither
coarser nor closer, can hardly be told from labels. They are better than the image and get much more weight. Closer ones
may only share the image's errors, as another network of the same family does.

Poses that were refined already lie closest of all. What the image says is in them, and must not count twice: they get
more weight, too.

The package's network learnt from PP-TinyPose, and makes its errors. Estimators that are closer to the network than
independent ones get are taken to share its errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError
from posefix.network.config import ModelConfig
from posefix.typed import check_fields
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.floating]

#: Expected similarity from which the image logits are confident of a place.
CONFIDENT = 0.7
#: Distance from that place, in length scales of keypoint similarity, from which an input keypoint is an outlier.
OUTLIER_DISTANCE = 1.5
#: Of that distance, how near to another person's keypoint the place is taken to be that person's.
AT_ANOTHER = 0.5
#: So many confident keypoints with this share of the reference rate are counted beforehand, so that few people change
#: little. Below 1, for a strong estimator loses more by too low a weight than a weak one gains.
PRIOR_COUNT, PRIOR_SHARE = 200.0, 0.92
#: Least and largest weight by outliers.
LIMITS = (0.2, 1.75)
#: Outliers that are not seen for each close keypoint beyond those of independent estimators.
SHARED_ERRORS = 0.1
#: Largest weight of all.
LARGEST_WEIGHT = 4.0
#: Distance, in length scales, below which a keypoint is close: about as far as one annotator's from another's.
CLOSE_DISTANCE = 0.3
#: Largest share of close keypoints that estimators reach by themselves, and how many are counted beforehand.
CLOSE_SHARE, CLOSE_PRIOR_COUNT = 0.78, 200.0
#: Share of close keypoints, from that of labelled poses on, and how much it is like that of labelled poses.
LIKENESS = ((-0.12, -0.06, 0.02, 0.08), (0.0, 1.0, 1.0, 0.0))
#: Poses like labelled ones get more weight from so many times fewer outliers on than at the reference rate, and it
#: grows with this power.
FEWER, STEEPER = 1.2, 4.5


@dataclass(frozen=True)
class Reliability:
    """An estimator's reliability, measured on some of its people.

    Attributes:
        prior_weight: weight of its poses; 1 is usual, and the value without people or without a pose prior.
        confident: keypoints of which the image is confident.
        outliers: how many of them the poses have elsewhere.
        offset: (x, y) pixels of the network's crop to add to all keypoints, see ``Options``.
        alike: whether the poses are so close to what the image network shows that more outliers are taken to be shared,
            and so not seen, than there are.
    """

    prior_weight: float = 1.0
    confident: int = 0
    outliers: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    alike: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "reliability.", FileFormatError)


def can_measure_reliability(config: ModelConfig, calibration: Calibration) -> bool:
    """Whether weights have a pose prior and a reference outlier rate."""
    return config.pose_prior and calibration.reference_outlier_rate > 0


def shared_outliers(counts: npt.ArrayLike, calibration: Calibration) -> Floats:
    """Outliers that are not seen, for the image network errs likewise; arguments as for ``measured_prior_weight``."""
    confident, _, close = np.asarray(counts, np.float64)
    shared: Floats = SHARED_ERRORS * np.maximum(close - calibration.independent_close_share * confident, 0.0)
    return shared


def measured_prior_weight(counts: npt.ArrayLike, calibration: Calibration) -> Floats:
    """Weight of the pose prior for an estimator: 1 at the reference rate of outliers, less above it.

    An estimator much like the image network is close to it, and where both err no outlier is seen: some are added.
    Well below the reference rate the weight grows faster where as many keypoints are close as of labelled poses. Where
    more are close than estimators reach by themselves, it is divided by the third power of the share of those that can
    still be the estimator's own.

    Args:
        counts: (3, …) confident keypoints, outliers and close ones, as ``decoding.count_outliers`` gives.
        calibration: of the weights that counted them: reference outlier rate and labelled poses' share of close ones.

    Returns:
        (…), at least ``LIMITS[0]`` and at most ``LARGEST_WEIGHT``; somewhat above 1 without any keypoint.
    """
    confident, outliers, close = np.asarray(counts, np.float64)
    reference_rate, labelled_close_share = calibration.reference_outlier_rate, calibration.labelled_close_share
    unseen = shared_outliers(counts, calibration)
    expected = PRIOR_SHARE * PRIOR_COUNT * reference_rate
    better = reference_rate * (confident + PRIOR_COUNT) / (outliers + unseen + expected)
    apart = (confident - close + CLOSE_PRIOR_COUNT * (1 - CLOSE_SHARE)) / (confident + CLOSE_PRIOR_COUNT)
    like = np.interp(1 - apart - labelled_close_share, *LIKENESS) if labelled_close_share else np.zeros_like(apart)
    largest = LIMITS[1] + (LARGEST_WEIGHT - LIMITS[1]) * like
    by_outliers = better**calibration.outlier_exponent * np.maximum(better / FEWER, 1.0) ** (STEEPER * like)
    by_outliers = np.clip(by_outliers, LIMITS[0], largest)
    weight: Floats = np.minimum(by_outliers / np.minimum(apart / (1 - CLOSE_SHARE), 1.0) ** 3, LARGEST_WEIGHT)
    return weight
