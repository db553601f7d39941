"""JSON files in and out, and the numbers in them checked; every fault is one sentence that names the file."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError, InputError, SkeletonError
from posefix.io.atomic import write_file
from posefix.keypoints.skeleton import SKELETONS, Skeleton
from posefix.messages import shown

#: Larger files are refused: what they would take in memory is several times as much.
MAX_BYTES = 4 * 10**9
#: Configurations, manifests and what is written about a file: the largest here has 30 kB.
MAX_SMALL = 10**7
#: Lists and objects inside each other; the deepest format here has six.
MAX_DEPTH = 64
_PART = 2**26
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

#: Where a shell puts the other end of ``|`` and ``<(…)``.
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")

PathLike = str | os.PathLike[str]
Doubles = npt.NDArray[np.float64]


def read_json(path: PathLike, *, max_bytes: int = MAX_BYTES) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        max_bytes: larger files are refused before they are read.

    Raises:
        FileFormatError: it is missing, too large, empty, cut short, nested too deeply or not JSON.
    """
    source = os.fspath(path)
    return parse_json(read_bytes(path, max_bytes=max_bytes), source=source)


def read_bytes(path: PathLike, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file; pipes and devices, which may never end, are refused, but for the shell's own.

    Raises:
        FileFormatError: it is missing, too large, no file or cannot be read.
    """
    source = os.fspath(path)
    parts, left = [], max_bytes
    with open_file(path) as stream:
        if os.fstat(stream.fileno()).st_size <= max_bytes:
            while left >= 0 and (part := stream.read(min(left + 1, _PART))):
                parts.append(part)
                left -= len(part)
            if left >= 0:
                return b"".join(parts)
    raise FileFormatError(f"{source}: expected at most {_size(max_bytes)}; split the file")


def _size(count: int) -> str:
    return f"{count / 1e9:g} GB" if count >= 10**9 else f"{count / 1e6:g} MB"


@contextmanager
def open_file(path: PathLike) -> Iterator[IO[bytes]]:
    """A regular file for reading; a fault while it is read is one sentence too.

    Raises:
        FileFormatError: as ``read_bytes``.
    """
    source = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileFormatError(f"{source}: expected a file, got a folder")
        if not (stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and source.startswith(_STREAMS))):
            raise FileFormatError(f"{source}: expected a file, got a pipe, socket or device")
        with Path(path).open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise FileFormatError(f"{source}: no such file") from None
    except OSError as error:
        raise FileFormatError(f"{source}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, FileFormatError | UnicodeDecodeError):
            raise
        raise FileFormatError(f"{source}: no such file can exist: {error}") from None  # a zero byte, half a character


def parse_json(raw: bytes, *, source: str, max_bytes: int = MAX_BYTES, unique: bool = False) -> Any:
    """Bytes of UTF-8 JSON → plain data: the one door for JSON, whatever it is of.

    Args:
        raw: the text, with or without a byte order mark.
        source: what it is, for messages.
        max_bytes: more are refused.
        unique: refuse objects in which a key stands twice; else the last one counts.

    Raises:
        FileFormatError: it is empty, too large, cut short, in another encoding, nested more than ``MAX_DEPTH`` deep,
            has an integer of thousands of digits, or is not JSON.
    """
    if len(raw) > max_bytes:
        raise FileFormatError(f"{source}: expected at most {_size(max_bytes)} of JSON, got {_size(len(raw))}")
    if not raw.strip():
        raise FileFormatError(f"{source}: the file is empty, expected JSON")
    encoding = json.detect_encoding(raw)
    if not encoding.startswith("utf-8"):
        raise FileFormatError(f"{source}: expected JSON in UTF-8, got {encoding.upper()}; save it as UTF-8")
    text = ""
    try:
        text = raw.decode("utf-8-sig")
        data = json.loads(text, object_pairs_hook=partial(_unique, source) if unique else None)
        if _deepest(raw) > MAX_DEPTH and is_deeper(data, MAX_DEPTH):
            raise RecursionError
        return data
    except UnicodeDecodeError:
        raise FileFormatError(f"{source}: expected JSON text, got binary data") from None
    except json.JSONDecodeError as error:
        end = text.rstrip()
        cut = end[:1] in ("[", "{") and (error.pos >= len(end) or "Unterminated" in error.msg)
        why = "ends too early; write or download it again" if cut else f"is not JSON: {error}"
        raise FileFormatError(f"{source}: the file {why}") from None
    except FileFormatError:
        raise
    except ValueError:  # Python refuses to convert integers of more than some thousand digits
        raise FileFormatError(f"{source}: the file has an integer of thousands of digits, expected a number") from None
    except RecursionError:
        raise FileFormatError(f"{source}: the JSON is nested too deeply, expected at most {MAX_DEPTH} levels") from None


def _unique(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FileFormatError(f"{source}: the key {shown(twice)} stands twice in one object")
    return found


def parse_small_json(raw: bytes, *, source: str) -> dict[str, Any]:
    """The object that a configuration or manifest is: at most ``MAX_SMALL`` bytes, no key twice.

    Raises:
        FileFormatError: as ``parse_json``, or no object.
    """
    data = parse_json(raw, source=source, max_bytes=MAX_SMALL, unique=True)
    if not isinstance(data, dict):
        raise FileFormatError(f"{source}: expected an object, got {kind_of(data)}")
    return data


def _deepest(raw: bytes) -> int:
    """How deep brackets nest, those inside strings included: never less than the data does."""
    brackets = np.frombuffer(raw.translate(None, _NO_BRACKETS), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def is_deeper(data: Any, most: int) -> bool:
    """Whether lists and objects nest more than ``most`` deep."""
    level = [data]
    for _ in range(most):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def write_json(path: PathLike, data: Any, *, indent: int | None = None) -> None:
    """Write JSON so that the file appears whole or not at all; numpy values become plain ones.

    Raises:
        InputError: it cannot be written, see ``write_file``.
    """
    write_file(path, json_text(data, indent=indent))


def json_text(data: Any, *, indent: int | None = None) -> str:
    """JSON as it is written; numpy values become plain ones."""
    return json.dumps(data, separators=(",", ":") if indent is None else None, indent=indent, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise InputError(f"a value of type {type(value).__name__} cannot be written as JSON")


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for messages."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number: no text, no true or false, no integer beyond a float's range."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_id(value: Any) -> bool:
    """Whether a value can name an image, a category or a person: an integer, also as 139.0, or text."""
    return isinstance(value, (int, str)) or (isinstance(value, float) and value.is_integer())


def listed(data: Mapping[str, Any], key: str, source: str) -> list[Any]:
    """An optional list of an object; empty where it is missing or null.

    Raises:
        FileFormatError: something else is there.
    """
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FileFormatError(f"{source}: expected a list as {key!r}, got {kind_of(value)}")
    return value


def categories_of(data: Mapping[str, Any], source: str) -> list[Mapping[str, Any]]:
    """The categories of a file of annotations that list keypoints.

    Raises:
        FileFormatError: they are no list of objects with ids.
    """
    found = [c for c in listed(data, "categories", source) if isinstance(c, Mapping) and c.get("keypoints")]
    for category in found:
        if not is_id(category.get("id", 0)):
            raise FileFormatError(
                f"{source}: expected an integer or text as a category's 'id', got {shown(category['id'])}"
            )
    return found


def spelled_id(image_id: Any) -> str:
    """An image id as text: 139, 139.0 (tables make that of it) and "139" are one."""
    return str(int(image_id)) if isinstance(image_id, float) and image_id.is_integer() else str(image_id)


def keypoint_rows(
    rows: list[Any], skeleton: Skeleton | None, count: int, what: str, indices: Sequence[int] | None = None
) -> Doubles:
    """Lists of numbers → poses.

    Args:
        rows: N lists of 3K numbers.
        skeleton: named in messages.
        count: K.
        what: what a row is called in messages, before its index.
        indices: (N,) indices for messages; None counts from 0.

    Returns:
        (N, K, 3).

    Raises:
        FileFormatError: a wrong count of numbers, or a value that is no finite number.
    """
    owner = f" of skeleton {skeleton.name!r}" if skeleton is not None else ""
    for place, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != 3 * count:
            index = indices[place] if indices is not None else place
            got = f"got {len(row)}" if isinstance(row, (list, tuple)) else f"got {kind_of(row)}"
            raise FileFormatError(
                f"{what} {index}: expected {3 * count} numbers ({count} × [x, y, score]{owner}) in 'keypoints', "
                f"{got}{_guess(row, skeleton, count)}"
            )
    try:
        values = np.array(rows).reshape(len(rows), count, 3)
        if values.dtype.kind in "iuf" and np.isfinite(values).all():
            return values.astype(np.float64)
    except (ValueError, OverflowError):
        pass  # ragged: some value is itself a list
    for place, row in enumerate(rows):
        for value in row:
            if not is_number(value):
                index = indices[place] if indices is not None else place
                raise FileFormatError(f"{what} {index}: expected finite numbers in 'keypoints', got {shown(value)}")
    return np.array(rows, np.float64).reshape(len(rows), count, 3)


def _guess(row: Any, skeleton: Skeleton | None, count: int) -> str:
    """What a list of another length may be."""
    if not isinstance(row, (list, tuple)):
        return ""
    if len(row) == count and row and isinstance(row[0], (list, tuple)):
        return " lists; write x, y, score of all keypoints in one list"
    if len(row) == 2 * count:
        return "; the score of each keypoint is missing"
    known = [s for s in SKELETONS.values() if 3 * len(s) == len(row)]
    if known and skeleton is not None:
        return f", as many as skeleton {' or '.join(repr(s.name) for s in known)} has"
    return ""


#: What files call a keypoint that has another name here: CrowdPose's, and mmpose's for CrowdPose.
_OTHER_NAMES = {"head": "head_top", "top_head": "head_top"}


def check_keypoint_names(names: Any, skeleton: Skeleton | None, source: str) -> None:
    """Tell whether a category's keypoint names are the skeleton's, spaces, hyphens and capitals aside.

    Raises:
        FileFormatError: they are no list of names.
        SkeletonError: they are others.
    """
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise FileFormatError(f"{source}: expected a list of names as a category's 'keypoints', got {kind_of(names)}")
    plain = tuple(n.strip().lower().replace(" ", "_").replace("-", "_") for n in names)
    if skeleton is not None:
        plain = tuple(n if n in skeleton.keypoints else _OTHER_NAMES.get(n, n) for n in plain)
    if skeleton is not None and plain != skeleton.keypoints:
        known = [s.name for s in SKELETONS.values() if s.keypoints == plain]
        other = f"those of skeleton {known[0]!r}" if known else f"{len(names)}: {', '.join(names)}"
        raise SkeletonError(
            f"{source}: expected the {len(skeleton)} keypoints of skeleton {skeleton.name!r} "
            f"({', '.join(skeleton.keypoints)}), got {other}; "
            "skeleton (on the command line --skeleton) names another set"
        )


def number_field(
    persons: list[Mapping[str, Any]], indices: list[int], key: str, default: npt.NDArray[Any], source: str
) -> Doubles:
    """One number per labelled person.

    Args:
        persons: N objects.
        indices: (N,) indices for messages.
        key: the field.
        default: (N,) value where the field is missing.
        source: the file, for messages.

    Returns:
        (N,).

    Raises:
        FileFormatError: the field is negative or no finite number.
    """
    values = np.array(default, np.float64)
    for place, person in enumerate(persons):
        value = person.get(key)
        if value is None:
            continue
        if not (isinstance(value, bool) or is_number(value)) or value < 0:
            raise FileFormatError(
                f"{source}: annotation {indices[place]}: expected a number ≥ 0 as {key!r}, got {shown(value)}"
            )
        values[place] = value
    return values


def box_field(persons: list[Mapping[str, Any]], indices: list[int], default: npt.ArrayLike, source: str) -> Doubles:
    """The ``bbox`` of labelled people; arguments as for ``number_field``.

    Returns:
        (N, 4) xywh.

    Raises:
        FileFormatError: a box that is not four finite numbers.
    """
    boxes_xywh = np.array(default, np.float64)
    for place, person in enumerate(persons):
        box = person.get("bbox")
        if box is None or box == []:
            continue
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise FileFormatError(
                f"{source}: annotation {indices[place]}: expected [x, y, width, height] as 'bbox', got {shown(box)}"
            )
        boxes_xywh[place] = box
    return boxes_xywh
