"""PoseTrack's average precision per keypoint, by the rules of poseval (github.com/leonid-pishchulin/poseval).

A keypoint is found where it lies within half a head size of the labelled one; head size is 0.6 × the diagonal of
the labelled head box. Whole poses are matched first, by the share of keypoints found; each keypoint then is a
detection of its own, ranked by its own score. Keypoints inside ignored regions do not count. Reimplemented from
these rules; tracking (MOTA) is left to poseval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.evaluation.head_sizes import head_sizes
from posefix.exceptions import FileFormatError
from posefix.geometry import Bools, Doubles
from posefix.io.json import spelled_id
from posefix.io.posetrack import PoseTrack
from posefix.keypoints.poses import scored_by_poseval
from posefix.keypoints.skeleton import POSETRACK18

#: What poseval evaluates: all but the ears.
_COUNTED = np.array([k not in POSETRACK18.unannotated for k in POSETRACK18.keypoints])
_GROUPS = {
    "head": ("head_top", "head_bottom", "nose"),
    **{p: (f"left_{p}", f"right_{p}") for p in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")},
}
#: A keypoint counts as found within this many head sizes.
THRESHOLD = 0.5


@dataclass(frozen=True)
class PoseTrackAp:
    """Average precision in [0, 1].

    Attributes:
        keypoints: by keypoint name; NaN where it is nowhere labelled.
        mean: over all 15 keypoints: poseval's "Total".
    """

    keypoints: Mapping[str, float]
    mean: float

    def groups(self) -> dict[str, float]:
        """Means by part, as poseval prints them: head, shoulder, elbow, wrist, hip, knee, ankle."""
        return {name: float(np.mean([self.keypoints[k] for k in members])) for name, members in _GROUPS.items()}


@dataclass(frozen=True, eq=False)
class _People:
    """People of one frame: ``points`` (N, 17, 2), ``there`` (N, 17), ``score`` (N, 17)."""

    points: Doubles
    there: Bools
    score: Doubles

    def without(self, polygons: list[npt.NDArray[np.float32]]) -> _People:
        """Keypoints inside a polygon are gone."""
        there = self.there.copy()
        for person, k in zip(*np.nonzero(there), strict=True):
            x, y = self.points[person, k]
            if any(cv2.pointPolygonTest(p, (float(x), float(y)), False) > 0 for p in polygons):
                there[person, k] = False
        return _People(self.points, there, self.score)


def evaluate_posetrack(truth: PoseTrack, results: PoseTrack) -> PoseTrackAp:
    """AP of results against annotations.

    Args:
        truth: labelled sequences, with ``bbox_head``.
        results: of the same frames; frames without labelled people are left out, as in poseval.

    Raises:
        FileFormatError: a labelled person without head box, or results of other frames.
    """
    stray = sorted(set(results.file_of) - set(truth.file_of))
    if stray:
        raise FileFormatError(f"{results.source}: frame {stray[0]} is not among those of {truth.source}")
    heads = _by_frame(truth, head_sizes(truth.people, truth.source))
    ground_truth, found = _people_by_frame(truth), _people_by_frame(results)
    score: list[list[Doubles]] = [[] for _ in POSETRACK18.keypoints]
    label: list[list[Bools]] = [[] for _ in POSETRACK18.keypoints]
    positives = np.zeros(len(POSETRACK18))
    no_people = _People(np.zeros((0, 17, 2)), np.zeros((0, 17), bool), np.zeros((0, 17)))
    for image in truth.images:
        frame = spelled_id(image["id"])
        if frame not in ground_truth:
            continue
        own, others, size = ground_truth[frame], found.get(frame, no_people), heads[frame]
        polygons = _ignored(image)
        if polygons:
            own, others = own.without(polygons), others.without(polygons)
        positives += own.there.sum(0)
        hits = _match(own, others, size)
        for k in range(len(POSETRACK18)):
            score[k].append(others.score[others.there[:, k], k])
            label[k].append(hits[others.there[:, k], k])
    ap = {
        name: _average_precision(np.concatenate(score[k]), np.concatenate(label[k]), positives[k])
        if score[k]
        else float("nan")
        for k, name in enumerate(POSETRACK18.keypoints)
        if _COUNTED[k]
    }
    known = [v for v in ap.values() if np.isfinite(v)]
    return PoseTrackAp(ap, float(np.mean(known)) if known else float("nan"))


def _match(own: _People, others: _People, head_size: Doubles) -> Bools:
    """(P, 17) whether each predicted keypoint is right: near that of the person whom its pose is matched to."""
    hits = np.zeros(others.there.shape, bool)
    if not len(own.points) or not len(others.points):
        return hits
    distance = np.linalg.norm(others.points[:, None] - own.points[None], axis=-1) / head_size[None, :, None]
    near = (distance <= THRESHOLD) & others.there[:, None] & own.there[None] & _COUNTED
    share = near.sum(-1) / np.maximum((own.there & _COUNTED).sum(-1), 1)[None]
    # Each pose keeps the person it fits best, then each person the best of these poses.
    best = share.argmax(1)
    share = np.where(np.arange(share.shape[1])[None] == best[:, None], share, 0.0)
    for person in np.flatnonzero(share.max(0) > 0):
        pose = int(share[:, person].argmax())
        hits[pose] = near[pose, person]
    return hits


def _average_precision(score: Doubles, label: Bools, positives: float) -> float:
    """Area under the precision-recall curve, precision made monotone (PASCAL VOC 2010)."""
    if positives == 0:
        return float("nan")
    hit = np.cumsum(label[np.argsort(-score, kind="stable")])
    precision = np.concatenate([hit / np.arange(1, len(hit) + 1), [0.0]])
    recall = np.concatenate([[0.0], hit / positives])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * best[:-1]).sum())


def _by_frame(data: PoseTrack, values: Doubles) -> dict[str, Doubles]:
    rows = _rows_by_frame(data)
    return {frame: values[index] for frame, index in rows.items()}


def _people_by_frame(data: PoseTrack) -> dict[str, _People]:
    poses = data.keypoints()
    raw = np.array([p["keypoints"] for p in data.people], np.float64).reshape(-1, len(POSETRACK18), 3)
    there = scored_by_poseval(raw) & _COUNTED
    rows = _rows_by_frame(data)
    return {f: _People(poses[i][..., :2], there[i], poses[i][..., 2]) for f, i in rows.items()}


def _rows_by_frame(data: PoseTrack) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for index, person in enumerate(data.people):
        rows.setdefault(spelled_id(person["image_id"]), []).append(index)
    return rows


def _ignored(image: Mapping[str, Any]) -> list[npt.NDArray[np.float32]]:
    """Polygons of a frame's ignored regions."""
    across, down = image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or []
    return [np.stack([x, y], axis=-1).astype(np.float32) for x, y in zip(across, down, strict=True) if len(x) > 2]
