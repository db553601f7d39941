"""Parquet files of people: written whole or not at all, read by row, converted from and to JSON results as streams."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError
from posefix.io.atomic import new_file
from posefix.io.coco import Entry
from posefix.io.json_stream import iterate_entries, write_json_list
from posefix.io.parquet import (
    ROW_GROUP,
    IdsOfTwoKindsError,
    about_of,
    entries_to_tables,
    people_schema,
    table_to_entries,
)
from posefix.io.storage import PathLike, filesystem, is_uri, require_pyarrow
from posefix.keypoints.skeleton import COCO

_ENDINGS = (".parquet", ".pq")


def is_parquet(where: PathLike) -> bool:
    """Whether a place is a Parquet file, or a folder with some, by its name; for a folder here, by what is in it."""
    text = os.fspath(where).partition("?")[0] if is_uri(where) else os.fspath(where)
    if text.lower().endswith(_ENDINGS):
        return True
    if is_uri(where):
        return not text.lower().endswith((".json", ".json.gz"))
    return Path(text).is_dir() and any(p.suffix.lower() in _ENDINGS for p in Path(text).iterdir())


def table_bytes(table: Any) -> bytes:
    """A table as the content of a Parquet file; the same table gives the same bytes with the same pyarrow."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, **_options(table.schema))
    return sink.getvalue()


def _options(schema: Any) -> dict[str, Any]:
    # Coordinates hardly repeat: a dictionary of them only takes time.
    texts = [name for name in schema.names if name not in ("keypoints", "refined_keypoints", "bbox", "image", "row")]
    return {"compression": "zstd", "use_dictionary": texts}


def write_tables(path: PathLike, tables: Iterable[Any], schema: Any) -> int:
    """Write tables one after another into one Parquet file, which appears whole or not at all.

    Args:
        path: of the file; its folder must exist.
        tables: of the schema.
        schema: with the metadata.

    Returns:
        rows written.

    Raises:
        InputError: the folder does not exist.
    """
    import pyarrow.parquet as pq

    count = 0
    with (
        new_file(path) as part,
        part.open("wb") as stream,
        pq.ParquetWriter(stream, schema, **_options(schema)) as writer,
    ):
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)
            count += table.num_rows
    return count


@dataclass(frozen=True, eq=False)
class PeopleFiles:
    """One Parquet file, or all of a folder in the order of their names, as one table of people.

    Attributes:
        where: path or URI of a file or folder.

    Raises (when first read):
        FileFormatError: no such file, not Parquet, or files with different columns.
    """

    where: str

    @cached_property
    def paths(self) -> list[str]:
        """The files, as paths in their file system."""
        from pyarrow import fs

        found, path = filesystem(self.where)
        info = found.get_file_info(path)
        if info.type == fs.FileType.File:
            return [path]
        if info.type == fs.FileType.NotFound:
            raise FileFormatError(f"{self.where}: no such file")
        listed = found.get_file_info(fs.FileSelector(path, recursive=False))
        names = sorted(i.path for i in listed if i.path.lower().endswith(_ENDINGS))
        if not names:
            raise FileFormatError(f"{self.where}: expected Parquet files in this folder, got none")
        return names

    @cached_property
    def _groups(self) -> tuple[Any, list[tuple[str, int]], npt.NDArray[np.int64]]:
        """The schema; (file, row group) of all; the first row of each and, last, how many rows there are."""
        groups: list[tuple[str, int]] = []
        sizes: list[int] = []
        schema: Any = None
        for path in self.paths:
            with self._open(path) as file:
                if schema is not None and not file.schema_arrow.equals(schema):
                    raise FileFormatError(f"{path}: other columns than {self.paths[0]} has")
                schema = schema or file.schema_arrow
                for index in range(file.metadata.num_row_groups):
                    groups.append((path, index))
                    sizes.append(file.metadata.row_group(index).num_rows)
        return schema, groups, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    def _open(self, path: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        found, _ = filesystem(self.where)
        try:
            return pq.ParquetFile(found.open_input_file(path))
        except pa.ArrowInvalid as error:
            raise FileFormatError(f"{path}: damaged or not a Parquet file: {error}") from None

    @property
    def schema(self) -> Any:
        """The files' ``pyarrow.Schema``."""
        return self._groups[0]

    def __len__(self) -> int:
        """How many people there are."""
        return int(self._groups[2][-1])

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The row groups in order, one at a time.

        Args:
            columns: which to read; those that do not exist are left out. None reads all.
        """
        schema, groups, _ = self._groups
        wanted = None if columns is None else [c for c in columns if c in schema.names]
        for path in self.paths:
            with self._open(path) as file:
                for index in (g for p, g in groups if p == path):
                    yield file.read_row_group(index, columns=wanted)

    def take(self, rows: npt.NDArray[np.int64]) -> Any:
        """Some rows, in the order given; only their row groups are read."""
        import pyarrow as pa

        schema, groups, starts = self._groups
        if not len(rows):
            return schema.empty_table()
        order = np.argsort(rows, kind="stable")
        ordered = np.asarray(rows)[order]
        owner = np.searchsorted(starts, ordered, side="right") - 1
        pieces: list[Any] = []
        opened: tuple[str, Any] | None = None
        try:
            for number in np.unique(owner).tolist():
                path, index = groups[number]
                if opened is None or opened[0] != path:
                    if opened is not None:
                        opened[1].close()
                    opened = (path, self._open(path))
                pieces.append(opened[1].read_row_group(index).take(pa.array(ordered[owner == number] - starts[number])))
        finally:
            if opened is not None:
                opened[1].close()
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(pieces).take(pa.array(back)).combine_chunks()


def json_to_parquet(
    source: PathLike,
    out: PathLike,
    *,
    about: dict[str, Any] | None = None,
    count: int | None = None,
    change: Callable[[Entry], Entry] | None = None,
) -> int:
    """COCO or AlphaPose results as a Parquet file, as a stream.

    Args:
        source: JSON file, a list of people.
        out: the Parquet file.
        about: what its metadata is to hold.
        count: K keypoints; None is as many as the first person has, or COCO's where it has none.
        change: applied to every entry before it is stored.

    Returns:
        people.

    Raises:
        FileFormatError: no such list.
        MissingDependencyError: pyarrow is not installed.
    """
    require_pyarrow()
    first = next(iter(iterate_entries(source)), {})
    listed = first.get("keypoints")
    size = count or (len(listed) // 3 if isinstance(listed, list) else 0) or len(COCO)
    text_ids = isinstance(first.get("image_id"), str)

    def write(text_ids: bool) -> int:
        entries = iterate_entries(source)
        stream = map(change, entries) if change is not None else entries
        schema = people_schema(size, text_ids=text_ids, about=about)
        return write_tables(out, entries_to_tables(stream, size, text_ids=text_ids, about=about or {}), schema)

    with suppress(IdsOfTwoKindsError):
        return write(text_ids)
    return write(True)  # ids of two kinds: as text, the integers also as they were


def parquet_to_json(source: PathLike, out: PathLike, *, refined: bool = False) -> int:
    """People of a Parquet file as COCO results, as a stream.

    Args:
        source: file or folder, here or in an object store. A column ``image`` of bytes stays behind: JSON has none.
        out: JSON file.
        refined: refined keypoints and scores in the place of the estimator's; else as fields of their own.

    Returns:
        people.

    Raises:
        FileFormatError: no such file, or not people.
    """
    require_pyarrow()
    files = PeopleFiles(os.fspath(source))
    names = set(files.schema.names)
    if not {"keypoints", "image_id"} <= names:
        raise FileFormatError(
            f"{os.fspath(source)}: expected the columns image_id and keypoints, got {', '.join(sorted(names))}"
        )
    if refined and ("status" not in names or _all_null(next(files.tables(["status"]), None))):
        raise FileFormatError(f"{os.fspath(source)}: not refined yet")
    columns = [n for n in files.schema.names if n != "image"]
    tables = (table_to_entries(t, refined=refined) for t in files.tables(columns))
    return write_json_list(out, (entry for entries in tables for entry in entries))


def _all_null(table: Any) -> bool:
    return table is not None and table.column(0).null_count == table.num_rows


def about_parquet(where: PathLike) -> dict[str, Any]:
    """What posefix wrote into a Parquet file's metadata: keypoints, skeleton, weights, settings."""
    return about_of(PeopleFiles(os.fspath(where)).schema)
