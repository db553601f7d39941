"""PoseTrack 2018: one JSON file per sequence, annotations and results alike (facts: posetrack.net, poseval).

A file holds ``images`` (``id`` is the frame id, unique over all sequences), ``annotations`` (51 numbers as
``keypoints``, ``track_id``, ``bbox_head``; results also a list ``scores``, one per keypoint) and ``categories``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from posefix.exceptions import FileFormatError, InputError
from posefix.geometry import Doubles
from posefix.io.atomic import finish, write_files
from posefix.io.coco import Annotations, Entry, annotations_of
from posefix.io.json import (
    PathLike,
    categories_of,
    check_keypoint_names,
    is_number,
    json_text,
    keypoint_rows,
    read_json,
    spelled_id,
    write_json,
)
from posefix.keypoints.poses import present, round_present, scored
from posefix.keypoints.skeleton import POSETRACK18, Skeleton
from posefix.messages import shown

#: poseval takes track ids below this (it tells sequences apart by adding multiples of it).
MAX_TRACK_ID = 10_000

_FORM = "a PoseTrack 2018 file is an object with images, annotations and categories, one file per sequence"


@dataclass(frozen=True, eq=False)
class PoseTrack:
    """Sequences of PoseTrack 2018, annotations or results.

    Attributes:
        source: file or folder, for messages.
        sequences: file name → content, in order of the names.
    """

    source: str
    sequences: dict[str, Mapping[str, Any]]

    @property
    def images(self) -> list[Mapping[str, Any]]:
        """Frames of all sequences."""
        return [image for data in self.sequences.values() for image in data["images"]]

    @property
    def people(self) -> list[Mapping[str, Any]]:
        """People of all sequences, as they stand in the files."""
        return [person for data in self.sequences.values() for person in data["annotations"]]

    @cached_property
    def file_of(self) -> dict[str, str]:
        """Frame id (as text) → name of the sequence's file.

        Raises:
            FileFormatError: two sequences have a frame of the same id.
        """
        found: dict[str, str] = {}
        for name, data in self.sequences.items():
            for image in data["images"]:
                frame = spelled_id(image["id"])
                if found.setdefault(frame, name) != name:
                    raise FileFormatError(
                        f"{self.source}: frame {frame} is in {found[frame]} and in {name}; ids of frames must be unique"
                    )
        return found

    def keypoints(self) -> Doubles:
        """(N, 17, 3) [x, y, score] px of all people; score is the file's ``scores``, else the third value.

        Raises:
            FileFormatError: a person's keypoints or scores are no 17 finite ones.
        """
        rows = [p["keypoints"] for p in self.people]
        values = keypoint_rows(rows, POSETRACK18, len(POSETRACK18), f"{self.source}: annotation")
        for index, (person, pose) in enumerate(zip(self.people, values, strict=True)):
            scores = person.get("scores")
            if scores:
                if not _are_scores(scores, len(POSETRACK18)):
                    raise FileFormatError(
                        f"{self.source}: annotation {index}: expected {len(POSETRACK18)} numbers as 'scores'"
                    )
                pose[:, 2] = np.where(scored(pose), scores, 0.0)
        return values

    def entries(self) -> list[Entry]:
        """All people as entries of COCO results, with the frame's ``file_name``; all other fields stay.

        An entry that is no pose of 17 finite keypoints keeps the file's ``keypoints``; refining it reports the fault.
        """
        entries = []
        for data in self.sequences.values():
            names = {spelled_id(i["id"]): i.get("file_name") for i in data["images"]}
            for person in data["annotations"]:
                entry = {k: v for k, v in person.items() if k != "scores"} | {"keypoints": _with_scores(person)}
                name = names.get(spelled_id(person["image_id"]))
                entries.append(entry | ({"file_name": name} if name else {}))
        return entries

    def with_poses(self, entries: Sequence[Entry]) -> PoseTrack:
        """The same sequences with other keypoints and scores; numbers that did not change keep their spelling.

        PoseTrack never annotates ears: where there is none, none is put.

        Args:
            entries: those of ``entries``, in their order, refined.

        Raises:
            InputError: not as many as there are people.
        """
        if len(entries) != len(self.people):
            raise InputError(f"entries: expected the {len(self.people)} people of {self.source}, got {len(entries)}")
        waiting = iter(entries)
        ears = [k for k, name in enumerate(self.names) if name in POSETRACK18.unannotated]
        sequences: dict[str, Mapping[str, Any]] = {
            name: {**data, "annotations": [_with_pose(person, next(waiting), ears) for person in data["annotations"]]}
            for name, data in self.sequences.items()
        }
        return PoseTrack(self.source, sequences)

    @property
    def names(self) -> tuple[str, ...]:
        """The keypoints' names: those of the files' category, else PoseTrack's."""
        listed = [c for data in self.sequences.values() for c in data.get("categories") or [] if isinstance(c, Mapping)]
        return next((tuple(c["keypoints"]) for c in listed if c.get("keypoints")), POSETRACK18.keypoints)

    @property
    def is_labelled(self) -> bool:
        """Whether these are annotations: people without scores, whose third values are visibilities 0, 1 or 2."""
        flat = [p["keypoints"][2::3] for p in self.people]
        has_scores = any(p.get("scores") for p in self.people) or any(
            v not in (0, 1, 2) for values in flat for v in values
        )
        return bool(flat) and not has_scores

    def annotations(self) -> Annotations:
        """The labelled people as arrays, for ``evaluate``, ``diagnose_results`` and the like."""
        return annotations_of(self.to_coco(), POSETRACK18, source=self.source)

    def to_coco(self) -> dict[str, Any]:
        """One COCO annotation file of all sequences, for training; ids and all fields as they are."""
        category = {"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}
        return {"images": self.images, "annotations": self.people, "categories": [category]}


def read_posetrack(path: PathLike, skeleton: Skeleton | None = POSETRACK18) -> PoseTrack:
    """Read a sequence's file, or all of a folder.

    Args:
        path: of the file or folder.
        skeleton: what the keypoints must be; None takes those that the files name.

    Raises:
        FileFormatError: there is none, or it is no PoseTrack 2018 file.
        SkeletonError: its keypoints are not the skeleton's.
    """
    given = Path(path)
    if given.is_dir():
        finish(given)
    files = sorted(given.glob("*.json")) if given.is_dir() else [given]
    if not files:
        raise FileFormatError(f"{os.fspath(path)}: no .json file in this folder; {_FORM}")
    sequences = {}
    for file in files:
        data = read_json(file)
        lists = ("images", "annotations")
        if not isinstance(data, Mapping) or not all(isinstance(data.get(k), list) for k in lists):
            hint = "; this is the format of 2017, which poseval's convert.py brings up to date"
            raise FileFormatError(f"{file}: {_FORM}{hint if isinstance(data, Mapping) and 'annolist' in data else ''}")
        _check(data, skeleton, str(file))
        sequences[file.name] = data
    return PoseTrack(os.fspath(path), sequences)


def _check(data: Mapping[str, Any], skeleton: Skeleton | None, source: str) -> None:
    for category in categories_of(data, source):
        check_keypoint_names(category["keypoints"], skeleton, source)
    frames = {spelled_id(i["id"]) for i in data["images"] if isinstance(i, Mapping) and "id" in i}
    if len(frames) != len(data["images"]):
        raise FileFormatError(f"{source}: expected an 'id' of its own for every image")
    for index, person in enumerate(data["annotations"]):
        if not isinstance(person, Mapping) or not isinstance(person.get("keypoints"), list):
            raise FileFormatError(f"{source}: annotation {index}: expected an object with 'keypoints'")
        if "image_id" not in person or spelled_id(person["image_id"]) not in frames:
            got = person.get("image_id")
            raise FileFormatError(f"{source}: annotation {index}: image_id {shown(got)} is not among the file's images")


def write_posetrack(folder: PathLike, frames: PoseTrack, entries: Sequence[Entry]) -> list[Path]:
    """Write results that poseval reads: one file per sequence, named as those of ``frames``.

    Args:
        folder: created where it does not exist.
        frames: the annotations that belong to the results (poseval wants all their frames in their order), or the
            results file that the entries were read from.
        entries: people as in COCO results, [x, y, score] of PoseTrack's 17 keypoints; their order within a sequence,
            ``track_id`` and all other fields stay. Entries without ``track_id`` get one in the frame, so that
            poseval can read the file; its AP does not use it.

    Returns:
        the files written.

    Raises:
        FileFormatError: an entry of no such frame, no such pose, or a track id that poseval refuses.
    """
    by_file: dict[str, list[dict[str, Any]]] = {name: [] for name in frames.sequences}
    count: dict[str, int] = {}
    poses = keypoint_rows([e["keypoints"] for e in entries], POSETRACK18, len(POSETRACK18), "entries: entry")
    for index, (entry, pose) in enumerate(zip(entries, poses, strict=True)):
        frame = spelled_id(entry["image_id"])
        if frame not in frames.file_of:
            raise FileFormatError(f"entries: entry {index}: {frames.source} has no frame {shown(entry['image_id'])}")
        count[frame] = count.get(frame, -1) + 1
        track = entry.get("track_id", count[frame])
        if not isinstance(track, int) or not 0 <= track < MAX_TRACK_ID:
            raise FileFormatError(
                f"entries: entry {index}: expected a 'track_id' of 0…{MAX_TRACK_ID - 1}, got {shown(track)}"
            )
        by_file[frames.file_of[frame]].append(_person(entry, pose, track))
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(POSETRACK18.keypoints)}
    sequences: dict[str, Mapping[str, Any]] = {
        name: {**data, "annotations": by_file[name], "categories": data.get("categories") or [category]}
        for name, data in frames.sequences.items()
    }
    write_sequences(folder, PoseTrack(frames.source, sequences), as_folder=True)
    return [Path(folder) / name for name in sequences]


def write_sequences(path: PathLike, data: PoseTrack, *, as_folder: bool) -> None:
    """Write sequences as they are: all files of a folder together, or the only one as a file.

    Raises:
        InputError: they cannot be written; what was there before is unchanged.
    """
    if as_folder:
        write_files(path, {name: json_text(content).encode() for name, content in data.sequences.items()})
    else:
        (content,) = data.sequences.values()
        write_json(path, content)


def _are_scores(scores: Any, count: int) -> bool:
    return isinstance(scores, list) and len(scores) == count and all(map(is_number, scores))


def _with_scores(person: Mapping[str, Any]) -> Any:
    """[x, y, score, …] of a person, the scores from its list; as they are where that cannot be."""
    flat, scores = person["keypoints"], person.get("scores")
    if not scores or not _are_scores(scores, len(flat) // 3) or len(flat) % 3 or not all(map(is_number, flat)):
        return flat
    values = list(flat)
    values[2::3] = [s if flat[3 * k] or flat[3 * k + 1] else 0 for k, s in enumerate(scores)]
    return values


def _with_pose(person: Mapping[str, Any], refined: Entry, ears: Sequence[int]) -> dict[str, Any]:
    flat, before, after = person["keypoints"], _with_scores(person), refined["keypoints"]
    new = {**person, **({"score": refined["score"]} if "score" in person and "score" in refined else {})}
    if before == after or len(after) != len(before):
        return new
    keypoints, scores = list(flat), list(person["scores"]) if before is not flat else None
    for k in range(len(before) // 3):
        was, now = before[3 * k : 3 * k + 3], after[3 * k : 3 * k + 3]
        if was == now or (k in ears and not present(np.array(was, np.float64))):
            continue
        keypoints[3 * k : 3 * k + 2] = now[:2]
        if scores is None:
            keypoints[3 * k + 2] = now[2]
        else:
            scores[k] = now[2]
            keypoints[3 * k + 2] = flat[3 * k + 2] or 1
    return new | {"keypoints": keypoints} | ({} if scores is None else {"scores": scores})


def _person(entry: Entry, pose: Doubles, track_id: int) -> dict[str, Any]:
    """A person as poseval reads it: visibility in the third places, scores in a list of their own."""
    there = present(pose)
    points = np.where(there[:, None], round_present(pose, 3)[:, :2], 0.0)
    keypoints = np.concatenate([points, there[:, None]], axis=1)
    person = {k: v for k, v in entry.items() if k != "file_name"}
    scores = np.where(there, pose[:, 2], 0.0).tolist()
    return person | {"track_id": track_id, "keypoints": keypoints.reshape(-1).tolist(), "scores": scores}
