"""COCO results ⇄ Parquet without loss."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import annotation_file, results_of
from posefix.exceptions import FileFormatError, InputError
from posefix.io.json_stream import write_json_list
from posefix.io.parquet_files import (
    PeopleFiles,
    about_parquet,
    is_parquet,
    json_to_parquet,
    parquet_to_json,
    write_tables,
)

pa = pytest.importorskip("pyarrow", reason="Parquet files need the extra posefix[parquet]")

from posefix.io.parquet import entries_to_table, people_schema, pose_array, pose_column, table_to_entries  # noqa: E402

_NUMBER = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
_ANY = st.none() | _NUMBER | st.text() | st.lists(_NUMBER, max_size=7) | st.dictionaries(st.text(), _NUMBER)
_FIELDS = ("keypoints", "score", "bbox", "file_name", "source", "frame", "person_id", "track_id", "category_id")
_FIELDS += ("refined_keypoints", "refined_score", "status", "error", "area", "row", "extra", "idx")
_ENTRY = st.fixed_dictionaries(
    {"image_id": st.integers(-(2**70), 2**70) | st.text() | st.just(3.0)},
    optional=dict.fromkeys(_FIELDS, _ANY) | {"keypoints": st.lists(_NUMBER, min_size=6, max_size=6) | _ANY},
)


def same(left: Any, right: Any) -> bool:
    """Equal JSON values: 1 and 1.0 are one number, true is none."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(entries=st.lists(_ENTRY, max_size=5))
def test_any_entry_survives(tmp_path_factory: Any, entries: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    write_json_list(folder / "in.json", entries)
    assert json_to_parquet(folder / "in.json", folder / "p.parquet", count=2) == len(entries)
    assert parquet_to_json(folder / "p.parquet", folder / "out.json") == len(entries)
    back = json.loads((folder / "out.json").read_text())
    assert same(back, entries)
    # And the other way: the table of what came back is the table.
    json_to_parquet(folder / "out.json", folder / "q.parquet", count=2)
    files = [PeopleFiles(str(folder / name)) for name in ("p.parquet", "q.parquet")]
    tables = [f.take(np.arange(len(f))) for f in files]
    assert repr(tables[0].drop(["row"]).to_pylist()) == repr(tables[1].drop(["row"]).to_pylist())  # NaN, too


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '[{"image_id": 1}]',
        '[{"image_id": 1, "keypoints": "x"}, {"image_id": 1, "keypoints": [1, 2, 0.5]}]',
        f'[{{"image_id": 1, "keypoints": [{"9" * 400}, 1, 1], "bbox": [{"9" * 400}, 1, 1, 1]}}]',
        '[{"image_id": "\\ud800", "keypoints": [1, 2, 0.5]}, {"image_id": 1, "file_name": "\\ud800"}]',
    ],
)
def test_odd_entries_survive(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.json").write_text(text)
    json_to_parquet(tmp_path / "in.json", tmp_path / "p.parquet")
    parquet_to_json(tmp_path / "p.parquet", tmp_path / "out.json")
    assert same(json.loads((tmp_path / "out.json").read_text()), json.loads(text))


def test_columns_of_ordinary_results(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = results_of(annotation_file(rng, images=5, people=4), rng)
    write_json_list(tmp_path / "in.json", entries)
    about = {"keypoints": ["a", "b"], "skeleton": "coco"}
    json_to_parquet(tmp_path / "in.json", tmp_path / "p.parquet", about=about)
    assert about_parquet(tmp_path / "p.parquet") == about
    files = PeopleFiles(str(tmp_path / "p.parquet"))
    assert len(files) == 20
    assert files.schema.field("keypoints").type == pa.list_(pa.float64(), 51)
    assert files.schema.field("image_id").type == pa.int64()
    table = next(files.tables())
    assert table["row"].to_pylist() == list(range(20))
    assert table["extra"].null_count == 20
    poses, there = pose_array(table["keypoints"], 17)
    assert there.all()
    assert np.array_equal(poses.reshape(20, 51), [e["keypoints"] for e in entries])


def test_rows_are_taken_in_the_order_asked_for(tmp_path: Path) -> None:
    schema = people_schema(1)
    entries = [{"image_id": i, "keypoints": [i, 0.5, 1]} for i in range(100)]
    tables = [entries_to_table(entries[i : i + 10], schema, i) for i in range(0, 100, 10)]
    write_tables(tmp_path / "a.parquet", tables[:4], schema)
    write_tables(tmp_path / "b.parquet", tables[4:], schema)
    (tmp_path / "notes.txt").write_text("not a table")
    files = PeopleFiles(str(tmp_path))
    assert is_parquet(tmp_path)
    assert len(files) == 100
    rows = np.random.default_rng(0).permutation(100)[:37]
    assert files.take(rows)["image_id"].to_pylist() == rows.tolist()
    assert files.take(np.zeros(0, np.int64)).num_rows == 0


def test_lists_of_other_types_and_lengths() -> None:
    values = [[1, 2, 3, 4, 5, 6], None, [1, 2], [float("nan"), 0, 0, 1, 1, 1]]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64())):
        column = pa.chunked_array([pa.array(values[:2], kind), pa.array(values[2:], kind)])
        poses, there = pose_array(column, 2)
        assert there.tolist() == [True, False, False, True]
        assert poses[0].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert math.isnan(poses[3, 0, 0])
    again, known = pose_array(pose_column(poses, there), 2)
    assert known.tolist() == there.tolist()
    assert np.array_equal(again, poses, equal_nan=True)
    with pytest.raises(FileFormatError, match="lists of numbers"):
        pose_array(pa.chunked_array([["a"]]), 2)


def test_refined_values_take_the_place_of_the_first(tmp_path: Path) -> None:
    entries = [
        {"image_id": 1, "keypoints": [1.0, 2.0, 0.5], "score": 0.5, "refined_keypoints": [3.0, 4.0, 0.9]},
        {"image_id": 2, "keypoints": [1.0, 2.0, 0.5], "status": "unread", "error": "no such file"},
    ]
    entries[0] |= {"refined_score": 0.25, "status": "refined"}
    table = entries_to_table(entries, people_schema(1))
    assert table_to_entries(table, refined=True) == [
        {"image_id": 1, "keypoints": [3.0, 4.0, 0.9], "score": 0.25},
        {"image_id": 2, "keypoints": [1.0, 2.0, 0.5]},
    ]


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(FileFormatError, match=r"bad\.parquet"):
        len(PeopleFiles(str(tmp_path / "bad.parquet")))
    with pytest.raises(FileFormatError, match="no such file"):
        len(PeopleFiles(str(tmp_path / "none.parquet")))
    write_tables(tmp_path / "t.parquet", [pa.table({"a": [1]})], pa.schema({"a": pa.int64()}))
    with pytest.raises(FileFormatError, match="expected the columns image_id and keypoints"):
        parquet_to_json(tmp_path / "t.parquet", tmp_path / "o.json")
    with pytest.raises(InputError, match="does not exist"):
        write_tables(tmp_path / "no" / "t.parquet", [], pa.schema({}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.parquet", "t.parquet"]


@pytest.mark.slow
def test_memory_of_the_conversion_stays_flat(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 640, 51).round(3).tolist()
    write_json_list(tmp_path / "in.json", ({"image_id": i, "keypoints": values} for i in range(40_000)))
    tracemalloc.start()
    try:
        json_to_parquet(tmp_path / "in.json", tmp_path / "p.parquet")
        parquet_to_json(tmp_path / "p.parquet", tmp_path / "out.json")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000  # the people of one row group, as objects
    assert (tmp_path / "in.json").stat().st_size > 15_000_000
