"""Refine tracks: frames are read once, in blocks; paths are found in windows that overlap, so memory stays flat."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.geometry import boxes_around_points
from posefix.inference.batching import ahead
from posefix.inference.crops import LEAST_CONFIDENCE, Prepared, prepare
from posefix.inference.track_observation import Memory, Observed, Observer, observe
from posefix.keypoints.mapping import share_keypoints
from posefix.keypoints.poses import present, read_poses
from posefix.video.left_right import exchange_sides, side_groups
from posefix.video.options import VideoOptions
from posefix.video.smoothing import Paths, Places, divide_places, find_paths, keep_settled, measure_jerk
from posefix.video.tracks import REACH, Tracks, steady_boxes

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Frames in which paths are found at once, and frames that neighbouring windows share.
WINDOW, OVERLAP = 240, 40
#: Person crops of a block of frames.
_BLOCK = 64
#: Frames that are remembered online, and how often motion is measured on them.
_MEMORY, _MEASURED_EVERY = 48, 8
#: Confidence of a keypoint in a gap, of what the image alone would give it.
FILLED = 0.5


@dataclass(frozen=True)
class RefinedFrames:
    """Some consecutive frames after refinement.

    Attributes:
        start: number of the first.
        keypoints: (F, N, K, 3 or 2) as the tracks came.
        filled: (F, N, K) keypoints that were missing, and lie in a short gap of the track.
        exchanged: (F, N, G) whether left and right of a group (``video.left_right.GROUPS``) were exchanged.
        offset: (F, N, 2) px by which all given keypoints were moved first, because they lay to one side.
    """

    start: int
    keypoints: Floats
    filled: Bools
    exchanged: Bools
    offset: Doubles

    def __len__(self) -> int:
        return len(self.keypoints)


def refine_tracks(
    observer: Observer, frames: Iterable[Any], tracks: Tracks, options: VideoOptions
) -> Iterator[RefinedFrames]:
    """Refine the tracks of a video, frames as they come.

    Args:
        observer: of the tracks' keypoint set.
        frames: T images, (H, W, 3) uint8 RGB; consumed once, a few at a time.
        tracks: from ``read_tracks``.
        options: how.

    Yields:
        all frames in order, some at a time. Where frames are fewer than the tracks have, the rest stays as it was.

    Raises:
        InputError: frames for less than half of the tracks.
    """
    done, total = 0, len(tracks.valid)
    seen = _observe_all(observer, frames, tracks, options)
    for part in (_online if options.online else _offline)(tracks, seen, options, observer):
        yield part
        done += len(part)
    if done < total:
        logger.warning("the frames end after %d of %d: poses after them stay as they were", done, total)
        rest = tracks.valid[done:]
        exchanged = np.zeros((*rest.shape[:2], len(side_groups(observer.skeleton))), bool)
        offset = np.zeros((*rest.shape[:2], 2))
        yield RefinedFrames(done, np.array(tracks.given[done:]), np.zeros_like(rest), exchanged, offset)


def _observe_all(
    observer: Observer, frames: Iterable[Any], tracks: Tracks, options: VideoOptions
) -> Iterator[Observed]:
    """What is seen of each block of frames."""
    total, people = tracks.valid.shape[:2]
    size = 1 if options.online else max(_BLOCK // max(people, 1), 1)
    memory = Memory()
    there = present(tracks.poses)
    # Online, the frames of the delay serve the path: that gains more than steadier boxes.
    later = 0 if options.online else REACH

    def boxes(start: int, stop: int) -> Doubles:
        low, high = max(start - 2 * REACH, 0), min(stop + later, total)
        around = boxes_around_points(
            tracks.poses[low:high, ..., :2].reshape(-1, there.shape[2], 2),
            there[low:high].reshape(-1, there.shape[2]),
        )
        steady = steady_boxes(around.reshape(high - low, people, 4), later)
        return steady[start - low : stop - low]

    def numbered() -> Iterator[tuple[int, Any]]:
        yield from zip(range(total), frames, strict=False)

    def cut(item: tuple[int, Any]) -> Prepared:
        t, image = item
        poses = read_poses(tracks.poses[t], observer.skeleton)
        return prepare(image, poses, boxes(t, t + 1)[0], shared, observer.network.config, doubted=False)

    shared = share_keypoints(observer.skeleton, observer.skeleton)
    prepared = (future.result() for _, future in ahead(cut, numbered(), options.workers))
    start = 0
    while block := list(islice(prepared, size)):
        stop = start + len(block)
        observed, memory = observe(
            observer,
            block,
            tracks.guessed[start:stop],
            memory,
            prior_weight=options.prior_weight,
            batch_size=options.batch_size,
            repair_sides=options.repair_sides,
        )
        yield observed
        start = stop
    if start < total / 2:
        raise InputError(
            f"frames: expected {total}, one for each frame of the tracks, got {start}; if a file counts frames from "
            "another number than 0 or 1, give it as first_frame (--first-frame)"
        )


def _offline(
    tracks: Tracks, seen: Iterator[Observed], options: VideoOptions, observer: Observer
) -> Iterator[RefinedFrames]:
    """Windows of frames, each blended into the next where both know the frames."""
    parts: list[Observed] = []
    held, start = 0, 0
    blend: Paths | None = None
    for observed in seen:
        parts.append(observed)
        held += len(observed)
        while held >= WINDOW:
            window = Observed.join(parts)
            places = divide_places(window.places.take(slice(0, WINDOW)), observer.skeleton.flip_indices)
            paths = _blended(find_paths(places), blend)
            done = WINDOW - OVERLAP
            yield _finish(tracks, start, paths.take(slice(0, done)), window.take(slice(0, done)), options, observer)
            blend = paths.take(slice(done, WINDOW))
            parts, held, start = [window.take(slice(done, held))], held - done, start + done
    if held:
        window = Observed.join(parts)
        paths = find_paths(divide_places(window.places, observer.skeleton.flip_indices))
        yield _finish(tracks, start, _blended(paths, blend), window, options, observer)


def _blended(paths: Paths, before: Paths | None) -> Paths:
    """Paths whose first frames come over from those of the window before."""
    if before is None:
        return paths
    count = min(len(before), len(paths))
    part = np.arange(1, count + 1) / (count + 1)
    part = np.square(part) * (3 - 2 * part)
    mixed = {}
    for field in fields(Paths):
        new, old = np.array(getattr(paths, field.name)), getattr(before, field.name)[:count]
        share = part.reshape(-1, *[1] * (new.ndim - 1))
        both = old * (1 - share) + new[:count] * share
        new[:count] = np.where(np.isnan(old), new[:count], np.where(np.isnan(new[:count]), old, both))
        mixed[field.name] = new
    return Paths(**mixed)


def _online(
    tracks: Tracks, seen: Iterator[Observed], options: VideoOptions, observer: Observer
) -> Iterator[RefinedFrames]:
    """Each frame ``options.delay`` frames late, from the last ``_MEMORY`` frames."""
    held: deque[Observed] = deque(maxlen=_MEMORY)
    jerk: Doubles | None = None
    read, done = 0, 0

    def finish(first: int, count: int, paths: Paths) -> RefinedFrames:
        rows = slice(first - (read - len(held)), first - (read - len(held)) + count)
        return _finish(tracks, first, paths.take(rows), Observed.join(list(held)).take(rows), options, observer)

    for observed in seen:
        held.append(observed)
        read += 1
        places = divide_places(Places.join([o.places for o in held]), observer.skeleton.flip_indices)
        if jerk is None or read <= _MEMORY // 2 or read % _MEASURED_EVERY == 0:
            new = measure_jerk(places)
            # Changes of what is believed about a motion must not show in it.
            jerk = new if jerk is None or read <= _MEMORY // 2 else np.exp((np.log(jerk) + np.log(new)) / 2)
        if read - done > options.delay:
            yield finish(done, 1, find_paths(places, jerk, rounds=2))
            done += 1
    if done < read:
        yield finish(done, read - done, find_paths(places, jerk, rounds=2))


def _finish(
    tracks: Tracks, start: int, paths: Paths, observed: Observed, options: VideoOptions, observer: Observer
) -> RefinedFrames:
    """Paths in the form of the tracks."""
    rows = slice(start, start + len(paths))

    def own_side(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return exchange_sides(values[..., None], observed.exchanged, observer.skeleton)[..., 0]

    valid, guessed = own_side(tracks.valid[rows]), own_side(tracks.guessed[rows])
    found = np.isfinite(observed.places.std) & np.isfinite(paths.points).all(-1) & tracks.known
    supported = options.fill_missing & (paths.confidence >= observer.calibration.fill_threshold)
    replaced = found & (valid | guessed | supported)
    given = exchange_sides(tracks.given[rows], observed.exchanged, observer.skeleton)
    points = paths.points
    if observer.calibration.policy == "safe" and not options.online:
        settled = given[..., :2] + observed.offset[:, :, None]
        points = keep_settled(settled, valid, points, observed.places.std)
    keypoints = np.array(given)
    keypoints[..., :2] = np.where(replaced[..., None], points, given[..., :2])
    if keypoints.shape[3] == 3:
        confidence = np.clip(paths.confidence * np.where(guessed, FILLED, 1.0), LEAST_CONFIDENCE, 1.0)
        keypoints[..., 2] = np.where(replaced, confidence, given[..., 2])
    return RefinedFrames(start, keypoints, replaced & guessed, observed.exchanged, observed.offset)
