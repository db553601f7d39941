"""How a large input is cut into parts: by the input alone, so that every process finds the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.batch import image_of_rows
from posefix.choices import PART_SIZE
from posefix.exceptions import InputError
from posefix.io.parquet_files import PeopleFiles
from posefix.messages import shown

_KEYS = ("file_name", "image_id", "source", "frame", "score")


@dataclass(frozen=True, eq=False)
class Plan:
    """How an input is cut.

    Attributes:
        image_of_row: (N,) image of each person, numbered in the order in which they appear.
        part_of_image: (M,) part of each image.
        fingerprint: of the images' names and their order, to tell another input.
        scattered: images whose people do not stand together.
    """

    image_of_row: npt.NDArray[np.int64]
    part_of_image: npt.NDArray[np.int64]
    fingerprint: str
    scattered: int

    @property
    def parts(self) -> int:
        """How many there are."""
        return int(self.part_of_image.max()) + 1 if len(self.part_of_image) else 0

    @cached_property
    def _ordered(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        part_of_row = self.part_of_image[self.image_of_row]
        order = np.argsort(part_of_row, kind="stable")
        return order, np.searchsorted(part_of_row[order], np.arange(self.parts + 1))

    def rows(self, part: int) -> npt.NDArray[np.int64]:
        """The people of a part, in the order of the input."""
        order, ends = self._ordered
        return order[ends[part] : ends[part + 1]]


def plan_parts(files: PeopleFiles, part_size: int = PART_SIZE) -> Plan:
    """Cut an input into parts.

    Args:
        files: the people; only the columns that name images are read.
        part_size: people of a part, about; one video or image may have more.

    Raises:
        FileFormatError: rows that name no image.
    """
    known: dict[str, int] = {}
    videos: dict[str, int] = {}
    block_of_image: list[int] = []
    rows: list[npt.NDArray[np.int64]] = []
    digest = hashlib.sha256()
    for table in files.tables(_KEYS):
        names, place = image_of_rows(table)
        first = np.unique(place, return_index=True)[1]
        sources = _sources(table, first)
        for name, source in zip(names, sources, strict=True):
            if name not in known:
                known[name] = len(known)
                digest.update(name.encode() + b"\0")
                # A video's frames stay together: tracking needs all of them.
                block = videos.setdefault(source, len(known) - 1) if source is not None else len(known) - 1
                block_of_image.append(block)
        rows.append(np.array([known[n] for n in names], np.int64)[place])
    image_of_row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    digest.update(image_of_row.astype("<i8").tobytes())
    part_of_image = _parts_of(image_of_row, np.array(block_of_image, np.int64), part_size)
    changes = 1 + int((np.diff(image_of_row) != 0).sum()) if len(image_of_row) else 0
    return Plan(image_of_row, part_of_image, digest.hexdigest()[:32], changes - len(known))


def _sources(table: Any, rows: npt.NDArray[np.int64]) -> list[str | None]:
    """The video of each of some rows; None for images that are no frames."""
    if not {"source", "frame"} <= set(table.column_names):
        return [None] * len(rows)
    some = table.select(["source", "frame"]).take(rows)
    return [s if f is not None else None for s, f in zip(some["source"].to_pylist(), some["frame"].to_pylist())]  # noqa: B905


def _parts_of(
    image_of_row: npt.NDArray[np.int64], block_of_image: npt.NDArray[np.int64], part_size: int
) -> npt.NDArray[np.int64]:
    """(M,) part of each image: blocks in order, a new part where the last one has ``part_size`` people."""
    if not len(block_of_image):
        return np.zeros(0, np.int64)
    blocks, block = np.unique(block_of_image, return_inverse=True)
    sizes = np.bincount(block[image_of_row], minlength=len(blocks))
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.unique(before // part_size, return_inverse=True)[1], np.int64)[block]


def part_name(part: int) -> str:
    """File name of a part."""
    return f"part-{part:05d}.parquet"


def shard_parts(parts: int, shard: tuple[int, int]) -> list[int]:
    """The parts of shard i of n, i from 1: consecutive ones, so that it reads one stretch of the input.

    >>> [shard_parts(5, (i, 2)) for i in (1, 2)]
    [[0, 1], [2, 3, 4]]
    """
    index, count = shard
    return list(range((index - 1) * parts // count, index * parts // count))


def parse_shard(text: str) -> tuple[int, int]:
    """``"3/40"`` → (3, 40).

    Raises:
        InputError: anything else.
    """
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        raise InputError(f"--shard: expected I/N with 1 ≤ I ≤ N, as 3/40, got {shown(text)}")
    return int(index), int(count)
