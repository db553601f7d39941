"""Left and right in tracks: for each person, frame and group of keypoints, whether an estimator exchanged the sides.

The image says how much better each side fits where it is than where the other side is; the path of the keypoints says
between which two frames the sides changed places. The decision over a track is the best sequence of the two states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.keypoints.skeleton import Skeleton

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Which parts are exchanged together.
GROUPS = {
    "arms": ("shoulder", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle", "heel", "big_toe", "small_toe"),
    "face": ("eye", "ear"),
}
#: Log odds of a frame against an exchange: sides are right far more often than not, and where the image speaks against
#: them for a whole track, it is often itself wrong.
_BIAS = 1.0
#: Largest log odds of one frame, and how much of them counts: successive frames err alike.
_LARGEST, _SHARE = 8.0, 0.5
#: Usual movement between two frames in length scales of keypoint similarity, without the person's own.
_STEP = 0.25
#: Cost of each change between exchanged and not.
_CHANGE = 3.0


@dataclass(frozen=True)
class SideState:
    """Where a decision stands after some frames; what the next frames start from.

    Attributes:
        cost: (N, G, 2) of the best sequence that ends as it is, or exchanged.
        points: (N, K, 2) px where each keypoint was last; NaN for never.
        age: (N, K) frames since.
    """

    cost: Doubles
    points: Doubles
    age: Doubles


def side_groups(skeleton: Skeleton) -> list[npt.NDArray[np.int64]]:
    """Keypoints of each of ``GROUPS`` that have a left and a right; groups without any are left out."""
    flip = skeleton.flip_indices
    groups = [
        np.array([k for k, part in enumerate(skeleton.parts) if part in parts and flip[k] != k], np.int64)
        for parts in GROUPS.values()
    ]
    return [group for group in groups if len(group)]


def exchange_sides(values: npt.NDArray[Any], exchanged: Bools, skeleton: Skeleton) -> npt.NDArray[Any]:
    """Values with left and right exchanged in some groups.

    Args:
        values: (..., K, C).
        exchanged: (..., G).
        skeleton: with G ``side_groups``.

    Returns:
        a new array.
    """
    order = np.broadcast_to(np.arange(len(skeleton)), (*exchanged.shape[:-1], len(skeleton))).copy()
    for g, group in enumerate(side_groups(skeleton)):
        order[..., group] = np.where(exchanged[..., g, None], skeleton.flip_indices[group], group)
    return np.take_along_axis(values, order[..., None], axis=-2)


def decide_sides(
    points: Floats, valid: Bools, std: Floats, odds: Floats, skeleton: Skeleton, state: SideState | None = None
) -> tuple[Bools, SideState]:
    """Whether left and right are exchanged, the most likely sequence over the frames.

    Args:
        points: (T, N, K, 2) px.
        valid: (T, N, K).
        std: (T, N, K) px, length scale of keypoint similarity.
        odds: (T, N, K) log odds, by the image, that the keypoint is itself and not its mirror; 0 where
            nothing is known.
        skeleton: the keypoint set.
        state: after the frames before; None at the beginning.

    Returns:
        (T, N, G) bool, and the state after the last frame.
    """
    groups = side_groups(skeleton)
    frames, people, count = valid.shape
    state = state or SideState(
        np.zeros((people, len(groups), 2)), np.full((people, count, 2), np.nan), np.ones((people, count))
    )
    cost, last, age = state.cost, state.points, state.age
    back = np.zeros((frames, people, len(groups), 2), bool)
    for t in range(frames):
        if len(groups):
            stay, change = _transitions(points[t], valid[t], std[t], last, age, skeleton)
            came = np.stack([np.stack([stay, change], -1), np.stack([change, stay], -1)], -2) + cost[..., None, :]
            back[t] = came.argmin(-1).astype(bool)
            image = np.stack([odds[t][:, g].sum(-1) for g in groups], -1)
            seen = np.stack([valid[t][:, g].any(-1) for g in groups], -1)
            image = _SHARE * np.clip(image + _BIAS, -_LARGEST, _LARGEST) * seen
            cost = came.min(-1) + np.stack([-image / 2, image / 2], -1)
            cost = cost - cost.min(-1, keepdims=True)
        last = np.where(valid[t][..., None], points[t], last)
        age = np.where(valid[t], 1.0, age + 1.0)
    exchanged = np.zeros((frames, people, len(groups)), bool)
    now = cost.argmin(-1).astype(bool)
    for t in range(frames - 1, -1, -1):
        exchanged[t] = now
        now = np.where(now, back[t, ..., 1], back[t, ..., 0])
    return exchanged, SideState(cost, last, age)


def _transitions(
    points: Floats, valid: Bools, std: Floats, last: Doubles, age: Doubles, skeleton: Skeleton
) -> tuple[Doubles, Doubles]:
    """(N, G) cost of the path when the state stays, and when it changes."""
    flip = skeleton.flip_indices
    known = valid & np.isfinite(last).all(-1)
    moved = np.where(known[..., None], points - last, np.nan)
    # The whole person's movement says nothing about sides.
    common = np.zeros((len(points), 1, 2))
    some = known.any(-1)
    common[some, 0] = np.nanmedian(moved[some], axis=1)
    step = std * _STEP * np.sqrt(age)

    def path(target: Floats) -> Doubles:
        distance = np.linalg.norm(target - common - last, axis=-1) / np.maximum(step, 1e-9)
        costs: Doubles = np.where(both, np.log1p(np.square(distance)), 0.0)
        return np.stack([costs[:, group].sum(-1) for group in side_groups(skeleton)], -1)

    both = known & known[:, flip]
    # Exchanged or not, a state that lasts moves each side from where that side was.
    return path(points), path(points[:, flip]) + _CHANGE
