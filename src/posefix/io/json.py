"""JSON files in and out, and the numbers in them checked; every fault is one sentence that names the file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError, InputError, SkeletonError
from posefix.io.atomic import write_file
from posefix.keypoints.skeleton import SKELETONS, Skeleton

PathLike = str | os.PathLike[str]
Doubles = npt.NDArray[np.float64]


def read_json(path: PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        FileFormatError: it is missing, empty, cut short or not JSON.
    """
    try:
        raw = Path(path).read_bytes()
        if not raw.strip():
            raise FileFormatError(f"{os.fspath(path)}: the file is empty, expected JSON")
        text = raw.decode("utf-8-sig")
        return json.loads(text)
    except FileNotFoundError:
        raise FileFormatError(f"{os.fspath(path)}: no such file") from None
    except OSError as error:
        raise FileFormatError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{os.fspath(path)}: expected JSON text, got binary data") from None
    except json.JSONDecodeError as error:
        cut = text.rstrip()[0] in "[{" and (error.pos >= len(text.rstrip()) or "Unterminated" in error.msg)
        end = "ends too early; write or download it again" if cut else f"is not JSON: {error}"
        raise FileFormatError(f"{os.fspath(path)}: the file {end}") from None
    except RecursionError:
        raise FileFormatError(f"{os.fspath(path)}: the JSON is nested too deeply") from None


def write_json(path: PathLike, data: Any, *, indent: int | None = None) -> None:
    """Write JSON so that the file appears whole or not at all; numpy values become plain ones.

    Raises:
        InputError: it cannot be written, see ``write_file``.
    """
    text = json.dumps(data, separators=(",", ":") if indent is None else None, indent=indent, default=_plain) + "\n"
    write_file(path, text)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise InputError(f"a value of type {type(value).__name__} cannot be written as JSON")


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for messages."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


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
                raise FileFormatError(f"{what} {index}: expected finite numbers in 'keypoints', got {value!r}")
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
            f"({', '.join(skeleton.keypoints)}), got {other}"
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
        if not is_number(value) or value < 0:
            raise FileFormatError(
                f"{source}: annotation {indices[place]}: expected a number ≥ 0 as {key!r}, got {value!r}"
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
                f"{source}: annotation {indices[place]}: expected [x, y, width, height] as 'bbox', got {box!r}"
            )
        boxes_xywh[place] = box
    return boxes_xywh
