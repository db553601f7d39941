"""People as a Parquet table, one row per person, and the way from and to COCO results without loss.

| column | type | |
|---|---|---|
| ``row`` | int64 | the person's place in the source, from 0; every person has its own |
| ``source`` | string | video or sequence |
| ``file_name`` | string | of the image |
| ``image_id`` | int64 or string | |
| ``frame``, ``person_id``, ``track_id``, ``category_id`` | int64 | |
| ``image_width``, ``image_height`` | int64 | as annotations record it; may decide which way up the image is |
| ``keypoints`` | 3K doubles | [x, y, score] of each keypoint, pixels |
| ``score`` | double | of the person |
| ``bbox`` | 4 doubles | x, y, width, height |
| ``refined_keypoints`` | 3K doubles | |
| ``refined_score`` | double | |
| ``status`` | string | one of ``STATUS``; null before refinement |
| ``error`` | string | why a person was not refined, or, refined, what is doubtful about the image |
| ``extra`` | string | JSON object: fields without a column, and values that do not fit theirs |

The schema's metadata holds one JSON object under ``posefix``: the keypoints' names, the skeleton, and after refinement
the hash of the weights and the settings. Numbers are doubles because JSON's are: floats of 32 bits would lose digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError
from posefix.io.coco import Entry
from posefix.io.json import parse_small_json, spelled_id
from posefix.io.storage import require_pyarrow

Doubles = npt.NDArray[np.float64]

#: What can become of a person: refined; left as it was because its image cannot be read, because its keypoints are no
#: pose of the skeleton, because it has no keypoint and no box, or because of an error that its row tells.
STATUS = ("refined", "unread", "no_pose", "no_box", "failed")
METADATA_KEY = b"posefix"
#: Rows of a row group: a part of a run reads only the groups it needs.
ROW_GROUP = 4096

_INTEGERS = ("frame", "person_id", "track_id", "category_id", "image_width", "image_height")
_TEXTS = ("source", "file_name", "status", "error")
_NUMBERS = ("score", "refined_score")
_LISTS = ("keypoints", "bbox", "refined_keypoints")
_ORDER: tuple[str, ...] = ("source", "file_name", "image_id", *_INTEGERS, "keypoints", "score", "bbox")
_ORDER += ("refined_keypoints", "refined_score", "status", "error")
#: Beyond these doubles skip integers.
_EXACT = 2**53


class IdsOfTwoKindsError(Exception):
    """An image id does not fit the column's type."""


def people_schema(count: int, *, text_ids: bool = False, about: dict[str, Any] | None = None) -> Any:
    """The ``pyarrow.Schema`` of people with ``count`` keypoints.

    Args:
        count: K.
        text_ids: image ids are text, not integers.
        about: what the metadata is to hold.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    pa = require_pyarrow()
    types = dict.fromkeys(_INTEGERS, pa.int64()) | dict.fromkeys(_TEXTS, pa.string())
    types |= dict.fromkeys(_NUMBERS, pa.float64()) | {"image_id": pa.string() if text_ids else pa.int64()}
    types |= {name: pa.list_(pa.float64(), 4 if name == "bbox" else 3 * count) for name in _LISTS}
    fields = [pa.field("row", pa.int64(), nullable=False), *(pa.field(n, types[n]) for n in _ORDER)]
    fields.append(pa.field("extra", pa.string()))
    return with_about(pa.schema(fields), about or {})


def with_about(schema_or_table: Any, about: dict[str, Any]) -> Any:
    """A schema or table with other metadata of posefix; other packages' metadata stays."""
    old = schema_or_table.metadata if hasattr(schema_or_table, "metadata") else schema_or_table.schema.metadata
    text = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    changed = {**(old or {}), METADATA_KEY: text}
    if hasattr(schema_or_table, "replace_schema_metadata"):
        return schema_or_table.replace_schema_metadata(changed)
    return schema_or_table.with_metadata(changed)


def about_of(schema: Any) -> dict[str, Any]:
    """What posefix wrote into the schema's metadata; empty where it wrote none.

    Raises:
        FileFormatError: it is damaged.
    """
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return {}
    return parse_small_json(raw, source="the table's metadata 'posefix'")


def entries_to_table(entries: Sequence[Entry], schema: Any, first_row: int = 0) -> Any:
    """People as in COCO results → a ``pyarrow.Table``.

    Args:
        entries: N objects; what does not fit a column is kept in ``extra``.
        schema: from ``people_schema``.
        first_row: ``row`` of the first of them.

    Returns:
        N rows.
    """
    pa = require_pyarrow()
    rest = [dict(e) for e in entries]
    text_ids = schema.field("image_id").type == pa.string()
    columns: dict[str, Any] = {"row": pa.array(range(first_row, first_row + len(entries)), pa.int64())}
    for name in _ORDER:
        kind = schema.field(name).type
        if name == "image_id":
            columns[name] = pa.array(_take_ids(rest, text_ids), kind)
        elif name == "keypoints":
            columns[name] = _list_array(_take_poses(rest, kind.list_size), kind.list_size)
        elif name in _LISTS:
            columns[name] = _list_array(_take(rest, name, _list_of(kind.list_size)), kind.list_size)
        else:
            fits = is_int64 if name in _INTEGERS else _is_text if name in _TEXTS else _is_double
            columns[name] = pa.array(_take(rest, name, fits), kind)
    columns["extra"] = pa.array([_json(r) if r else None for r in rest], pa.string())
    return pa.table(columns, schema=schema)


def table_to_entries(table: Any, *, refined: bool = False) -> list[Entry]:
    """The way back from ``entries_to_table``; the column ``row`` is dropped, its order is the caller's.

    Args:
        table: with any of the columns of ``people_schema``.
        refined: put the refined keypoints and score in the place of the estimator's, as ``posefix refine`` writes
            them, and leave out ``status`` and ``error``; else they are fields of their own.

    Returns:
        N objects.
    """
    entries: list[Entry] = [{} for _ in range(table.num_rows)]
    for name in (*_ORDER, "extra"):
        if name not in table.column_names:
            continue
        for entry, value in zip(entries, _values(table, name), strict=True):
            if value is None:
                continue
            if name == "extra":
                entry.update(parse_small_json(value.encode(), source="the column 'extra'"))
            else:
                entry[name] = value
    if refined:
        for entry in entries:
            for name in ("keypoints", "score"):
                if (value := entry.pop(f"refined_{name}", None)) is not None:
                    entry[name] = value
            entry.pop("status", None), entry.pop("error", None)
    return entries


def entries_to_tables(
    entries: Iterable[Entry], count: int, *, text_ids: bool, about: dict[str, Any], size: int = ROW_GROUP
) -> Iterator[Any]:
    """Tables of ``size`` people each from a stream of entries; memory is that of one of them."""
    schema, first, stream = people_schema(count, text_ids=text_ids, about=about), 0, iter(entries)
    while part := list(islice(stream, size)):
        yield entries_to_table(part, schema, first)
        first += len(part)


def poses_of(table: Any, count: int) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """``pose_array`` of a table's people.

    Raises:
        FileFormatError: the table has no column ``keypoints``, or it does not hold lists of numbers.
    """
    if "keypoints" not in table.column_names:
        raise FileFormatError(f"rows: expected a column 'keypoints', got {', '.join(table.column_names)[:80]}")
    return pose_array(table.column("keypoints"), count)


def pose_array(column: Any, count: int) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """A column of lists → poses.

    Args:
        column: N lists of numbers of any list type; null and lists of other lengths are no pose.
        count: K.

    Returns:
        (N, K, 3), NaN for entries that are no pose; (N,) whether it is a pose.

    Raises:
        FileFormatError: the column does not hold lists of numbers.
    """
    pa = require_pyarrow()
    import pyarrow.compute as pc

    values, kind = (column.combine_chunks() if hasattr(column, "combine_chunks") else column), column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise FileFormatError(f"keypoints: expected a column of lists of numbers, got {kind}")
    if hasattr(values, "num_chunks"):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], kind)
    fits = pc.fill_null(pc.equal(pc.list_value_length(values), 3 * count), False).to_numpy(zero_copy_only=False)
    poses = np.full((len(values), count, 3), np.nan)
    flat = pc.list_flatten(values.filter(pa.array(fits))).cast(pa.float64()).to_numpy(zero_copy_only=False)
    poses[fits] = flat.reshape(-1, count, 3)
    return poses, np.asarray(fits, bool)


def pose_column(poses: Doubles, there: npt.NDArray[np.bool_]) -> Any:
    """(N, K, 3) poses → a column of fixed-size lists, null where ``there`` (N,) is False."""
    pa = require_pyarrow()
    size = poses.shape[1] * poses.shape[2]
    flat = np.where(there[:, None], poses.reshape(len(poses), size), 0.0)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(flat.reshape(-1), pa.float64()), size, mask=pa.array(~there) if len(poses) else None
    )


def _take(rest: list[Entry], name: str, fits: Any) -> list[Any]:
    """Values of a field that fit its column; they leave ``rest``, the others stay there."""
    taken: list[Any] = []
    for entry in rest:
        value = entry.get(name)
        if value is not None and fits(value):
            taken.append(value)
            del entry[name]
        else:
            taken.append(None)
    return taken


def _take_poses(rest: list[Entry], size: int) -> list[Any]:
    """Keypoints; with null, NaN or numbers that a double rounds the pose stays in ``rest`` too, as it was."""
    poses = _take(rest, "keypoints", _list_of(size))
    for row, entry in enumerate(rest):
        given = entry.get("keypoints")
        if type(given) is list and len(given) == size and set(map(type, given)) <= {int, float, type(None)}:
            with suppress(OverflowError):  # a number beyond any image: no pose
                poses[row] = [math.nan if v is None else float(v) for v in given]
    return poses


def _take_ids(rest: list[Entry], text_ids: bool) -> list[Any]:
    """Image ids; one of another kind than the column's stays in ``rest`` too, as it was."""
    ids: list[Any] = []
    for entry in rest:
        value = entry.get("image_id")
        if text_ids:
            text = None if value is None else spelled_id(value)
            ids.append(text if _is_text(text) else None)
            keep = not isinstance(value, str) or not _is_text(value)
        else:
            if value is not None and not is_int64(value):
                raise IdsOfTwoKindsError
            ids.append(value)
            keep = value is None
        if not keep:
            del entry["image_id"]
    return ids


def is_int64(value: Any) -> bool:
    """Whether a value is an integer that the column of image ids holds."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_text(value: Any) -> bool:
    # Half a surrogate pair is legal in JSON's escapes and no text in UTF-8.
    return type(value) is str and (value.isascii() or "\\ud" not in ascii(value))


def _is_double(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= _EXACT)


def _list_of(size: int) -> Any:
    def fits(value: Any) -> bool:
        if type(value) is not list or len(value) != size or not set(map(type, value)) <= {int, float}:
            return False
        return all(abs(v) <= _EXACT for v in value)  # neither NaN nor infinity is

    return fits


def _list_array(rows: list[list[float] | None], size: int) -> Any:
    there = np.array([r is not None for r in rows], bool)
    values = np.array([r if r is not None else [0.0] * size for r in rows], np.float64).reshape(len(rows), size, 1)
    return pose_column(values, there)


def _values(table: Any, name: str) -> list[Any]:
    pa = require_pyarrow()
    column, kind = table.column(name), table.schema.field(name).type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        return list(column.to_pylist())
    # Through numpy: fifty times as fast as to_pylist for lists.
    poses, there = pose_array(column, kind.list_size // 3) if kind.list_size % 3 == 0 else (None, None)
    if poses is None or there is None:
        return list(column.to_pylist())
    rows = poses.reshape(len(poses), kind.list_size).tolist()
    return [row if known else None for row, known in zip(rows, there.tolist(), strict=True)]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
