"""JSON as people have it: plain, gzipped, zipped, one object a line, or through standard input and output."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zipfile
import zlib
from typing import Any

from posefix.exceptions import FileFormatError
from posefix.io.atomic import write_file
from posefix.io.json import MAX_BYTES, PathLike, json_text, parse_json, read_bytes

#: A path that means standard input or output.
STANDARD = "-"
#: Poses shrink to about a tenth, and all zeros to a few hundredths; a small file that unpacks to gigabytes is refused.
MAX_RATIO, _SAFE = 200, 10**8


def read_packed(path: PathLike, *, max_bytes: int = MAX_BYTES) -> tuple[Any, bool]:
    """The content of a JSON file that may be packed.

    Args:
        path: ``.gz`` and ``.zip`` (of one JSON file) are unpacked; ``-`` is standard input.
        max_bytes: larger files, or what they unpack to, are refused.

    Returns:
        the data, and whether it stood as one JSON value a line, which then is a list of these.

    Raises:
        FileFormatError: as ``read_json``, or an archive that is damaged or holds several files.
    """
    source = os.fspath(path)
    if source == STANDARD:
        raw, source = sys.stdin.buffer.read(max_bytes + 1), "standard input"
        if len(raw) > max_bytes:
            raise FileFormatError(f"{source}: expected at most {max_bytes / 1e9:g} GB; split it")
    else:
        raw = read_bytes(path, max_bytes=max_bytes)
    raw = _unpacked(raw, source, max_bytes).removeprefix(codecs.BOM_UTF8)
    first, _, rest = raw.lstrip().partition(b"\n")
    if first.startswith(b"{") and rest.lstrip().startswith(b"{"):
        try:
            lines = [line for line in raw.splitlines() if line.strip()]
            return [parse_json(line, source=f"{source}, line {i}") for i, line in enumerate(lines, 1)], True
        except FileFormatError:
            pass  # one object over several lines, or no JSON at all: the next line says which
    data = parse_json(raw, source=source)
    # A single person that stands alone is a file of one line.
    return ([data], True) if isinstance(data, dict) and {"image_id", "keypoints"} <= set(data) else (data, False)


def write_packed(path: PathLike, data: Any, *, lines: bool = False) -> None:
    """Write JSON, whole or not at all, packed as the name's ending says.

    Args:
        path: ``.gz`` and ``.zip`` are packed; ``-`` is standard output.
        data: plain data.
        lines: one element of a list a line; so too where the name ends in ``.jsonl`` or ``.ndjson``.

    Raises:
        InputError: it cannot be written.
    """
    source = os.fspath(path)
    lines = lines or (isinstance(data, list) and source.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")))
    text = "".join(json_text(each).rstrip("\n") + "\n" for each in data) if lines else json_text(data)
    if source == STANDARD:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
        return
    content = text.encode()
    if source.lower().endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    elif source.lower().endswith(".zip"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            stem = os.path.basename(source)[: -len(".zip")].removesuffix(".json")
            archive.writestr(zipfile.ZipInfo(f"{stem or 'results'}.json"), content)
        content = packed.getvalue()
    write_file(path, content)


def _unpacked(raw: bytes, source: str, max_bytes: int) -> bytes:
    if not raw.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        return raw
    most = min(max_bytes, max(_SAFE, MAX_RATIO * len(raw)))
    try:
        if raw.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
                raw = stream.read(most + 1)
        else:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                names = [n for n in archive.namelist() if n.lower().endswith((".json", ".ndjson", ".jsonl"))]
                if len(names) != 1:
                    raise FileFormatError(f"{source}: expected an archive of one JSON file, got {len(names)}")
                with archive.open(names[0]) as member:
                    raw = member.read(most + 1)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise FileFormatError(f"{source}: the archive is damaged: {error}") from None
    if len(raw) > most:
        raise FileFormatError(
            f"{source}: expected an archive of at most {most / 1e9:g} GB unpacked ({MAX_RATIO} times its size); "
            "unpack or split it"
        )
    return raw
