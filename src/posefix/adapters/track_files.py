"""Files of tracks: read into (T, N, K, 3), written back in the same format, all else in them as it was."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters import mmpose
from posefix.adapters.base import Doubles, Floats, nearly, put_back_numbers
from posefix.adapters.files import read_any
from posefix.adapters.track_tables import read_analysis_h5, read_dlc_csv, read_dlc_h5, read_slp, read_trc
from posefix.adapters.tracked import Tracked, arrange, track_id_of
from posefix.choices import TRACK_FORMATS
from posefix.exceptions import FileFormatError, InputError
from posefix.io.coco import read_pose
from posefix.io.json import PathLike, kind_of
from posefix.io.packed import read_packed, write_packed
from posefix.keypoints.layouts import columns
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.messages import shown

_TABLES: dict[str, Callable[[Path, Skeleton], Tracked]] = {
    "deeplabcut-csv": read_dlc_csv,
    "deeplabcut-h5": read_dlc_h5,
    "sleap-slp": read_slp,
    "sleap-h5": read_analysis_h5,
    "trc": read_trc,
}
_H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class TrackFile:
    """A file or folder of tracks.

    Attributes:
        format: one of ``TRACK_FORMATS``.
        tracks: (T, N, K, 3) [x, y, score] of the skeleton, NaN where a person is not there; row t is frame t.
        ids: of the N people, as the file has them.
        write: ``(path, refined tracks)`` → writes the same format there.
        linked: whether the ids are a tracker's and not the file's.
        rows: (T, N) where the file has a place for a person; None is everywhere. Nothing can be written elsewhere.
        remark: what was guessed of the file, in one sentence; empty where nothing was.
    """

    format: str
    tracks: Doubles
    ids: list[Any]
    write: Callable[[PathLike, Floats], None]
    linked: bool = False
    rows: npt.NDArray[np.bool_] | None = None
    remark: str = ""


def read_track_file(
    path: PathLike,
    skeleton: Skeleton = COCO,
    *,
    format: str = "auto",  # noqa: A002
    first_frame: int | None = None,
) -> TrackFile:
    """Read tracks of any of ``TRACK_FORMATS``.

    Args:
        path: a file, or a folder of OpenPose's frames.
        skeleton: whose keypoints are wanted; others in the file stay as they are.
        format: one of ``TRACK_FORMATS``, or ``"auto"``.
        first_frame: number that the file gives the video's first frame; None takes 0 where it occurs, else 1 for
            numbers from 1 on (a file whose first people appear later should say).

    Raises:
        InputError: an unknown format.
        FileFormatError: a file that cannot be read or is not what its format requires.
        SkeletonError: poses without the skeleton's keypoints.
        MissingDependencyError: a package that the format needs is not installed.
    """
    if format not in ("auto", *TRACK_FORMATS):
        raise InputError(f"format: expected auto, {', '.join(TRACK_FORMATS)}, got {shown(format)}")
    source = Path(path)
    if not source.exists():
        raise FileFormatError(f"{os.fspath(path)}: no such file or folder")
    found = _table_format(source) if format == "auto" else format
    if found in _TABLES:
        tracked = _TABLES[found](source, skeleton)
        return TrackFile(found, tracked.tracks, tracked.ids, lambda target, new: tracked.rebuild(new)(target))
    if found == "mmpose" or (not found and source.is_file() and _is_mmpose(read_packed(source)[0])):
        with nearly("mmpose frames", os.fspath(path)):
            return _read_mmpose(source, skeleton, first_frame)
    return _read_entries(source, skeleton, found or "auto", first_frame)


def _table_format(path: Path) -> str:
    """Format of a table by its first bytes and ending; empty for JSON."""
    if path.is_dir():
        return ""
    ending = path.suffix.lower()
    if ending == ".trc":
        return "trc"
    if ending == ".csv":
        return "deeplabcut-csv"
    with path.open("rb") as file:
        if file.read(8) != _H5_SIGNATURE:
            return ""
    if ending == ".slp":
        return "sleap-slp"
    from posefix.adapters.track_tables import open_h5

    with open_h5(path) as file:
        return "sleap-h5" if "node_names" in file and "tracks" in file else "deeplabcut-h5"


def _read_entries(path: Path, skeleton: Skeleton, format: str, first_frame: int | None) -> TrackFile:  # noqa: A002
    """COCO, AlphaPose, PoseTrack and OpenPose: people with the image or frame they are in."""
    opened = read_any(path, skeleton, format=format)
    read = [read_pose(e.get("keypoints"), len(skeleton)) for e in opened.entries]
    posed = [i for i, pose in enumerate(read) if not isinstance(pose, str)]
    entries = [opened.entries[i] for i in posed]
    poses = np.array([read[i] for i in posed], np.float64).reshape(len(entries), len(skeleton), 3)
    known = [_frame_number(name, path) for name in opened.frames]
    numbers = [_frame_number(e.get("frame_id", e.get("file_name", e.get("image_id"))), path) for e in entries]
    numbered, remark = _numbered([*numbers, *known], first_frame, path)
    frame, length = numbered[: len(numbers)], int(numbered.max(initial=-1)) + 1
    rows = arrange(frame, [track_id_of(e) for e in entries], poses, os.fspath(path))

    def write(target: PathLike, tracks: Floats) -> None:
        new = [dict(e) for e in opened.entries]
        for place, pose, before in zip(posed, rows.gather(tracks), poses, strict=True):
            new[place]["keypoints"] = put_back_numbers(new[place]["keypoints"], before, pose, 3)
        opened.write(target, new)

    return TrackFile(
        opened.format, rows.spread(poses, length), rows.ids, write, rows.linked, rows.filled(length), remark
    )


def _frame_number(value: Any, path: Path) -> int:
    """Number of a frame: itself, or the last number in the name of its file."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (found := re.findall(r"[0-9]+", Path(value).stem)):
        number = int(found[-1][:18])
    if number is None or abs(number) > 10**15:
        raise FileFormatError(f"{path}: expected a frame number in image_id or file_name, got {shown(value)}")
    return number


def _numbered(numbers: Sequence[int], first_frame: int | None, path: Path) -> tuple[Any, str]:
    """Frame numbers from 0, and what was guessed for them."""
    frame = np.array(numbers, np.int64)
    lowest = int(frame.min(initial=0 if not len(frame) else frame[0]))
    first = min(lowest, 1) if first_frame is None else first_frame
    if lowest < first:
        raise InputError(f"{path}: expected no frame before the first, {first}, got {lowest}")
    frame = frame - first
    if frame.max(initial=0) > 100 * max(len(frame), 1000):
        raise FileFormatError(
            f"{path}: frame numbers up to {frame.max() + first} for {len(frame)} people; they should count a video's "
            "frames; tell the number of its first frame (--first-frame)"
        )
    guessed = first_frame is None and lowest > first
    remark = f"the first frame in {path.name} is {lowest}; frames were counted from {first} (--first-frame if not)"
    return frame, remark if guessed else ""


def _is_mmpose(data: Any) -> bool:
    frames = data.get("instance_info") if isinstance(data, dict) else data
    return isinstance(frames, list) and bool(frames) and all(isinstance(f, dict) and "instances" in f for f in frames)


def _read_mmpose(path: Path, skeleton: Skeleton, first_frame: int | None) -> TrackFile:
    """The inferencer's list (``frame_id`` from 0) and the demo's object (``instance_info``, ``frame_id`` from 1)."""
    data, lines = read_packed(path)
    if not _is_mmpose(data):
        raise FileFormatError(
            f"{path}: expected a list of frames with 'instances', or an object with 'instance_info', "
            f"got {kind_of(data)}"
        )
    frames = data["instance_info"] if isinstance(data, dict) else data
    names = _mmpose_names(data)
    numbers = [_frame_number(f.get("frame_id", t + isinstance(data, dict)), path) for t, f in enumerate(frames)]
    start = int(isinstance(data, dict)) if first_frame is None else first_frame
    numbered, _ = _numbered(numbers, start, path)
    found = [mmpose.extract(f["instances"], None, skeleton) if f["instances"] else None for f in frames]
    size = next((f.keypoints[0].shape[1] for f in found if f is not None), len(skeleton))
    index = columns(names if names and len(names) == size else None, size, skeleton)
    counts = [0 if f is None else len(f.keypoints[0]) for f in found]
    full = np.concatenate([np.zeros((0, size, 3)), *(f.keypoints[0] for f in found if f is not None)])
    poses = np.where((index >= 0)[:, None], full[:, index], 0.0)
    ids = [track_id_of(p) for f in frames for p in f["instances"]]
    rows = arrange(np.repeat(numbered, counts), ids, poses, os.fspath(path))

    def write(target: PathLike, tracks: Floats) -> None:
        after = full.copy()
        after[:, index[index >= 0]] = rows.gather(tracks)[:, index >= 0]
        new, start = [], 0
        for frame, extracted, count in zip(frames, found, counts, strict=True):
            people = [] if extracted is None else extracted.rebuild([after[start : start + count]])
            new.append({**frame, "instances": people})
            start += count
        write_packed(target, {**data, "instance_info": new} if isinstance(data, dict) else new, lines=lines)

    length = int(numbered.max(initial=-1)) + 1
    return TrackFile("mmpose", rows.spread(poses, length), rows.ids, write, rows.linked, rows.filled(length))


def _mmpose_names(data: Any) -> tuple[str, ...] | None:
    """Keypoint names of the demo's ``meta_info``."""
    names = data.get("meta_info", {}).get("keypoint_id2name") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not all(str(k).isdecimal() for k in names):
        return None
    return tuple(str(names[k]) for k in sorted(names, key=int))
