"""Files of other estimators ⇄ entries as in COCO results: OpenPose folders, AlphaPose and PoseTrack 2018 JSON.

``read_any`` finds the format, gives entries of the refiner's skeleton that ``refine_results`` takes, and remembers
what is needed to write refined ones back in the same format, all other fields and keypoints as they were.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters import openpose
from posefix.adapters.base import put_back_numbers
from posefix.adapters.containers import Container, unwrap
from posefix.choices import RESULTS_FORMATS
from posefix.exceptions import FileFormatError, InputError, PosefixError
from posefix.io.atomic import finish, write_files
from posefix.io.coco import Entry, check_entries, read_pose
from posefix.io.json import PathLike, json_text, kind_of, read_json, write_json
from posefix.io.json_stream import iterate_entries
from posefix.io.packed import STANDARD, read_packed, write_packed
from posefix.io.posetrack import read_posetrack, write_sequences
from posefix.keypoints.layouts import columns
from posefix.keypoints.skeleton import COCO, POSETRACK18, SKELETONS, Skeleton
from posefix.messages import shown

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIX = "_keypoints"


@dataclass(frozen=True, eq=False)
class Opened:
    """A file or folder of poses.

    Attributes:
        format: one of ``RESULTS_FORMATS``.
        entries: people as in COCO results, [x, y, score] of the skeleton's keypoints in pixels; to be refined. An
            entry that is no such pose has its ``keypoints`` as in the file, and ``refine_results`` names it.
        write: ``(path, refined entries)`` → writes the same format there.
        skeleton: the entries' keypoint set, for ``refine_results``; what the file does not hold, and so cannot be
            written, is among its ``unannotated``.
        people: refined entries → the file's people with their numbers.
        upright: whether the format's coordinates are those of images that are turned as their EXIF data say.
        frames: names of all images that the source lists, also of those without people; empty where it lists people.
    """

    format: str
    entries: list[Entry]
    write: Callable[[PathLike, Sequence[Entry]], None]
    skeleton: Skeleton = COCO
    people: Callable[[Sequence[Entry]], list[Entry]] = list
    upright: bool = False
    frames: tuple[str, ...] = ()


def detect_format(path: PathLike) -> str:
    """Which of ``RESULTS_FORMATS`` a file or folder has.

    Raises:
        FileFormatError: none of them, or it cannot be read.
    """
    first = _files(Path(path))[0]
    found = _format_of(read_json(first), os.fspath(first))
    return found if first == Path(path) else _of_folder(found, path)


def read_any(
    path: PathLike,
    skeleton: Skeleton = COCO,
    *,
    format: str = "auto",  # noqa: A002
    images: PathLike | None = None,
    own_keypoints: bool = False,
) -> Opened:
    """Read poses of any of ``RESULTS_FORMATS``; a file gives the same alone and in a folder.

    Args:
        path: a JSON file; for OpenPose also the folder that ``--write_json`` filled, for PoseTrack one of sequences.
        skeleton: whose keypoints the entries are to have; a file may have more of them.
        format: one of ``RESULTS_FORMATS``, or ``"auto"``.
        images: folder of the images, where the endings of OpenPose's frames are looked up; else ``.jpg``.
        own_keypoints: PoseTrack's entries have all of PoseTrack's keypoints, not the skeleton's.

    Raises:
        InputError: an unknown format.
        FileFormatError: a file that cannot be read or is not what its format requires, or one of annotations.
        SkeletonError: poses without the skeleton's keypoints.

    Examples:
        >>> opened = read_any("results.json")
        >>> opened.format
        'coco'
        >>> opened.write("copy.json", opened.entries)
    """
    if format not in ("auto", *RESULTS_FORMATS):
        raise InputError(f"format: expected auto, {', '.join(RESULTS_FORMATS)}, got {shown(format)}")
    if os.fspath(path) == STANDARD:
        return _read_data(path, *read_packed(path), skeleton, images, format)
    in_folder = Path(path).is_dir()
    if in_folder and format not in ("auto", *_IN_FOLDERS):
        raise FileFormatError(f"{os.fspath(path)}: expected a {format} file, got a folder")
    files = _files(Path(path))
    source = os.fspath(files[0])
    data, lines = (read_json(files[0]), False) if in_folder else read_packed(files[0])
    if in_folder and isinstance(data, list) and format == "auto":
        return _read_frames(files, skeleton, images)
    listed = lines or isinstance(data, list) or unwrap(data, "") is not None
    if listed and not in_folder and format in ("auto", "coco", "alphapose"):
        return _read_data(path, data, lines, skeleton, images, format)
    found = _format_of(data, source) if format == "auto" else format
    if in_folder:
        _of_folder(found, path)
    if found == "posetrack":
        return _read_posetrack(path, skeleton, own_keypoints)
    if found == "openpose":
        frames = {files[0]: data} | {f: read_json(f) for f in files[1:]}
        return _openpose(frames, skeleton, images, in_folder)
    return _read_list(data, skeleton, source, found)


def _read_data(
    path: PathLike,
    data: Any,
    lines: bool,
    skeleton: Skeleton,
    images: PathLike | None,
    form: str,
) -> Opened:
    """One file of people, plain or wrapped; written back in the same form, packed as the target's name says."""
    image = _image_of(Path(path), images)
    container = unwrap(data, image)
    if container is not None and container.of_one_image and not (images and (Path(images) / image).is_file()):
        container = None  # people without image_id, and no image of the file's name: an error below
    people = data if container is None else container.entries
    source = "standard input" if os.fspath(path) == STANDARD else os.fspath(path)
    found = _format_of(people, source) if form == "auto" else form
    opened = _read_list(people, skeleton, source, found)

    def write(target: PathLike, refined: Sequence[Entry]) -> None:
        new = opened.people(refined)
        write_packed(target, new if container is None else container.rebuild(new), lines=lines)

    return replace(opened, write=write)


def _read_frames(files: Sequence[Path], skeleton: Skeleton, images: PathLike | None) -> Opened:
    """A folder of a list for each image, as OpenPifPaf and MMPose write them."""
    containers: dict[Path, Container] = {}
    for file in files:
        data = read_json(file)
        container = unwrap(data, _image_of(file, images)) if data != [] else Container("", [], lambda new: new)
        if container is None:
            raise FileFormatError(
                f"{file.parent}: expected OpenPose's frames, PoseTrack's sequences, or a list of people for each "
                f"image; {file.name} is none of these"
            )
        containers[file] = container
    people = [e for c in containers.values() for e in c.entries]
    opened = _read_list(people, skeleton, os.fspath(files[0].parent), "coco")

    def write(target: PathLike, refined: Sequence[Entry]) -> None:
        new, contents, start = opened.people(refined), {}, 0
        for file, container in containers.items():
            own = new[start : start + len(container.entries)]
            start += len(own)
            contents[file.name] = json_text(container.rebuild(own)).encode()
        write_files(target, contents)

    return replace(opened, write=write, frames=tuple(_image_of(file, images) for file in files))


#: Formats of which a folder may hold many files.
_IN_FOLDERS = ("openpose", "posetrack")


def _files(path: Path) -> list[Path]:
    """The file, or all of a folder, which a killed process may have left half moved."""
    if not path.is_dir():
        return [path]
    finish(path)
    found = sorted(path.glob("*.json"))
    if not found:
        raise FileFormatError(f"{path}: expected JSON files (OpenPose's frames, PoseTrack's sequences), got none")
    return found


def _of_folder(found: str, path: PathLike) -> str:
    if found not in _IN_FOLDERS:
        raise FileFormatError(
            f"{os.fspath(path)}: expected OpenPose's frames or PoseTrack's sequences, got {found} files"
        )
    return found


def is_alphapose(path: PathLike) -> bool:
    """Whether a file that may be too large to read whole is AlphaPose's list, by its first person."""
    first = _first_person(path)
    return first is not None and _format_of([first], os.fspath(path)) == "alphapose"


def is_coco(path: PathLike, count: int) -> bool:
    """Whether a file that may be too large to read whole is COCO's list of poses of K keypoints, by its first person.

    Args:
        path: of the file.
        count: K.
    """
    first = _first_person(path)
    if first is None or _format_of([first], os.fspath(path)) != "coco":
        return False
    return not isinstance(read_pose(first.get("keypoints"), count), str)


def _first_person(path: PathLike) -> Entry | None:
    """None where there is none, or no list of people; reading the file tells why."""
    if not os.fspath(path).endswith(".json"):
        return None
    try:
        return next(iterate_entries(path), None)
    except FileFormatError:
        return None


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


def _is_pose(flat: Any, size: int) -> bool:
    return not isinstance(read_pose(flat, size // 3), str)


def _narrowed(skeleton: Skeleton, index: npt.NDArray[np.int64], never: frozenset[str] = frozenset()) -> Skeleton:
    """The skeleton, with what a file does not hold among its ``unannotated``."""
    absent = {name for name, k in zip(skeleton.keypoints, index, strict=True) if k < 0 or name in never}
    return replace(skeleton, unannotated=skeleton.unannotated | absent) if absent - skeleton.unannotated else skeleton


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
    people = check_entries(data, source=source, poses=False)
    # One odd entry among many does not stop the others; refining names it.
    sizes = [len(p["keypoints"]) for p in people if isinstance(p.get("keypoints"), list)]
    if not sizes or (name == "coco" and 3 * len(skeleton) in sizes):
        return Opened(name, people, lambda path, refined: write_packed(path, list(refined)), skeleton, list)
    size = Counter(sizes).most_common(1)[0][0]
    try:
        index = columns(None, size // 3, skeleton)
    except InputError as error:
        first = next(i for i, p in enumerate(people) if isinstance(p.get("keypoints"), list))
        if size % 3:
            raise FileFormatError(
                f"{source}: entry {first} has {size} numbers as keypoints; expected [x, y, score] of each, "
                f"{3 * len(skeleton)} numbers for skeleton {skeleton.name!r}"
            ) from error
        raise FileFormatError(
            f"{source}: entry {first} has {size // 3} keypoints, not the {len(skeleton)} of skeleton "
            f"{skeleton.name!r}; name the file's own set with --skeleton ({', '.join(SKELETONS)}) if it is one of these"
        ) from error
    entries = [
        {**p, "keypoints": _subset(p["keypoints"], index)} if _is_pose(p.get("keypoints"), size) else p for p in people
    ]
    entries = [{**e, "bbox": e["box"]} if "box" in e and "bbox" not in e else e for e in entries]

    def merged(refined: Sequence[Entry]) -> list[Entry]:
        _check_count(refined, len(people))
        # An entry that is no pose is written as it was read, whatever it holds: nothing is refused after the work.
        return [_person(*each, index) for each in zip(people, entries, refined, strict=True)]

    narrowed, upright = _narrowed(skeleton, index), name == "alphapose"
    return Opened(name, entries, lambda path, refined: write_packed(path, merged(refined)), narrowed, merged, upright)


def _person(person: Entry, entry: Entry, refined: Entry, index: npt.NDArray[np.int64]) -> Entry:
    """A person of the file with refined numbers; one whose numbers did not change is as it was."""
    new = {**person, **_scored(person, refined)}
    own, given = refined.get("keypoints"), entry.get("keypoints")
    if own is not given and own != given:  # NaN is not equal to itself
        new["keypoints"] = _merged(person["keypoints"], index, refined["keypoints"])
    return new


def _scored(person: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    return {"score": entry["score"]} if "score" in person and "score" in entry else {}


def _read_posetrack(path: PathLike, skeleton: Skeleton, own_keypoints: bool) -> Opened:
    """PoseTrack 2018: people under ``annotations`` with ``keypoints`` [x, y, visible] and a list ``scores``."""
    own = read_posetrack(path, None)
    if own.is_labelled:
        raise FileFormatError(
            f"{os.fspath(path)}: these are annotations (no scores, third values are visibilities), expected results; "
            "PoseTrack results have a list 'scores' for every person"
        )
    if own_keypoints and own.names == POSETRACK18.keypoints:
        skeleton = POSETRACK18
    index = columns(own.names, len(own.names), skeleton)
    people, size = own.entries(), 3 * len(own.names)
    entries = [
        {**p, "keypoints": _subset(p["keypoints"], index)} if _is_pose(p["keypoints"], size) else p for p in people
    ]

    def write(target: PathLike, refined: Sequence[Entry]) -> None:
        _check_count(refined, len(people))
        merged = [_person(*each, index) for each in zip(people, entries, refined, strict=True)]
        write_sequences(target, own.with_poses(merged), as_folder=Path(path).is_dir())

    frames = tuple(str(i.get("file_name") or i["id"]) for i in own.images)
    return Opened("posetrack", entries, write, _narrowed(skeleton, index, POSETRACK18.unannotated), frames=frames)


def _openpose(frames: Mapping[Path, Any], skeleton: Skeleton, images: PathLike | None, in_folder: bool) -> Opened:
    """Entries of all frames, and a writer of the same files; each person is taken apart by the adapter."""
    found: dict[Path, Any] = {}
    odd: dict[Path, dict[int, Any]] = {}
    entries: list[Entry] = []
    for path, data in frames.items():
        if not openpose.recognise(data):
            raise FileFormatError(f"{path}: expected an OpenPose frame, an object with a list 'people'")
    posed = [p for data in frames.values() for p in data["people"] if openpose.numbers_of(p) is not None]
    mixed = any(map(openpose.is_usable, posed))  # else the adapter tells what is wrong with all of them
    for path, data in frames.items():
        image = _image_of(path, images)
        size_from = [Path(images) / image] if images is not None else None
        # An entry that is no pose stays in the file, and refining names it.
        odd[path] = {i: p for i, p in enumerate(data["people"]) if mixed and not openpose.is_usable(p)}
        usable = {**data, "people": [{} if i in odd[path] else p for i, p in enumerate(data["people"])]}
        try:
            found[path] = openpose.extract(usable, size_from, skeleton)
        except PosefixError as error:
            raise FileFormatError(f"{path}: {error}") from error
        own = {"image_id": image, "file_name": image, "category_id": 1}
        poses = found[path].keypoints[0]
        if len(poses):
            index = columns(found[path].names, poses.shape[1], skeleton)
            entries += [{**own, "keypoints": _subset(pose.reshape(-1).tolist(), index)} for pose in poses]
        entries += [{**own, "keypoints": openpose.numbers_of(p)} for p in odd[path].values()]

    def write(path: PathLike, refined: Sequence[Entry]) -> None:
        _check_count(refined, len(entries))
        contents: dict[str, Any] = {}
        start = 0
        for name, each in found.items():
            poses = each.keypoints[0].copy()
            if len(poses):
                index = columns(each.names, poses.shape[1], skeleton)
                rows = refined[start : start + len(poses)]
                new = np.array([e["keypoints"] for e in rows], np.float64).reshape(len(poses), -1, 3)
                poses[:, index[index >= 0]] = new[:, index >= 0]
            start += len(poses) + len(odd[name])
            content = each.rebuild([poses])
            content["people"] = [odd[name].get(i, p) for i, p in enumerate(content["people"])]
            contents[name.name] = content
        if in_folder:
            write_files(path, {name: json_text(content).encode() for name, content in contents.items()})
        else:
            write_json(path, next(iter(contents.values())))

    names = tuple(_image_of(path, images) for path in frames)
    return Opened("openpose", entries, write, skeleton, upright=True, frames=names)


def _image_of(path: Path, images: PathLike | None) -> str:
    """File name of the image of a frame: ``x_keypoints.json`` → ``x.jpg``, or what ending there is.

    Raises:
        FileFormatError: several images of that name, with different endings.
    """
    stem = path.name.removesuffix(".json").removesuffix(".predictions").removesuffix(_SUFFIX)
    if stem.lower().endswith(_IMAGES):
        return stem
    if images is None:
        return f"{stem}.jpg"
    spelled = [f"{stem}{e}" for ending in _IMAGES for e in (ending, ending.upper())]
    there = [name for name in spelled if (Path(images) / name).is_file()]
    # Where capitals do not count, one file answers to two names.
    if len({(Path(images) / name).stat().st_ino for name in there}) > 1:
        raise FileFormatError(f"{path}: its image may be {' or '.join(there)}; keep one of them in {os.fspath(images)}")
    return there[0] if there else f"{stem}.jpg"
