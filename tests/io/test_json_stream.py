"""Long JSON lists, one element at a time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posefix.exceptions import FileFormatError, InputError
from posefix.io import json_stream
from posefix.io.json_stream import iterate_entries, iterate_json_list, write_json_list

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(values=st.lists(_VALUES, max_size=6), chunk=st.integers(1, 9), indent=st.sampled_from([None, 2]))
def test_reads_what_json_reads(tmp_path_factory: Any, values: list[Any], chunk: int, indent: int | None) -> None:
    path = tmp_path_factory.mktemp("stream") / "list.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)  # elements and characters straddle the pieces
        assert list(iterate_json_list(path)) == values
    assert write_json_list(path, values) == len(values)
    assert json.loads(path.read_text(encoding="utf-8")) == values


@pytest.mark.parametrize("chunk", range(1, 12))
def test_numbers_that_straddle_pieces(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "numbers.json"
    path.write_text("[0.5,-1.25e+10 , 1E-7,100,-0.0]")
    assert list(iterate_json_list(path)) == [0.5, -1.25e10, 1e-7, 100, -0.0]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"b": [1, 2]}, 12.5, "é"]', "[1]", "[]"])
def test_every_cut_is_told(tmp_path: Path, text: str) -> None:
    raw = text.encode()
    for length in range(len(raw)):
        path = tmp_path / "cut.json"
        path.write_bytes(raw[:length])
        with pytest.raises(FileFormatError, match=r"cut\.json"):
            list(iterate_json_list(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ('{"annotations": []}', "expected a list, got an object"),
        ("[1 2]", "element 1 is damaged"),
        ("[1,]", "element 1 is damaged"),
        ("[,1]", "element 0 is damaged"),
        ("[1] x", "after the list's end"),
        ("[1, nul]", "element 1"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        list(iterate_json_list(path))


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"[\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="binary"):
        list(iterate_json_list(tmp_path / "binary.json"))
    with pytest.raises(FileFormatError, match="no such file"):
        list(iterate_json_list(tmp_path / "none.json"))


def test_entries_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('[{"image_id": 1}, 5]')
    with pytest.raises(FileFormatError, match="entry 1: expected an object, got a number"):
        list(iterate_entries(path))
    path.write_text('[{"image_id": 1}, {"image_id": null}]')
    with pytest.raises(FileFormatError, match="entry 1: expected an integer or string 'image_id'"):
        list(iterate_entries(path))
    path.write_text('[{"image_id": 1, "num_keypoints": 3, "iscrowd": 0, "keypoints": [1, 2, 2]}]')
    with pytest.raises(FileFormatError, match="these are annotations"):
        list(iterate_entries(path))


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def values() -> Any:
        yield 1
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError):
        write_json_list(path, values())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    with pytest.raises(InputError, match="does not exist"):
        write_json_list(tmp_path / "no" / "out.json", [])


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    entry = {"image_id": 1, "keypoints": [0.123] * 51}
    write_json_list(path, (entry for _ in range(40_000)))
    assert path.stat().st_size > 12_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in iterate_entries(path)) == 40_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
