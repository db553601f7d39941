"""Files that appear whole or not at all: killed at every step, with a full disk, with two writers at once."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from posefix.exceptions import InputError
from posefix.io import atomic
from posefix.io.atomic import JOURNAL, check_writable, finish, new_file, read_file, write_file, write_files, write_first

#: Calls of ``os`` by which a write changes what others see; a process may die at each of them.
STEPS = ("replace", "rename", "fsync", "link")


class Killed(BaseException):
    """As kill −9: nothing that stands after it runs, so the clean-up of ``finally`` is undone by the test."""


def killed_at(step: int, write: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run ``write`` and die before the ``step``-th call of ``STEPS``; whether it died."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(atomic.os, name, counted(getattr(os, name)))
        # The dead do not tidy up.
        patch.setattr(atomic.shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
        try:
            write()
        except Killed:
            return True
    return False


def test_a_file_is_old_or_new_wherever_its_writer_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for step in range(20):
        path = tmp_path / str(step) / "a.json"
        path.parent.mkdir()
        write_file(path, b"old")
        died = killed_at(step, lambda path=path: write_file(path, b"new" * 1000), monkeypatch)
        seen.add(path.read_bytes())
        assert path.read_bytes() in (b"old", b"new" * 1000)
        if not died:
            break
    assert seen == {b"old", b"new" * 1000}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_several_files_are_all_old_or_all_new_wherever_their_writer_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("config.json", "model.safetensors", "README.md")
    seen = set()
    for step in range(40):
        folder = tmp_path / str(step)
        write_files(folder, dict.fromkeys(names, b"old"))
        died = killed_at(step, lambda folder=folder: write_files(folder, dict.fromkeys(names, b"new")), monkeypatch)
        contents = {read_file(folder, name) for name in names}
        assert len(contents) == 1, f"step {step}: {contents}"
        seen |= contents
        # The next writer completes what was decided, and does not bring the old back.
        finish(folder)
        assert {(folder / name).read_bytes() for name in names} == contents
        write_files(folder, {"config.json": b"third"})
        assert (folder / "config.json").read_bytes() == b"third"
        assert not (folder / JOURNAL).exists()
        if not died:
            break
    else:
        pytest.fail("it died to the end")
    assert seen == {b"old", b"new"}


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    write_files(tmp_path, dict.fromkeys(names, b"start"))

    def write(mark: int) -> None:
        for turn in range(25):
            write_files(tmp_path, dict.fromkeys(names, f"{mark} {turn}".encode()))

    writers = [threading.Thread(target=write, args=(mark,)) for mark in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for name in names:
            read_file(tmp_path, name)  # never absent
    for writer in writers:
        writer.join()
    contents = {read_file(tmp_path, name) for name in names}
    assert len(contents) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == list(names)


def test_of_two_first_writers_one_is_first(tmp_path: Path) -> None:
    assert write_first(tmp_path / "a", b"one") == b"one"
    assert write_first(tmp_path / "a", b"two") == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


FULL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # what a full disk does: the write fails half way
from posefix.exceptions import InputError
from posefix.io.atomic import write_file, write_files
folder = Path(sys.argv[1])
big = b"x" * 5000
for write in (lambda: write_file(folder / "a", big), lambda: write_files(folder, {"a": b"1", "b": big})):
    try:
        write()
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits on file sizes")
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'a'}: cannot be written: ")
    assert second.startswith(f"{tmp_path}: cannot be written: ")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_an_exception_inside_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "old")

    def write() -> None:
        with new_file(tmp_path / "a") as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_links_permissions_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    reader, writer = os.pipe()
    write_file(f"/dev/fd/{writer}", "through")
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "through"
    if Path("/dev/full").exists():
        with pytest.raises(InputError, match="/dev/full: cannot be written"):
            write_file("/dev/full", "x")
    for path, message in ((tmp_path, "got a folder"), (tmp_path / "no" / "a", "create it first"), ("a\0b", "null")):
        with pytest.raises(InputError, match=message):
            write_file(path, "x")


def test_what_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    reader, writer = os.pipe()
    for good, folder in ((tmp_path / "new", False), (tmp_path / "file", False), (f"/dev/fd/{writer}", False),
                         (tmp_path, True), (tmp_path / "a" / "b", True)):  # fmt: skip
        check_writable(good, folder=folder)
    for bad, folder, message in (
        (tmp_path, False, "got a folder"),
        (tmp_path / "no" / "a", False, "create it first"),
        (tmp_path / ("x" * 300), False, "cannot be written"),
        (tmp_path / "file" / "a", False, "create it first|cannot be written"),
        (tmp_path / "file", True, "got a file"),
        (tmp_path / "file" / "a", True, "is a file, expected a folder"),
        ("/proc/a", False, "cannot be written"),
        ("/proc/a", True, "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            check_writable(bad, folder=folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    os.close(reader)
    os.close(writer)
