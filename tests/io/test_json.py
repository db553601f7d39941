"""The one door for JSON: whatever is in a file, the answer is data or one sentence."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from posefix.exceptions import FileFormatError
from posefix.io.json import MAX_DEPTH, is_number, parse_json, read_json
from posefix.io.json_stream import iterate_json_list


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xef\xbb\xbf ", "is not JSON"),
        ('[{"a": 1}]'.encode("utf-16"), "expected JSON in UTF-8, got UTF-16"),
        ('[{"a": 1}]'.encode("utf-16-le"), "expected JSON in UTF-8, got UTF-16"),
        ('[{"a": 1}]'.encode("utf-32"), "expected JSON in UTF-8, got UTF-32"),
        (b"[\xff\xfe]", "binary data"),
        (b"[" + b"1" * 5000 + b"]", "thousands of digits"),
        (nested(MAX_DEPTH + 1), "nested too deeply"),
        (nested(100_000), "nested too deeply"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        (b"[1, 2", "ends too early"),
        (b'["a', "ends too early"),
        (b"nothing", "is not JSON"),
    ],
)
def test_what_is_refused(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(raw)
    with pytest.raises(FileFormatError, match=rf"f\.json: .*{words}"):
        read_json(tmp_path / "f.json")
    with pytest.raises(FileFormatError, match=r"f\.json: "):
        list(iterate_json_list(tmp_path / "f.json"))


def test_depth_is_of_the_data_not_of_its_texts() -> None:
    assert parse_json(nested(MAX_DEPTH), source="f") == json.loads(nested(MAX_DEPTH))
    names = ["[" * 500, "{[" * 500]
    assert parse_json(json.dumps(names).encode(), source="f") == names


def test_streams_measure_depth_too(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(b"[1, " + nested(MAX_DEPTH + 1) + b"]")
    with pytest.raises(FileFormatError, match="nested too deeply"):
        list(iterate_json_list(tmp_path / "f.json"))


def test_size_limit(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "f.json", max_bytes=9) == [1, 2, 3]
    with pytest.raises(FileFormatError, match="expected at most 8e-06 MB"):
        read_json(tmp_path / "f.json", max_bytes=8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_folder_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.json")
    with pytest.raises(FileFormatError, match="got a pipe"):
        read_json(tmp_path / "f.json")
    with pytest.raises(FileFormatError, match="got a pipe"):
        read_json("/dev/zero")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_the_shells_pipes_are_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"[1]")
    os.close(writing)
    assert read_json(f"/dev/fd/{reading}") == [1]
    os.close(reading)


@pytest.mark.parametrize("name", ["\ud800.json", "a\0b.json", "x" * 5000])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        read_json(name)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (-1.5, True), (10**308, True), (10**309, False), (math.nan, False), (math.inf, False)]
    + [(v, False) for v in ("1", None, True, [1], {})],
)
def test_numbers(value: Any, expected: bool) -> None:
    assert is_number(value) is expected
