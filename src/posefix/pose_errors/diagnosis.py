"""Which error each keypoint of a real estimator has: good, jitter, inversion, swap or miss.

The taxonomy is Ronchi and Perona's ("Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017),
in the form that undoes the generator of ``synthesis``: all similarities are measured with the size of
the person whose keypoint it should be, and the nearest candidate decides. A keypoint nearer to the own mirror than to
where it belongs is an inversion however near both are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from posefix.evaluation.matching import (
    AnnotationSource,
    Indices,
    ResultSource,
    in_order_of,
    match_people,
    matchable,
    open_annotations,
    open_results,
    others_of,
)
from posefix.exceptions import InputError
from posefix.geometry import Doubles
from posefix.io.coco import Results
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.poses import scored
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.pose_errors.synthesis import PoseError

#: The five kinds, in the order of all tables.
KINDS: tuple[PoseError, ...] = (PoseError.GOOD, PoseError.JITTER, PoseError.INVERSION, PoseError.SWAP, PoseError.MISS)
#: Similarity above which a keypoint is good, and from which it is near a candidate at all.
GOOD_SIMILARITY = 0.85
NEAR_SIMILARITY = 0.5
#: Change of similarity beyond which a keypoint counts as made better or worse.
CLEAR_CHANGE = 0.1
#: People diagnosed at a time, which bounds memory.
_CHUNK = 2048


def diagnose(
    points: npt.ArrayLike,
    valid: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    area: npt.ArrayLike,
    others: npt.ArrayLike | None,
    skeleton: Skeleton,
) -> npt.NDArray[np.int8]:
    """The kind of error of every keypoint.

    Candidates are the own labelled keypoint, its mirror, and both of every other instance. None within similarity 0.5:
    miss. Else the nearest decides: own (ties too) is good above 0.85 and jitter below; own mirror is inversion; a
    keypoint of another person is swap.

    Args:
        points: (N, K, 2) px, predicted.
        valid: (N, K) which predictions exist; a keypoint without one is a miss.
        ground_truth: (N, K, 3) [x, y, v] of the same people.
        area: (N,) px² of them; with none every keypoint is a miss.
        others: (N, M, K, 3) [x, y, v] of the other people, zero rows as padding; None: there are none.
        skeleton: the keypoint set.

    Returns:
        (N, K) int8 ``PoseError``; ``NONE`` where the keypoint is not labelled (v = 0) or has no sigma.

    Raises:
        InputError: shapes that do not fit together.
    """
    truth, keypoints = np.asarray(ground_truth, np.float64), len(skeleton)
    near = np.zeros((len(truth), 0, keypoints, 3)) if others is None else np.asarray(others, np.float64)
    _check(points, valid, truth, area, near, skeleton)
    exact = np.where(np.asarray(valid, bool)[..., None], np.asarray(points, np.float64), np.nan)
    size, sigmas = np.asarray(area, np.float64), np.array(skeleton.sigmas)
    flip_indices, seen, near_seen = skeleton.flip_indices, truth[..., 2] > 0, near[..., 2] > 0
    sided = flip_indices != np.arange(keypoints)

    own = keypoint_similarity(exact, truth[..., :2], size, sigmas) * seen
    mirror = keypoint_similarity(exact, truth[:, flip_indices, :2], size, sigmas) * (seen[:, flip_indices] & sided)
    # Distance to another person's keypoint, too, is judged by the size of this one.
    same = keypoint_similarity(exact[:, None], near[..., :2], size[:, None], sigmas) * near_seen
    crossed = keypoint_similarity(exact[:, None], near[:, :, flip_indices, :2], size[:, None], sigmas)
    crossed *= near_seen[:, :, flip_indices]
    other = np.maximum(same, crossed).max(1, initial=0.0)

    kinds = np.where(mirror >= other, PoseError.INVERSION, PoseError.SWAP)
    nearest_own = own >= np.maximum(mirror, other)
    kinds = np.where(nearest_own, np.where(own > GOOD_SIMILARITY, PoseError.GOOD, PoseError.JITTER), kinds)
    best = np.maximum(own, np.maximum(mirror, other))
    kinds = np.where(best < NEAR_SIMILARITY, PoseError.MISS, kinds)
    return np.where(seen & (sigmas > 0), kinds, PoseError.NONE).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with the poses of a results file, D of which are matched with a labelled person.

    Attributes:
        results: the file; where ``like`` was given, in that one's order.
        skeleton: the keypoint set.
        entries: (D,) which entries of the results are matched.
        people: (D,) which labelled person each is matched with.
        people_count: labelled people that could have been matched.
        points: (D, K, 2) px of the matched entries.
        ground_truth: (D, K, 3) [x, y, v] px of their people.
        kinds: (D, K) int8 ``PoseError``.
        similarity: (D, K) to the own annotation; 0 where missing or not labelled.
        oks: (D,).
    """

    results: Results
    skeleton: Skeleton
    entries: Indices
    people: Indices
    people_count: int
    points: Doubles
    ground_truth: Doubles
    kinds: npt.NDArray[np.int8]
    similarity: Doubles
    oks: Doubles

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def counts(self) -> Indices:
        """(K, 5) keypoints of each kind, in the order of ``KINDS``."""
        return np.asarray((self.kinds[..., None] == np.array(KINDS)).sum(0))

    def part_counts(self) -> dict[str, Indices]:
        """(5,) of each part: both knees are one."""
        found: dict[str, Indices] = {}
        for part, row in zip(self.skeleton.parts, self.counts, strict=True):
            found[part] = found.get(part, 0) + row
        return found


def diagnose_results(
    annotations: AnnotationSource,
    results: ResultSource,
    skeleton: Skeleton = COCO,
    *,
    like: Diagnosis | None = None,
) -> Diagnosis:
    """Diagnose a results file against all people labelled in each image.

    Detections are matched as COCOeval does at OKS 0.1: by score, at most 20 per image, each with the best person
    left. A keypoint at (0, 0) is missing. Any other counts whatever its score, as in AP.

    Args:
        annotations: a COCO annotation file, its content, or ``Annotations``.
        results: a COCO results file, its entries, or ``Results``.
        skeleton: the keypoint set.
        like: the diagnosis of these same people before they were refined. Its matches are kept, so that both speak
            of the same keypoints; entries belong together by ``id`` where all have one, else by order.

    Raises:
        FileFormatError: a file is not what it should be, or the results hold images that the annotations do not.
        InputError: ``like`` holds other people.
        SkeletonError: the annotations are of another keypoint set.

    Examples:
        >>> before = diagnose_results("val.json", "results.json")
        >>> share = (before.kinds == PoseError.GOOD).mean()
    """
    truth, found = open_annotations(annotations, skeleton), open_results(results)
    if like is None:
        entries, people = match_people(truth, found, skeleton)
    else:
        found, entries, people = in_order_of(like.results, found), like.entries, like.people
    keypoints = found.keypoints(skeleton)[entries]
    points, valid = keypoints[..., :2], scored(keypoints)
    ground_truth, area = truth.ground_truth[people], truth.area[people]
    kinds = np.zeros(keypoints.shape[:2], np.int8)
    for start in range(0, len(people), _CHUNK):
        part = slice(start, start + _CHUNK)
        near, _ = others_of(truth, people[part])
        kinds[part] = diagnose(points[part], valid[part], ground_truth[part], area[part], near, skeleton)
    seen = kinds != PoseError.NONE
    similarity = keypoint_similarity(points, ground_truth[..., :2], area, np.array(skeleton.sigmas)) * (seen & valid)
    return Diagnosis(
        results=found,
        skeleton=skeleton,
        entries=entries,
        people=people,
        people_count=int(matchable(truth, skeleton).sum()),
        points=points,
        ground_truth=ground_truth,
        kinds=kinds,
        similarity=similarity,
        oks=similarity.sum(1) / np.maximum(seen.sum(1), 1),
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same people before and after refinement.

    Attributes:
        before: their diagnosis.
        after: the diagnosis made with ``like=before``.
    """

    before: Diagnosis
    after: Diagnosis

    def __post_init__(self) -> None:
        if not np.array_equal(self.before.people, self.after.people):
            raise InputError("after: expected a diagnosis made with like=before, got one of other people")

    @cached_property
    def transitions(self) -> Indices:
        """(5, 5) keypoints by kind before (rows) and after (columns), in the order of ``KINDS``."""
        seen = self.before.kinds != PoseError.NONE
        pairs = len(KINDS) * self.before.kinds[seen].astype(np.int64) + self.after.kinds[seen]
        return np.bincount(pairs, minlength=len(KINDS) ** 2).reshape(len(KINDS), len(KINDS))

    def moved(self, margin: float = CLEAR_CHANGE) -> tuple[Indices, Indices]:
        """(5,) keypoints of each kind before whose similarity rose, and fell, by more than ``margin``."""
        change = self.after.similarity - self.before.similarity
        kind = self.before.kinds[..., None] == np.array(KINDS)
        rose, fell = ((kind & moved[..., None]).sum((0, 1)) for moved in (change > margin, change < -margin))
        return np.asarray(rose), np.asarray(fell)


def _check(
    points: npt.ArrayLike,
    valid: npt.ArrayLike,
    ground_truth: Doubles,
    area: npt.ArrayLike,
    near: Doubles,
    skeleton: Skeleton,
) -> None:
    people, keypoints = len(ground_truth) if ground_truth.ndim else 0, len(skeleton)
    for name, shape, expected in (
        ("ground_truth", ground_truth.shape, (people, keypoints, 3)),
        ("points", np.shape(points), (people, keypoints, 2)),
        ("valid", np.shape(valid), (people, keypoints)),
        ("area", np.shape(area), (people,)),
        ("others", near.shape, (people, *near.shape[1:2], keypoints, 3)),
    ):
        if shape != expected:
            raise InputError(f"{name}: expected {expected} for skeleton {skeleton.name!r}, got {shape}")
