"""Person scores of a refined results file: the order of people, which AP depends on as much as on places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.geometry import box_area, boxes_around_points
from posefix.keypoints.oks import AREA_PER_BOX, duplicate_oks
from posefix.keypoints.poses import Floats, present

#: OKS from which a pose counts as another's: of 239 labelled people of COCO, one is as near to another.
DUPLICATE_OKS = 0.5
#: Scores beyond this are none; times anything, they stay finite.
_LARGEST = 1e300


def person_scores(scores: Sequence[Any], confidence: Floats, pose_consistency: Floats, ranking: str) -> Floats | None:
    """New scores of N people.

    Args:
        scores: (N,) the estimator's, as its file has them.
        confidence: (N,) mean confidence of the refined keypoints.
        pose_consistency: (N,) ``Refined.pose_consistency``.
        ranking: one of ``RANKINGS``.

    Returns:
        (N,); NaN where the estimator's stays, because it cannot be weighed (missing, negative, not finite, no number);
        None where all are to stay.
    """
    if ranking == "estimator":
        return None
    if ranking == "confidence":
        return np.array(confidence, np.float64)
    own = np.array([float(s) if can_be_weighed(s) else np.nan for s in scores], np.float64)
    return own * (pose_consistency if ranking == "pose_consistency" else confidence)


def can_be_weighed(score: Any) -> bool:
    """Whether an estimator's score is a finite number ≥ 0."""
    return isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score < _LARGEST


def duplicates(keypoints: Floats, scores: Floats, images: Sequence[Any], sigmas: npt.ArrayLike) -> Floats:
    """(N,) OKS of each person with the most similar better-scored one of the same image; 0 below 0.5.

    Refinement pulls two detections of one person onto each other. No person is removed, but the second detection does
    not show another person. Scores times one minus this OKS are those of soft NMS (Bodla et al. 2017, linear; OKS for
    IoU).

    Args:
        keypoints: (N, K, 3) px and score; missing as in ``present``.
        scores: (N,).
        images: (N,) whose image each person is in.
        sigmas: (K,).
    """
    points = keypoints[..., :2]
    valid = present(keypoints)
    area = AREA_PER_BOX * np.nan_to_num(box_area(boxes_around_points(points, valid)))
    found = np.zeros(len(keypoints))
    groups: dict[Any, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image, []).append(index)
    for rows in groups.values():
        if len(rows) > 1:
            found[rows] = duplicate_oks(points[rows], valid[rows], scores[rows], area[rows], sigmas)
    return np.where(found >= DUPLICATE_OKS, found, 0.0)


def rescore(
    scores: Sequence[Any],
    keypoints: Floats,
    pose_consistency: Floats,
    images: Sequence[Any],
    sigmas: npt.ArrayLike,
    *,
    ranking: str,
    soft_nms: bool,
) -> tuple[Floats | None, int]:
    """New scores of N refined people, and how many were lowered because they repeat a better-scored person.

    Args:
        scores: (N,) the estimator's, as its file has them.
        keypoints: (N, K, 3) refined, [x, y, confidence].
        pose_consistency: (N,) ``Refined.pose_consistency``.
        images: (N,) whose image each person is in.
        sigmas: (K,).
        ranking: one of ``RANKINGS``.
        soft_nms: lower the scores of ``duplicates``.

    Returns:
        (N,) and a count; None where the estimator's scores stay, NaN where one person's does. A person whose
        score is no finite number lowers no other score.
    """
    # What stayed missing keeps the estimator's score or NaN, which is no confidence.
    confidence = np.where(present(keypoints), keypoints[..., 2], 0.0).mean(-1)
    new = person_scores(scores, confidence, pose_consistency, ranking)
    if new is None or not soft_nms:
        return new, 0
    rows = np.flatnonzero(np.isfinite(new))
    repeated = duplicates(keypoints[rows], new[rows], [images[i] for i in rows.tolist()], sigmas)
    new[rows] *= 1 - repeated
    return new, int((repeated > 0).sum())
