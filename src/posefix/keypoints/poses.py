"""Keypoints at the door: any (N, K, 2 or 3) array-like → points, valid and scores, and back.

What is missing is decided here, by ``present``, for arrays, files and adapters alike. What truly differs has a name of
its own: labels (``labelled``), and detections as the evaluations of COCO (``scored``) and PoseTrack
(``scored_by_poseval``) read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.keypoints.skeleton import SKELETONS, Skeleton
from posefix.tensors import real_array

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Coordinates beyond this many pixels are no coordinates.
_FAR = 1e7
#: Fewer places within one pixel may be chance.
_FEW = 5


def present(keypoints: Floats) -> Bools:
    """Which keypoints are there: the one rule for what is missing.

    Missing is what is not finite, what is at exactly (0, 0), whatever its score (many estimators write that and leave
    the score), and what has a score that is not above 0.

    Args:
        keypoints: (..., K, 2) [x, y] or (..., K, 3) [x, y, score].

    Returns:
        (..., K).

    Example::

        present(np.array([[5.0, 0.0, 0.3], [0.0, 0.0, 0.3], [5.0, 5.0, 0.0]]))  # True, False, False
    """
    points = keypoints[..., :2]
    with np.errstate(invalid="ignore"):
        there = (np.abs(points) < _FAR).all(-1) & (points != 0).any(-1)
        return np.asarray(there & (keypoints[..., 2] > 0) if keypoints.shape[-1] == 3 else there)


def labelled(ground_truth: Floats) -> Bools:
    """Which keypoints of (..., K, 3) [x, y, v] are labelled: v > 0, wherever they are, as COCOeval reads them."""
    return np.asarray(ground_truth[..., 2] > 0)


def scored(keypoints: Floats) -> Bools:
    """Which keypoints of (..., K, 3) COCOeval scores: all but (0, 0), for it ignores the third number."""
    return np.asarray((keypoints[..., :2] != 0).any(-1))


def scored_by_poseval(keypoints: Floats) -> Bools:
    """Which keypoints of (..., K, 3) [x, y, v] poseval scores: all but (0, 0, 0)."""
    return np.asarray((keypoints != 0).any(-1))


def round_present(keypoints: Floats, digits: int) -> npt.NDArray[np.float64]:
    """(..., K, 3) [x, y, score] rounded so that what is there does not become missing to the next reader.

    A small score does not become 0, and a point next to (0, 0) does not become (0, 0).
    """
    values = np.asarray(keypoints, np.float64)
    rounded = np.round(values, digits) + 0.0
    least = 10.0**-digits
    there = present(values)
    rounded[..., 2] = np.where(values[..., 2] > 0, np.maximum(rounded[..., 2], least), rounded[..., 2])
    rounded[..., 0] = np.where(there & ~scored(rounded), least, rounded[..., 0])
    return rounded


@dataclass(frozen=True)
class Poses:
    """N people of one image, every sentinel replaced by ``valid``.

    Attributes:
        points: (N, K, 2) float64 px; 0 where not valid.
        valid: (N, K) usable: ``present``, and a keypoint that the skeleton's data annotates.
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
            An empty list means no people.
        skeleton: whose K is expected.

    Raises:
        InputError: another shape, or no numbers.
    """
    count = len(skeleton.keypoints)
    array = real_array(keypoints, "keypoints")
    # No people is an empty list or no rows; two people of no keypoints are a mistake.
    if array.size == 0 and (array.ndim < 3 or array.shape[1] in (0, count)) and not array.shape[0]:
        width = array.shape[2] if array.ndim == 3 and array.shape[2] == 2 else 3
        array = np.zeros((0, count, width), np.float32)
    if array.ndim != 3 or array.shape[1] != count or array.shape[2] not in (2, 3):
        if array.shape in ((count, 3), (count, 2)):
            hint = "; for one person pass keypoints[None]"
        elif array.ndim == 2 and array.shape[1] == 3 * count:
            hint = f"; pass keypoints.reshape(-1, {count}, 3)"
        elif array.ndim == 3 and array.shape[2] in (2, 3):
            hint = f"; for another keypoint set pass skeleton= ({', '.join(SKELETONS)} or a Skeleton)"
        else:
            hint = ""
        raise InputError(
            f"keypoints: expected (N, {count}, 3) or (N, {count}, 2) for skeleton {skeleton.name!r}, "
            f"got {array.shape}{hint}"
        )
    original = np.array(array, np.float64 if array.dtype.kind == "f" and array.dtype.itemsize >= 8 else np.float32)
    points = original[..., :2].astype(np.float64)
    known = np.array([k not in skeleton.unannotated for k in skeleton.keypoints])
    valid = present(original) & known
    scores = relative_scores(original[..., 2], valid) if original.shape[2] == 3 else np.ones(valid.shape)
    return Poses(np.where(valid[..., None], points, 0.0), valid, known, original, scores)


#: What is wrong with normalised coordinates, and what to do.
NORMALISED = (
    "expected pixels of the image, got only coordinates in 0…1; multiply x by the image's width and y by its height"
)


def normalised(keypoints: Iterable[Any]) -> bool:
    """Whether all keypoints are within one pixel of the origin but not at one place: coordinates in 0…1.

    Args:
        keypoints: (N, K, 2 or 3) arrays or tensors; other things are not judged here.
    """
    places = 0
    for each in keypoints:
        try:
            array = real_array(each, "keypoints").astype(np.float64)
        except InputError:
            return False
        if array.ndim != 3 or array.shape[-1] not in (2, 3):
            return False
        points = array[..., :2][present(array)]
        if (points < 0).any() or (points > 1).any():
            return False
        places += len(np.unique(points, axis=0))
    return places >= _FEW


#: Relative score below which a keypoint is not believed where it lies outside the image, and from how far outside, in
#: sizes of the image. From one size on no keypoint is.
NEGLIGIBLE, OUTSIDE = 0.05, 0.1


def framing(poses: Poses, image_hw: tuple[int, int]) -> Bools:
    """Which keypoints count for a person's crop: all that are valid, but for strays far outside the image.

    Estimators put what they do not see anywhere, with a score near 0. A single such keypoint would stretch the crop
    until the person is small in it.

    Args:
        poses: N people.
        image_hw: size of their image.

    Returns:
        (N, K); all valid ones of a person that has no others.
    """
    size = np.array(image_hw[::-1], np.float64)
    beyond = (np.maximum(np.maximum(-poses.points, poses.points - (size - 1)), 0.0) / size).max(-1)
    counts = poses.valid & (beyond < 1) & ((poses.scores >= NEGLIGIBLE) | (beyond <= OUTSIDE))
    return np.asarray(np.where(counts.any(-1, keepdims=True), counts, poses.valid))


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
    informative = ~np.isin(given, (0.0, 1.0, 2.0)).all(-1, keepdims=True)
    return np.where(usable & informative, given / np.where(informative, best, 1.0), 1.0)
