"""The judges of tracks: cameras agree on what they all see, and moved people are where they are said to be."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from posefix.keypoints.skeleton import COCO, POSETRACK18

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


@pytest.mark.parametrize("unit_rows", [True, False])
def test_exact_tracks_have_no_error(multiview: ModuleType, unit_rows: bool) -> None:
    space = walker()
    tracks = seen(multiview, space)
    np.testing.assert_allclose(multiview.robust_space(tracks, cameras(), unit_rows=unit_rows), space, atol=1e-3)
    found = multiview.judge(tracks, cameras(), space, unit_rows=unit_rows)
    assert found.p90 < 1e-4
    assert found.large == 0
    assert found.forearm < 1e-3
    assert found.exchanged == 0
    assert found.pairs > 100


def test_one_bad_view_is_outvoted_and_counted(multiview: ModuleType) -> None:
    space = walker()
    tracks = seen(multiview, space)
    tracks[2, :, 7:11, 1] += 60
    assert np.abs(multiview.robust_space(tracks, cameras(), unit_rows=False) - space).max() < 40
    found = multiview.judge(tracks, cameras(), unit_rows=False)
    assert found.large == pytest.approx(4 / 12 / 4, abs=0.01)


def test_exchanged_pairs_are_counted(multiview: ModuleType) -> None:
    space = walker()
    tracks = seen(multiview, space)
    legs = [COCO.index("left_ankle"), COCO.index("right_ankle")]
    tracks[1, 5:12, legs] = tracks[1, 5:12, legs[::-1]]
    assert multiview.judge(tracks, cameras(), space).exchanged == 7


def test_cameras_that_are_off_are_shifted_back(multiview: ModuleType) -> None:
    """But for a shift of the whole room, which no camera can tell."""
    tracks = seen(multiview, walker())
    noisy = tracks + np.random.default_rng(0).normal(0, 2, tracks.shape) * [1, 1, 0]
    noisy[0, 3:6] = np.nan
    off = multiview.shift_cameras(cameras(), np.array([[15, -4], [-6, 3], [0, 9], [-3, -8]]))
    shifts = multiview.camera_shifts([tracks, noisy], off)
    assert multiview.judge(tracks, off, unit_rows=False).median > 3
    assert multiview.judge(tracks, multiview.shift_cameras(off, shifts), unit_rows=False).p90 < 1


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


@pytest.fixture
def crossing_people(moving_people: ModuleType) -> ModuleType:
    return importlib.import_module("crossing_people")


def crossing(module: ModuleType, frames: int = 16) -> Any:
    """A green person in front of a red one, each a narrow rectangle, over black."""
    people, narrow = [], pose()
    narrow[:, 0] = 200 + 0.2 * (narrow[:, 0] - 200)
    for colour in ((0, 255, 0), (0, 0, 255)):
        photograph = np.full((400, 400, 3), 90, np.uint8)
        cv2.rectangle(photograph, (170, 90), (230, 310), colour, -1)
        polygon = [[170.0, 90.0, 230.0, 90.0, 230.0, 310.0, 170.0, 310.0]]
        people.append((module.cut_out(photograph, polygon), narrow, 60.0 * 200))
    return module.make_crossing(people, np.zeros((480, 480, 3), np.uint8), frames, np.random.default_rng(4))


def test_who_is_covered_lies_behind_the_other(crossing_people: ModuleType) -> None:
    found = crossing(crossing_people)
    assert 3 <= found.meeting.sum() < 16
    assert not found.meeting[[0, -1]].any()
    assert not found.covered[:, 0].any()
    for frame, truth, covered in zip(found.frames, found.truth, found.covered, strict=True):
        for n, k in np.ndindex(2, 17):
            x, y = np.rint(truth[n, k, :2]).astype(int)
            own, other = frame[y, x, [1, 2]][:: 1 if n == 0 else -1]
            assert (own > other) != covered[n, k]


def test_estimates_of_the_covered_are_on_the_person_in_front(crossing_people: ModuleType) -> None:
    found = crossing(crossing_people)
    other = crossing_people.on_the_other(found, found.estimates)
    assert other[found.covered].mean() > 0.2
    assert not crossing_people.on_the_other(found, found.truth).any()
    exchanged = crossing_people.on_the_other(found, found.truth[:, ::-1])
    assert exchanged[~found.meeting].mean() > 0.95


@pytest.fixture
def labelled_video(multiview: ModuleType) -> ModuleType:
    return importlib.import_module("labelled_video")


def test_tracks_find_their_labels_in_whatever_order(labelled_video: ModuleType) -> None:
    truth = np.repeat((pose()[:, :2] + [[[0, 0]], [[300, 0]], [[0, 900]]])[None], 6, 0)
    rng = np.random.default_rng(0)
    points = truth[:, [1, 0]] + rng.normal(0, 3, (6, 2, 17, 2))
    truth[2:4] = np.nan  # not every frame is labelled
    points[0, 1] = np.nan
    assert labelled_video.match_tracks(truth, points, np.full((6, 3), 200.0)).tolist() == [1, 0, -1]


def test_the_table_counts_what_is_labelled(labelled_video: ModuleType) -> None:
    truth = np.repeat(pose()[None, None, :, :2], 8, 0)
    truth[5, 0, 3] = np.nan
    tracks = np.concatenate([truth, np.full((8, 1, 17, 1), 0.9)], -1)
    tracks[:, 0, 0] = np.nan  # a keypoint without an estimate is not found, and has no error
    tracks[:, 0, 1:, 0] += 15.0
    size, std = np.full((8, 1), 200.0), np.full((8, 1, 17), 10.0)
    line = labelled_video.summary("moved", truth, tracks, size, std)
    found = 100 * (1 - 8 / (8 * 17 - 1))
    assert line == f"| moved | 15.00 / 15.00 / 15.00 | 1.500 | 0.0 / {found:.1f} % | 0.00 / 0.00 |"


def test_posetrack_annotations_are_labels(labelled_video: ModuleType, tmp_path: Path) -> None:
    """Frames from 1, of which every second has labels; the head's top and bottom are no keypoints of COCO."""
    images = [{"id": 10002650000 + t, "file_name": f"images/000265_mpii/{t:06d}.jpg"} for t in range(1, 6)]
    labelled = np.concatenate([pose()[:, :2] + 5.0, np.ones((17, 1))], 1)
    labelled[9] = 0.0
    annotations = [
        {
            "image_id": 10002650000 + t,
            "track_id": n + 3,
            "keypoints": np.add(labelled, [100 * n, t, 0]).ravel().tolist(),
        }
        for t in (1, 3, 5)
        for n in range(2)
    ]
    people = [{"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}]
    path = tmp_path / "000265_mpii_test.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": people}))
    truth = labelled_video.read_labels(str(path), None)
    assert truth.shape == (5, 2, 17, 2)
    assert np.isnan(truth[[1, 3]]).all()
    there = np.isfinite(truth[0, 0]).all(-1)
    assert not there[COCO.index("left_wrist")]
    assert there[COCO.index("right_ankle")]
    np.testing.assert_allclose(truth[2, 1, COCO.index("nose")], labelled[0, :2] + [100, 3])
    np.testing.assert_allclose(truth[0, 0, 16], labelled[POSETRACK18.index("right_ankle"), :2] + [0, 1])


def test_filters_leave_gaps_as_they_are(labelled_video: ModuleType) -> None:
    tracks = np.repeat(pose()[None, None], 12, 0)
    tracks[..., 0] += 3.0 * np.arange(12)[:, None, None]
    tracks[4:6, 0, 2] = np.nan
    calm = labelled_video.filtered(tracks)
    np.testing.assert_array_equal(np.isnan(calm), np.isnan(tracks))
    np.testing.assert_allclose(calm[3:-3], tracks[3:-3], atol=1e-6)
