"""Images by name, wherever they lie: in a folder, an object store, tar shards, or in the rows themselves."""

from __future__ import annotations

import glob
import os
import tarfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posefix.exceptions import ImageError, InputError
from posefix.io.image_names import image_path, is_inside
from posefix.io.storage import filesystem, is_uri

#: Tar shards whose lists of members are remembered at a time.
_TARS = 64


@dataclass(eq=False)
class ImageStore:
    """Reads images by name; may be shared by threads and sent to other processes.

    Attributes:
        where: a folder (``val2017/``), a URI (``s3://bucket/val2017``, ``gs://…``, ``hdfs://…``), tar shards
            (``shards/train-*.tar``, ``s3://bucket/train-0001.tar``), or None where every row brings its own bytes.
            In a folder, a name may lead through a shard: ``train-0001.tar/000139.jpg``.

    Raises:
        InputError: no such folder, no tar file of that name, or a URI that nothing opens.
        MissingDependencyError: a package for such a URI is not installed.
    """

    where: str | None
    _members: OrderedDict[str, dict[str, tuple[int, int]]] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.where is None:
            return
        if is_uri(self.where):
            filesystem(self.where)  # what cannot be opened at all is no fault of single images
            return
        if self._is_shards:
            if not self._shards():
                raise InputError(f"images: no tar file matches {self.where!r}")
        elif not Path(self.where).is_dir():
            raise InputError(f"images: no such folder {self.where!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.where, self._members, self._lock = state["where"], OrderedDict(), threading.Lock()

    @property
    def _is_shards(self) -> bool:
        return self.where is not None and self.where.partition("?")[0].endswith(".tar")

    def _shards(self) -> list[str]:
        assert self.where is not None
        if is_uri(self.where):
            return self._remote_shards(self.where)
        return (
            sorted(glob.glob(self.where)) if glob.has_magic(self.where) else [self.where] * Path(self.where).is_file()
        )

    def _remote_shards(self, where: str) -> list[str]:
        import fnmatch

        from pyarrow import fs

        found, path = filesystem(where)
        if not glob.has_magic(path):
            return [path]
        listed = found.get_file_info(fs.FileSelector(os.path.dirname(path)))
        return sorted(i.path for i in listed if fnmatch.fnmatch(i.path, path))

    def source(self, name: str) -> str | bytes:
        """What ``load_image`` opens: a path where the image is a file of this machine, else its bytes.

        Args:
            name: of the image, as results and annotations give it.

        Raises:
            ImageError: there is no such image, or it cannot be read.
        """
        if self.where is None:
            raise ImageError(f"image {name!r}: the row brings no bytes, and no place to look for images was given")
        if self._is_shards:
            for shard in self._shards():
                if (place := self._members_of(shard).get(name)) is not None:
                    return self._read(shard, name, *place)
            raise ImageError(f"image {name!r}: not in {self.where}")
        shard_name, inside, member = name.partition(".tar/")
        if inside:
            shard = self._join(shard_name + ".tar")
            place = self._members_of(shard).get(member)
            if place is None:
                raise ImageError(f"image {name!r}: the shard has no such member")
            return self._read(shard, name, *place)
        return self._read(self._join(name), name) if is_uri(self.where) else image_path(self.where, name)

    def _join(self, name: str) -> str:
        assert self.where is not None
        if not is_uri(self.where):
            return image_path(self.where, name)
        if not is_inside("/", name) or ".." in name.split("/"):
            raise ImageError(f"image {name!r}: leads out of {self.where}")
        return f"{filesystem(self.where)[1]}/{name}"

    def _open(self, path: str) -> Any:
        assert self.where is not None
        return filesystem(self.where)[0].open_input_file(path) if is_uri(self.where) else open(path, "rb")

    def _read(self, path: str, name: str, offset: int = 0, size: int = -1) -> bytes:
        try:
            with self._open(path) as stream:
                if offset:
                    stream.seek(offset)
                return bytes(stream.read(size) if size >= 0 else stream.read())
        except FileNotFoundError:
            raise ImageError(f"image {name!r}: no such file in {self.where}") from None
        except OSError as error:
            raise ImageError(f"image {name!r}: cannot be read from {self.where}: {error}") from None

    def _members_of(self, shard: str) -> dict[str, tuple[int, int]]:
        """Offset and size of every file of a tar shard; its headers are read once."""
        with self._lock:
            if shard in self._members:
                self._members.move_to_end(shard)
                return self._members[shard]
            try:
                with self._open(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                    found = {_plain(m.name): (m.offset_data, m.size) for m in tar if m.isfile()}
            except FileNotFoundError:
                raise ImageError(f"tar shard {shard!r}: no such file") from None
            except (OSError, tarfile.TarError) as error:
                raise ImageError(f"tar shard {shard!r}: cannot be read: {error}") from None
            self._members[shard] = found
            if len(self._members) > _TARS:
                self._members.popitem(last=False)
            return found


def is_folder(where: str) -> bool:
    """Whether a place of images is written as a folder of this machine, not as tar shards or a URI."""
    return not is_uri(where) and not where.endswith(".tar")


def _plain(name: str) -> str:
    return name.removeprefix("./")
