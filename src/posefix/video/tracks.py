"""Tracks before the network: gaps bridged by guesses, and boxes that do not tremble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import Skeleton
from posefix.tensors import real_array

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Frames of which the median, then a line, makes a steady box.
_MEDIAN, _LINE = 5, 7
#: Frames after it on which a steady box depends at most; those before are at most twice as many.
REACH = (_MEDIAN + _LINE) // 2 - 1
#: A line needs so many medians.
_LEAST = 3
#: Score of a guess, as a share of the lower score of the two known frames around it.
_GUESS = 0.5


@dataclass(frozen=True)
class Tracks:
    """T frames of N tracks.

    Attributes:
        given: (T, N, K, 3) as they came, a copy.
        valid: (T, N, K) keypoints that were given.
        guessed: (T, N, K) keypoints inside short gaps, guessed from those before and after.
        poses: (T, N, K, 3) given and guessed, score 0 where neither.
        known: (K,) keypoints that the skeleton's data annotates; nothing can be said of the others.
    """

    given: Floats
    valid: Bools
    guessed: Bools
    poses: Doubles
    known: Bools


def read_tracks(tracks: Any, skeleton: Skeleton, max_gap: int, *, causal: bool = False) -> Tracks:
    """Check tracks and guess what short gaps hide.

    Args:
        tracks: (T, N, K, 3) [x, y, score] or (T, N, K, 2), missing as for ``Refiner.refine``.
        skeleton: whose K is expected.
        max_gap: longest gap, in frames, that is bridged.
        causal: guess from the frames before alone.

    Raises:
        InputError: another shape, or no numbers.
    """
    array = real_array(tracks, "tracks", "; give NaN rows where a frame has fewer people")
    if array.ndim != 4:
        hint = "; for one person's track pass tracks[:, None]" if array.ndim == 3 else ""
        raise InputError(f"tracks: expected (T, N, {len(skeleton)}, 3), frames before people, got {array.shape}{hint}")
    frames, people = array.shape[:2]
    flat = read_poses(array.reshape(frames * people, *array.shape[2:]), skeleton)
    given = flat.original.reshape(frames, people, *flat.original.shape[1:])
    points = flat.points.reshape(frames, people, len(skeleton), 2)
    valid = flat.valid.reshape(frames, people, len(skeleton))
    scores = np.where(valid, given[..., 2] if given.shape[3] == 3 else 1.0, 0.0)
    before, after = _known_frames(valid, causal=causal)
    t = np.arange(frames)[:, None, None]
    guessed = ~valid & (before >= 0) & (after < frames) & (after - before - 1 <= max_gap)
    if causal:
        guessed = ~valid & (before >= 0) & (t - before <= max_gap)
    start, end = np.clip(before, 0, max(frames - 1, 0)), np.clip(after, 0, max(frames - 1, 0))

    def at(values: Doubles, place: npt.NDArray[np.int64]) -> Doubles:
        return np.take_along_axis(values, place[..., None] if values.ndim == 4 else place, 0)

    part = ((t - start) / np.maximum(end - start, 1))[..., None]
    bridge = at(points, start) * (1 - part) + at(points, end) * part
    guess_scores = _GUESS * np.minimum(at(scores, start), at(scores, end))
    poses = np.concatenate(
        [
            np.where(guessed[..., None], bridge, points),
            np.where(guessed, guess_scores, scores)[..., None],
        ],
        axis=-1,
    )
    return Tracks(given, valid, guessed, poses, flat.known)


def _known_frames(valid: Bools, *, causal: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(T, …) the last frame up to each in which something is valid (−1: none), and the first from it on (T: none)."""
    frames = len(valid)
    t = np.arange(frames).reshape(-1, *[1] * (valid.ndim - 1))
    before = np.maximum.accumulate(np.where(valid, t, -1), axis=0)
    if causal:
        return before, before
    after = np.minimum.accumulate(np.where(valid, t, frames)[::-1], axis=0)[::-1]
    return before, after


def steady_boxes(boxes: Doubles, ahead: int = REACH) -> Doubles:
    """Boxes that follow a person without trembling: running medians, and lines through them read at each frame.

    A crop that trembles with the estimator's errors makes the network's output tremble; one that lags behind cuts off
    people who move.

    Args:
        boxes: (T, N, 4) xyxy; NaN where there is none.
        ahead: frames after each that are used, at most ``REACH``.

    Returns:
        (T, N, 4), NaN where it was.
    """
    if not len(boxes):
        return boxes
    around = _MEDIAN // 2
    windows = _windows(boxes, _MEDIAN, around)
    medians = np.full(boxes.shape, np.nan)
    some = np.isfinite(windows).any(-1)
    medians[some] = np.nanmedian(windows[some], axis=-1)

    last = min(ahead, REACH) - around
    values = _windows(medians, _LINE, last)
    known = np.isfinite(values)
    count = known.sum(-1)
    time = np.where(known, np.arange(last - _LINE + 1, last + 1), 0.0)
    values = np.where(known, values, 0.0)
    times, squares, total, products = (x.sum(-1) for x in (time, time**2, values, time * values))
    spread = count * squares - times**2
    with np.errstate(invalid="ignore", divide="ignore"):
        line = (squares * total - times * products) / spread
    usable = (count >= _LEAST).all(-1) & (line[..., 2:] > line[..., :2]).all(-1)
    return np.where(np.isnan(boxes) | ~usable[..., None], boxes, line)


def _windows(values: Doubles, size: int, after: int) -> Doubles:
    """(T, …, size) of each frame the values of some frames up to ``after`` frames later; NaN beyond the ends."""
    pad = [(size - 1 - after, max(after, 0))] + [(0, 0)] * (values.ndim - 1)
    padded = np.pad(values, pad, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)[: len(values)]
