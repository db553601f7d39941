"""From what each frame's image says of every keypoint to one path: which place, then how it moved."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from posefix.video.kalman import Smoothed, log_likelihood, smooth

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Amounts of jerk that are tried for each keypoint, over the variance of its error: nearly still … faster than any.
_JERKS = 10.0 ** np.arange(-9.0, 1.01, 0.5)
#: Usual step between frames in length scales, when a place is chosen; larger ones cost little more.
_STEP, _STEP_COST = 0.15, 1.5
#: Spread of a place that the image does not know of, in length scales.
_FLOOR = 0.1
#: Degrees of freedom of Student's t: how heavy the tails are.
_TAILS = 3.0
_ROUNDS, _MEASURED_ROUNDS = 4, 2
_LEAST_MASS = 1e-6


@dataclass(frozen=True)
class Places:
    """Where each keypoint may be, for T frames, N people, K keypoints and M places each.

    Attributes:
        points: (T, N, K, M, 2) px.
        mass: (T, N, K, M) expected similarity of each; 0 for none. All 0 where nobody looked.
        variance: (T, N, K, M) px², how widely the image's answer spreads around it.
        std: (T, N, K) px, length scale of keypoint similarity; NaN where nobody looked.
    """

    points: Doubles
    mass: Doubles
    variance: Doubles
    std: Doubles

    def __len__(self) -> int:
        return len(self.std)

    def take(self, frames: slice) -> Places:
        """Some of the frames."""
        return Places(*(getattr(self, f.name)[frames] for f in fields(self)))

    @staticmethod
    def join(parts: list[Places]) -> Places:
        """Frames one after another."""
        return Places(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Places)))


@dataclass(frozen=True)
class Paths:
    """Where each keypoint was.

    Attributes:
        points: (T, N, K, 2) px; NaN for keypoints of people that no frame showed.
        confidence: (T, N, K) expected similarity there, 0 where nobody looked.
    """

    points: Doubles
    confidence: Doubles


def find_paths(places: Places) -> Paths:
    """The most likely smooth path of each keypoint.

    The places are chosen by dynamic programming; then the path is smoothed and each frame's places weighed anew by
    their distance from it, some rounds. How much a keypoint moves and how precise its places are is measured on the
    frames given, so that a still person becomes still and a fast one is not slowed.
    """
    frames, people, keypoints, count = places.mass.shape
    series = people * keypoints
    points = places.points.reshape(frames, series, count, 2)
    mass = places.mass.reshape(frames, series, count)
    std = places.std.reshape(frames, series)
    seen = mass.max(-1) > 0
    some = seen.any(0)
    result = np.full((frames, series, 2), np.nan)
    confidence = np.zeros((frames, series))
    if some.any():
        kept = points[:, some], mass[:, some], places.variance.reshape(mass.shape)[:, some], std[:, some]
        result[:, some], confidence[:, some] = _find(*kept)
    return Paths(result.reshape(frames, people, keypoints, 2), confidence.reshape(frames, people, keypoints))


def _find(points: Doubles, mass: Doubles, variance: Doubles, std: Doubles) -> tuple[Doubles, Doubles]:
    """Points (T, D, 2) and confidence (T, D) from (T, D, M, …) places of series that at least one frame shows."""
    seen = mass.max(-1) > 0
    # One unit of length for each series; what is not seen gets some number, and no weight.
    unit = np.nanmedian(np.where(seen, std, np.nan), axis=0)
    origin = np.stack([points[t, d, 0] for d, t in enumerate(seen.argmax(0))])
    points = np.where(seen[..., None, None], (points - origin[:, None]) / unit[:, None, None], 0.0)
    std = np.where(seen, std / unit, 1.0)
    variance = np.where(seen[..., None], variance / np.square(unit)[:, None], 1.0) + np.square(_FLOOR * std)[..., None]
    log_mass = np.where(seen[..., None], np.log(mass + _LEAST_MASS), 0.0)

    chosen = choose_places(points, log_mass, std)
    observed = np.take_along_axis(points, chosen[..., None, None], 2)[:, :, 0]
    spread = np.take_along_axis(variance, chosen[..., None], 2)[:, :, 0]
    certain = np.maximum(np.take_along_axis(mass, chosen[..., None], 2)[:, :, 0], 0.05)
    typical = np.nanmedian(np.where(seen, spread, np.nan), axis=0)
    relative = np.where(seen, spread / typical / certain, np.inf)

    jerk, error = choose_jerk(observed, relative)
    path = smooth(observed, relative, jerk)
    for number in range(_ROUNDS):
        observed, weight, certain = _weigh(points, log_mass, mass, variance, path)
        # A place far from the path counts for less than its distance alone would say.
        relative = np.where(seen, 1 / np.square(np.maximum(weight * typical, 1e-4)) / np.maximum(certain, 0.05), np.inf)
        if number < _MEASURED_ROUNDS:
            jerk, error = choose_jerk(observed, relative)
        inflation = np.maximum(1.0, (_TAILS + 2 * path.surprise / error) / (_TAILS + 2))
        path = smooth(observed, relative, jerk, inflation)
    away = np.square(points - path.points[:, :, None]).sum(-1)
    similar = mass * np.exp(-0.5 * away / (np.square(std)[..., None] + variance))
    return path.points * unit[:, None] + origin, similar.max(-1)


def choose_places(points: Doubles, log_mass: Doubles, std: Doubles) -> npt.NDArray[np.int64]:
    """Which place each frame means, by dynamic programming: likely ones, and not far from one frame to the next.

    Args:
        points: (T, D, M, 2).
        log_mass: (T, D, M); 0 for all places of frames that say nothing.
        std: (T, D) length scale of keypoint similarity.

    Returns:
        (T, D) indices.
    """
    frames, series, _, _ = points.shape
    cost, back = -log_mass[0], np.zeros(log_mass.shape, np.int64)
    last, age = points[0].copy(), np.ones(series)
    for t in range(1, frames):
        distance = np.linalg.norm(points[t][:, None] - last[:, :, None], axis=-1)
        step = (_STEP * std[t] * age)[:, None, None]
        total = cost[:, :, None] + _STEP_COST * np.log1p(np.square(distance / step))
        says = (log_mass[t] != 0).any(-1)
        stays = np.arange(cost.shape[1])
        back[t] = np.where(says[:, None], total.argmin(1), stays)
        cost = np.where(says[:, None], total.min(1) - log_mass[t], cost)
        last = np.where(says[:, None, None], points[t], last)
        age = np.where(says, 1.0, age + 1.0)
    chosen = np.zeros((frames, series), np.int64)
    chosen[-1] = cost.argmin(-1)
    for t in range(frames - 1, 0, -1):
        chosen[t - 1] = np.take_along_axis(back[t], chosen[t][:, None], 1)[:, 0]
    return chosen


def choose_jerk(observed: Doubles, relative: Doubles) -> tuple[Doubles, Doubles]:
    """(D,) the most likely density of the jerk over the error's variance, and (D,) the error's variance."""
    grid = np.repeat(_JERKS[:, None], observed.shape[1], axis=1)
    likelihood, error = log_likelihood(observed, relative, grid)
    best = likelihood.argmax(0)[None]
    return _JERKS[best[0]], np.take_along_axis(error, best, 0)[0]


def _weigh(
    points: Doubles, log_mass: Doubles, mass: Doubles, variance: Doubles, path: Smoothed
) -> tuple[Doubles, Doubles, Doubles]:
    """What each frame's places say together near the path: point (T, D, 2), precision and certainty (T, D)."""
    distance = np.square(points - path.points[:, :, None]).sum(-1) / variance
    likelihood = log_mass - np.log(variance) - (_TAILS + 2) / 2 * np.log1p(distance / _TAILS)
    share = np.exp(likelihood - likelihood.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    weight = share / (1 + distance / _TAILS) / variance
    total = weight.sum(-1)
    return (weight[..., None] * points).sum(2) / total[..., None], total, (share * mass).sum(-1)
