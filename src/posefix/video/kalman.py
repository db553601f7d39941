"""Motion as a chain of small steps: a Kalman filter and smoother for many points at once.

A point moves with a slowly changing acceleration; what is observed of it has an error that lasts for some frames, as
the errors of networks do, and a part that does not. Both matter: errors that last look like motion to a model that
expects them to be independent.

State of each series: position, velocity, acceleration, lasting error; x and y share their gains. Units are the
caller's; times are frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

#: Correlation of the lasting error from one frame to the next, and the share of the error that does not last.
LASTING, BRIEF = 0.7, 0.05

_STEP = np.array([[1.0, 1.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, LASTING]])
#: Covariance that white jerk of density 1 adds in a frame.
_JERK = np.array([[1 / 20, 1 / 8, 1 / 6, 0], [1 / 8, 1 / 3, 1 / 2, 0], [1 / 6, 1 / 2, 1, 0], [0, 0, 0, 0.0]])
_ERROR = np.diag([0.0, 0.0, 0.0, 1 - LASTING**2])
_START = np.diag([1e4, 1e3, 1e2, 1.0])
#: Observations of a series before its position, velocity and acceleration are known.
_ORDER = 3
_TINY = 1e-9


@dataclass(frozen=True)
class Smoothed:
    """What all frames say of each.

    Attributes:
        points: (T, D, 2) positions.
        variance: (T, D) of each coordinate, in units of the error's variance.
        surprise: (T, D) squared change of acceleration between frames, in units of ``jerk`` times the error's
            variance times 2; 0 at the first frame.
    """

    points: Doubles
    variance: Doubles
    surprise: Doubles


def log_likelihood(observed: Doubles, relative: Doubles, jerk: Doubles) -> tuple[Doubles, Doubles]:
    """How well amounts of jerk explain what was observed.

    Args:
        observed: (T, D, 2).
        relative: (T, D) variance of the brief error over its usual one; infinite where nothing was observed.
        jerk: (G, D) density of the jerk over the error's variance.

    Returns:
        (G, D) log likelihood with the best scale of the error, and (G, D) that scale, a variance.
    """
    mean, covariance = _start(observed, relative, jerk)
    log_det, squares = np.zeros(jerk.shape), np.zeros(jerk.shape)
    count, seen_before = np.zeros(jerk.shape[1]), np.zeros(jerk.shape[1])
    noise = jerk[..., None, None] * _JERK + _ERROR
    for t in range(len(observed)):
        if t:
            mean, covariance = _predict(mean, covariance, noise)
        mean, covariance, innovation, spread = _update(mean, covariance, observed[t], relative[t])
        seen = np.isfinite(relative[t])
        usable = seen & (seen_before >= _ORDER)
        log_det += np.where(usable, 2 * np.log(spread), 0.0)
        squares += np.where(usable, np.square(innovation).sum(-1) / spread, 0.0)
        count += 2.0 * usable
        seen_before += seen
    variance = squares / np.maximum(count, 1) + _TINY
    return -0.5 * (log_det + count * np.log(variance)), variance


def smooth(observed: Doubles, relative: Doubles, jerk: Doubles, inflation: Doubles | None = None) -> Smoothed:
    """Filter forwards and smooth backwards (Rauch, Tung, Striebel 1965).

    Args:
        observed: (T, D, 2).
        relative: (T, D) variance of the brief error over its usual one; infinite where nothing was observed.
        jerk: (D,) density of the jerk over the error's variance.
        inflation: (T, D) factors of ``jerk``; default 1.
    """
    frames, series = relative.shape
    mean, covariance = _start(observed, relative, jerk)
    steps = []
    for t in range(frames):
        if t:
            density = jerk if inflation is None else jerk * inflation[t]
            mean, covariance = _predict(mean, covariance, density[:, None, None] * _JERK + _ERROR)
        predicted = mean, covariance
        mean, covariance, _, _ = _update(mean, covariance, observed[t], relative[t])
        steps.append((predicted, (mean, covariance)))

    points, variance, surprise = np.zeros((frames, series, 2)), np.zeros((frames, series)), np.zeros((frames, series))
    for t in range(frames - 1, -1, -1):
        points[t], variance[t] = mean[:, 0], covariance[:, 0, 0]
        if t:
            (predicted_mean, predicted_covariance), (filtered, filtered_covariance) = steps[t][0], steps[t - 1][1]
            regular = predicted_covariance + _TINY * np.eye(len(_STEP))
            gain = np.linalg.solve(regular, _STEP @ filtered_covariance).swapaxes(-1, -2)
            before = filtered + gain @ (mean - predicted_mean)
            surprise[t] = np.square((mean - _STEP @ before)[:, 2]).sum(-1) / (2 * np.maximum(jerk, _TINY))
            covariance = filtered_covariance + gain @ (covariance - predicted_covariance) @ gain.swapaxes(-1, -2)
            mean = before
    return Smoothed(points, np.maximum(variance, 0.0), surprise)


def _start(observed: Doubles, relative: Doubles, jerk: Doubles) -> tuple[Doubles, Doubles]:
    """Mean (..., D, 4, 2) and covariance (..., D, 4, 4) before the first frame: where the first observation is."""
    first = np.isfinite(relative).argmax(0)
    mean = np.zeros((*jerk.shape, len(_STEP), 2))
    mean[..., 0, :] = observed[first, np.arange(len(first))]
    return mean, _START * np.maximum(1.0, jerk)[..., None, None]


def _predict(mean: Doubles, covariance: Doubles, noise: Doubles) -> tuple[Doubles, Doubles]:
    return _STEP @ mean, _STEP @ covariance @ _STEP.T + noise


def _update(
    mean: Doubles, covariance: Doubles, observed: Doubles, relative: Doubles
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Mean and covariance after a frame, its innovation (..., D, 2) and the innovation's variance (..., D)."""
    # What is observed is the position plus the lasting error.
    both = covariance[..., 0] + covariance[..., 3]
    spread = both[..., 0] + both[..., 3] + BRIEF * relative
    innovation = observed - mean[..., 0, :] - mean[..., 3, :]
    gain = both / spread[..., None]
    mean = mean + gain[..., None] * innovation[..., None, :]
    return mean, covariance - gain[..., None] * both[..., None, :], innovation, spread
