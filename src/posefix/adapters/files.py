"""Files of other estimators ⇄ entries as in COCO results: OpenPose folders, AlphaPose and PoseTrack 2018 JSON.

``read_any`` tells the format, gives entries of the refiner's skeleton that ``refine_entries`` takes, and remembers
what is needed to write refined ones back in the same format, all other fields and keypoints as they were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters import openpose
from posefix.adapters.base import put_back_numbers
from posefix.exceptions import FileFormatError, InputError, PosefixError
from posefix.io.coco import Entry, check_entries, write_results
from posefix.io.json import PathLike, kind_of, read_json, spelled_id, write_json
from posefix.keypoints.layouts import columns
from posefix.keypoints.skeleton import COCO, POSETRACK18, SKELETONS, Skeleton

#: What ``read_any`` reads.
FORMATS = ("coco", "alphapose", "openpose", "posetrack")

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIX = "_keypoints"


@dataclass(frozen=True, eq=False)
class Opened:
    """A file or folder of poses.

    Attributes:
        format: one of ``FORMATS``.
        entries: people as in COCO results, [x, y, score] of the skeleton's keypoints in pixels; to be refined.
        write: ``(path, refined entries)`` → writes the same format there.
    """

    format: str
    entries: list[Entry]
    write: Callable[[PathLike, Sequence[Entry]], None]


def detect_format(path: PathLike) -> str:
    """Which of ``FORMATS`` a file or folder has.

    Raises:
        FileFormatError: none of them, or it cannot be read.
    """
    if Path(path).is_dir():
        return "openpose"
    return _format_of(read_json(path), os.fspath(path))


def read_any(
    path: PathLike,
    skeleton: Skeleton = COCO,
    *,
    format: str = "auto",  # noqa: A002
    images: PathLike | None = None,
) -> Opened:
    """Read poses of any of ``FORMATS``.

    Args:
        path: a JSON file; for OpenPose also the folder that ``--write_json`` filled.
        skeleton: whose keypoints the entries are to have; a file may have more, or others beside them.
        format: one of ``FORMATS``, or ``"auto"``.
        images: folder of the images, where the endings of OpenPose's frames are looked up; else ``.jpg``.

    Raises:
        InputError: an unknown format.
        FileFormatError: a file that cannot be read or is not what its format requires.
        SkeletonError: poses without the skeleton's keypoints.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"format: expected auto, {', '.join(FORMATS)}, got {format!r}")
    if Path(path).is_dir():
        if format not in ("auto", "openpose"):
            raise FileFormatError(f"{os.fspath(path)}: expected a {format} file, got a folder")
        return _read_openpose_folder(Path(path), skeleton, images)
    data, source = read_json(path), os.fspath(path)
    found = _format_of(data, source) if format == "auto" else format
    if found == "openpose":
        return _read_openpose_file(Path(path), data, skeleton, images)
    return (
        _read_posetrack(data, skeleton, source) if found == "posetrack" else _read_list(data, skeleton, source, found)
    )


def _format_of(data: Any, source: str) -> str:
    if isinstance(data, list):
        first = data[0] if data and isinstance(data[0], dict) else {}
        named = isinstance(first.get("image_id"), str) and ("box" in first or "idx" in first)
        return "alphapose" if named else "coco"
    if isinstance(data, Mapping):
        if isinstance(data.get("people"), list):
            return "openpose"
        people = data.get("annotations")
        if isinstance(people, list) and isinstance(data.get("images"), list):
            if not people or any(isinstance(p, Mapping) and ("track_id" in p or "scores" in p) for p in people):
                return "posetrack"
            raise FileFormatError(f"{source}: this is an annotation file (images, annotations), expected results")
    raise FileFormatError(
        f"{source}: expected COCO or AlphaPose results (a list of people), an OpenPose frame (an object with people) "
        f"or PoseTrack results (an object with images and annotations), got {kind_of(data)}"
    )


def _subset(flat: Sequence[Any], index: npt.NDArray[np.int64]) -> list[Any]:
    """The skeleton's keypoints of a flat list, (0, 0, 0) where it has none."""
    return [value for k in index for value in (flat[3 * k : 3 * k + 3] if k >= 0 else (0, 0, 0))]


def _merged(flat: Sequence[Any], index: npt.NDArray[np.int64], refined: Sequence[Any]) -> list[Any]:
    """A flat list with refined numbers in the skeleton's places; numbers that did not change keep their spelling."""
    before = np.array(flat, np.float64)
    after = before.reshape(-1, 3).copy()
    after[index[index >= 0]] = np.array(refined, np.float64).reshape(-1, 3)[index >= 0]
    return put_back_numbers(flat, before, after.reshape(-1), 3)


def _check_count(refined: Sequence[Entry], expected: int) -> None:
    if len(refined) != expected:
        raise InputError(f"entries: expected the {expected} entries that were read, in their order, got {len(refined)}")


def _read_list(data: Any, skeleton: Skeleton, source: str, name: str) -> Opened:
    """COCO's or AlphaPose's list of people; AlphaPose's box gets COCO's name."""
    people = check_entries(data, source=source)
    # One odd entry among COCO's does not stop the others; whoever refines them names it.
    if not people or (name == "coco" and any(len(p["keypoints"]) == 3 * len(skeleton) for p in people)):
        return Opened(name, people, write_results)
    size = len(people[0]["keypoints"])
    try:
        index = columns(None, size // 3, skeleton)
    except InputError as error:
        raise FileFormatError(
            f"{source}: entry 0 has {size / 3:g} keypoints, not the {len(skeleton)} of skeleton {skeleton.name!r}; "
            f"name the file's own set with --skeleton ({', '.join(SKELETONS)}) if it is one of these"
        ) from error
    for number, person in enumerate(people):
        if len(person["keypoints"]) != size:
            raise FileFormatError(f"{source}: entry {number}: expected {size} numbers, got {len(person['keypoints'])}")
    entries = [{**p, "keypoints": _subset(p["keypoints"], index)} for p in people]
    entries = [{**e, "bbox": e["box"]} if "box" in e and "bbox" not in e else e for e in entries]

    def write(path: PathLike, refined: Sequence[Entry]) -> None:
        _check_count(refined, len(people))
        new = [
            {**p, **_scored(p, e), "keypoints": _merged(p["keypoints"], index, e["keypoints"])}
            for p, e in zip(people, refined, strict=True)
        ]
        write_results(path, new)

    return Opened(name, entries, write)


def _scored(person: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    return {"score": entry["score"]} if "score" in person and "score" in entry else {}


def _read_posetrack(data: Any, skeleton: Skeleton, source: str) -> Opened:
    """PoseTrack 2018: people under ``annotations`` with ``keypoints`` [x, y, visible] and a list ``scores``."""
    people = data["annotations"]
    names = next((c["keypoints"] for c in data.get("categories") or [] if c.get("keypoints")), POSETRACK18.keypoints)
    index = columns(tuple(map(str, names)), len(names), skeleton)
    files = {spelled_id(i.get("id")): i.get("file_name") for i in data["images"] if isinstance(i, Mapping)}
    entries: list[Entry] = []
    for number, person in enumerate(people):
        flat, scores = person.get("keypoints"), person.get("scores")
        if not isinstance(flat, list) or len(flat) != 3 * len(names):
            raise FileFormatError(f"{source}: annotation {number}: expected {3 * len(names)} numbers in 'keypoints'")
        if scores and len(scores) != len(names):
            raise FileFormatError(f"{source}: annotation {number}: expected {len(names)} numbers in 'scores'")
        entry = {k: v for k, v in person.items() if k != "scores"}
        entry["keypoints"] = _subset(_with_scores(flat, scores), index)
        name = files.get(spelled_id(person.get("image_id")))
        entries.append(entry | ({"file_name": name} if name else {}))

    def write(path: PathLike, refined: Sequence[Entry]) -> None:
        _check_count(refined, len(people))
        new = [_posetrack_person(p, index, e, names) for p, e in zip(people, refined, strict=True)]
        write_json(path, {**data, "annotations": new})

    return Opened("posetrack", entries, write)


def _with_scores(flat: Sequence[Any], scores: Sequence[Any] | None) -> list[Any]:
    """[x, y, visible, …] with the scores in the third places; a point at (0, 0) is missing whatever its score."""
    values = list(flat)
    for k, score in enumerate(scores or values[2::3]):
        values[3 * k + 2] = score if values[3 * k] or values[3 * k + 1] else 0
    return values


def _posetrack_person(
    person: Mapping[str, Any], index: npt.NDArray[np.int64], refined: Entry, names: Sequence[str]
) -> dict[str, Any]:
    flat, scores = person["keypoints"], person.get("scores")
    before = _with_scores(flat, scores)
    after = _merged(before, index, refined["keypoints"])
    new_scores = list(scores) if scores else None
    keypoints = list(flat)
    for k, name in enumerate(names):
        was, now = before[3 * k : 3 * k + 3], after[3 * k : 3 * k + 3]
        # PoseTrack never annotates ears: where there is none, none is put.
        if was == now or (name in POSETRACK18.unannotated and not was[2] > 0):
            continue
        keypoints[3 * k : 3 * k + 2] = now[:2]
        if new_scores is None:
            keypoints[3 * k + 2] = now[2]
        else:
            new_scores[k] = now[2]
            keypoints[3 * k + 2] = flat[3 * k + 2] or 1
    return {**person, **_scored(person, refined), "keypoints": keypoints} | ({"scores": new_scores} if scores else {})


def _read_openpose_folder(folder: Path, skeleton: Skeleton, images: PathLike | None) -> Opened:
    frames = {p: read_json(p) for p in sorted(folder.glob("*.json"))}
    if not frames:
        raise FileFormatError(f"{folder}: expected OpenPose's JSON files (--write_json), got none")
    return _openpose(frames, skeleton, images, folder)


def _read_openpose_file(path: Path, data: Any, skeleton: Skeleton, images: PathLike | None) -> Opened:
    return _openpose({path: data}, skeleton, images, None)


def _openpose(frames: Mapping[Path, Any], skeleton: Skeleton, images: PathLike | None, folder: Path | None) -> Opened:
    """Entries of all frames, and a writer of the same files; each person is taken apart by the adapter."""
    found: dict[Path, Any] = {}
    entries: list[Entry] = []
    for path, data in frames.items():
        if not openpose.recognise(data):
            raise FileFormatError(f"{path}: expected an OpenPose frame, an object with a list 'people'")
        image = _image_of(path, images)
        size_from = [Path(images) / image] if images is not None else None
        try:
            found[path] = openpose.extract(data, size_from, skeleton)
        except PosefixError as error:
            raise FileFormatError(f"{path}: {error}") from error
        poses = found[path].keypoints[0]
        if len(poses):
            index = columns(found[path].names, poses.shape[1], skeleton)
            for pose in poses:
                flat = _subset(pose.reshape(-1).tolist(), index)
                entries.append({"image_id": image, "file_name": image, "category_id": 1, "keypoints": flat})

    def write(path: PathLike, refined: Sequence[Entry]) -> None:
        _check_count(refined, len(entries))
        if folder is not None:
            Path(path).mkdir(parents=True, exist_ok=True)
        start = 0
        for name, each in found.items():
            poses = each.keypoints[0].copy()
            if len(poses):
                index = columns(each.names, poses.shape[1], skeleton)
                rows = refined[start : start + len(poses)]
                new = np.array([e["keypoints"] for e in rows], np.float64).reshape(len(poses), -1, 3)
                poses[:, index[index >= 0]] = new[:, index >= 0]
                start += len(poses)
            write_json(Path(path) / name.name if folder is not None else path, each.rebuild([poses]))

    return Opened("openpose", entries, write)


def _image_of(path: Path, images: PathLike | None) -> str:
    """File name of the image of a frame: ``x_keypoints.json`` → ``x.jpg``, or what ending there is."""
    stem = path.stem.removesuffix(_SUFFIX)
    if images is not None:
        for ending in _IMAGES:
            for spelled in (ending, ending.upper()):
                if (Path(images) / f"{stem}{spelled}").is_file():
                    return f"{stem}{spelled}"
    return f"{stem}.jpg"
