"""What the marks on a before | after image mean, written below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from posefix.drawing.draw import mark_keypoint, mark_origin
from posefix.io.images import Image

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE, _LINE, _MARGIN, _GAP = 0.45, 22, 8, 18
_GROUND, _INK = (255, 255, 255), (20, 20, 20)
#: Draws on a canvas around (x, y).
_Mark = Callable[[Image, tuple[int, int]], None]
_MARKS: tuple[tuple[str, _Mark], ...] = (
    ("left", partial(mark_keypoint, "left_")),
    ("right", partial(mark_keypoint, "right_")),
    ("middle", partial(mark_keypoint, "")),
    ("moved from here", mark_origin),
)


def add_legend(image: Image, facts: Sequence[str] = ()) -> Image:
    """An image with a strip below it: facts first, then the meaning of the marks.

    Args:
        image: (H, W, 3) uint8 RGB, as ``draw_comparison`` makes it.
        facts: short texts, ASCII only.

    Returns:
        (H + strip, W, 3) uint8, a new array. What does not fit into the width goes to the next line.
    """
    strips = [_strip(image.shape[1], [(fact, None) for fact in facts])] if facts else []
    return np.concatenate([image, *strips, _strip(image.shape[1], _MARKS)], axis=0)


def _strip(width: int, items: Sequence[tuple[str, _Mark | None]]) -> Image:
    """Lines of marks and texts on white."""
    places: list[tuple[int, int]] = []
    x, row = _MARGIN, 0
    for text, mark in items:
        wide = cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0] + (20 if mark else 0)
        if x > _MARGIN and x + wide > width - _MARGIN:
            x, row = _MARGIN, row + 1
        places.append((x, row))
        x += wide + _GAP
    canvas = np.full(((row + 1) * _LINE, width, 3), _GROUND, np.uint8)
    for (text, mark), (left, line) in zip(items, places, strict=True):
        middle = line * _LINE + _LINE // 2
        if mark:
            mark(canvas, (left + 7, middle))
            left += 20
        cv2.putText(canvas, text, (left, middle + 5), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    return canvas
