"""The judges of tracks: cameras agree on what they all see, and moved people are where they are said to be."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from posefix.keypoints.skeleton import COCO

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def multiview(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("multiview")


@pytest.fixture
def moving_people(multiview: ModuleType) -> ModuleType:
    return importlib.import_module("moving_people")


def cameras() -> np.ndarray:
    """Four around a room, 4 m from its middle, focal length 1,000 px."""
    views = []
    for angle in np.radians([0, 70, 160, 250]):
        turn = np.array([[-np.sin(angle), np.cos(angle), 0], [0, 0, -1], [-np.cos(angle), -np.sin(angle), 0]])
        outer = np.concatenate([turn, [[0], [0], [4000]]], 1)
        views.append(np.array([[1000, 0, 500], [0, 1000, 500], [0, 0, 1]]) @ outer)
    return np.array(views)


def walker(frames: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    body = rng.uniform(-400, 400, (17, 3))
    for side in ("left", "right"):
        body[COCO.index(f"{side}_wrist")] = body[COCO.index(f"{side}_elbow")] + [0, 0, 250]
    return body + np.array([10.0, 4.0, 0.0]) * np.arange(frames)[:, None, None]


def seen(multiview: ModuleType, space: np.ndarray) -> np.ndarray:
    points = multiview.project(space, cameras())
    return np.concatenate([points, np.full((*points.shape[:-1], 1), 0.9)], -1)


def test_exact_tracks_have_no_error(multiview: ModuleType) -> None:
    space = walker()
    tracks = seen(multiview, space)
    np.testing.assert_allclose(multiview.robust_space(tracks, cameras()), space, atol=1e-3)
    found = multiview.judge(tracks, cameras(), space)
    assert found.p90 < 1e-4
    assert found.large == 0
    assert found.forearm < 1e-3
    assert found.exchanged == 0
    assert found.pairs > 100


def test_one_bad_view_is_outvoted_and_counted(multiview: ModuleType) -> None:
    space = walker()
    tracks = seen(multiview, space)
    tracks[2, :, 7:11, 1] += 60
    assert np.abs(multiview.robust_space(tracks, cameras()) - space).max() < 40
    found = multiview.judge(tracks, cameras())
    assert found.large == pytest.approx(4 / 12 / 4, abs=0.01)


def test_exchanged_pairs_are_counted(multiview: ModuleType) -> None:
    space = walker()
    tracks = seen(multiview, space)
    legs = [COCO.index("left_ankle"), COCO.index("right_ankle")]
    tracks[1, 5:12, legs] = tracks[1, 5:12, legs[::-1]]
    assert multiview.judge(tracks, cameras(), space).exchanged == 7


def test_a_missing_view_is_no_error(multiview: ModuleType) -> None:
    tracks = seen(multiview, walker())
    tracks[0, 3:6] = np.nan
    assert multiview.judge(tracks, cameras()).p90 < 1e-4


def test_filters_keep_what_is_smooth(multiview: ModuleType) -> None:
    tracks = seen(multiview, walker())[:1]
    np.testing.assert_allclose(multiview.median_savgol(tracks)[:, 4:-4], tracks[:, 4:-4], atol=1.0)
    still = np.repeat(tracks[:, :1], 20, 1)
    np.testing.assert_allclose(multiview.one_euro(still), still)


def pose() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate([rng.uniform(100, 300, (17, 2)), np.full((17, 1), 2.0)], -1)


@pytest.mark.parametrize("pace", [0.0, 1.0])
def test_a_moved_person_is_where_the_truth_says(moving_people: ModuleType, pace: float) -> None:
    """Dots painted on the photograph are found at the truth's points in every frame."""
    person = pose()
    photograph = np.zeros((400, 400, 3), np.uint8)
    motion = moving_people.make_motion(person, 6, np.random.default_rng(2), side=320, pace=pace)
    wrist = COCO.index("left_wrist")
    cv2.circle(photograph, tuple(np.rint(person[wrist, :2]).astype(int).tolist()), 5, (255, 255, 255), -1, cv2.LINE_AA)
    rounded = person.copy()
    rounded[wrist, :2] = np.rint(rounded[wrist, :2])
    truth = motion.points(rounded[:, :2])[:, wrist]
    for frame, point in zip(motion.frames(photograph), truth, strict=True):
        bright = frame[..., 0].astype(np.float64)
        grid = np.stack(np.meshgrid(np.arange(320), np.arange(320)), -1)
        middle = (grid * bright[..., None]).sum((0, 1)) / bright.sum()
        assert np.linalg.norm(middle - point) < 0.7
    still = np.linalg.norm(np.diff(truth, axis=0), axis=-1).max()
    assert (still < 1e-9) == (pace == 0)


def test_errors_last_and_sides_are_exchanged(moving_people: ModuleType) -> None:
    truth = np.repeat(pose()[None], 40, 0)
    area = np.full(40, 200.0 * 200)
    held, _ = moving_people.estimate(truth, area, np.random.default_rng(3), hold=10, noise=0.0)
    error = held[..., :2] - truth[..., :2]
    same = (np.abs(np.diff(error, axis=0)) < 1e-3).all(-1)
    assert 0.8 < same.mean() < 0.98
    swapped = moving_people.exchange(held, "legs", [4, 5])
    left, right = COCO.index("left_knee"), COCO.index("right_knee")
    np.testing.assert_array_equal(swapped[4, left], held[4, right])
    np.testing.assert_array_equal(swapped[6], held[6])
    np.testing.assert_array_equal(swapped[4, :11], held[4, :11])
