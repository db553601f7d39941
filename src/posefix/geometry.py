"""Boxes, crops, affine maps there and back, mirrors: the only file that knows the pixel convention.

Pixel index = coordinate: the centre of the top-left pixel is (0, 0). A crop rectangle of width w maps onto
the full input width W without a "− 1" (PoseFix's reference), so x_in = (x − left) · W / w. Heatmap pixel c lies
at input pixel ``stride · c + offset``: offset 0 in the paper's networks, (stride − 1) / 2 where the heatmap pixels are
to mirror onto themselves.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Side in pixels that a box without extent gets (reference).
DEGENERATE_SIDE = 20.0
#: Growth of the keypoints' extent to a person box, per side (reference).
EXTENT_SCALE = 1.2
#: Growth of a person box to its crop (reference).
CROP_MARGIN = 1.25


def boxes_xyxy_to_xywh(boxes_xyxy: Floats) -> Floats:
    """(N, 4) corners → (N, 4) left, top, width, height."""
    return np.concatenate([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], axis=-1)


def boxes_xywh_to_xyxy(boxes_xywh: Floats) -> Floats:
    """(N, 4) left, top, width, height → (N, 4) corners."""
    return np.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], axis=-1)


def read_otherwise(boxes_xyxy: Floats, other_xyxy: Floats, around: Floats) -> bool:
    """Whether boxes were meant in the other form, [left, top, right, bottom] or [left, top, width, height].

    >>> boxes = np.array([[100.0, 50.0, 60.0, 120.0]])  # [left, top, width, height]
    >>> read_otherwise(boxes, boxes_xywh_to_xyxy(boxes), np.array([[105.0, 55.0, 155.0, 165.0]]))
    True

    Args:
        boxes_xyxy: (N, 4) px as they were read; NaN is none.
        other_xyxy: (N, 4) px read in the other form.
        around: (N, 4) px, boxes around the people's keypoints; NaN is none.

    Returns:
        whether the other form is twice as near to the keypoints for three in four of the people.
    """
    errors, others = (np.abs(b - around).mean(-1) for b in (boxes_xyxy, other_xyxy))
    known = np.isfinite(errors) & np.isfinite(others)
    return bool(known.any() and (2.0 * others < errors)[known].mean() >= 0.75)


def boxes_meet(first: Floats, second: Floats) -> Bools:
    """Which boxes of two lists overlap, row by row; none that is NaN does.

    >>> boxes_meet(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 1.0, 9.0, 9.0]]))
    array([ True])

    Args:
        first: (N, 4) xyxy.
        second: (N, 4) or (4,) xyxy.
    """
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    return np.asarray((high > low).all(-1))


def box_area(boxes_xyxy: Floats) -> Floats:
    """(N,) px²; 0 for boxes turned inside out."""
    return np.asarray(np.prod(np.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 0.0), axis=-1))


def box_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of every pair.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy.

    Returns:
        (N, M); 0 where both are empty.
    """
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = np.prod(np.maximum(opposite - corner, 0.0), axis=-1)
    outer = box_area(first)[:, None] + box_area(second)[None] - inner
    return np.asarray(inner / np.where(outer > 0, outer, 1.0))


def boxes_around_points(points: Floats, valid: Bools, scale: float = EXTENT_SCALE) -> Doubles:
    """Person boxes from keypoints: their extent, each side × ``scale`` about its centre (as in the paper's code).

    Args:
        points: (N, K, 2) px.
        valid: (N, K); other points do not count.
        scale: growth per side; a side without extent counts as 20 px.

    Returns:
        (N, 4) xyxy; NaN for a person without a valid keypoint.
    """
    inside = valid[..., None]
    exact = np.asarray(points, np.float64)
    low = np.where(inside, exact, np.inf).min(-2, initial=np.inf)
    high = np.where(inside, exact, -np.inf).max(-2, initial=-np.inf)
    found = inside.any(-2)
    centre = np.where(found, (np.where(found, low, 0.0) + np.where(found, high, 0.0)) / 2, np.nan)
    side = np.where(found, high, 1.0) - np.where(found, low, 0.0)
    half = np.where(side > 0, side, DEGENERATE_SIDE) * scale / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def crop_rectangles(boxes_xyxy: Floats, input_hw: tuple[int, int], margin: float = CROP_MARGIN) -> Doubles:
    """Grow boxes to the input's aspect ratio and by ``margin`` (as in the paper's code).

    Args:
        boxes_xyxy: (N, 4) px.
        input_hw: network input (h, w).
        margin: growth of both sides.

    Returns:
        (N, 4) xyxy of the image rectangles that become the crops.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    aspect = input_hw[1] / input_hw[0]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = boxes[..., 2:] - boxes[..., :2]
    width = np.maximum(size[..., 0], size[..., 1] * aspect)
    half = np.stack([width, width / aspect], axis=-1) * margin / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def crop_affine(
    rectangles_xyxy: Floats,
    input_hw: tuple[int, int],
    *,
    rotation: Floats | None = None,
    mirror: Bools | None = None,
) -> Doubles:
    """Affine maps image → crop.

    Args:
        rectangles_xyxy: (N, 4) image rectangles of the input's aspect ratio.
        input_hw: network input (h, w).
        rotation: (N,) degrees by which the image turns about the crop's centre; None is no turn.
        mirror: (N,) whether the crop is mirrored left to right (x → W − 1 − x) after the turn.

    Returns:
        (N, 2, 3).
    """
    rectangles = np.asarray(rectangles_xyxy, np.float64)
    height, width = input_hw
    scale = np.array([width, height]) / (rectangles[:, 2:] - rectangles[:, :2])
    affine = np.zeros((len(rectangles), 2, 3))
    affine[:, 0, 0], affine[:, 1, 1] = scale[:, 0], scale[:, 1]
    affine[:, :, 2] = -rectangles[:, :2] * scale
    if rotation is not None:
        angle = np.deg2rad(np.asarray(rotation, np.float64))
        turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
        centre = np.array([width, height]) / 2.0
        affine = turn @ affine
        affine[:, :, 2] += centre - turn @ centre
    if mirror is not None:
        affine[mirror, 0] *= -1.0
        affine[mirror, 0, 2] += width - 1.0
    return affine


def invert_affine(affine: Floats) -> Doubles:
    """(N, 2, 3) → (N, 2, 3) inverse maps."""
    inverse = np.linalg.inv(np.asarray(affine, np.float64)[..., :2])
    return np.concatenate([inverse, -inverse @ np.asarray(affine, np.float64)[..., 2:]], axis=-1)


def transform_points(affine: Floats, points: Floats) -> Doubles:
    """Apply one affine map per person.

    Args:
        affine: (N, 2, 3).
        points: (N, ..., 2).

    Returns:
        (N, ..., 2) float64.
    """
    exact = np.asarray(points, np.float64)
    flat = exact.reshape(len(exact), math.prod(exact.shape[1:-1]), 2)
    moved = flat @ np.swapaxes(affine[:, :, :2], 1, 2) + affine[:, None, :, 2]
    return np.asarray(moved.reshape(exact.shape))


def flip_points(points: Floats, width: float, flip_indices: npt.NDArray[np.int64]) -> Floats:
    """Mirror poses left to right: x → width − 1 − x, and left and right keypoints exchange names.

    Args:
        points: (..., K, 2) in a frame ``width`` pixels wide.
        width: pixels.
        flip_indices: (K,) permutation.

    Returns:
        (..., K, 2), a new array.
    """
    mirrored = np.array(points[..., flip_indices, :])
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def warp_crop(
    image: npt.NDArray[np.uint8], affine: Doubles, input_hw: tuple[int, int], *, antialias: bool = False
) -> npt.NDArray[np.uint8]:
    """(h, w, 3) one crop of an image; see ``warp_crops``, with (2, 3) ``affine``."""
    return np.asarray(warp_crops(image, affine[None], input_hw, antialias=antialias)[0])


def warp_crops(
    image: npt.NDArray[np.uint8], affine: Doubles, input_hw: tuple[int, int], *, antialias: bool = False
) -> npt.NDArray[np.uint8]:
    """Cut crops out of an image: bilinear, zero outside the image (as in the paper's code).

    A map that is not finite or cannot be inverted gives a black crop.

    Args:
        image: (H, W, 3) uint8.
        affine: (N, 2, 3) image → crop.
        input_hw: size (h, w) of a crop.
        antialias: average pixels first where the crop shrinks the image more than twofold. Without it the
            crop is the reference's to the bit, whatever the version of OpenCV.

    Returns:
        (N, h, w, 3) uint8.
    """
    height, width = input_hw
    crops = np.zeros((len(affine), height, width, 3), np.uint8)
    # What can be said of all crops at once is: next to a GPU, threads that cut would wait for the interpreter.
    rows = np.flatnonzero(np.isfinite(affine).all((1, 2)))
    area = np.abs(np.linalg.det(affine[rows, :, :2]))
    rows, area = rows[area >= 1e-12], area[area >= 1e-12]
    local = np.array(affine[rows], np.float64)
    corners = np.array([[[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]], np.float64)
    reach = transform_points(invert_affine(local), corners.repeat(len(rows), 0))
    limit = np.array([image.shape[1], image.shape[0]], np.float64)
    # Only the needed part is handed over: OpenCV refuses sides above 32767 and shrinking is cheaper.
    low = np.clip(np.floor(reach.min(1)) - 2, 0, limit).astype(np.int64)
    high = np.clip(np.ceil(reach.max(1)) + 3, 0, limit).astype(np.int64)
    _move_origin(local, low)
    sides = high - low
    least = sides.max(1, initial=0) // 16000 + 1
    shrink = (1.0 / np.maximum(np.sqrt(area), 1e-9)).astype(np.int64) if antialias else np.ones_like(least)
    shrink = np.where(least > 1, np.maximum(shrink, least), shrink)
    small = sides
    if (shrink > 1).any():
        small = np.maximum(sides // np.maximum(shrink, 1)[:, None], 1)
        # Pixel p of a shrunk image is the mean of a block whose centre lies at (p + 0.5) · ratio − 0.5.
        ratio = np.where(shrink[:, None] > 1, sides / small, 1.0)
        _move_origin(local, ratio / 2 - 0.5)
        local[:, :, :2] *= ratio[:, None]
    for i in np.flatnonzero((sides > 0).all(1)):
        part = image[low[i, 1] : high[i, 1], low[i, 0] : high[i, 0]]
        if shrink[i] > 1:
            part = np.asarray(cv2.resize(part, small[i].tolist(), interpolation=cv2.INTER_AREA), np.uint8)
        part = np.asarray(part, np.uint8)
        if antialias:
            # OpenCV 5 takes half as long for four channels as for three, with the same numbers.
            four = cv2.warpAffine(cv2.cvtColor(part, cv2.COLOR_RGB2RGBA), local[i], (width, height))
            cv2.cvtColor(four, cv2.COLOR_RGBA2RGB, crops[rows[i]])
        else:
            crops[rows[i]] = _sample_in_32nds(np.ascontiguousarray(part), local[i], input_hw)
    return crops


def _move_origin(affine: Doubles, origin: npt.NDArray[np.float64 | np.int64]) -> None:
    """Make (N, 2, 3) maps (in place) those of images whose pixel 0 was at (N, 2) ``origin``."""
    affine[:, :, 2] += (affine[:, :, :2] @ origin[..., None])[..., 0]


def _sample_in_32nds(image: npt.NDArray[np.uint8], affine: Doubles, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bilinear warp at positions rounded to 1/32 px, as the reference's OpenCV did; OpenCV 5 no longer rounds."""
    height, width = input_hw
    inverse = invert_affine(affine[None])[0]
    by_column = np.rint(inverse[:, :1] * np.arange(width) * 1024)
    by_row = np.rint((inverse[:, 1:2] * np.arange(height) + inverse[:, 2:]) * 1024) + 16
    # Far outside is black wherever it is exactly, and must not overflow the 16 bits.
    in_1024ths = np.clip(by_column[:, None, :] + by_row[:, :, None], -(2**25), 2**25 - 1)
    in_32nds = in_1024ths.astype(np.int32) >> 5
    whole = np.ascontiguousarray(np.moveaxis(in_32nds >> 5, 0, 2)).astype(np.int16)
    fraction = ((in_32nds[1] & 31) * 32 + (in_32nds[0] & 31)).astype(np.uint16)
    return np.asarray(cv2.remap(image, whole, fraction, cv2.INTER_LINEAR), np.uint8)
