"""Left and right in tracks: exchanges are found where image and path agree, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from factories import FOUR
from posefix.keypoints.skeleton import COCO
from posefix.video.left_right import GROUPS, decide_sides, exchange_sides, side_groups

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NAMES = list(GROUPS)


def walk(frames: int = 60, people: int = 2, seed: int = 0) -> Floats:
    """(T, N, 17, 2) people whose sides are 80 px apart, walking."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 40, (people, 17, 2)) + 30 * np.arange(17)[:, None] * [0, 1]
    side = np.array([-1 if n.startswith("left_") else 1 if n.startswith("right_") else 0 for n in COCO.keypoints])
    base[..., 0] += 40 * side
    t = np.arange(frames)[:, None, None]
    swing = 15 * np.sin(t / 5 + np.arange(17) * 0.7 + rng.uniform(0, 6, (1, people, 1)))
    return base + np.stack([6 * t + swing, swing], -1) + rng.normal(0, 1.5, (frames, people, 17, 2))


def decide(points: Floats, exchanged: Bools, image: float, noise: float = 2.0, seed: int = 0) -> Bools:
    """Decisions for tracks of which some groups are exchanged; ``image`` is the log odds of a right keypoint."""
    rng = np.random.default_rng(seed)
    sign = np.ones(points.shape[:3])
    for g, group in enumerate(side_groups(COCO)):
        sign[..., group] = np.where(exchanged[..., g, None], -1, 1)
    odds = sign * image + rng.normal(0, noise, sign.shape)
    seen = np.ones(points.shape[:3], bool)
    given = exchange_sides(points, exchanged, COCO)
    return decide_sides(given, seen, np.full(seen.shape, 20.0), odds, COCO)[0]


def test_groups_are_the_sided_parts() -> None:
    names = [{COCO.keypoints[k] for k in group} for group in side_groups(COCO)]
    assert names[0] == {f"{s}_{p}" for s in ("left", "right") for p in ("shoulder", "elbow", "wrist")}
    assert names[1] == {f"{s}_{p}" for s in ("left", "right") for p in ("hip", "knee", "ankle")}
    assert names[2] == {f"{s}_{p}" for s in ("left", "right") for p in ("eye", "ear")}
    assert side_groups(FOUR) == []


def test_exchanging_twice_is_nothing() -> None:
    rng = np.random.default_rng(0)
    points, exchanged = rng.normal(size=(5, 3, 17, 2)), rng.random((5, 3, 3)) < 0.5
    once = exchange_sides(points, exchanged, COCO)
    np.testing.assert_array_equal(exchange_sides(once, exchanged, COCO), points)
    group = side_groups(COCO)[1]
    legs = np.zeros_like(exchanged)
    legs[..., 1] = True
    swapped = exchange_sides(points, legs, COCO)
    np.testing.assert_array_equal(swapped[..., group, :], points[..., COCO.flip_indices[group], :])
    rest = np.setdiff1d(np.arange(17), group)
    np.testing.assert_array_equal(swapped[..., rest, :], points[..., rest, :])


def test_right_tracks_stay() -> None:
    points = walk(people=8)
    assert not decide(points, np.zeros((60, 8, 3), bool), image=0.5).any()


@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("rows", [slice(20, 21), slice(20, 35), slice(0, 10), slice(50, 60), slice(0, 60)])
def test_exchanges_are_found(group: int, rows: slice) -> None:
    exchanged = np.zeros((60, 2, 3), bool)
    exchanged[rows, 0, group] = True
    np.testing.assert_array_equal(decide(walk(), exchanged, image=1.0), exchanged)


def test_a_single_exchange_is_found_by_the_path_alone() -> None:
    exchanged = np.zeros((60, 2, 3), bool)
    exchanged[30, 1, 1] = True
    np.testing.assert_array_equal(decide(walk(), exchanged, image=0.0, noise=0.0), exchanged)


def test_the_path_alone_cannot_turn_a_whole_track() -> None:
    everything = np.ones((60, 2, 3), bool)
    assert not decide(walk(), everything, image=0.0, noise=0.0).any()


def test_parts_of_a_track_decide_as_the_whole() -> None:
    points = walk()
    exchanged = np.zeros((60, 2, 3), bool)
    exchanged[25:40, 0, 1] = True
    given = exchange_sides(points, exchanged, COCO)
    odds = np.ones(points.shape[:3])
    odds[..., side_groups(COCO)[1]] = np.where(exchanged[..., 1, None], -1.0, 1.0)
    seen, std = np.ones(odds.shape, bool), np.full(odds.shape, 20.0)
    state, parts = None, []
    for start in range(0, 60, 12):
        rows = slice(start, start + 12)
        found, state = decide_sides(given[rows], seen[rows], std[rows], odds[rows], COCO, state)
        parts.append(found)
    np.testing.assert_array_equal(np.concatenate(parts), exchanged)


def test_missing_keypoints_say_nothing() -> None:
    points = walk()
    seen = np.zeros(points.shape[:3], bool)
    found, _ = decide_sides(points, seen, np.ones(seen.shape), np.full(seen.shape, -5.0), COCO)
    assert not found.any()
