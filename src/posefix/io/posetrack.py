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

from posefix.exceptions import FileFormatError
from posefix.geometry import Doubles
from posefix.io.coco import Annotations, Entry, annotations_of, check_entries
from posefix.io.json import PathLike, check_keypoint_names, is_number, keypoint_rows, read_json, spelled_id, write_json
from posefix.keypoints.skeleton import POSETRACK18

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
        """Frame id (as text) → name of the sequence's file."""
        return {spelled_id(i["id"]): name for name, data in self.sequences.items() for i in data["images"]}

    def keypoints(self) -> Doubles:
        """(N, 17, 3) [x, y, score] px of all people; score is the file's ``scores``, else the third value.

        As in poseval, a keypoint is missing where all three of its numbers are 0; its score here is 0 then.
        """
        rows = [p["keypoints"] for p in self.people]
        values = keypoint_rows(rows, POSETRACK18, len(POSETRACK18), f"{self.source}: annotation")
        for person, pose in zip(self.people, values, strict=True):
            scores = person.get("scores")
            if scores:
                if len(scores) != len(POSETRACK18) or not all(map(is_number, scores)):
                    raise FileFormatError(f"{self.source}: expected {len(POSETRACK18)} numbers as 'scores'")
                pose[:, 2] = np.where((pose != 0).any(-1), scores, 0.0)
        return values

    def entries(self) -> list[Entry]:
        """All people as entries of COCO results, with the frame's ``file_name``; all other fields stay."""
        names = {spelled_id(i["id"]): i.get("file_name") for i in self.images}
        poses = self.keypoints().reshape(-1, 3 * len(POSETRACK18)).tolist()
        entries = []
        for person, pose in zip(self.people, poses, strict=True):
            entry = {k: v for k, v in person.items() if k != "scores"} | {"keypoints": pose}
            name = names.get(spelled_id(person["image_id"]))
            entries.append(entry | ({"file_name": name} if name else {}))
        return check_entries(entries, source=self.source)

    def annotations(self) -> Annotations:
        """The labelled people as arrays, for ``evaluate``, ``diagnose_results`` and the like."""
        return annotations_of(self.to_coco(), POSETRACK18, source=self.source)

    def to_coco(self) -> dict[str, Any]:
        """One COCO annotation file of all sequences, for training; ids and all fields as they are."""
        category = {"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}
        return {"images": self.images, "annotations": self.people, "categories": [category]}


def read_posetrack(path: PathLike) -> PoseTrack:
    """Read a sequence's file, or all of a folder.

    Raises:
        FileFormatError: there is none, or it is no PoseTrack 2018 file.
        SkeletonError: its keypoints are not PoseTrack's 17.
    """
    given = Path(path)
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
        _check(data, str(file))
        sequences[file.name] = data
    return PoseTrack(os.fspath(path), sequences)


def _check(data: Mapping[str, Any], source: str) -> None:
    for category in data.get("categories") or []:
        if isinstance(category, Mapping) and category.get("keypoints"):
            check_keypoint_names(category["keypoints"], POSETRACK18, source)
    frames = {spelled_id(i["id"]) for i in data["images"] if isinstance(i, Mapping) and "id" in i}
    if len(frames) != len(data["images"]):
        raise FileFormatError(f"{source}: expected an 'id' of its own for every image")
    for index, person in enumerate(data["annotations"]):
        if not isinstance(person, Mapping) or not isinstance(person.get("keypoints"), list):
            raise FileFormatError(f"{source}: annotation {index}: expected an object with 'keypoints'")
        if spelled_id(person.get("image_id")) not in frames:
            got = person.get("image_id")
            raise FileFormatError(f"{source}: annotation {index}: image_id {got!r} is not among the file's images")


def write_posetrack(folder: PathLike, frames: PoseTrack, entries: Sequence[Entry]) -> list[Path]:
    """Write results that poseval reads: one file per sequence, named as those of ``frames``.

    Args:
        folder: created where it does not exist.
        frames: the annotations that belong to the results (poseval wants all their frames in their order), or the
            results file that the entries were read from.
        entries: people as in COCO results, [x, y, score] of PoseTrack's 17 keypoints; their order within a sequence,
            ``track_id`` and all other fields stay. Who has no ``track_id`` gets one in the frame, so that poseval
            can read the file; its AP does not look at it.

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
            raise FileFormatError(f"entries: entry {index}: {frames.source} has no frame {entry['image_id']!r}")
        count[frame] = count.get(frame, -1) + 1
        track = entry.get("track_id", count[frame])
        if not isinstance(track, int) or not 0 <= track < MAX_TRACK_ID:
            raise FileFormatError(
                f"entries: entry {index}: expected a 'track_id' of 0…{MAX_TRACK_ID - 1}, got {track!r}"
            )
        by_file[frames.file_of[frame]].append(_person(entry, pose, track))
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(POSETRACK18.keypoints)}
    for name, data in frames.sequences.items():
        categories = data.get("categories") or [category]
        content = {**data, "images": data["images"], "annotations": by_file[name], "categories": categories}
        write_json(target / name, content)
    return [target / name for name in frames.sequences]


def _person(entry: Entry, pose: Doubles, track_id: int) -> dict[str, Any]:
    """A person as poseval reads it: visibility in the third places, scores beside."""
    there = pose[:, 2] > 0
    points = np.where(there[:, None], pose[:, :2], 0.0)
    keypoints = np.concatenate([points, there[:, None]], axis=1)
    person = {k: v for k, v in entry.items() if k != "file_name"}
    flat = [round(v, 3) for v in keypoints.reshape(-1).tolist()]
    scores = np.where(there, pose[:, 2], 0.0).tolist()
    return person | {"track_id": track_id, "keypoints": flat, "scores": scores}
