"""An image's other people, as each person's crop has them: where the network may have looked at one of those."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posefix.geometry import transform_points

Floats = npt.NDArray[np.floating]

#: Other people that are kept of each person, the nearest ones.
NEAREST = 8
#: Share of the keypoints within one length scale from which two detections are of the same person.
SAME = 0.5
#: Coordinate of who is not there: runtimes of graphs differ in what they do with NaN.
FAR = 1e6
#: People at a time.
_BLOCK = 256


def others_in_crops(
    points: Floats, valid: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], affine: Floats, std: Floats
) -> npt.NDArray[np.float32]:
    """Keypoints of the nearest other people; further detections of the same person are none.

    Args:
        points: (N, K, 2) of all people of an image, in its pixels.
        valid: (N, K) which there are.
        rows: (R,) people with a crop.
        affine: (R, 2, 3) image → crop.
        std: (R, K) length scale of keypoint similarity in crop pixels.

    Returns:
        (R, ``NEAREST``, K, 2) in crop pixels; ``FAR`` where there is no other person or keypoint.
    """
    found = np.full((len(rows), NEAREST, *points.shape[1:]), FAR, np.float32)
    count = min(NEAREST, len(points) - 1)
    if count < 1:
        return found
    points = np.where(valid[..., None], points, 0.0)
    centre = points.sum(1) / np.maximum(valid.sum(1), 1)[:, None]
    centre[~valid.any(1)] = np.inf
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        own = rows[block]
        distance = np.hypot(*np.moveaxis(centre[own, None] - centre, -1, 0))
        distance[np.arange(len(own)), own] = np.inf
        near = np.argsort(distance, axis=1, kind="stable")[:, :count]
        seen = transform_points(affine[block], points[near].reshape(len(own), -1, 2)).reshape(*near.shape, -1, 2)
        there = valid[near] & np.isfinite(np.take_along_axis(distance, near, 1))[..., None]
        both = there & valid[own, None]
        apart = np.linalg.norm(seen - transform_points(affine[block], points[own])[:, None], axis=-1)
        alike = both & (apart < std[block, None])
        same = alike.sum(-1) >= SAME * np.maximum(both.sum(-1), 1)
        found[block, :count] = np.where((there & ~same[..., None])[..., None], seen, FAR)
    return found
