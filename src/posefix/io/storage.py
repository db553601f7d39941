"""Files in folders and in object stores: anything that pyarrow's or fsspec's file systems open."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from posefix.exceptions import InputError, MissingDependencyError
from posefix.io.atomic import write_file, write_first

PathLike = str | os.PathLike[str]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_uri(where: PathLike) -> bool:
    """Whether a place is written as ``scheme://…`` rather than as a path of this machine."""
    return isinstance(where, str) and _URI.match(where) is not None


def require_pyarrow() -> Any:
    """The module ``pyarrow``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError(
            "Parquet files and object stores need pyarrow: pip install 'posefix[parquet]'"
        ) from None
    return pyarrow


@lru_cache(maxsize=16)
def filesystem(where: str) -> tuple[Any, str]:
    """A pyarrow file system and the path in it.

    Args:
        where: a path, or a URI such as ``s3://bucket/folder?region=eu-west-1``, ``gs://…``, ``hdfs://…``; what pyarrow
            does not know is asked of fsspec.

    Raises:
        InputError: nothing opens such a URI.
        MissingDependencyError: pyarrow is not installed, or the package that fsspec needs for it.
    """
    require_pyarrow()
    from pyarrow import fs

    if not is_uri(where):
        return fs.LocalFileSystem(), os.path.abspath(where)
    place, _, query = where.partition("?")
    scheme, _, path = place.partition("://")
    bucket = path.partition("/")[0]
    if scheme in ("s3", "gs") and path != bucket:  # one client for a bucket, not one for each of its files
        return filesystem(f"{scheme}://{bucket}" + f"?{query}" * bool(query))[0], path.rstrip("/")
    try:
        found, path = fs.FileSystem.from_uri(where)
        return found, path.rstrip("/")
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError and others, by version
        first = error
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(where)
        return fs.PyFileSystem(fs.FSSpecHandler(found)), path.rstrip("/")
    except ImportError as error:
        raise MissingDependencyError(f"{where}: {first}; with fsspec: {error}") from None
    except ValueError as error:
        raise InputError(f"{where}: pyarrow: {first}; fsspec: {error}") from None


def child(where: str, name: str) -> str:
    """A file of a folder: path or URI as the folder is, whose query stays at the end.

    >>> child("s3://bucket/run?region=eu-west-1", "run.json")
    's3://bucket/run/run.json?region=eu-west-1'
    """
    place, mark, query = where.partition("?") if is_uri(where) else (where, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


@dataclass(frozen=True)
class Storage:
    """A folder, here or in an object store, whose files appear whole or not at all.

    Attributes:
        where: a path or a URI.
    """

    where: str

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return not is_uri(self.where)

    def path(self, name: str) -> str:
        """Where a file of the folder is, for messages and for pyarrow: a path in ``filesystem(self.where)``."""
        return f"{filesystem(self.where)[1]}/{name}"

    def create(self) -> None:
        """Make the folder where it does not exist."""
        if self.is_local:
            Path(self.where).mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """Names of the files in it; none where it does not exist."""
        if self.is_local:
            return {p.name for p in Path(self.where).iterdir()} if Path(self.where).is_dir() else set()
        from pyarrow import fs

        found, path = filesystem(self.where)
        listed = found.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name for info in listed if info.type == fs.FileType.File}

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.is_local:
            return (Path(self.where) / name).read_bytes()
        found, _ = filesystem(self.where)
        with found.open_input_file(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file: readers see the old content or the new, never a part, even if the process dies."""
        if not self.is_local:
            found, _ = filesystem(self.where)
            with found.open_output_stream(self.path(name)) as stream:  # object stores show a file when it is closed
                stream.write(content)
            return
        write_file(Path(self.where) / name, content)

    def write_first(self, name: str, content: bytes) -> bytes:
        """Write a file unless there is one; returns what then stands there: of several writers, the first one's."""
        if not self.is_local:
            if name not in self.names():
                self.write(name, content)
            return self.read(name)
        return write_first(Path(self.where) / name, content)

    def remove(self, name: str) -> None:
        """Delete a file of the folder, if it is there."""
        if self.is_local:
            (Path(self.where) / name).unlink(missing_ok=True)
        elif name in self.names():
            filesystem(self.where)[0].delete_file(self.path(name))

    def remove_unfinished(self, names: Iterable[str]) -> None:
        """Delete what killed processes left half written of some files. No other process may be writing these."""
        if not self.is_local:
            return
        wanted = set(names)
        for path in Path(self.where).glob(".*.part"):
            if path.name[1:].rsplit(".", 2)[0] in wanted:
                path.unlink(missing_ok=True)
