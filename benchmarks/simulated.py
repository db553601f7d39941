"""Estimators that are stronger than any at hand, made from a real one's results and the annotation.

What is put nearer to the annotation keeps a distance of another annotator's: an estimator cannot know the annotators'
own error, and one that did would lose by every honest correction. Scores move with the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from posefix.evaluation.matching import match_people
from posefix.io.coco import Annotations, Entry, Results
from posefix.keypoints.oks import ANNOTATORS_ERROR, keypoint_std
from posefix.keypoints.skeleton import COCO

Floats = npt.NDArray[np.floating]
Random = np.random.Generator

#: Scores are drawn among this share of the estimator's keypoints, those with the most similar errors.
_NEAREST = 0.04


def smaller_errors(annotations: Annotations, file: Results, share: float, seed: int = 0) -> list[Entry]:
    """``share`` of each error stays; the rest gives way to as much of an annotator's as that leaves room for."""

    def shrink(error: Floats, rng: Random) -> Floats:
        return share * error + ANNOTATORS_ERROR * np.sqrt(1 - share**2) * rng.standard_normal(error.shape)

    return _nearer(annotations, file, shrink, seed)


def fewer_errors(annotations: Annotations, file: Results, share: float, seed: int = 0) -> list[Entry]:
    """``share`` of the keypoints, drawn at random, are right: as far from the annotation as another annotator's."""

    def shrink(error: Floats, rng: Random) -> Floats:
        right = rng.random((*error.shape[:2], 1)) < share
        return np.where(right, ANNOTATORS_ERROR * rng.standard_normal(error.shape), error)

    return _nearer(annotations, file, shrink, seed)


def shared_error(annotations: Annotations, files: Sequence[Results], limit: float = 1.0) -> tuple[float, float]:
    """Least and largest standard deviation, per axis in length scales, of the error that two estimators share.

    Two estimators that see the same image share the annotators' error and what the image does to both, so this is
    rather too much. Counted are labelled, visible body keypoints that both find within ``limit``.
    """
    found = np.full((len(files), len(annotations.ground_truth), len(COCO), 2), np.nan)
    for errors, file in zip(found, files, strict=True):
        rows, people = match_people(annotations, file, COCO)
        errors[people] = _errors(annotations, file, rows, people)
    body = np.array([part not in ("nose", "eye", "ear") for part in COCO.parts])
    found[:, (annotations.ground_truth[..., 2] < 2) | ~body] = np.nan
    found[np.linalg.norm(found, axis=-1) > limit] = np.nan
    shared = [float(np.sqrt(max(np.nanmean(a * b), 0.0))) for a, b in combinations(found, 2)]
    return min(shared), max(shared)


def _errors(annotations: Annotations, file: Results, rows: npt.ArrayLike, people: npt.ArrayLike) -> Floats:
    """(M, K, 2) from annotation to estimate, in length scales."""
    std = keypoint_std(annotations.area[people], COCO.sigmas)[..., None]
    off: Floats = (file.keypoints(COCO)[rows, :, :2] - annotations.ground_truth[people, :, :2]) / std
    return off


def _nearer(
    annotations: Annotations, file: Results, change: Callable[[Floats, Random], Floats], seed: int
) -> list[Entry]:
    """The entries with other errors of the matched people's labelled keypoints, and scores that fit them."""
    rng = np.random.default_rng(seed)
    rows, people = match_people(annotations, file, COCO)
    before = _errors(annotations, file, rows, people)
    after = change(before, rng)
    seen = annotations.ground_truth[people, :, 2] > 0
    changed = seen & (after != before).any(-1)

    poses = file.keypoints(COCO)[rows].astype(np.float64)
    std = keypoint_std(annotations.area[people], COCO.sigmas)[..., None]
    moved = annotations.ground_truth[people, :, :2] + after * std
    poses[..., :2] = np.where(changed[..., None], moved, poses[..., :2])
    size = np.linalg.norm(before, axis=-1)[seen]
    order = np.argsort(size)
    reach = max(round(_NEAREST * len(order) / 2), 1)
    place = np.searchsorted(size[order], np.linalg.norm(after, axis=-1)) + rng.integers(-reach, reach + 1, seen.shape)
    alike = poses[..., 2][seen][order[np.clip(place, 0, len(order) - 1)]]
    poses[..., 2] = np.where(changed, alike, poses[..., 2])

    entries = [dict(e) for e in file.entries]
    for row, pose in zip(rows.tolist(), poses, strict=True):
        entries[row]["keypoints"] = pose.reshape(-1).tolist()
    return entries
