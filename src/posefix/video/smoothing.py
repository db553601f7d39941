"""From what each frame's image says of every keypoint to one path: which place, then how it moved."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
#: A path stays as given where it is at most so many length scales away and its second differences are at most so
#: many times those of the path that was found, or nearly nothing, for so many frames on both sides.
_SETTLED, _RESTLESS, _STILL, _AROUND = 0.15, 1.5, 0.002, 3
#: Rounds of weighing after which motion is measured anew.
_MEASURED_ROUNDS = 2
#: How much less a frame says of the confidence of the next.
_NEAR = 0.8
_LEAST_MASS, _LEAST_CERTAIN, _TINY = 1e-6, 0.05, 1e-300
#: Share of the frames that must show a keypoint apart from other people's, to say where it is in the others.
_KNOWN = 0.3
#: Share of the best place's mass below which a frame says nothing of a keypoint.
_CLEAR = 0.25


@dataclass(frozen=True)
class Places:
    """Where each keypoint may be, for T frames, N people, K keypoints and M places each.

    Attributes:
        points: (T, N, K, M, 2) px.
        mass: (T, N, K, M) expected similarity of each; 0 for none. All 0 where nothing was observed.
        variance: (T, N, K, M) px², how widely the image's answer spreads around it.
        std: (T, N, K) px, length scale of keypoint similarity; NaN where nothing was observed.
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
        confidence: (T, N, K) expected similarity there; 0 for keypoints that no frame showed.
    """

    points: Doubles
    confidence: Doubles

    def __len__(self) -> int:
        return len(self.points)

    def take(self, frames: slice) -> Paths:
        """Some of the frames."""
        return Paths(self.points[frames], self.confidence[frames])


def find_paths(places: Places, jerk: Doubles | None = None, rounds: int = 4) -> Paths:
    """The most likely smooth path of each keypoint.

    The places are chosen by dynamic programming; then the path is smoothed and each frame's places weighed anew by
    their distance from it, some rounds. How much a keypoint moves and how precise its places are is measured on the
    frames given, so that a still person becomes still and a fast one is not slowed.

    Args:
        places: of T frames.
        jerk: (N, K) from ``measure_jerk``; None measures it here.
        rounds: of weighing.
    """
    frames, people, keypoints, count = places.mass.shape
    result = np.full((frames, people * keypoints, 2), np.nan)
    confidence = np.zeros((frames, people * keypoints))
    seen = places.mass.reshape(frames, people * keypoints, count).max(-1) > 0
    some = seen.any(0)
    if some.any():
        series = _Series.of(places, some)
        given = None if jerk is None else jerk.reshape(-1)[some]
        result[:, some], confidence[:, some], _, _ = _find(series, given, rounds)
    return Paths(result.reshape(frames, people, keypoints, 2), confidence.reshape(frames, people, keypoints))


def divide_places(places: Places, flip_indices: npt.NDArray[np.int64]) -> Places:
    """Places at which another person's keypoint is, too, go to whom the motion around these frames leads there.

    While one person covers another, the image shows the one in front, and the network takes its keypoints for those of
    the person behind.

    Args:
        places: of T frames.
        flip_indices: (K,) left ↔ right.

    Returns:
        places with the mass that is left to each person.
    """
    pairs = _meeting(places)
    if not len(pairs):
        return places
    first, second = pairs.T
    most = places.mass.argmax(-1)[..., None]
    best = np.take_along_axis(places.points, most[..., None], 3)[..., 0, :]
    there = places.mass > 0
    seen: Bools = np.asarray(there.any(-1))
    contested = np.zeros(places.mass.shape, bool)
    for order in (slice(None), flip_indices):
        distance = np.linalg.norm(places.points[:, first] - best[:, second][:, :, order, None], axis=-1)
        near = (distance < places.std[:, first][..., None]) & seen[:, second][:, :, order, None]
        np.logical_or.at(contested.swapaxes(0, 1), first, (near & there[:, first]).swapaxes(0, 1))
    if not contested.any():
        return places
    # Frames that others may have corrupted say nothing of where a keypoint is expected.
    expected = _expected(replace(places, mass=places.mass * ~np.take_along_axis(contested, most, -1)))
    density = _density(places.points, places.variance, *expected)
    other = np.zeros(places.mass.shape)
    for order in (slice(None), flip_indices):
        theirs = (values[:, second][:, :, order] for values in expected)
        claim = _density(places.points[:, first], places.variance[:, first], *theirs)
        np.maximum.at(other.swapaxes(0, 1), first, claim.swapaxes(0, 1))
    # Who has no path but this one keeps it.
    undisputed = ~contested | (density == 0)
    share = density / np.maximum(density + other, _TINY)
    left = places.mass * np.where(undisputed, 1.0, share)
    # What else the image shows where the other covers the best place is no better. The path bridges such frames, but
    # it would fly away where it is known on one side of them alone.
    clear = np.take_along_axis(left, most, -1) > _CLEAR * np.take_along_axis(places.mass, most, -1)
    before, after = (np.logical_or.accumulate(clear[::way], axis=0)[::way] for way in (1, -1))
    return replace(places, mass=np.where(clear, left, np.where(before & after, 0.0, places.mass)))


def _meeting(places: Places) -> npt.NDArray[np.int64]:
    """(P, 2) ordered pairs of people whose boxes meet in some frame."""
    points = np.where((places.mass > 0)[..., None], places.points, np.nan)[:, :, :, 0]
    some = np.isfinite(points[..., 0]).any(-1)
    low, high = np.full((*some.shape, 2), np.inf), np.full((*some.shape, 2), -np.inf)
    low[some], high[some] = np.nanmin(points[some], 1), np.nanmax(points[some], 1)
    overlap = ((low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])).all(-1).any(0)
    return np.argwhere(overlap & ~np.eye(overlap.shape[0], dtype=bool))


def _expected(places: Places) -> tuple[Doubles, Doubles]:
    """Path (T, N, K, 2) px and its variance (T, N, K) px²; infinite where too few frames know of a keypoint."""
    shape = places.std.shape
    mean, spread = np.zeros((len(places), shape[1] * shape[2], 2)), np.full((len(places), shape[1] * shape[2]), np.inf)
    some = ((places.mass.max(-1) > 0).mean(0) >= _KNOWN).reshape(-1)
    if some.any():
        series = _Series.of(places, some)
        mean[:, some], _, _, spread[:, some] = _find(series, None, _MEASURED_ROUNDS)
    return mean.reshape(*shape, 2), spread.reshape(shape)


def _density(points: Doubles, variance: Doubles, mean: Doubles, spread: Doubles) -> Doubles:
    """(T, N, K, M) how likely a path leads to places: Student's t, 0 where the spread is infinite."""
    scale = variance + spread[..., None]
    distance = np.square(points - mean[..., None, :]).sum(-1) / scale
    return np.asarray((1 + distance / _TAILS) ** (-(_TAILS + 2) / 2) / scale)


def keep_settled(given: Doubles, valid: Bools, points: Doubles, std: Doubles) -> Doubles:
    """Paths that stay exactly where the given ones are, where these are as calm and hardly elsewhere.

    What was refined before stays, then, and so does what needs no refinement.

    Args:
        given: (T, N, K, 2) px.
        valid: (T, N, K) which of them exist.
        points: (T, N, K, 2) px of the paths that were found.
        std: (T, N, K) px, length scale of keypoint similarity.

    Returns:
        (T, N, K, 2): given, found, and between them some frames that lead from one to the other.
    """
    if len(given) < 3:
        return points
    given = np.where(valid[..., None], given, points)
    near = valid & (np.linalg.norm(given - points, axis=-1) <= _SETTLED * std)
    calm = _restlessness(given) <= _RESTLESS * _restlessness(points) + _STILL * std
    kept = _running_mean((near & calm).astype(np.float64), _AROUND) > 1 - 1e-9
    share = _running_mean(kept.astype(np.float64), _AROUND)[..., None]
    return np.where(share > 1 - 1e-9, given, points + share * (given - points))


def _restlessness(points: Doubles) -> Doubles:
    """(T, N, K) mean size of the second difference around each frame."""
    change = np.linalg.norm(np.diff(np.nan_to_num(points), 2, axis=0), axis=-1)
    return _running_mean(np.concatenate([change[:1], change, change[-1:]]), _AROUND)


def _running_mean(values: Doubles, around: int) -> Doubles:
    """Of each frame and ``around`` on both sides; the first and last frame stand for those beyond."""
    padded = np.concatenate([values[:1]] * around + [values] + [values[-1:]] * around)
    total = np.cumsum(np.concatenate([np.zeros_like(values[:1]), padded]), axis=0)
    size = 2 * around + 1
    return np.asarray((total[size:] - total[:-size]) / size)


def measure_jerk(places: Places) -> Doubles:
    """(N, K) how much each keypoint moves, for ``find_paths`` on other frames; 1 for what is not seen."""
    shape = places.std.shape[1:]
    jerk = np.ones(shape[0] * shape[1])
    some = (places.mass.max(-1) > 0).any(0).reshape(-1)
    if some.any():
        jerk[some] = _find(_Series.of(places, some), None, 2)[2]
    return jerk.reshape(shape)


@dataclass(frozen=True)
class _Series:
    """D keypoints' places, each in its own unit of length, which is its length scale, and from its first place on.

    What is not seen has some finite number everywhere, and ``seen`` says so.
    """

    points: Doubles  # (T, D, M, 2)
    mass: Doubles  # (T, D, M)
    variance: Doubles  # (T, D, M), at least that of a place the image does not know of
    std: Doubles  # (T, D)
    seen: Bools  # (T, D)
    origin: Doubles  # (D, 2)
    unit: Doubles  # (D,)

    @staticmethod
    def of(places: Places, some: Bools) -> _Series:
        frames, _, _, count = places.mass.shape
        points = places.points.reshape(frames, -1, count, 2)[:, some]
        mass = places.mass.reshape(frames, -1, count)[:, some]
        std = places.std.reshape(frames, -1)[:, some]
        variance = places.variance.reshape(frames, -1, count)[:, some]
        seen = mass.max(-1) > 0
        unit = np.nanmedian(np.where(seen, std, np.nan), axis=0)
        origin = points[seen.argmax(0), np.arange(points.shape[1]), 0]
        std = np.where(seen, std / unit, 1.0)
        variance = np.where(seen[..., None], variance / np.square(unit)[:, None], 1.0)
        return _Series(
            np.where(seen[..., None, None], (points - origin[:, None]) / unit[:, None, None], 0.0),
            mass,
            variance + np.square(_FLOOR * std)[..., None],
            std,
            seen,
            origin,
            unit,
        )


def _find(series: _Series, given: Doubles | None, rounds: int) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Points (T, D, 2) px, confidence (T, D), jerk (D,) and the points' variance (T, D) px²."""
    points, mass, seen = series.points, series.mass, series.seen
    log_mass = np.where(seen[..., None], np.log(mass + _LEAST_MASS), 0.0)
    chosen = choose_places(points, log_mass, series.std)
    observed = np.take_along_axis(points, chosen[..., None, None], 2)[:, :, 0]
    spread = np.take_along_axis(series.variance, chosen[..., None], 2)[:, :, 0]
    certain = np.take_along_axis(mass, chosen[..., None], 2)[:, :, 0]
    typical = np.nanmedian(np.where(seen, spread, np.nan), axis=0)
    relative = np.where(seen, spread / typical / np.maximum(certain, _LEAST_CERTAIN), np.inf)

    jerk, error = choose_jerk(observed, relative, given)
    path = smooth(observed, relative, jerk)
    for number in range(rounds):
        observed, weight, certain = _weigh(points, log_mass, mass, series.variance, path)
        # A place far from the path counts for less than its distance alone would say.
        weight = np.square(np.maximum(weight * typical, 1e-4)) * np.maximum(certain, _LEAST_CERTAIN)
        relative = np.where(seen, 1 / weight, np.inf)
        if number < _MEASURED_ROUNDS:
            jerk, error = choose_jerk(observed, relative, given)
        inflation = np.maximum(1.0, (_TAILS + 2 * path.surprise / error) / (_TAILS + 2))
        path = smooth(observed, relative, jerk, inflation)
    away = np.square(points - path.points[:, :, None]).sum(-1)
    scale = np.square(series.std)
    similar = (mass * np.exp(-0.5 * away / (scale[..., None] + series.variance))).max(-1)
    spread = path.variance * error
    # Where a frame does not show the keypoint on the path, the path is as good as around, but for its own spread there.
    confidence = np.maximum(similar, _around(similar, seen) * scale / (scale + spread))
    return path.points * series.unit[:, None] + series.origin, confidence, jerk, spread * np.square(series.unit)


def _around(values: Doubles, seen: Bools) -> Doubles:
    """(T, D) of each frame the mean of those seen, the near ones above all."""
    time = np.arange(len(values))
    near = _NEAR ** np.abs(time[:, None] - time)
    return np.asarray(near @ (seen * values) / np.maximum(near @ seen, _TINY))


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


def choose_jerk(observed: Doubles, relative: Doubles, given: Doubles | None = None) -> tuple[Doubles, Doubles]:
    """(D,) the most likely density of the jerk over the error's variance, or the one given; (D,) that variance."""
    grid = np.repeat(_JERKS[:, None], observed.shape[1], axis=1) if given is None else given[None]
    likelihood, error = log_likelihood(observed, relative, grid)
    best = likelihood.argmax(0)[None]
    return np.take_along_axis(grid, best, 0)[0], np.take_along_axis(error, best, 0)[0]


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
