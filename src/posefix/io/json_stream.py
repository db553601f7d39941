"""A JSON list of objects, read and written one object at a time: memory stays flat however long the list is."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from posefix.exceptions import FileFormatError
from posefix.io.atomic import new_file
from posefix.io.coco import is_label, labels_error
from posefix.io.json import MAX_DEPTH, PathLike, is_deeper, kind_of, open_file
from posefix.messages import shown

#: Bytes read at a time.
_CHUNK = 1 << 20
#: Characters of one element, or of space between two; a person has some hundred.
MAX_ELEMENT = 64 * 10**6
_SPACE = re.compile(r"[ \t\r\n]*")
_AFTER = re.compile(r"[ \t\r\n]*[,\]]")
#: A number that is cut off leaves at most two characters unread: "." or "e+".
_REST_OF_NUMBER = 2


def iterate_json_list(path: PathLike) -> Iterator[Any]:
    """The elements of a file that holds one JSON list, in order.

    Args:
        path: of the file.

    Raises:
        FileFormatError: no such file, no list, or damaged; the message names the element at fault. What came
            before it has been handed out by then.

    Examples:
        >>> for entry in iterate_json_list("results.json"):
        ...     entry["image_id"]
    """
    try:
        with open_file(path) as stream:
            yield from _elements(stream, os.fspath(path))
    except UnicodeDecodeError:
        raise FileFormatError(f"{os.fspath(path)}: expected JSON text, got binary data") from None
    except RecursionError:
        raise FileFormatError(f"{os.fspath(path)}: the JSON is nested too deeply") from None


def _elements(stream: IO[bytes], source: str) -> Iterator[Any]:
    text = codecs.getincrementaldecoder("utf-8-sig")()
    decode = json.JSONDecoder().raw_decode
    buffer, at, ended = "", 0, False

    def more() -> None:
        nonlocal buffer, at, ended
        if len(buffer) - at > MAX_ELEMENT:
            raise FileFormatError(
                f"{source}: expected elements of at most {MAX_ELEMENT / 1e6:g} MB, got a larger one (or as much space)"
            )
        # Doubling: an element longer than the buffer is parsed again only a few times.
        raw = stream.read(max(_CHUNK, len(buffer) - at))
        ended = not raw
        buffer, at = buffer[at:] + text.decode(raw, final=ended), 0

    def skip(pattern: re.Pattern[str]) -> str:
        """The next character that is no space; empty at the end of the file. ``at`` is then on it."""
        nonlocal at
        while True:
            found = pattern.match(buffer, at)
            end = found.end() if found else at
            if end < len(buffer) or ended:
                at = end
                return buffer[at : at + 1]
            more()

    first = skip(_SPACE)
    if first == "":
        raise FileFormatError(f"{source}: the file is empty, expected JSON")
    if first != "[":
        found = {"{": "an object", '"': "a string"}.get(first, f"text that begins with {first!r}")
        raise FileFormatError(f"{source}: expected a list, got {found}")
    at += 1
    index = 0
    while skip(_SPACE) != "]":
        if index:
            if buffer[at : at + 1] != ",":
                raise _cut(source, index) if ended and at >= len(buffer) else _damaged(source, index, buffer, at)
            at += 1
            skip(_SPACE)
        while True:
            try:
                value, end = decode(buffer, at)
                # The piece may end inside a number: "0" of "0.5".
                if ended or len(buffer) - end > _REST_OF_NUMBER or _AFTER.match(buffer, end):
                    break
            except json.JSONDecodeError as error:
                if ended:
                    late = error.pos >= len(buffer.rstrip()) or "Unterminated" in error.msg
                    raise (_cut(source, index) if late else _damaged(source, index, buffer, error.pos)) from None
            except ValueError:  # an integer of thousands of digits
                raise _damaged(source, index, buffer, at) from None
            more()
        brackets = buffer.count("[", at, end) + buffer.count("{", at, end)
        if brackets >= MAX_DEPTH and is_deeper(value, MAX_DEPTH - 1):
            raise RecursionError
        at = end
        yield value
        index += 1
    at += 1
    if skip(_SPACE) != "":
        raise FileFormatError(f"{source}: is not JSON: there is text after the list's end")


def _cut(source: str, index: int) -> FileFormatError:
    return FileFormatError(f"{source}: the file ends too early, in element {index}; write or download it again")


def _damaged(source: str, index: int, buffer: str, at: int) -> FileFormatError:
    return FileFormatError(f"{source}: is not JSON: element {index} is damaged near {shown(buffer[at : at + 20])}")


def iterate_entries(path: PathLike) -> Iterator[dict[str, Any]]:
    """The people of a COCO results file, one after another.

    Raises:
        FileFormatError: as ``iterate_json_list``, an element that is no object with an ``image_id``, or labelled
            people.
    """
    for index, entry in enumerate(iterate_json_list(path)):
        if not isinstance(entry, dict):
            raise FileFormatError(f"{os.fspath(path)}: entry {index}: expected an object, got {kind_of(entry)}")
        if index == 0 and is_label(entry):
            raise labels_error(os.fspath(path))
        image_id = entry.get("image_id")
        if not isinstance(image_id, (int, str)) and not (isinstance(image_id, float) and image_id.is_integer()):
            raise FileFormatError(
                f"{os.fspath(path)}: entry {index}: expected an integer or string 'image_id', got {shown(image_id)}"
            )
        yield entry


def write_json_list(path: PathLike, values: Iterable[Any]) -> int:
    """Write one JSON list, element after element; the file appears whole or not at all.

    Args:
        path: of the file; its folder must exist.
        values: plain JSON values.

    Returns:
        how many there were.

    Raises:
        InputError: the folder does not exist.
    """
    encode = json.JSONEncoder(separators=(",", ":")).encode
    count = 0
    with new_file(path) as part, part.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for value in values:
            stream.write(f",{encode(value)}" if count else encode(value))
            count += 1
        stream.write("]\n")
    return count
