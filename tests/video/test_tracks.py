"""Tracks before the network: gaps are bridged as far as allowed, boxes do not tremble."""

from __future__ import annotations

import numpy as np
import pytest

from posefix.exceptions import InputError
from posefix.keypoints.skeleton import COCO
from posefix.video.tracks import read_tracks, steady_boxes


def line(frames: int = 20, people: int = 1) -> np.ndarray:
    t = np.arange(frames, dtype=np.float64)[:, None, None]
    x = 100 + 2 * t + 5 * np.arange(17) + 300 * np.arange(people)[:, None]
    return np.stack([x, 200 + 0 * x, 0.8 + 0 * x], -1)


def test_a_gap_is_guessed_between_its_ends() -> None:
    tracks = line()
    truth = tracks.copy()
    tracks[5:9, 0, 3] = np.nan
    read = read_tracks(tracks, COCO, max_gap=4)
    np.testing.assert_allclose(read.poses[..., :2], truth[..., :2])
    assert read.guessed.sum() == 4
    assert read.guessed[5:9, 0, 3].all()
    assert (read.poses[5:9, 0, 3, 2] < 0.8).all()


def test_long_gaps_and_ends_stay_empty() -> None:
    tracks = line()
    tracks[5:10] = np.nan
    tracks[:2, 0, 0, 2] = 0
    tracks[18:, 0, 1] = 0
    read = read_tracks(tracks, COCO, max_gap=4)
    assert not read.guessed.any()
    assert (read.poses[5:10, ..., 2] == 0).all()
    assert (read.poses[:2, 0, 0, 2] == 0).all()


def test_online_guesses_look_back_only() -> None:
    tracks = line()
    tracks[5:12, 0, 3] = np.nan
    read = read_tracks(tracks, COCO, max_gap=4, causal=True)
    assert read.guessed[:, 0, 3].tolist() == [5 <= t < 9 for t in range(20)]
    np.testing.assert_array_equal(read.poses[5:9, 0, 3, :2], np.repeat(tracks[4:5, 0, 3, :2], 4, 0))
    shorter = read_tracks(tracks[:7], COCO, max_gap=4, causal=True)
    np.testing.assert_array_equal(shorter.poses, read.poses[:7])


def test_the_input_is_not_changed() -> None:
    tracks = line()
    tracks[3:5] = np.nan
    before = tracks.copy()
    read = read_tracks(tracks, COCO, max_gap=4)
    read.poses[:] = 0
    np.testing.assert_array_equal(tracks, before)


@pytest.mark.parametrize("shape", [(5, 17, 3), (5, 1, 16, 3), (5, 1, 17, 4), (17, 3)])
def test_other_shapes_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected"):
        read_tracks(np.zeros(shape), COCO, max_gap=4)
    with pytest.raises(InputError, match="tracks"):
        read_tracks([np.zeros((1, 17, 3)), np.zeros((2, 17, 3))], COCO, max_gap=4)


@pytest.mark.parametrize("shape", [(0, 0, 17, 3), (0, 2, 17, 3), (4, 0, 17, 3), (4, 1, 17, 2)])
def test_nobody_and_nothing(shape: tuple[int, ...]) -> None:
    assert read_tracks(np.ones(shape), COCO, max_gap=4).valid.shape == shape[:3]


def test_steady_boxes() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(60, dtype=np.float64)[:, None, None]
    truth = np.array([10.0, 20, 110, 220]) + 3 * t
    noisy = truth + rng.normal(0, 5, truth.shape)
    noisy[20] += 400
    noisy[40:45] = np.nan
    steady = steady_boxes(noisy)
    assert np.isnan(steady[40:45]).all()
    error = np.abs(steady - truth)
    assert np.nanmax(error) < 15
    assert np.nanmean(np.abs(np.diff(steady, 2, axis=0))) < 0.2 * np.nanmean(np.abs(np.diff(noisy, 2, axis=0)))


@pytest.mark.parametrize("ahead", [0, 2, 4, 5])
def test_boxes_do_not_lag_and_use_no_later_frame_than_they_may(ahead: int) -> None:
    truth = np.array([10.0, 20, 110, 220]) + 12 * np.arange(60, dtype=np.float64)[:, None, None]
    steady = steady_boxes(truth, ahead)
    np.testing.assert_allclose(steady[10:-5], truth[10:-5])
    np.testing.assert_allclose(steady, truth, atol=13)
    noisy = truth + np.random.default_rng(0).normal(0, 5, truth.shape)
    np.testing.assert_array_equal(steady_boxes(noisy[: 30 + ahead], ahead)[:30], steady_boxes(noisy, ahead)[:30])


def test_boxes_keep_their_sides_in_order() -> None:
    shrinking = np.concatenate([np.full((4, 1, 4), [0.0, 0, w, w]) for w in (100, 60, 20)])
    steady = steady_boxes(shrinking, 0)
    assert (steady[..., 2:] > steady[..., :2]).all()
