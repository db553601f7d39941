"""Skeletons on images, alone and before | after.

Sides differ by colour and by marker, in Okabe and Ito's palette, which colour-blind people can tell apart: left is
orange with round keypoints, right is blue with square ones, the middle is green with diamonds. Every mark has a dark
rim, so that it shows on any background.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError, SkeletonError
from posefix.geometry import Bools, Doubles
from posefix.io.atomic import write_file
from posefix.io.images import Image, load_image
from posefix.io.json import PathLike
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import COCO, Skeleton

_COLOURS = {"left_": (230, 159, 0), "right_": (86, 180, 233), "": (0, 158, 115)}
_RIM = (20, 20, 20)
_MOVED = (204, 121, 167)
_WHITE = (255, 255, 255)
#: Keypoints that move less than this share of the person's size count as unmoved.
_MOVED_SHARE = 0.02
#: Height of a person's image.
_HEIGHT = 480
#: Room around a person, as a share of the person's size.
_ROOM = 0.15
#: Fractional bits of OpenCV's drawing coordinates.
_SHIFT = 4
#: Outlines of the markers on the unit circle: round, square, diamond.
_SQUARE = np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])
_DIAMOND = np.array([[-1.2, 0.0], [0.0, -1.2], [1.2, 0.0], [0.0, 1.2]])


def draw(
    image: Any,
    keypoints: npt.ArrayLike,
    *,
    skeleton: Skeleton = COCO,
    threshold: float = 0.0,
    filled: npt.ArrayLike | None = None,
    color: str = "rgb",
) -> Image:
    """Draw poses on a copy of an image.

    Args:
        image: whatever ``load_image`` takes.
        keypoints: (N, K, 3) [x, y, score] px, or (N, K, 2), where (0, 0) is missing.
        skeleton: names and edges.
        threshold: keypoints that score no more than this are not drawn; nor are those ≤ 0 or not finite.
        filled: (N, K) bool, keypoints that were missing before; they are drawn hollow.
        color: channel order of an array ``image``, ``"rgb"`` or ``"bgr"``.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        InputError: ``keypoints`` of another shape; SkeletonError where K is not the skeleton's.
        ImageError: as ``load_image``.

    Examples:
        >>> draw(image, keypoints, threshold=0.2).shape
        (480, 640, 3)
    """
    points, valid = _split("keypoints", keypoints, skeleton, threshold)
    canvas: Image = np.array(load_image(image, color=color))
    hollow = np.zeros_like(valid) if filled is None else np.asarray(filled, bool)
    if hollow.shape != valid.shape:
        raise InputError(f"filled: expected {valid.shape}, one flag per keypoint, got {hollow.shape}")
    _draw_poses(canvas, points, valid, hollow, skeleton)
    return canvas


def draw_comparison(
    image: Any,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    skeleton: Skeleton = COCO,
    threshold: float = 0.0,
    color: str = "rgb",
    labels: tuple[str, str] = ("before", "after"),
) -> Image:
    """Draw poses before and after refinement side by side, with a line from where each moved keypoint was.

    Keypoints that were missing before are hollow.

    Args:
        image: whatever ``load_image`` takes.
        before: (N, K, 3) or (N, K, 2) px.
        after: the same people in the same order.
        skeleton: names and edges.
        threshold: as for ``draw``.
        color: as for ``draw``.
        labels: written into the images' corners where there is room.

    Returns:
        (H, 2 W + gap, 3) uint8 RGB.

    Raises:
        InputError: poses of other shapes, or not as many before as after.
        ImageError: as ``load_image``.

    Examples:
        >>> comparison = draw_comparison(image, keypoints, refined)
    """
    old, old_valid = _split("before", before, skeleton, threshold)
    new, new_valid = _split("after", after, skeleton, threshold)
    if len(old) != len(new):
        raise InputError(f"after: expected the {len(old)} people of 'before' in the same order, got {len(new)}")
    loaded = load_image(image, color=color)
    left, right = loaded.copy(), loaded.copy()
    _draw_poses(left, old, old_valid, np.zeros_like(old_valid), skeleton)
    _draw_poses(right, new, new_valid, new_valid & ~old_valid, skeleton)
    both = old_valid & new_valid
    size = _sizes(old, old_valid)
    distance = np.linalg.norm(np.where(both[..., None], new - old, 0.0), axis=-1)
    moved = both & (distance > np.maximum(_MOVED_SHARE * size, 1.0)[:, None])
    pens = _pen_widths(size)
    for person, keypoint in zip(*np.nonzero(moved), strict=True):
        width = max(round(pens[person] / 2), 1)
        _line(right, old[person, keypoint], new[person, keypoint], _RIM, width + 2)
        _line(right, old[person, keypoint], new[person, keypoint], _MOVED, width)
        _ring(right, old[person, keypoint], 1.5 * pens[person] + 0.5, _MOVED, width)
    for panel, label in ((left, labels[0]), (right, labels[1])):
        _write(panel, label)
    gap = np.full((loaded.shape[0], max(round(loaded.shape[1] / 100), 1), 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def cut_out(image: Image, keypoints: Doubles) -> tuple[Image, float, Doubles]:
    """The image around a person, 480 px high.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (K, 3) [x, y, score] px, at least one that is there; only those count.

    Returns:
        (480, W', 3), its scale, and (2,) its corner: a point moves to (point − corner) · scale.
    """
    inside = keypoints[present(keypoints), :2]
    limit = np.array([image.shape[1], image.shape[0]], np.float64)
    low, high = np.clip(inside.min(0), 0, limit - 1), np.clip(inside.max(0), 0, limit - 1)
    room = _ROOM * max(float((high - low).max()), 20.0)
    low = np.floor(np.clip(low - room, 0, limit - 1))
    high = np.ceil(np.clip(high + room, low + 1, limit))
    left, top, right, bottom = np.concatenate([low, high]).astype(int).tolist()
    part = np.ascontiguousarray(image[top:bottom, left:right])
    # Pixel centres are integers: the corner of the scaled image lies half a pixel before the first centre.
    scale = _HEIGHT / part.shape[0]
    width = max(round(part.shape[1] * scale), 1)
    crop = cv2.resize(part, (width, _HEIGHT), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    corner = low - 0.5 + 0.5 / scale
    return np.asarray(crop, np.uint8), scale, corner


def mark_keypoint(side: str, canvas: Image, place: tuple[int, int]) -> None:
    """Draw the mark of a keypoint of one side, ``"left_"``, ``"right_"`` or ``""``, as a legend needs it."""
    _marker(canvas, np.array(place, np.float64), 5.0, side)


def mark_origin(canvas: Image, place: tuple[int, int]) -> None:
    """Draw the ring that stands where a moved keypoint was."""
    _ring(canvas, np.array(place, np.float64), 5.0, _MOVED, 2)


def write_image(path: PathLike, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB, whole or not at all; the ending is the format (png, jpg, webp, …).

    Raises:
        InputError: the file cannot be written, or not in that format.
    """
    try:
        done, data = cv2.imencode(Path(path).suffix or ".", image[..., ::-1])
    except cv2.error:
        done = False
    if not done:
        raise InputError(f"{os.fspath(path)}: the image cannot be written; give a path that ends in .png or .jpg")
    write_file(path, data.tobytes())


def _split(name: str, keypoints: npt.ArrayLike, skeleton: Skeleton, threshold: float) -> tuple[Doubles, Bools]:
    """(N, K, 2) points and (N, K) which of them are drawn."""
    values = np.asarray(keypoints, np.float64)
    count = len(skeleton)
    if values.size == 0:
        return np.zeros((0, count, 2)), np.zeros((0, count), np.bool_)
    if values.ndim != 3 or values.shape[1] != count or values.shape[2] not in (2, 3):
        error = SkeletonError if values.ndim == 3 and values.shape[1] != count else InputError
        raise error(
            f"{name}: expected (N, {count}, 3) or (N, {count}, 2) for skeleton {skeleton.name!r}, got {values.shape}"
        )
    points = values[..., :2]
    valid = present(values)
    if values.shape[2] == 3:
        valid &= values[..., 2] > threshold
    # Far outside nothing is seen, and OpenCV's integers have an end.
    return np.clip(np.where(valid[..., None], points, 0.0), -1e6, 1e6), valid


def _sizes(points: Doubles, valid: Bools) -> Doubles:
    """(N,) px, the longer side of the keypoints' extent."""
    low = np.where(valid[..., None], points, np.inf).min(1, initial=np.inf)
    high = np.where(valid[..., None], points, -np.inf).max(1, initial=-np.inf)
    return np.asarray(np.where(valid.any(1), (high - low).max(-1, initial=0.0), 0.0))


def _pen_widths(sizes: Doubles) -> Doubles:
    """(N,) px, not rounded: one per 110 px of the person."""
    return np.clip(sizes / 110.0, 0.3, 60.0)


def _draw_poses(canvas: Image, points: Doubles, valid: Bools, hollow: Bools, skeleton: Skeleton) -> None:
    sides = [next(side for side in _COLOURS if name.startswith(side)) for name in skeleton.keypoints]
    sizes = _sizes(points, valid)
    pens = _pen_widths(sizes)
    for person in np.argsort(-sizes, kind="stable"):  # small people on top
        width = max(round(pens[person]), 1)
        edges = [(a, b) for a, b in skeleton.edge_indices.tolist() if valid[person, a] and valid[person, b]]
        for rim in (True, False):
            for a, b in edges:
                side = sides[a] or sides[b]  # an edge from the middle to a side belongs to the side
                crossing = bool(sides[a] and sides[b] and sides[a] != sides[b])
                colour = _RIM if rim else _COLOURS["" if crossing else side]
                _line(canvas, points[person, a], points[person, b], colour, width + (2 if rim else 0))
        for keypoint in np.flatnonzero(valid[person]):
            radius = 0.9 * pens[person] + 1.0
            if hollow[person, keypoint]:
                _ring(canvas, points[person, keypoint], radius + 1.0, _RIM, max(round(0.5 * radius), 2) + 2)
                _ring(
                    canvas,
                    points[person, keypoint],
                    radius + 1.0,
                    _COLOURS[sides[keypoint]],
                    max(round(0.5 * radius), 1),
                )
            else:
                _marker(canvas, points[person, keypoint], radius, sides[keypoint])


def _fixed(point: Doubles) -> tuple[int, int]:
    x, y = np.rint(point * 2**_SHIFT).astype(np.int64).tolist()
    return x, y


def _line(canvas: Image, start: Doubles, end: Doubles, colour: Sequence[int], width: int) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), colour, width, cv2.LINE_AA, _SHIFT)


def _ring(canvas: Image, centre: Doubles, radius: float, colour: Sequence[int], width: int) -> None:
    cv2.circle(canvas, _fixed(centre), round(radius * 2**_SHIFT), colour, width, cv2.LINE_AA, _SHIFT)


def _marker(canvas: Image, centre: Doubles, radius: float, side: str) -> None:
    for colour, reach in ((_RIM, radius + 1.0), (_COLOURS[side], radius)):
        if side == "left_":
            _ring(canvas, centre, reach, colour, cv2.FILLED)
            continue
        outline = centre + reach * (_SQUARE if side else _DIAMOND)
        corners = np.rint(outline * 2**_SHIFT).astype(np.int32)
        cv2.fillConvexPoly(canvas, corners, colour, cv2.LINE_AA, _SHIFT)


def _write(panel: Image, label: str) -> None:
    """A label on a dark ground in the top left corner, if there is room."""
    height, width = panel.shape[:2]
    scale = float(np.clip(min(height, width) / 600.0, 0.35, 4.0))
    thickness = max(round(1.6 * scale), 1)
    (text_width, text_height), below = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    margin = max(round(6 * scale), 2)
    if not label or text_width + 2 * margin > width or 3 * (text_height + below) > height:
        return
    cv2.rectangle(panel, (0, 0), (text_width + 2 * margin, text_height + below + 2 * margin), _RIM, cv2.FILLED)
    corner = (margin, margin + text_height)
    cv2.putText(panel, label, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, thickness, cv2.LINE_AA)
