"""The filter and smoother against the definition: least squares over whole paths."""

from __future__ import annotations

import numpy as np
import pytest

from posefix.video.kalman import BRIEF, LASTING, log_likelihood, smooth


def path(kind: str, frames: int) -> np.ndarray:
    t = np.arange(frames, dtype=np.float64)
    x = {"still": 0 * t, "line": 0.5 * t, "parabola": 0.01 * t**2, "wave": 8 * np.sin(t / 6)}[kind]
    return np.stack([x, -2 * x], -1)[:, None]


@pytest.mark.parametrize("kind", ["still", "line", "parabola"])
def test_what_has_no_jerk_stays_as_it_is(kind: str) -> None:
    truth = path(kind, 50)
    found = smooth(truth, np.ones((50, 1)), np.array([1e-3]))
    np.testing.assert_allclose(found.points, truth, atol=1e-3)


def test_noise_is_reduced_and_nothing_lags() -> None:
    rng = np.random.default_rng(0)
    truth = path("wave", 200)
    noisy = truth + rng.normal(0, 1, truth.shape)
    found = smooth(noisy, np.full((200, 1), 1 / BRIEF), np.array([1e-2])).points
    assert np.abs(found - truth).mean() < 0.5 * np.abs(noisy - truth).mean()
    lags = [np.abs(found[10:-10] - truth[10 + s : 190 + s]).mean() for s in (-2, -1, 0, 1, 2)]
    assert int(np.argmin(lags)) == 2


def test_smoothing_is_the_least_squares_path() -> None:
    """The smoother's mean is the maximum of the joint density, found here by solving for all states at once."""
    rng = np.random.default_rng(1)
    frames, jerk = 12, 0.05
    observed = rng.normal(0, 1, (frames, 1, 2))
    found = smooth(observed, np.ones((frames, 1)), np.array([jerk])).points[:, 0]
    step = np.array([[1, 1, 0.5, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, LASTING]])
    noise = np.zeros((4, 4))
    noise[:3, :3] = jerk * np.array([[1 / 20, 1 / 8, 1 / 6], [1 / 8, 1 / 3, 1 / 2], [1 / 6, 1 / 2, 1]])
    noise[3, 3] = 1 - LASTING**2
    precision, wanted = np.zeros((4 * frames, 4 * frames)), np.zeros((4 * frames, 2))
    start = np.diag([1e-4, 1e-3, 1e-2, 1.0])
    precision[:4, :4] += start
    wanted[:4] += start @ np.array([observed[0, 0], [0, 0], [0, 0], [0, 0]])
    for t in range(frames):
        now = slice(4 * t, 4 * t + 4)
        sees = np.array([[1.0, 0, 0, 1]])
        precision[now, now] += sees.T @ sees / BRIEF
        wanted[now] += sees.T @ observed[t] / BRIEF
        if t:
            both = np.concatenate([-step, np.eye(4)], 1)
            span = slice(4 * t - 4, 4 * t + 4)
            precision[span, span] += both.T @ np.linalg.inv(noise) @ both
    exact = np.linalg.solve(precision, wanted)[::4]
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_gaps_are_bridged_and_less_certain() -> None:
    truth = path("wave", 80)
    relative = np.ones((80, 1))
    relative[30:36] = np.inf
    given = truth.copy()
    given[30:36] = 1e5
    found = smooth(given, relative, np.array([0.05]))
    assert np.abs(found.points - truth).max() < 1.0
    assert found.variance[33, 0] > 2 * found.variance[15, 0]


def test_a_series_may_begin_late() -> None:
    truth = path("line", 40) + 1000
    relative = np.ones((40, 1))
    relative[:15] = np.inf
    found = smooth(np.where(np.isfinite(relative)[..., None], truth, 0.0), relative, np.array([1e-3]))
    np.testing.assert_allclose(found.points[15:], truth[15:], atol=0.5)


def test_likelihood_finds_the_motion_there_was() -> None:
    rng = np.random.default_rng(2)
    frames = 300
    observed = np.stack([path("still", frames)[:, 0], 20 * path("wave", frames)[:, 0]], 1)
    observed += rng.normal(0, 1, observed.shape)
    grid = np.repeat(10.0 ** np.arange(-8, 2, 1.0)[:, None], 2, 1)
    likelihood, error = log_likelihood(observed, np.full((frames, 2), 1 / BRIEF), grid)
    best = likelihood.argmax(0)
    assert best[0] < best[1] - 2
    assert 0.3 < error[best[0], 0] < 3
