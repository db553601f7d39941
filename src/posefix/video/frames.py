"""Frames of a video, whatever it comes as."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import ImageError, InputError
from posefix.io.images import load_image

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_frames(source: Any, *, color: str = "rgb") -> Iterator[Image]:
    """Frames one after another, each (H, W, 3) uint8 RGB; none is kept.

    >>> len(list(read_frames(np.zeros((5, 8, 8, 3), np.uint8))))
    5

    Args:
        source: path of a video that OpenCV reads, a folder of images (in the order of the numbers in their names),
            an array (T, H, W, 3), or any iterable of what ``load_image`` takes.
        color: channel order of arrays.

    Raises:
        ImageError: no such file or folder, no image of a folder that can be read (single ones are black, with a
            warning), or a frame of an iterable that cannot be read.
        InputError: something else.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            shown = (p for p in path.iterdir() if not p.name.startswith("."))  # macOS puts "._" files there
            names = sorted((p for p in shown if p.suffix.lower() in _IMAGES), key=_natural)
            if not names:
                raise ImageError(f"frames: no images in the folder {os.fspath(source)!r}")
            return _folder_frames(names)
        if not path.is_file():
            raise ImageError(f"frames: no such file {os.fspath(source)!r}")
        return _video_frames(_opened(path))
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise InputError(f"frames: expected (T, H, W, 3), got {source.shape}")
    if not isinstance(source, Iterable):
        raise InputError(f"frames: expected a path, an array or an iterable of images, got {type(source).__name__}")
    return (load_image(frame, color=color) for frame in source)


def _folder_frames(names: list[Path]) -> Iterator[Image]:
    """Images of a folder; one that cannot be read is black, so that the frames before and after are not lost."""
    shape: tuple[int, ...] | None = None
    for place, name in enumerate(names):
        try:
            frame = load_image(name)
        except ImageError as error:
            shape = shape or _first_shape(names[place + 1 :])
            if shape is None:
                raise
            logger.warning("a frame that cannot be read is taken as black: %s", error)
            frame = np.zeros(shape, np.uint8)
        shape = frame.shape
        yield frame


def _first_shape(names: list[Path]) -> tuple[int, ...] | None:
    for name in names:
        with contextlib.suppress(ImageError):
            return load_image(name).shape
    return None


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """``frame2`` before ``frame10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name)]


def _opened(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ImageError(f"frames: {str(path)!r} is no video that OpenCV reads; convert it, e.g. with ffmpeg")
    return capture


def _video_frames(capture: cv2.VideoCapture) -> Iterator[Image]:
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()


def frame_rate(source: Any) -> float | None:
    """Frames per second of a video file; None for anything else, and where the file does not say."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return None
    capture = cv2.VideoCapture(os.fspath(source))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    return rate if 0 < rate < 1000 else None
