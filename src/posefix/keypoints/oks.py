"""Keypoint similarity, its inverse radius, object keypoint similarity and the non-maximum suppression by it.

All distances are in the frame of ``area`` (its square root is the length unit), so every function holds in
image, crop or heatmap coordinates alike. Source: COCO keypoint evaluation; the radius is PoseFix §4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

#: Share of a bounding box that a person's segment covers on COCO; used where no area is labelled.
AREA_PER_BOX = 0.53
#: Pairs of people whose OKS is computed at once, however many there are: some 40 MB.
_PAIRS = 2**15
#: Length scales of keypoint similarity at which it is 1e-9.
_FAR = 6.44
#: How far from its place an annotator puts a keypoint, per axis in length scales of keypoint similarity; measured as
#: the error that estimators share where they are right (benchmarks/accuracy.py --only stronger).
ANNOTATORS_ERROR = 0.2


def keypoint_std(area: npt.ArrayLike, sigmas: npt.ArrayLike) -> Floats:
    """Length scale of keypoint similarity, sqrt(area) · 2σ.

    Args:
        area: (...,) px².
        sigmas: (K,).

    Returns:
        (..., K) px.
    """
    root = np.sqrt(np.asarray(area, dtype=np.float64))
    return np.asarray(root[..., None] * (2.0 * np.asarray(sigmas, dtype=np.float64)))


def keypoint_similarity(points: Floats, targets: Floats, area: npt.ArrayLike, sigmas: npt.ArrayLike) -> Floats:
    """exp(−d² / (2 · area · (2σ)²)), the similarity of single keypoints.

    Args:
        points: (..., K, 2); NaN gives 0.
        targets: (..., K, 2), broadcast against ``points``.
        area: (...,) px² of the target person.
        sigmas: (K,); where 0 (never labelled) the similarity is 0.

    Returns:
        (..., K) in [0, 1].
    """
    std = keypoint_std(area, sigmas)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.square(np.asarray(points, np.float64) - np.asarray(targets, np.float64)).sum(-1)
        similarity = np.exp(-squared / (2.0 * np.square(std)))
    return np.asarray(np.where(np.isfinite(similarity) & (std > 0), similarity, 0.0))


def similarity_radius(ks: npt.ArrayLike, area: npt.ArrayLike, sigmas: npt.ArrayLike) -> Floats:
    """Distance at which the keypoint similarity is ``ks``: the inverse of ``keypoint_similarity``.

    Args:
        ks: scalar in (0, 1].
        area: (...,) px².
        sigmas: (K,).

    Returns:
        (..., K) px.
    """
    return np.asarray(keypoint_std(area, sigmas) * np.sqrt(-2.0 * np.log(np.asarray(ks, dtype=np.float64))))


def oks(points: Floats, targets: Floats, visible: npt.NDArray[np.bool_], area: Floats, sigmas: npt.ArrayLike) -> Floats:
    """Object keypoint similarity of every pose with every target: the mean over the target's visible keypoints.

    Args:
        points: (N, K, 2).
        targets: (M, K, 2).
        visible: (M, K) which target keypoints count.
        area: (M,) px² of the targets.
        sigmas: (K,).

    Returns:
        (N, M); 0 for a target without visible keypoints.
    """
    similarity = keypoint_similarity(points[:, None], targets[None], np.asarray(area)[None], sigmas)
    counts = visible.sum(-1)
    return np.asarray((similarity * visible[None]).sum(-1) / np.maximum(counts, 1)[None])


def oks_nms(
    points: Floats, scores: Floats, area: Floats, sigmas: npt.ArrayLike, threshold: float = 0.9
) -> npt.NDArray[np.int64]:
    """Greedy suppression of duplicate people by OKS, as in the reference's evaluation.

    The area of a pair is the mean of both areas, as in the reference. A person is dropped where its OKS with
    a better-scored kept one exceeds ``threshold``.

    Args:
        points: (N, K, 2) px.
        scores: (N,).
        area: (N,) px².
        sigmas: (K,).
        threshold: OKS above which the lower-scored person goes.

    Returns:
        indices kept, best score first.
    """
    points = np.asarray(points, np.float64)
    area = np.asarray(area, np.float64)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        pair_area = (area[best] + area[rest]) / 2
        similarity = keypoint_similarity(points[rest], points[best], pair_area, sigmas).mean(-1)
        order = rest[similarity <= threshold]
    return np.array(kept, dtype=np.int64)


def duplicate_oks(
    points: Floats, valid: npt.NDArray[np.bool_], scores: Floats, area: Floats, sigmas: npt.ArrayLike
) -> Floats:
    """How much each person repeats a better-scored one: their greatest OKS.

    The area of a pair is the mean of both areas, as in ``oks_nms``. A keypoint that only one of the two has counts
    as dissimilar, and so do people who are so far apart that no keypoint reaches a similarity of 1e-9.

    Args:
        points: (N, K, 2) px of the people of one image.
        valid: (N, K) bool.
        scores: (N,); of equal ones the first is the better.
        area: (N,) px².
        sigmas: (K,).

    Returns:
        (N,) in [0, 1]; 0 for the best.
    """
    points, area = np.asarray(points, np.float64), np.asarray(area, np.float64)
    valid = np.asarray(valid, bool) & (np.asarray(sigmas) > 0)
    rank = np.empty(len(points), np.int64)
    rank[np.argsort(-np.asarray(scores, np.float64), kind="stable")] = np.arange(len(points))
    counts = (valid & np.isfinite(points).all(-1))[..., None]
    reach = _FAR * keypoint_std(area, np.max(sigmas, initial=0.0))
    low = np.where(counts, points, np.inf).min(1, initial=np.inf) - reach
    high = np.where(counts, points, -np.inf).max(1, initial=-np.inf) + reach
    found = np.zeros(len(points))
    block = max(_PAIRS // max(len(points), 1), 1)
    for first in range(0, len(points), block):
        own = slice(first, first + block)
        meet = (rank[own, None] > rank) & ((low[own, None] <= high) & (low <= high[own, None])).all(-1)
        one, other = np.nonzero(meet)
        one += first
        both, either = valid[one] & valid[other], valid[one] | valid[other]
        similarity = keypoint_similarity(points[one], points[other], (area[one] + area[other]) / 2, sigmas)
        np.maximum.at(found, one, (similarity * both).sum(-1) / np.maximum(either.sum(-1), 1))
    return found
