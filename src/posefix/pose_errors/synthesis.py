"""Synthetic pose errors with the statistics of real estimators (PoseFix §3.2).

Everything runs over people and keypoints at once: kinds are drawn first, then points by rejection, round after
round for those still without one. Drawing a candidate by its weight, then a point, and keeping the first that
is accepted gives the reference's distribution, which pools the accepted points of all candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.keypoints.oks import similarity_radius
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown
from posefix.typed import check_fields

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


class PoseError(IntEnum):
    """What is wrong with a keypoint (Ronchi & Perona, ICCV 2017). ``NONE``: there is no such keypoint.

    Examples:
        >>> PoseError(2).name
        'INVERSION'
    """

    NONE = -1
    GOOD = 0
    JITTER = 1
    INVERSION = 2
    SWAP = 3
    MISS = 4


@dataclass(frozen=True)
class PartRates:
    """Error rates of one body part; what is left over to 1 is good.

    Attributes:
        jitter: with at most 10 / more than 10 labelled keypoints.
        miss: with at most 5 / at most 10 / more than 10 labelled keypoints.
        inversion: always.
        swap: in a crowd / elsewhere. Crowd: (at most 10 labelled and an overlapping person) or (at most 15
            labelled and three of them).
    """

    jitter: tuple[float, float]
    miss: tuple[float, float, float]
    inversion: float
    swap: tuple[float, float]

    def __post_init__(self) -> None:
        check_fields(self, "error rates: ", InputError)
        values = (*self.jitter, *self.miss, self.inversion, *self.swap)
        if not all(v >= 0 for v in values) or self.worst > 1 + 1e-9:  # NaN is not ≥ 0
            raise InputError(f"error rates: expected shares ≥ 0 that sum to at most 1, got {self}")

    @property
    def worst(self) -> float:
        """Sum of the errors under the worst conditions."""
        both = max(self.jitter[0] + max(self.miss[:2]), self.jitter[1] + self.miss[2])
        return both + self.inversion + max(self.swap)


_LIMB_MISS = (0.25, 0.15, 0.10)
_EAR_EYE = PartRates((0.20, 0.15), (0.15, 0.10, 0.02), 0.01, (0.02, 0.01))
_ARM = PartRates((0.20, 0.15), _LIMB_MISS, 0.03, (0.15, 0.06))

#: Rates of the reference by part name (as in the paper's code).
REFERENCE_RATES: Mapping[str, PartRates] = MappingProxyType(
    {
        "nose": PartRates((0.15, 0.10), (0.15, 0.10, 0.02), 0.01, (0.02, 0.01)),
        "eye": _EAR_EYE,
        "ear": _EAR_EYE,
        "shoulder": PartRates((0.20, 0.15), (0.20, 0.13, 0.05), 0.03, (0.15, 0.06)),
        "elbow": _ARM,
        "wrist": _ARM,
        "hip": PartRates((0.25, 0.20), _LIMB_MISS, 0.06, (0.10, 0.03)),
        "knee": PartRates((0.15, 0.10), _LIMB_MISS, 0.06, (0.10, 0.03)),
        "ankle": PartRates((0.15, 0.10), (0.20, 0.13, 0.05), 0.06, (0.10, 0.03)),
    }
)


@dataclass(frozen=True)
class ErrorRates:
    """Error rates by part name.

    Attributes:
        parts: rates of each part (``knee`` stands for both knees).
        other: rates of parts that are not listed.

    Examples:
        >>> rates = ErrorRates()
        >>> rates.table(COCO, np.array([17]), [0]).shape
        (1, 17, 5)
    """

    parts: Mapping[str, PartRates] = field(default_factory=lambda: REFERENCE_RATES)
    other: PartRates = _ARM

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and YAML, rates by part and ``other``; ``from_dict`` reads it back."""
        rates = {**self.parts, "other": self.other}
        return {p: {k: np.array(v).tolist() for k, v in vars(r).items()} for p, r in rates.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> ErrorRates:
        """Rebuild from ``to_dict``; without ``other`` the default's. InputError where a part has other fields."""
        try:
            rates = {part: PartRates(**fields) for part, fields in data.items()}
        except (TypeError, AttributeError) as error:
            raise InputError(f"error rates: expected the form of ErrorRates.to_dict(), got {shown(data)}") from error
        return cls({p: r for p, r in rates.items() if p != "other"}, rates.get("other", _ARM))

    def table(self, skeleton: Skeleton, ground_truth_count: npt.NDArray[np.integer], overlap: npt.ArrayLike) -> Floats:
        """Rates of every keypoint of every person.

        Args:
            skeleton: whose parts are looked up.
            ground_truth_count: (N,) labelled keypoints.
            overlap: (N,) overlapping people.

        Returns:
            (N, K, 5) in the order of ``PoseError``: good, jitter, inversion, swap, miss; sums to 1.
        """
        rates = [self.parts.get(part, self.other) for part in skeleton.parts]
        count, overlap = np.asarray(ground_truth_count), np.asarray(overlap)
        many = (count > 10).astype(np.int64)
        level = many + (count > 5)
        crowd = ((count <= 10) & (overlap > 0)) | ((count <= 15) & (overlap >= 3))
        table = np.zeros((len(count), len(rates), 5), np.float32)
        table[..., PoseError.JITTER] = np.array([r.jitter for r in rates]).T[many]
        table[..., PoseError.MISS] = np.array([r.miss for r in rates]).T[level]
        table[..., PoseError.INVERSION] = np.array([r.inversion for r in rates])
        table[..., PoseError.SWAP] = np.array([r.swap for r in rates]).T[np.where(crowd, 0, 1)]
        table[..., PoseError.GOOD] = 1.0 - table.sum(-1)
        return table


#: Points tried per keypoint and kind before the kind counts as impossible (500 in all, as in the reference).
_ROUNDS = (1, 3, 16, 80, 400)


@dataclass(frozen=True)
class _Candidates:
    """Per keypoint (P of them): where errors may be drawn, and who is there.

    Columns: own, own mirror, M other instances' same keypoint, M other instances' mirror keypoint.
    """

    points: Floats  # (P, C, 2)
    present: Bools  # (P, C)
    r10: Floats  # (P,) radius of similarity 0.10
    r50: Floats
    r85: Floats

    def take(self, rows: npt.NDArray[np.intp]) -> _Candidates:
        return _Candidates(self.points[rows], self.present[rows], self.r10[rows], self.r50[rows], self.r85[rows])


def synthesize(
    centres: Floats,
    ground_truth_mask: Bools,
    skeleton: Skeleton,
    area: Floats,
    rng: np.random.Generator,
    *,
    others: Floats | None = None,
    overlap: npt.ArrayLike | None = None,
    centre_mask: Bools | None = None,
    rates: ErrorRates | None = None,
    severity: Floats | None = None,
) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Corrupt poses as an estimator would.

    Args:
        centres: (N, K, 2) clean points: labelled ones, and estimates where there is no annotation.
        ground_truth_mask: (N, K) which are labelled (a mirror must be, to be inverted to).
        skeleton: the keypoint set.
        area: (N,) px² in the frame of the points; sets all radii. Where it is the box's area instead of the
            person's, radii are the reference's.
        rng: source of randomness.
        others: (N, M, K, 3) other people near [x, y, v], zero rows as padding.
        overlap: (N,) number of overlapping people; default: other instances with any v > 0.
        centre_mask: (N, K) which centres exist; default ``ground_truth_mask``.
        rates: default the reference's.
        severity: (N,) factors of the error rates, so that good and bad estimators both appear; errors leave at
            least one keypoint in twenty good. Default 1.

    Returns:
        (N, K, 2) float32 corrupted points (centres that do not exist are NaN) and (N, K) int8 ``PoseError``.

    Raises:
        InputError: shapes that do not fit together.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> points = keypoints[..., :2]
        >>> corrupted, kinds = synthesize(points, np.ones((2, 17), bool), COCO, np.full(2, 2e4), rng)
        >>> corrupted.shape, kinds.shape
        ((2, 17, 2), (2, 17))
    """
    centres = np.asarray(centres, np.float32)
    people, keypoints = _check(centres, ground_truth_mask, skeleton, area)
    ground_truth_mask = np.asarray(ground_truth_mask, bool)
    exists = np.asarray(ground_truth_mask if centre_mask is None else centre_mask, bool)
    near = np.zeros((people, 0, keypoints, 3), np.float32) if others is None else others
    near = np.asarray(near, np.float32)
    if near.ndim != 4 or near.shape[0] != people or near.shape[2:] != (keypoints, 3):
        raise InputError(f"others: expected ({people}, M, {keypoints}, 3), got {near.shape}")
    near_mask = near[..., 2] > 0
    crowd = near_mask.any(-1).sum(-1) if overlap is None else np.asarray(overlap)

    candidates = _gather_candidates(centres, exists, ground_truth_mask, near, near_mask, skeleton, area)
    table = (rates or ErrorRates()).table(skeleton, ground_truth_mask.sum(-1), crowd)
    if severity is not None:
        table = _scale_errors(table, np.asarray(severity, np.float32))
    table = table.reshape(-1, 5)
    table = table * exists.reshape(-1, 1)
    table[:, PoseError.INVERSION] *= candidates.present[:, 1]
    table[:, PoseError.SWAP] *= candidates.present[:, 2:].any(-1)

    points, kinds = _draw(candidates, table, rng)
    kinds = np.where(exists.reshape(-1) & (kinds < 0), PoseError.GOOD, kinds).astype(np.int8)
    shaped = np.where(exists[..., None], points.reshape(people, keypoints, 2), np.nan).astype(np.float32)
    return shaped, kinds.reshape(people, keypoints)


def _scale_errors(table: Floats, severity: Floats) -> Floats:
    errors = table[..., 1:] * severity[:, None, None]
    errors *= np.minimum(1.0, 0.95 / np.maximum(errors.sum(-1, keepdims=True), 1e-9))
    return np.concatenate([1.0 - errors.sum(-1, keepdims=True), errors], axis=-1)


def _check(centres: Floats, ground_truth_mask: Bools, skeleton: Skeleton, area: Floats) -> tuple[int, int]:
    if centres.ndim != 3 or centres.shape[1:] != (len(skeleton), 2):
        raise InputError(
            f"centres: expected (N, {len(skeleton)}, 2) for skeleton {skeleton.name!r}, got {centres.shape}"
        )
    if np.shape(ground_truth_mask) != centres.shape[:2] or np.shape(area) != centres.shape[:1]:
        raise InputError(
            f"annotated_mask and area: expected {centres.shape[:2]} and {centres.shape[:1]}, "
            f"got {np.shape(ground_truth_mask)} and {np.shape(area)}"
        )
    return centres.shape[0], centres.shape[1]


def _gather_candidates(
    centres: Floats,
    exists: Bools,
    ground_truth_mask: Bools,
    near: Floats,
    near_mask: Bools,
    skeleton: Skeleton,
    area: Floats,
) -> _Candidates:
    flip_indices = skeleton.flip_indices
    sided = flip_indices != np.arange(len(skeleton))
    by_keypoint = np.moveaxis(near[..., :2], 1, 2)  # (N, K, M, 2)
    mask_by_keypoint = np.moveaxis(near_mask, 1, 2)
    points = np.concatenate(
        [centres[:, :, None], centres[:, flip_indices, None], by_keypoint, by_keypoint[:, flip_indices]], axis=2
    )
    present = np.concatenate(
        [
            exists[:, :, None],
            (ground_truth_mask[:, flip_indices] & sided)[:, :, None],
            mask_by_keypoint,
            mask_by_keypoint[:, flip_indices] & sided[:, None],
        ],
        axis=2,
    )
    radii = [similarity_radius(ks, area, skeleton.sigmas).astype(np.float32).reshape(-1) for ks in (0.10, 0.50, 0.85)]
    flat = points.reshape(-1, points.shape[2], 2)
    return _Candidates(flat, present.reshape(flat.shape[:2]), *radii)


def _draw(candidates: _Candidates, table: Floats, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.int8]]:
    """A kind and a point for every keypoint; kind −1 where nothing could be drawn (the point is the centre)."""
    points = candidates.points[:, 0].copy()
    kinds = np.full(len(points), PoseError.NONE, np.int8)
    table = table.copy()
    open_rows = np.flatnonzero(table.sum(-1) > 0)
    for _ in range(table.shape[1]):
        # Drawing anew among the kinds not yet found impossible is "drop them and renormalise the rest".
        cumulative = np.cumsum(table[open_rows], axis=-1)
        choice = (rng.random((len(open_rows), 1), np.float32) * cumulative[:, -1:] >= cumulative).sum(-1)
        choice = np.minimum(choice, table.shape[1] - 1)
        rows, kind = open_rows, choice
        for tries in _ROUNDS:
            drawn, accepted = _propose(candidates.take(rows), kind, tries, rng)
            first = accepted.argmax(-1)
            found = accepted[np.arange(len(rows)), first]
            points[rows[found]] = drawn[found, first[found]]
            kinds[rows[found]] = kind[found]
            rows, kind = rows[~found], kind[~found]
            if not len(rows):
                return points, kinds
        table[rows, kind] = 0.0
        open_rows = rows[table[rows].sum(-1) > 0]
        if not len(open_rows):
            break
    return points, kinds


def _propose(
    candidates: _Candidates, kind: npt.NDArray[np.intp], tries: int, rng: np.random.Generator
) -> tuple[Floats, Bools]:
    """(P, T, 2) points drawn for the given kinds and (P, T) whether each is accepted."""
    people, columns = candidates.present.shape
    jitter, inversion = (kind == PoseError.JITTER)[:, None], (kind == PoseError.INVERSION)[:, None]
    swap, miss = (kind == PoseError.SWAP)[:, None], (kind == PoseError.MISS)[:, None]
    column = np.arange(columns)
    own_or_mirror = column < 2

    # Around which candidate: own keypoint (good, jitter), its mirror (inversion), else a draw by weight.
    weight = candidates.present * np.where(miss, np.where(column == 0, 4.0, 1.0), swap & ~own_or_mirror)
    cumulative = np.cumsum(weight, axis=-1, dtype=np.float32)
    pick = rng.random((people, tries), np.float32) * cumulative[:, -1:]
    source = (pick[..., None] >= cumulative[:, None]).sum(-1)
    source = np.where(swap | miss, np.minimum(source, columns - 1), np.where(inversion, 1, 0))

    low = np.where(miss[:, 0], candidates.r50, np.where(jitter[:, 0], candidates.r85, 0.0))[:, None]
    high = np.where(miss[:, 0], candidates.r10, np.where(kind == PoseError.GOOD, candidates.r85, candidates.r50))
    radius = low + (high[:, None] - low) * rng.random((people, tries), np.float32)
    angle = rng.random((people, tries), np.float32) * np.float32(2 * np.pi)
    step = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * radius[..., None]
    drawn = candidates.points[np.arange(people)[:, None], source] + step

    distance2 = np.square(drawn[:, :, None] - candidates.points[:, None]).sum(-1)  # (P, T, C)
    away = np.where(miss, candidates.r50[:, None], radius)
    # Rounding in the draw by weight may, once in some ten million, pick a candidate that is not there.
    there = np.take_along_axis(candidates.present, source, axis=1)
    others = candidates.present[:, None] & (column != source[..., None]) & (~swap[..., None] | own_or_mirror)
    accepted = there & ((distance2 > np.square(away)[..., None]) | ~others).all(-1)
    return drawn.astype(np.float32), accepted
