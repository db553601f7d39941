"""How far to trust an estimator, measured by how often its keypoints lie beside what the picture shows.

Where the evidence (the network's answer before the pose prior) is sure of a place, strong estimators are there, and so
are annotators; weak ones are beside it five times as often. One person's keypoints tell little of that, a picture's
people more, a results file all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from posefix.keypoints.heatmaps import cell_probabilities, expected_similarity_argmax

Floats = npt.NDArray[np.floating]

#: Expected similarity from which the picture is sure of a place.
SURE = 0.7
#: Length scales of keypoint similarity from which an input keypoint is beside it.
BESIDE = 1.0
#: As many sure keypoints' worth of the usual share are counted beforehand, so that few people change little.
KNOWN = 100.0
#: Least and largest measured trust.
LIMITS = (0.4, 2.0)


def count_departures(evidence: Tensor, cell_points: Tensor, valid: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Keypoints that the picture is sure of, and those of them that the input has elsewhere.

    Args:
        evidence: (B, K, h, w) logits without the prior.
        cell_points: (B, K, 2) input pose in cells.
        valid: (B, K) bool.
        std: (B, K) length scale of keypoint similarity in cells.

    Returns:
        (B,) and (B,) counts per person.
    """
    points, confidence = expected_similarity_argmax(cell_probabilities(evidence), std)
    sure = valid & (confidence > SURE)
    beside = sure & ((points - cell_points).norm(dim=-1) >= BESIDE * std)
    return sure.sum(-1), beside.sum(-1)


def trust_from_departures(sure: npt.ArrayLike, beside: npt.ArrayLike, usual: float) -> Floats:
    """Trust in whoever is beside ``beside`` of ``sure`` keypoints: 1 for the ``usual`` share, half for twice as many.

    Args:
        sure: any shape, counts.
        beside: the same shape.
        usual: share at which the weights' own trust is right (``Calibration.usual_departure``).

    Returns:
        the same shape, within ``LIMITS``.
    """
    share = (np.asarray(beside, np.float64) + KNOWN * usual) / (np.asarray(sure, np.float64) + KNOWN)
    return np.clip(usual / share, *LIMITS)
