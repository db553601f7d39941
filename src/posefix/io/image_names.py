"""Which file of a folder an image's name means, where the name is not quite the file's; never one outside it.

Results files come from anywhere, and what they name is read and, by ``--draw``, copied out: a name that leaves the
folder is refused. Links inside it are its owner's and are followed."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from posefix.exceptions import FileFormatError, ImageError

#: Endings of images, in the order in which they are tried.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


#: Set to 1 by ``--allow-outside``, or by a caller that trusts the names in files.
ALLOW_OUTSIDE = "POSEFIX_ALLOW_OUTSIDE"


def image_path(folder: str | os.PathLike[str], name: str) -> str:
    """The file of a folder that a name means.

    >>> image_path("val2017", "a/../000139.jpg")
    'val2017/a/../000139.jpg'

    Args:
        folder: of the images.
        name: as results or annotations have it.

    Raises:
        ImageError: the name leads out of the folder, and ``POSEFIX_ALLOW_OUTSIDE`` is not set.
    """
    if not is_inside(folder, name):
        raise ImageError(
            f"image {name!r}: leads out of {os.fspath(folder)}; if its results are to be trusted, use --allow-outside "
            f"(or set {ALLOW_OUTSIDE}=1)"
        )
    return os.path.join(folder, name)


def is_inside(folder: str | os.PathLike[str], name: str) -> bool:
    """Whether a name stays in a folder as it is written, or may leave it."""
    if os.environ.get(ALLOW_OUTSIDE, "") not in ("", "0"):
        return True
    root = os.path.normpath(os.path.join(os.getcwd(), folder))
    target = os.path.normpath(os.path.join(root, name))
    return target.startswith(root.rstrip(os.sep) + os.sep)


def find_images(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, str]:
    """Names of images → names of files in a folder.

    A name that is a file is that file. Else are tried, in this order: Windows separators and percent escapes; the
    base name anywhere below the folder, whichever way its accents are encoded; another ending or case; COCO's number,
    short (``139``) or as in 2014 (``COCO_val2014_000000000139.jpg``).

    Args:
        folder: of the images.
        names: as results or annotations have them.

    Returns:
        name → path relative to the folder; the name itself where nothing fits, for the reader of images to name.

    Raises:
        FileFormatError: several files fit a name equally well.
    """
    root = Path(folder)
    index: dict[str, list[str]] | None = None
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        candidates = dict.fromkeys([name, name.replace("\\", "/"), unquote(name), unquote(name.replace("\\", "/"))])
        direct = next((c for c in candidates if _is_file(root, c)), None)
        if direct is not None:
            found[name] = direct
            continue
        if index is None:
            index = _index(root)
        found[name] = name
        for key in _keys(list(candidates)[-1]):
            fitting = index.get(key, [])
            if len(fitting) > 1:
                raise FileFormatError(
                    f"image {name!r}: {len(fitting)} files of {os.fspath(folder)} may be meant, "
                    f"{fitting[0]} and {fitting[1]} among them; give the path below the folder as file_name"
                )
            if fitting:
                found[name] = fitting[0]
                break
    return found


def _is_file(root: Path, name: str) -> bool:
    try:
        return bool(name) and is_inside(root, name) and (root / name).is_file()
    except (OSError, ValueError):
        return False


def _keys(name: str) -> list[str]:
    """What a name is looked up as, the surest first: base name, base name in small letters, stem, number."""
    base = unicodedata.normalize("NFC", PurePosixPath(name).name)
    stem, ending = os.path.splitext(base)
    stem = stem if ending.lower() in ENDINGS else base
    keys = [f"name:{base}", f"small:{base.lower()}", f"stem:{stem.lower()}"]
    number = _number(stem)
    return [*keys, f"number:{number}"] if number is not None else keys


def _number(stem: str) -> int | None:
    """COCO's id in a file's stem: all of it, or the last part of COCO_val2014_000000000139."""
    match = re.fullmatch(r"(?:COCO_(?:train|val|test)\d{4}_)?0*(\d{1,12})", stem, flags=re.ASCII)
    return int(match.group(1)) if match else None


def _index(root: Path) -> dict[str, list[str]]:
    """Every image below a folder by all the keys that may mean it."""
    index: dict[str, list[str]] = {}
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:  # links that lead in a circle, or to the same folder
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in ENDINGS:
                relative = os.path.relpath(os.path.join(folder, file), root)
                for key in _keys(file):
                    index.setdefault(key, []).append(relative)
    return index
