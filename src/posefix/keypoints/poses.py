"""Keypoints at the door: any (N, K, 2 or 3) array-like → points, valid and scores, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.keypoints.skeleton import Skeleton

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Coordinates beyond this many pixels are no coordinates.
_FAR = 1e7


@dataclass(frozen=True)
class Poses:
    """N people of one image, every sentinel replaced by ``valid``.

    Attributes:
        points: (N, K, 2) float64 px; 0 where not valid.
        valid: (N, K) usable: finite, score > 0, not (0, 0) where no scores are given, and a keypoint that the
            skeleton's data annotates.
        known: (K,) keypoints that are labelled somewhere; nothing can be said of the others.
        original: what was given, (N, K, 2 or 3), a copy.
        scores: (N, K) ``relative_scores`` of what was given.
    """

    points: npt.NDArray[np.float64]
    valid: Bools
    known: Bools
    original: Floats
    scores: npt.NDArray[np.float64]


def read_poses(keypoints: Any, skeleton: Skeleton) -> Poses:
    """Check keypoints and split them.

    Args:
        keypoints: (N, K, 3) [x, y, score] or (N, K, 2); anything numpy can read, a torch tensor on any device.
            An empty list is nobody.
        skeleton: whose K is expected.

    Raises:
        InputError: another shape, or no numbers.
    """
    if hasattr(keypoints, "detach"):
        keypoints = keypoints.detach().cpu()
        keypoints = keypoints.float() if keypoints.is_floating_point() else keypoints
    count = len(skeleton)
    try:
        array = np.asarray(keypoints)
    except ValueError as error:
        raise InputError(f"keypoints: people have different numbers of keypoints ({error})") from error
    if array.size == 0 and (array.ndim < 3 or array.shape[1] in (0, count)):
        width = array.shape[2] if array.ndim == 3 and array.shape[2] == 2 else 3
        array = np.zeros((0, count, width), np.float32)
    if array.dtype.kind not in "fiu":
        raise InputError(f"keypoints: expected numbers, got an array of {array.dtype}")
    if array.ndim != 3 or array.shape[1] != count or array.shape[2] not in (2, 3):
        hint = "; for one person pass keypoints[None]" if array.shape in ((count, 3), (count, 2)) else ""
        raise InputError(
            f"keypoints: expected (N, {count}, 3) or (N, {count}, 2) for skeleton {skeleton.name!r}, "
            f"got {array.shape}{hint}"
        )
    original = np.array(array, np.float64 if array.dtype == np.float64 else np.float32)
    points = original[..., :2].astype(np.float64)
    with np.errstate(invalid="ignore"):
        valid = (np.abs(points) < _FAR).all(-1)
        if original.shape[2] == 3:
            valid &= original[..., 2] > 0
        else:
            valid &= (points != 0).any(-1)
    known = np.array([k not in skeleton.unannotated for k in skeleton.keypoints])
    valid &= known
    scores = relative_scores(original[..., 2], valid) if original.shape[2] == 3 else np.ones(valid.shape)
    return Poses(np.where(valid[..., None], points, 0.0), valid, known, original, scores)


def relative_scores(scores: Floats, valid: Bools) -> npt.NDArray[np.float64]:
    """What an estimator says of its keypoints, whatever its scale: each score over the person's best one.

    Args:
        scores: (..., K).
        valid: (..., K).

    Returns:
        (..., K) in [0, 1]; 1 where nothing is known: not valid or not finite, and people whose scores are all 0, 1 or
        2, which are visibilities.
    """
    usable = valid & np.isfinite(scores)
    given = np.where(usable, np.maximum(scores, 0.0).astype(np.float64), 0.0)
    best = given.max(-1, keepdims=True, initial=0.0)
    told = ~np.isin(given, (0.0, 1.0, 2.0)).all(-1, keepdims=True)
    return np.where(usable & told, given / np.where(told, best, 1.0), 1.0)
