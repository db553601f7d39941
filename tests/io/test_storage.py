"""Folders here and in object stores: files appear whole or not at all, and the first of several writers wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posefix.exceptions import InputError
from posefix.io.storage import Storage, filesystem, is_uri


@pytest.fixture(params=["path", "uri"])
def storage(tmp_path: Path, request: pytest.FixtureRequest) -> Storage:
    if request.param == "uri":
        pytest.importorskip("pyarrow", reason="object stores need the extra posefix[parquet]")
    folder = tmp_path / "run"
    found = Storage(folder.as_uri() if request.param == "uri" else str(folder))
    assert found.is_local == (request.param == "path")
    assert found.names() == set()
    folder.mkdir() if request.param == "uri" else found.create()
    return found


def test_write_read_remove(storage: Storage) -> None:
    storage.write("a", b"1")
    storage.write("a", b"2")
    assert storage.read("a") == b"2"
    assert storage.names() == {"a"}
    assert storage.write_first("a", b"3") == b"2"
    assert storage.write_first("b", b"4") == b"4"
    storage.remove("a")
    storage.remove("a")
    assert storage.names() == {"b"}
    with pytest.raises(FileNotFoundError):
        storage.read("a")


def test_of_several_writers_the_first_wins(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda i: storage.write_first("plan", f"{i}".encode() * 1000), range(8)))
    assert len(seen) == 1
    assert storage.names() == {"plan"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"1")
    (tmp_path / ".b.1234.part").write_bytes(b"half")
    (tmp_path / ".c.1234.part").write_bytes(b"another process is at it")
    storage.remove_unfinished(["a", "b"])
    assert storage.names() == {"a", ".c.1234.part"}


def test_uris() -> None:
    assert is_uri("s3://bucket/folder")
    assert not is_uri("C:/folder")
    assert not is_uri(Path("s3:/bucket"))
    pytest.importorskip("pyarrow", reason="object stores need the extra posefix[parquet]")
    pytest.importorskip("fsspec", reason="fsspec is tried where pyarrow knows no such scheme")
    assert filesystem("memory://folder/x")[1].endswith("folder/x")
    with pytest.raises(InputError, match="nothing-like-that"):
        filesystem("nothing-like-that://x")
