"""People of many frames ⇄ tracks: rows with a frame and an id become (T, N, K, 3), and come back as rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters.base import Doubles, Floats, is_a, is_array, to_numpy
from posefix.adapters.registry import restricted_output
from posefix.exceptions import InputError, MissingDependencyError
from posefix.geometry import boxes_around_points
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tracked:
    """Tracks, and the way back to what they came as.

    Attributes:
        tracks: (T, N, K, 3) [x, y, score] of the skeleton, NaN where a person is not there; row t is frame t of the
            video.
        ids: N, as the source has them, in order of appearance.
        rebuild: refined tracks of the same shape → a new object of the source's kind.
        linked: whether the ids are a tracker's and not the source's.
    """

    tracks: Doubles
    ids: list[Any]
    rebuild: Callable[[Floats], Any]
    linked: bool = False


@dataclass(frozen=True)
class Rows:
    """Where each of R people is in tracks.

    Attributes:
        frame: (R,) frame.
        person: (R,) column.
        ids: of the N columns.
        linked: whether a tracker made them.
    """

    frame: Ints
    person: Ints
    ids: list[Any]
    linked: bool = False

    def spread(self, poses: Doubles, frames: int | None = None) -> Doubles:
        """(R, K, 3) → (T, N, K, 3), NaN for people missing from a frame."""
        count = max(frames or 0, int(self.frame.max(initial=-1)) + 1)
        tracks = np.full((count, len(self.ids), *poses.shape[1:]), np.nan)
        tracks[self.frame, self.person] = poses
        return tracks

    def filled(self, frames: int) -> npt.NDArray[np.bool_]:
        """(T, N) where there is a row."""
        there = np.zeros((frames, len(self.ids)), bool)
        there[self.frame, self.person] = True
        return there

    def gather(self, tracks: Floats) -> Floats:
        """(T, N, K, 3) → (R, K, 3)."""
        return np.asarray(tracks[self.frame, self.person])


def arrange(frame: Ints, ids: Sequence[Hashable | None], poses: Doubles, what: str) -> Rows:
    """Columns for the people of many frames.

    Args:
        frame: (R,) frame of each.
        ids: (R,) track ids; None throughout where there are none, then a single person per frame is one track and
            several are linked by a tracker.
        poses: (R, K, 3).
        what: the source, for messages.

    Raises:
        InputError: an id twice in one frame, or some people without.
        MissingDependencyError: several people without ids, and no tracker is installed.
    """
    linked = False
    if any(i is None for i in ids):
        if not all(i is None for i in ids):
            raise InputError(f"{what}: expected a track id for every person or for none, got some")
        linked = len(np.unique(frame)) < len(frame)
        ids = link_people(frame, poses).tolist() if linked else [0] * len(ids)
    order: dict[Hashable | None, int] = {}
    person = np.array([order.setdefault(i, len(order)) for i in ids], np.int64)
    pairs, counts = np.unique(np.stack([frame, person], -1).reshape(-1, 2), axis=0, return_counts=True)
    if (counts > 1).any():
        t, n = pairs[counts.argmax()].tolist()
        raise InputError(
            f"{what}: expected each track id once in a frame, got id {shown(list(order)[n])} twice in frame {t}"
        )
    return Rows(frame, person, list(order), linked)


def link_people(frame: Ints, poses: Doubles) -> Ints:
    """(R,) track ids of people without, by ByteTrack of the package ``trackers``; −1 − row for whom it leaves out.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import supervision
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise MissingDependencyError(
            "several people without track ids need a tracker: pip install posefix[tracking], or give ids"
        ) from error
    valid = present(poses)
    boxes = boxes_around_points(np.nan_to_num(poses[..., :2]), valid)
    usable = np.isfinite(boxes).all(-1)
    ids = -1 - np.arange(len(frame), dtype=np.int64)
    # Poses of an estimator's own: all of them count, whatever the unit of their scores.
    tracker = ByteTrackTracker(minimum_consecutive_frames=1)
    for t in range(int(frame.max(initial=-1)) + 1):
        rows = np.flatnonzero((frame == t) & usable)
        found = supervision.Detections(
            xyxy=boxes[rows].reshape(-1, 4).astype(np.float32),
            confidence=np.full(len(rows), 0.9, np.float32),
            data={"row": rows},
        )
        result = tracker.update(found)
        if len(result) and result.tracker_id is not None:
            known = result.tracker_id >= 0
            ids[np.asarray(result.data["row"])[known]] = result.tracker_id[known]
    logger.warning("people had no track ids: linked by ByteTrack into %d tracks", len(set(ids[ids >= 0].tolist())))
    return ids


def is_numbers(tracks: Any) -> bool:
    """Whether tracks are an array, a tensor, or nested lists of these or of numbers, which numpy reads."""
    while isinstance(tracks, (list, tuple)) and tracks:
        tracks = tracks[0]
    return is_array(tracks) or isinstance(tracks, (int, float, list, tuple))


def tracked_output(output: Any, skeleton: Skeleton) -> Tracked:
    """Outputs of many frames, one element per frame, as tracks.

    Args:
        output: a list with one element per frame, of supervision ``KeyPoints`` (``data["tracker_id"]``), ultralytics
            ``Results`` of ``model.track`` (``boxes.id``), mmpose's or others' people with ``track_id``; or a table of
            DeepLabCut, or anything else that ``Refiner.refine_output`` takes with one array per frame.
        skeleton: whose keypoints are wanted.

    Raises:
        InputError: an unknown kind.
        SkeletonError: without the skeleton's keypoints.
    """
    found = restricted_output(output, skeleton)
    counts = [len(k) for k in found.keypoints]
    frame = np.repeat(np.arange(len(counts)), counts)
    poses = np.concatenate([np.zeros((0, len(skeleton), 3)), *found.keypoints])
    rows = arrange(frame, _ids_of(output, counts), poses, "tracks")
    ends = np.cumsum(counts).tolist()

    def rebuild(tracks: Floats) -> Any:
        new = rows.gather(tracks)
        # A person missing from a frame has no keypoint there, before and after.
        return found.rebuild([new[end - count : end] for end, count in zip(ends, counts, strict=True)])

    return Tracked(rows.spread(poses, len(counts)), rows.ids, rebuild, rows.linked)


def _ids_of(output: Any, counts: list[int]) -> list[Hashable | None]:
    """Track ids of all people in outputs of many frames; None where the output has none."""
    if not isinstance(output, (list, tuple)):
        # Tables have a column for each individual.
        return [n for count in counts for n in range(count)]
    ids: list[Hashable | None] = []
    for element, count in zip(output, counts, strict=True):
        own = _frame_ids(element)
        if own is not None and len(own) != count:
            raise InputError(f"tracks: expected {count} track ids in a frame, got {len(own)}")
        ids += [None] * count if own is None else own
    return ids


def _frame_ids(element: Any) -> list[Hashable | None] | None:
    if isinstance(element, dict):
        element = element.get("predictions", element.get("instances", element))
    if isinstance(element, (list, tuple)):
        return [track_id_of(p) if isinstance(p, dict) else None for p in element]
    if is_a(element, "supervision", "KeyPoints"):
        ids = element.data.get("tracker_id", getattr(element, "tracker_id", None))
        return None if ids is None else to_numpy(ids).astype(np.int64).reshape(-1).tolist()
    if is_a(element, "ultralytics", "Results"):
        ids = None if element.boxes is None else element.boxes.id
        return None if ids is None else to_numpy(ids).astype(np.int64).reshape(-1).tolist()
    return None


def track_id_of(person: dict[str, Any]) -> Hashable | None:
    """Id of a person in a list: ``track_id``, AlphaPose's ``idx``, or ``person_id``; None where there is none."""
    for key in ("track_id", "idx", "person_id"):
        value = person.get(key)
        while isinstance(value, (list, tuple)) and len(value) == 1:  # OpenPose's and AlphaPose's lists of one
            value = value[0]
        if isinstance(value, (int, float, str)) and not isinstance(value, bool) and value not in (-1, ""):
            return value
    return None
