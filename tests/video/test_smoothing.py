"""Places and paths: the right place is chosen, jitter goes, motion stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from posefix.video.smoothing import Places, choose_places, divide_places, find_paths, keep_settled, measure_jerk

Floats = npt.NDArray[np.float64]
STD = 20.0


def places_of(track: Floats, seen: npt.NDArray[np.bool_] | None = None, mass: float = 0.9) -> Places:
    """One place per frame at (T, N, K, 2), and a second one of little mass 150 px away."""
    frames, people, keypoints, _ = track.shape
    points = np.stack([track, track + 150], 3)
    weights = np.broadcast_to([mass, 0.01], (frames, people, keypoints, 2)).copy()
    if seen is not None:
        weights[~seen] = 0
    std = np.where(weights.max(-1) > 0, STD, np.nan)
    return Places(points, weights, np.full(weights.shape, 4.0), std)


def wave(frames: int, size: float = 60.0, period: float = 15.0) -> Floats:
    t = np.arange(frames)
    return np.stack([200 + size * np.sin(t / period), 100 + 0.5 * t], -1)[:, None, None]


def restless(points: Floats) -> float:
    return float(np.median(np.linalg.norm(np.diff(points, 2, axis=0), axis=-1)))


def test_jitter_goes_and_motion_stays() -> None:
    rng = np.random.default_rng(0)
    truth = wave(150)
    noisy = truth + rng.normal(0, 2, truth.shape)
    found = find_paths(places_of(noisy)).points
    assert restless(found) < 0.15 * restless(noisy)
    assert np.linalg.norm(found - truth, axis=-1).mean() < 0.7 * np.linalg.norm(noisy - truth, axis=-1).mean()


def test_the_fastest_frames_lose_nothing() -> None:
    rng = np.random.default_rng(1)
    truth = wave(200, size=150, period=6)
    noisy = truth + rng.normal(0, 2, truth.shape)
    found = find_paths(places_of(noisy)).points
    speed = np.linalg.norm(np.gradient(truth, axis=0), axis=-1)
    fast = speed >= np.percentile(speed, 95)
    error = [np.linalg.norm(x - truth, axis=-1)[fast].mean() for x in (found, noisy)]
    assert error[0] < error[1]


def test_a_sudden_start_is_followed() -> None:
    """Still, then at once 12 px a frame: one frame's movement off where it starts, and right soon after."""
    rng = np.random.default_rng(2)
    x = 100 + 12.0 * np.maximum(np.arange(120) - 60, 0)
    truth = np.stack([x, np.full(120, 50.0)], -1)[:, None, None]
    noisy = truth + rng.normal(0, 1, truth.shape)
    found = find_paths(places_of(noisy)).points
    error = np.linalg.norm(found - truth, axis=-1)[:, 0, 0]
    assert error.max() < 12
    assert np.delete(error, np.arange(57, 64)).max() < 3
    assert restless(found[5:50]) < 0.3 * restless(noisy[5:50])


def test_a_still_point_stays_still() -> None:
    rng = np.random.default_rng(3)
    truth = np.full((100, 1, 1, 2), 300.0)
    found = find_paths(places_of(truth + rng.normal(0, 2, truth.shape))).points
    assert np.linalg.norm(found - found.mean(0), axis=-1).max() < 1.5


def test_a_place_that_time_contradicts_is_not_taken() -> None:
    """Some frames prefer a place 150 px away; the second-best place is on the path."""
    truth = wave(60)
    places = places_of(truth)
    for t in (7, 20, 21, 45):
        places.mass[t, 0, 0] = [0.3, 0.5]
    found = find_paths(places)
    assert np.linalg.norm(found.points - truth, axis=-1).max() < 4
    assert found.confidence[20, 0, 0] < 0.9 * found.confidence[10, 0, 0]


def test_a_place_that_lasts_is_taken() -> None:
    places = places_of(wave(60))
    places.mass[30:, 0, 0] = [1e-5, 0.9]
    chosen = choose_places(places.points[:, 0], np.log(places.mass[:, 0]), np.full((60, 1), STD))
    assert (chosen[:30] == 0).all()
    assert (chosen[30:] == 1).all()


@pytest.mark.parametrize("gap", [6, 20])
def test_frames_where_nobody_looked_are_bridged_with_honest_confidence(gap: int) -> None:
    """Over many tracks it is the similarity, less in the middle; the image is sure to 0.9 of what it shows."""
    rng = np.random.default_rng(4)
    truth = np.cumsum(np.cumsum(rng.normal(0, 1.0, (80, 40, 1, 2)), 0), 0)
    seen = np.ones((80, 40, 1), bool)
    seen[30 : 30 + gap] = False
    found = find_paths(places_of(truth + rng.normal(0, 2, truth.shape), seen))
    similar = np.exp(-0.5 * np.square(np.linalg.norm(found.points - truth, axis=-1) / STD))
    hidden = found.confidence[30 : 30 + gap].mean((1, 2))
    assert abs(hidden.mean() - 0.9 * similar[30 : 30 + gap].mean()) < 0.1
    assert hidden[gap // 2] < hidden[[0, -1]].min() < found.confidence[10].mean()


def test_who_is_never_seen_is_nowhere() -> None:
    truth = np.concatenate([wave(30), wave(30) + 50], 1)
    seen = np.ones((30, 2, 1), bool)
    seen[:, 1] = False
    found = find_paths(places_of(truth, seen))
    assert np.isnan(found.points[:, 1]).all()
    assert np.isfinite(found.points[:, 0]).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_tracks(frames: int) -> None:
    found = find_paths(places_of(wave(frames)))
    np.testing.assert_allclose(found.points, wave(frames), atol=1.0)


def test_people_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(4)
    both = np.concatenate([wave(50), wave(50, 20, 5) + 400], 1) + rng.normal(0, 1, (50, 2, 1, 2))
    together, alone = find_paths(places_of(both)), find_paths(places_of(both[:, 1:]))
    np.testing.assert_allclose(together.points[:, 1:], alone.points, atol=1e-6)


def test_scale_and_shift_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    track = wave(50) + rng.normal(0, 1, (50, 1, 1, 2))
    first = find_paths(places_of(track)).points
    places = places_of(track)
    large = Places(7 * places.points - 900, places.mass, 49 * places.variance, 7 * places.std)
    np.testing.assert_allclose(find_paths(large).points, 7 * first - 900, atol=1e-4)


def test_jerk_of_one_part_serves_the_next() -> None:
    rng = np.random.default_rng(6)
    track = np.concatenate([wave(200, 80, 5), wave(200, 0)], 1) + rng.normal(0, 1, (200, 2, 1, 2))
    jerk = measure_jerk(places_of(track[:100]))
    assert jerk.shape == (2, 1)
    assert jerk[0, 0] > 10 * jerk[1, 0]
    found = find_paths(places_of(track[100:]), jerk, rounds=2).points
    assert restless(found) < restless(track[100:])


def test_what_is_settled_stays_to_the_bit() -> None:
    truth, std = wave(60), np.full((60, 1, 1), STD)
    valid = np.ones((60, 1, 1), bool)
    np.testing.assert_array_equal(keep_settled(truth, valid, truth + 1.0, std), truth)
    # Elsewhere, trembling, or missing: it does not stay.
    np.testing.assert_array_equal(keep_settled(truth + 10, valid, truth, std), truth)
    rng = np.random.default_rng(7)
    trembling = truth + rng.normal(0, 1, truth.shape)
    assert (keep_settled(trembling, valid, truth, std) != trembling).any(-1).all()
    np.testing.assert_array_equal(keep_settled(np.full_like(truth, np.nan), ~valid, truth, std), truth)


def test_settled_and_found_paths_meet_without_a_jump() -> None:
    truth, std, valid = wave(80), np.full((80, 1, 1), STD), np.ones((80, 1, 1), bool)
    found = truth + 1.0
    found[40:] += 30.0 / (1 + np.exp(-(np.arange(40) - 20)))[:, None, None, None]
    mixed = keep_settled(truth, valid, found, std)
    np.testing.assert_array_equal(mixed[:20], truth[:20])
    np.testing.assert_array_equal(mixed[-10:], found[-10:])
    assert np.linalg.norm(np.diff(mixed - truth, axis=0), axis=-1).max() < 10


SAME = np.array([0, 2, 1])


def two_who_meet(apart: float = 0.0, noise: float = 1.0) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(T, 2, 3, 2) two people with a head and two hands who pass one another, and (T,) where they are near."""
    rng = np.random.default_rng(5)
    t = np.arange(60)
    way = np.stack([6.0 * t - 180, np.zeros(60)], -1)
    body = np.array([[0, 0], [-40, 90], [40, 90]])
    people = np.stack([way[:, None] + body, body - way[:, None] + np.array([0, apart + 12])], 1)
    return 400 + people + rng.normal(0, noise, people.shape), np.abs(way[:, 0]) < 50


@pytest.mark.parametrize("mirrored", [False, True])
def test_covered_keypoints_are_not_the_other_persons(mirrored: bool) -> None:
    """While they meet, the image shows the first person's keypoints (or their mirrors) in place of the second's."""
    truth, meeting = two_who_meet()
    seen = truth.copy()
    seen[meeting, 1] = truth[meeting, 0][:, SAME if mirrored else slice(None)]
    places = places_of(seen)
    divided = divide_places(places, SAME)
    error = [np.linalg.norm(find_paths(p).points - truth, axis=-1) for p in (places, divided)]
    assert error[1][:, 0].max() < 10  # who is in front stays where they are
    assert error[1][:, 1].max() < 20
    assert error[1][meeting, 1].mean() < 0.5 * error[0][meeting, 1].mean()
    taken = divided.mass[meeting, 1, :, 0].mean()
    assert taken < 0.5 * divided.mass[meeting, 0, :, 0].mean()


def test_who_is_covered_at_the_end_does_not_fly_away() -> None:
    truth, meeting = two_who_meet()
    seen = truth.copy()
    seen[meeting, 1] = truth[meeting, 0]
    places = places_of(seen).take(slice(0, 36))
    error = [np.linalg.norm(find_paths(p).points - truth[:36], axis=-1) for p in (places, divide_places(places, SAME))]
    assert error[1].mean() <= error[0].mean()
    assert error[1].max() < 1.2 * error[0].max()


def test_who_meets_nobody_keeps_their_places() -> None:
    truth, _ = two_who_meet(apart=500)
    places = places_of(truth)
    assert divide_places(places, SAME) is places
    alone = places_of(truth[:, :1])
    assert divide_places(alone, SAME) is alone


def test_two_tracks_of_one_person_keep_their_places() -> None:
    truth, _ = two_who_meet()
    places = places_of(truth[:, [0, 0]])
    np.testing.assert_array_equal(divide_places(places, SAME).mass, places.mass)


def test_places_of_people_who_are_not_there() -> None:
    truth, _ = two_who_meet()
    seen = np.ones(truth.shape[:3], bool)
    seen[20:40, 1] = False
    seen[:, 0, 2] = False
    divided = divide_places(places_of(truth, seen), SAME)
    assert np.isfinite(divided.mass).all()
    np.testing.assert_array_equal(divided.mass.max(-1) > 0, seen)
