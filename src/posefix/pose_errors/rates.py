"""The error rates of a real estimator, measured, for training a refiner on errors like its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posefix.evaluation.matching import (
    AnnotationSource,
    Indices,
    ResultSource,
    match_people,
    open_annotations,
    open_results,
    others_of,
)
from posefix.exceptions import InputError
from posefix.geometry import Bools, Doubles
from posefix.keypoints.poses import scored
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.pose_errors.diagnosis import KINDS, diagnose
from posefix.pose_errors.synthesis import ErrorRates, PartRates, PoseError

#: Box overlap from which another person counts as another instance for the generator (as in the paper's code).
_NEIGHBOUR_IOU = 0.1
#: Errors of a part may sum to this at most; the rest is good.
_MOST_ERRORS = 0.95
_STEPS = 100


def error_rates_from_results(
    annotations: AnnotationSource,
    results: ResultSource,
    skeleton: Skeleton = COCO,
    *,
    prior: ErrorRates | None = None,
    strength: float = 50.0,
) -> ErrorRates:
    """Measure the rates at which ``synthesize`` makes errors like an estimator's.

    Detections are matched and diagnosed as by ``diagnose_results``, except that other instances are those of the
    generator: people whose boxes overlap. Rates are those before the generator drops what is impossible (inversion
    without a labelled mirror, swap without another instance), so that it makes as many errors as were seen. Left out,
    as the generator has no such errors: people who were not found and keypoints that are missing.

    Where few keypoints were seen, rates lean on the prior: each counts as if ``strength`` more keypoints had
    been seen with the prior's rate. Should a part's errors then sum to more than 0.95 under any
    condition, all its rates are scaled down to that.

    Args:
        annotations: as for ``diagnose_results``; no images that the refiner is tested on.
        results: the estimator's.
        skeleton: the keypoint set.
        prior: default the reference's rates.
        strength: keypoints that the prior is worth, for each part, kind and condition.

    Raises:
        FileFormatError, InputError, SkeletonError: as ``diagnose_results``; a negative strength; without prior
            (``strength`` 0) nothing that could be measured.
    """
    if not strength >= 0:
        raise InputError(f"strength: expected a number ≥ 0, got {strength}")
    truth, found = open_annotations(annotations, skeleton), open_results(results)
    entries, people = match_people(truth, found, skeleton)
    keypoints, ground_truth = found.keypoints(skeleton)[entries], truth.ground_truth[people]
    near, overlap = others_of(truth, people, _NEIGHBOUR_IOU)
    valid = scored(keypoints)
    kinds = diagnose(keypoints[..., :2], valid, ground_truth, truth.area[people], near, skeleton)
    kinds = np.where(valid, kinds, PoseError.NONE)
    names = tuple(dict.fromkeys(skeleton.parts))
    counts = _count(kinds, ground_truth[..., 2] > 0, near[..., 2] > 0, overlap, skeleton, names)
    base = prior or ErrorRates()
    rates = [base.parts.get(name, base.other) for name in names]
    measured = [_fit(part, rate, strength) for part, rate in zip(counts, rates, strict=True)]
    return ErrorRates({**base.parts, **dict(zip(names, measured, strict=True))}, base.other)


def _count(
    kinds: npt.NDArray[np.int8],
    seen: Bools,
    near_seen: Bools,
    overlap: Indices,
    skeleton: Skeleton,
    names: tuple[str, ...],
) -> Doubles:
    """(P, 3, 2, 2, 2, 5) how often each kind was seen.

    Axes: part; labelled keypoints (≤ 5, ≤ 10, more); no crowd, crowd; own mirror not labelled, labelled; without,
    with a keypoint of another person to swap with; kind.
    """
    flip_indices = skeleton.flip_indices
    sided = flip_indices != np.arange(len(skeleton))
    number = seen.sum(-1)
    level = (number > 5).astype(np.int64) + (number > 10)
    crowd = ((number <= 10) & (overlap > 0)) | ((number <= 15) & (overlap >= 3))
    mirror = seen[:, flip_indices] & sided
    swap = (near_seen | (near_seen[:, :, flip_indices] & sided)).any(1)
    part = np.array([names.index(name) for name in skeleton.parts])
    axes = np.broadcast_arrays(part[None], level[:, None], crowd[:, None].astype(np.int64), mirror, swap, kinds)
    judged = kinds != PoseError.NONE
    counts = np.zeros((len(names), 3, 2, 2, 2, len(KINDS)))
    np.add.at(counts, tuple(axis[judged].astype(np.int64) for axis in axes), 1)
    return counts


def _fit(counts: Doubles, prior: PartRates, strength: float) -> PartRates:
    """Rates of one part from its (3, 2, 2, 2, 5) counts.

    The generator draws a kind with its rate over the sum of the possible kinds' rates. Hence a rate is how often the
    kind was seen over how often it could have been, where a keypoint counts 1 / that sum: a fixed point, found by
    repetition (as for any choice among subsets; Hunter, "MM algorithms for generalized Bradley-Terry models", 2004).
    """
    possible = np.ones((2, 2, len(KINDS)))
    possible[0, :, PoseError.INVERSION] = 0.0
    possible[:, 0, PoseError.SWAP] = 0.0
    total = counts.sum(-1)  # (level, crowd, mirror, swap)
    rates = prior
    for _ in range(_STEPS):
        table = _table(rates)  # (level, crowd, 5)
        share = np.maximum((table[:, :, None, None] * possible).sum(-1), 1e-6)
        chances = (total / share)[..., None] * possible
        happened, could = counts.sum((2, 3)), chances.sum((2, 3))  # (level, crowd, 5)
        rates = _shrunk(_ratio(happened, could, prior, strength))
    return rates


def _ratio(happened: Doubles, could: Doubles, prior: PartRates, strength: float) -> dict[str, list[float]]:
    """Shares of (3, 2, 5) counts, pooled over the conditions that a kind does not depend on."""

    def share(kind: PoseError, level: slice, crowd: slice, expected: float) -> float:
        seen, chances = happened[level, crowd, kind].sum(), could[level, crowd, kind].sum()
        whole = chances + strength
        return float((seen + strength * expected) / whole) if whole > 0 else expected

    every, few, many = slice(None), slice(0, 2), slice(2, 3)
    levels = [slice(i, i + 1) for i in range(3)]
    return {
        "jitter": [share(PoseError.JITTER, s, every, p) for s, p in zip((few, many), prior.jitter, strict=True)],
        "miss": [share(PoseError.MISS, s, every, p) for s, p in zip(levels, prior.miss, strict=True)],
        "inversion": [share(PoseError.INVERSION, every, every, prior.inversion)],
        "swap": [share(PoseError.SWAP, every, s, p) for s, p in zip((levels[1], levels[0]), prior.swap, strict=True)],
    }


def _shrunk(shares: dict[str, list[float]]) -> PartRates:
    """Rates whose errors sum to no more than ``_MOST_ERRORS`` under any condition."""
    jitter, miss, swap = (np.minimum(shares[k], 1.0) for k in ("jitter", "miss", "swap"))
    worst = max(jitter[0] + miss[:2].max(), jitter[1] + miss[2]) + shares["inversion"][0] + swap.max()
    factor = min(1.0, _MOST_ERRORS / max(worst, _MOST_ERRORS))
    few, many = (factor * jitter).tolist()
    five, ten, more = (factor * miss).tolist()
    crowd, else_ = (factor * swap).tolist()
    return PartRates((few, many), (five, ten, more), float(factor * shares["inversion"][0]), (crowd, else_))


def _table(rates: PartRates) -> Doubles:
    """(3, 2, 5) rates by labelled keypoints, crowd (no, yes) and kind."""
    table = np.zeros((3, 2, len(KINDS)))
    table[..., PoseError.JITTER] = np.array(rates.jitter)[[0, 0, 1], None]
    table[..., PoseError.MISS] = np.array(rates.miss)[:, None]
    table[..., PoseError.INVERSION] = rates.inversion
    table[..., PoseError.SWAP] = np.array(rates.swap)[::-1]
    table[..., PoseError.GOOD] = 1.0 - table.sum(-1)
    return table
