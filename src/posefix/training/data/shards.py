"""Packed training sets: people, their poses and JPEG-coded images of them in a few ``.npz`` files.

``tools/pack_shards.py`` writes them. One file holds, for n people of one set:

- ``ground_truth`` (n, K, 3), ``estimates`` (n, E, K, 3), ``boxes_xyxy`` (n, 4), ``area`` (n,), ``others``
  (n, M, K, 3), ``overlap`` (n,): as in ``People``, in pixels of the person's own stored image;
- ``codes`` uint8, their JPEGs one after the other, and ``ends`` (n,), where each one ends;
- ``keypoints`` (K,), the skeleton's names, and ``version``.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import TrainingError
from posefix.io.atomic import new_file
from posefix.keypoints.skeleton import Skeleton

_VERSION = 1
_CODED = ("codes", "ends", "keypoints", "version")


@dataclass(frozen=True)
class Labels:
    """What is known of N people, apart from their images.

    Attributes:
        ground_truth: (N, K, 3) [x, y, v] px.
        estimates: (N, E, K, 3) real estimators' keypoints [x, y, score]; NaN where there is none.
        boxes_xyxy: (N, 4) labelled boxes.
        area: (N,) px² of the person.
        others: (N, M, K, 3) [x, y, v] of other people near, zero-padded.
        overlap: (N,) how many there are.
    """

    ground_truth: npt.NDArray[np.float32]
    estimates: npt.NDArray[np.float32]
    boxes_xyxy: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]
    overlap: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ground_truth)


@dataclass(frozen=True)
class Shard(Labels):
    """N people with an image each; labels are in the frame of these images.

    Attributes:
        codes: N JPEG files, (bytes,) uint8 each.
    """

    codes: tuple[npt.NDArray[np.uint8], ...]


def write_shard(path: str | Path, shard: Shard, skeleton: Skeleton) -> int:
    """Write one file; returns its size in bytes."""
    arrays: dict[str, Any] = {f.name: getattr(shard, f.name) for f in fields(Shard) if f.name != "codes"}
    arrays["ends"] = np.cumsum([len(code) for code in shard.codes], dtype=np.int64)
    arrays["codes"] = np.concatenate(shard.codes) if shard.codes else np.zeros(0, np.uint8)
    arrays["keypoints"], arrays["version"] = np.array(skeleton.keypoints), np.array(_VERSION)
    with new_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)
    return Path(path).stat().st_size


#: What earlier shards call some arrays.
_OLD_NAMES = {"ground_truth": "annotated", "others": "neighbours"}


def read_shards(source: str, skeleton: Skeleton) -> Shard:
    """Read all shards of one set.

    Args:
        source: a folder, whose ``.npz`` files are all read, or a pattern of names such as ``packed/set_0_*.npz``.
        skeleton: must have the names that were packed.

    Raises:
        TrainingError: there is no file, one is damaged or no shard, or holds another keypoint set.
    """
    found = sorted(str(p) for p in Path(source).glob("*.npz")) if Path(source).is_dir() else sorted(glob(source))
    if not found:
        raise TrainingError(f"shards: no .npz file matches {source}; tools/pack_shards.py writes them")
    parts = [_read_shard(path, skeleton) for path in found]
    slots = {p.estimates.shape[1] for p in parts}
    if len(slots) > 1:
        raise TrainingError(f"shards: the files of {source} hold {min(slots)} to {max(slots)} estimates: several sets?")
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Shard) if f.name != "codes"}
    return Shard(**joined, codes=tuple(code for p in parts for code in p.codes))


def _read_shard(path: str, skeleton: Skeleton) -> Shard:
    names = [f.name for f in fields(Shard) if f.name != "codes"]
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name if name in file else _OLD_NAMES[name]] for name in (*names, *_CODED)}
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged or no shard of tools/pack_shards.py: {error}") from error
    if arrays["version"].shape or int(arrays["version"]) != _VERSION:
        raise TrainingError(f"{path}: version {arrays['version']}, expected {_VERSION}: pack the sets again")
    keypoints = tuple(str(name) for name in arrays["keypoints"])
    if keypoints != skeleton.keypoints:
        raise TrainingError(
            f"{path}: packed for {len(keypoints)} keypoints ({', '.join(keypoints[:3])}, …), which are not those of "
            f"skeleton {skeleton.name!r}"
        )
    count, ends = len(arrays["ends"]), arrays["ends"]
    shapes = {
        "ground_truth": (count, len(skeleton), 3),
        "boxes_xyxy": (count, 4),
        "area": (count,),
        "overlap": (count,),
        "estimates": (count, *arrays["estimates"].shape[1:2], len(skeleton), 3),
        "others": (count, *arrays["others"].shape[1:2], len(skeleton), 3),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise TrainingError(f"{path}: {name}: expected {shape}, got {arrays[name].shape}")
    if (np.diff(ends, prepend=0) <= 0).any() or (count and ends[-1] != len(arrays["codes"])):
        raise TrainingError(f"{path} is damaged: its images do not end where they should")
    codes = tuple(np.split(arrays["codes"], ends[:-1])) if count else ()
    return Shard(**{name: arrays[name] for name in names}, codes=codes)
