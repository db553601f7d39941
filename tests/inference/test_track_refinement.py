"""Refining tracks: as they came, each frame read once, gaps, sides, and the same however long the video is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import posefix.inference.track_observation as observation
import posefix.inference.track_refinement as module
from factories import make_weights
from posefix.exceptions import InputError
from posefix.inference.refiner import Refiner
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    """An untrained network that uses the pose prior, so that results stay near the input."""
    return Refiner(make_weights(Calibration(policy="safe")), device="cpu", precision="float32")


@pytest.fixture(scope="module")
def still() -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (24, 40, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)


def people(frames: int, count: int = 2, noise: float = 2.0) -> Floats:
    rng = np.random.default_rng(0)
    pose = rng.uniform((30, 20), (130, 220), (count, 17, 2)) + 180 * np.arange(count)[:, None, None] * [1, 0]
    t = np.arange(frames)[:, None, None, None]
    points = pose + 10 * np.sin(t / 9) + rng.normal(0, noise, (frames, count, 17, 2))
    return np.concatenate([points, np.full((frames, count, 17, 1), 0.8)], -1)


def restless(tracks: Floats) -> float:
    return float(np.median(np.linalg.norm(np.diff(tracks[..., :2], 2, axis=0), axis=-1)))


@pytest.mark.slow
def test_shape_type_and_calm(refiner: Refiner, still: Any) -> None:
    tracks = people(24)
    before = tracks.copy()
    refined = refiner.refine_video([still] * 24, tracks)
    assert refined.shape == tracks.shape
    assert refined.dtype == np.float64
    np.testing.assert_array_equal(tracks, before)
    assert restless(refined) < 0.5 * restless(tracks)
    assert np.abs(refined[..., :2] - tracks[..., :2]).mean() < 20
    assert ((refined[..., 2] > 0) & (refined[..., 2] <= 1 + 1e-6)).all()
    assert refiner.refine_video([still] * 24, tracks.astype(np.float32)[..., :2]).shape == (24, 2, 17, 2)


@pytest.mark.parametrize("online", [False, True])
def test_frames_are_read_once_and_a_few_ahead(refiner: Refiner, still: Any, online: bool) -> None:
    taken = 0

    def source() -> Iterator[Any]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield still

    seen, late = 0, []
    for part in refiner.refine_tracks(source(), people(20, 1), online=online, delay=2, workers=1):
        assert part.start == seen
        seen += len(part)
        late.append(taken - seen)
    assert seen == taken == 20
    if online:
        assert max(late) <= 2 + 4  # the delay, and what is prepared ahead


@pytest.mark.slow
def test_who_is_not_there_stays_away(refiner: Refiner, still: Any) -> None:
    tracks = people(30, 3)
    tracks[:, 2] = np.nan
    tracks[10:, 1] = np.nan
    refined = refiner.refine_video([still] * 30, tracks, max_gap=5)
    np.testing.assert_array_equal(np.isnan(refined), np.isnan(tracks))


@pytest.mark.slow
def test_short_gaps_are_filled_and_marked(refiner: Refiner, still: Any) -> None:
    tracks = people(30)
    truth = tracks.copy()
    tracks[10:14, 0] = np.nan
    tracks[5:8, 1, 9] = 0
    tracks[15:25, 1] = np.nan
    parts = list(refiner.refine_tracks([still] * 30, tracks, max_gap=6))
    refined = np.concatenate([p.keypoints for p in parts])
    filled = np.concatenate([p.filled for p in parts])
    expected = np.zeros((30, 2, 17), bool)
    expected[10:14, 0] = expected[5:8, 1, 9] = True
    np.testing.assert_array_equal(filled, expected)
    assert np.isfinite(refined[filled]).all()
    assert (refined[filled][:, 2] <= 0.5).all()
    assert np.abs(refined[10:14, 0, :, :2] - truth[10:14, 0, :, :2]).mean() < 25
    assert np.isnan(refined[15:25, 1]).all()


def test_people_outside_the_image_stay_without_a_word(
    refiner: Refiner, still: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = people(8)
    tracks[3:, 1, :, 0] += 5000
    refined = refiner.refine_video([still] * 8, tracks)
    np.testing.assert_array_equal(refined[3:, 1], tracks[3:, 1])
    assert (refined[3:, 0] != tracks[3:, 0]).any()
    assert caplog.text == ""


def test_keypoints_that_are_never_there(refiner: Refiner, still: Any) -> None:
    tracks = people(12, 1)
    tracks[:, 0, 4] = 0
    filled = refiner.refine_video([still] * 12, tracks)
    assert (filled[:, 0, 4, 2] > 0).all()
    kept = refiner.refine_video([still] * 12, tracks, fill_missing=False)
    np.testing.assert_array_equal(kept[:, 0, 4], tracks[:, 0, 4])


@pytest.mark.parametrize("reason", ["confidence", "border"])
def test_what_the_image_does_not_support_stays_missing(
    refiner: Refiner, still: Any, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """As in a single image: too little confidence, or too near to the border."""
    tracks = people(12, 1)
    tracks[:, 0, 4] = 0
    if reason == "border":
        monkeypatch.setattr(observation, "well_inside", lambda points, std, image_hw: np.zeros((*std.shape[:2], 1)))
    else:
        refiner = Refiner(make_weights(Calibration(policy="safe", fill_threshold=0.99)), device="cpu")
    refined = refiner.refine_video([still] * 12, tracks)
    np.testing.assert_array_equal(refined[:, 0, 4], tracks[:, 0, 4])
    assert (np.delete(refined[:, 0], 4, 1)[..., 2] != 0.8).all()


@pytest.mark.slow
def test_windows_meet_without_a_jump(refiner: Refiner, still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = people(60, 1)
    whole = refiner.refine_video([still] * 60, tracks)
    monkeypatch.setattr(module, "WINDOW", 24)
    monkeypatch.setattr(module, "OVERLAP", 12)
    parts = refiner.refine_video([still] * 60, tracks)
    assert parts.shape == whole.shape
    assert np.abs(parts - whole)[..., :2].mean() < 1.0
    assert restless(parts) < 0.5 * restless(tracks)


@pytest.mark.slow
def test_online_depends_on_no_later_frame(refiner: Refiner, still: Any) -> None:
    tracks = people(16, 1)
    whole = refiner.refine_video([still] * 16, tracks, online=True, delay=3, prior_weight=1.0)
    other = tracks.copy()
    other[12:, ..., :2] += 40
    changed = refiner.refine_video([still] * 16, other, online=True, delay=3, prior_weight=1.0)
    np.testing.assert_allclose(changed[:9], whole[:9], atol=1e-6)
    assert np.abs(changed[9:] - whole[9:]).max() > 1


@pytest.mark.parametrize("online", [False, True])
def test_poses_after_the_last_frame_stay(
    refiner: Refiner, still: Any, online: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = people(6)
    refined = refiner.refine_video([still] * 4, tracks, online=online)
    np.testing.assert_array_equal(refined[4:], tracks[4:])
    alone = refiner.refine_video([still] * 4, tracks[:4], online=online)
    np.testing.assert_allclose(refined[:4], alone, atol=0.5)  # the later poses also say where the person is
    assert "the frames end after 4 of 6: poses after them stay as they were" in caplog.text
    with pytest.raises(InputError, match="expected 6, one for each frame of the tracks, got 2"):
        refiner.refine_video([still] * 2, tracks, online=online)


def test_nobody_and_nothing(refiner: Refiner, still: Any) -> None:
    assert refiner.refine_video([], np.zeros((0, 2, 17, 3))).shape == (0, 2, 17, 3)
    assert refiner.refine_video([still] * 3, np.zeros((3, 0, 17, 3))).shape == (3, 0, 17, 3)
    empty = np.full((3, 2, 17, 3), np.nan)
    np.testing.assert_array_equal(refiner.refine_video([still] * 3, empty), empty)
    assert refiner.refine_video([still], people(1)).shape == (1, 2, 17, 3)


def test_mistakes_are_told(refiner: Refiner, still: Any) -> None:
    with pytest.raises(InputError, match="expected 5, one for each frame"):
        refiner.refine_video([still] * 2, people(5))
    with pytest.raises(InputError, match="unknown option 'smooth'"):
        refiner.refine_video([still] * 5, people(5), smooth=True)
    with pytest.raises(InputError, match="delay"):
        refiner.refine_video([still] * 5, people(5), delay=-1)
    with pytest.raises(InputError, match="tracks"):
        refiner.refine_video([still] * 5, people(5)[:, 0])
