"""Which people are worth showing: those whose pose most likely became better, and matters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posefix.exceptions import InputError
from posefix.geometry import Doubles, box_area, boxes_around_points
from posefix.io.coco import Entry, read_pose
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_similarity
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton

#: Least size of a person, px: a single keypoint has none.
_SMALLEST = 20.0


def pose_of(entry: Entry, skeleton: Skeleton) -> Doubles | None:
    """(K, 3) [x, y, score] px of an entry; None for what is no pose of the skeleton."""
    pose = read_pose(entry.get("keypoints"), len(skeleton))
    return None if isinstance(pose, str) else pose


def likely_gains(before: Sequence[Entry], after: Sequence[Entry], skeleton: Skeleton) -> Doubles:
    """How much each person most likely gained by refinement, from the results alone.

    A keypoint that moved gains at most 1 − s, with s the keypoint similarity between its old and its new place. The
    refiner's confidence tells how much of that is to be expected. The mean over the keypoints is multiplied by the
    person's confidence, because a pose that is doubtful as a whole is no good example, and by the score over
    the best score of the file, because false detections do not matter.

    Args:
        before: N entries as in COCO results; an entry that is no pose of the skeleton gains nothing.
        after: the same people in the same order, refined.
        skeleton: their keypoint set.

    Returns:
        (N,) in [0, 1].

    Raises:
        InputError: not as many people after as before.
    """
    if len(after) != len(before):
        raise InputError(f"after: expected the {len(before)} people of 'before' in the same order, got {len(after)}")
    pairs = [(pose_of(old, skeleton), pose_of(new, skeleton)) for old, new in zip(before, after, strict=True)]
    rows = [i for i, pair in enumerate(pairs) if pair[0] is not None and pair[1] is not None]
    gains = np.zeros(len(before))
    if not rows:
        return gains
    old, new = (np.array([pairs[i][side] for i in rows], np.float64) for side in (0, 1))
    both = present(old) & present(new)
    size = np.maximum(box_area(boxes_around_points(new[..., :2], present(new))), _SMALLEST**2)
    sigmas = np.maximum(np.array(skeleton.sigmas), 1e-3)  # some sets list keypoints without one
    points = [np.where(both[..., None], pose[..., :2], 0.0) for pose in (old, new)]
    similarity = keypoint_similarity(points[0], points[1], AREA_PER_BOX * np.nan_to_num(size, nan=1.0), sigmas)
    confidence = np.clip(np.where(present(new), np.nan_to_num(new[..., 2]), 0.0), 0.0, 1.0)
    gain = (both * confidence * (1.0 - similarity)).sum(-1) / np.maximum(both.sum(-1), 1)
    certain = (both * confidence).sum(-1) / np.maximum(both.sum(-1), 1)
    scores = np.array([score_of(after[i]) for i in rows])
    gains[rows] = gain * certain * scores / max(float(scores.max()), 1e-9)
    return gains


def score_of(entry: Entry) -> float:
    """The person's score; 1 where there is none that is a number above 0."""
    score = entry.get("score")
    usable = isinstance(score, int | float) and not isinstance(score, bool) and np.isfinite(score) and score >= 0
    return float(score) if usable and score is not None else 1.0
