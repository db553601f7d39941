"""Files that appear whole or not at all, one at a time or several together; whatever is written goes through here.

One file is written next to its target and renamed. Several files that belong together (weights and their
configuration, the frames of a video) are first written into a folder inside their folder; renaming that to
``JOURNAL`` decides: before, nothing has happened; after, all are new, for ``read_file`` reads there first. The
next write or ``finish`` completes what a killed process left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from posefix.exceptions import InputError

PathLike = str | os.PathLike[str]

#: Holds files that are decided and not yet in their places.
JOURNAL = ".posefix-unfinished"


def write_file(path: PathLike, content: bytes | str) -> None:
    """Write a file: readers see the old content or the new, never a part, even if the process dies.

    A link stays a link, an old file's permissions stay, and what is no regular file (``/dev/stdout``, a pipe) is
    written to as it is.

    Args:
        path: of the file; its folder must exist.
        content: bytes, or text, which becomes UTF-8.

    Raises:
        InputError: it cannot be written; the message names the file, and an old one is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with new_file(path) as part, part.open("wb") as stream:
        stream.write(data)


@contextlib.contextmanager
def new_file(path: PathLike, *, keep_suffix: bool = False) -> Iterator[Path]:
    """A path to write to; it takes the place of ``path`` when the block ends, unless an exception ends it.

    Args:
        path: of the file; its folder must exist.
        keep_suffix: whether the path has the ending of ``path``, for libraries that check it.

    Raises:
        InputError: as ``write_file``, also for an OSError inside the block.

    Example::

        with new_file("table.csv") as part, part.open("w") as stream:
            stream.write("a,b")
    """
    try:
        if _is_special(path):
            yield Path(path)
            return
        if "\0" in os.fspath(path):
            raise InputError(f"{os.fspath(path)!r}: a file's name cannot hold a null character")
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise InputError(f"{os.fspath(path)}: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise InputError(f"{os.fspath(path)}: expected a file to write, got a folder")
        ending = target.suffix if keep_suffix else ""
        part = target.with_name(f".{target.name[-40:]}.{secrets.token_hex(4)}.part{ending}")
        try:
            yield part
            if target.exists():
                shutil.copymode(target, part)
            _sync(part)
            os.replace(part, target)
            _sync(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(_sentence(path, error)) from error


def write_first(path: PathLike, content: bytes) -> bytes:
    """Write a file unless there is one.

    Returns:
        what then stands there: of several writers, the first one's.

    Raises:
        InputError: it cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name[-40:]}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content)
        _sync(part)
        with contextlib.suppress(FileExistsError):
            _link(part, target)
        _sync(target.parent)
        return target.read_bytes()
    except OSError as error:
        raise InputError(_sentence(path, error)) from error
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: PathLike, *, folder: bool = False) -> None:
    """Tell before the work that a file or folder cannot be written, by trying; nothing is left behind.

    Args:
        path: of the file or folder.
        folder: whether it is a folder, which is made where it does not exist.

    Raises:
        InputError: something else is there, its folder does not exist, or writing there fails.
    """
    target = Path(path)
    try:
        if folder and target.exists() and not target.is_dir():
            raise InputError(f"{os.fspath(path)}: expected a folder to write to, got a file")
        if folder:
            place = next(p for p in (target, *target.absolute().parents) if p.exists())
            if not place.is_dir():
                raise InputError(f"{os.fspath(path)}: {place} is a file, expected a folder")
            probe = place / f".{secrets.token_hex(4)}.part"
            probe.touch()
            probe.unlink()
        elif _is_special(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.stat(path)  # a name that is too long, or that leads through a file
            with contextlib.suppress(_Tried), new_file(path) as part:
                part.touch()
                raise _Tried
    except OSError as error:
        raise InputError(_sentence(path, error)) from error


class _Tried(Exception):  # noqa: N818 (no error: the end of an attempt)
    """Nothing more is to be done."""


def write_files(folder: PathLike, files: Mapping[str, bytes]) -> None:
    """Write several files of one folder so that all are old or all are new, also with two writers at once.

    Args:
        folder: made where it does not exist; its other files stay.
        files: name → content.

    Raises:
        InputError: they cannot be written; all are as they were.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        staged = target / f".{secrets.token_hex(4)}.part"
        try:
            staged.mkdir()
            for name, content in files.items():
                (staged / name).write_bytes(content)
                if (target / name).exists():
                    shutil.copymode(target / name, staged / name)
                _sync(staged / name)
            _sync(staged)
            while not _renamed(staged, target / JOURNAL):
                finish(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        _sync(target)
        finish(target)
    except OSError as error:
        raise InputError(_sentence(folder, error)) from error


def read_file(folder: PathLike, name: str) -> bytes:
    """The content of a file that ``write_files`` may have written, or may be writing.

    Raises:
        OSError: as ``Path.read_bytes``.
    """
    for _ in range(3):  # the file may move from the journal to its place between two tries
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (Path(folder) / JOURNAL / name).read_bytes()
        with contextlib.suppress(FileNotFoundError):
            return (Path(folder) / name).read_bytes()
    return (Path(folder) / name).read_bytes()


def finish(folder: PathLike) -> None:
    """Complete what a process that was killed, or one that is at it, has decided to write into a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    journal = Path(folder) / JOURNAL
    if not journal.is_dir():
        return
    while journal.is_dir():
        # Any process may move any file: the journal holds one decided write at a time, and moving is all that is left.
        with contextlib.suppress(FileNotFoundError):
            for part in sorted(journal.iterdir()):
                os.replace(part, journal.parent / part.name)
        try:
            journal.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_NOT_EMPTY):  # gone already, or another write was decided
                raise
    _sync(Path(folder))


_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


def _renamed(staged: Path, journal: Path) -> bool:
    """Rename a folder; False where the other is there and not empty."""
    try:
        os.rename(staged, journal)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return False
        raise
    return True


def _link(part: Path, target: Path) -> None:
    """A second name for a file, or, where the file system has no such thing, another name, unless that is taken."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        if not target.exists():
            os.replace(part, target)


def _is_special(path: PathLike) -> bool:
    """Whether there is something that is neither file nor folder: a device, a pipe, a socket."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _sync(path: Path) -> None:
    """Make content or names survive a power cut; a full disk may show only here."""
    if not path.is_dir():
        with path.open("r+b") as stream:
            os.fsync(stream.fileno())
    elif os.name == "posix":  # Windows has no such call for folders, and some file systems refuse it
        handle = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(handle)
        finally:
            os.close(handle)


def _sentence(path: PathLike, error: OSError) -> str:
    return f"{os.fspath(path)}: cannot be written: {error.strerror or error}; what was there before is unchanged"
