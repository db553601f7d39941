"""ultralytics ``Results``: pixels clipped to [0, width] × [0, height], scores 0–1 or none, its own BGR image."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_a, put_back, to_numpy, with_scores
from posefix.exceptions import InputError
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """One ``Results``; lists of them are taken apart before."""
    return is_a(output, "ultralytics", "Results")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people; ``orig_img`` is used where the user gives no image.

    Raises:
        InputError: results of a model that estimates no poses.
    """
    keypoints = output.keypoints
    if keypoints is None:
        raise InputError("ultralytics Results: expected keypoints, got none; use a pose model (yolo…-pose)")
    own = keypoints.data
    values = to_numpy(own)
    before = with_scores(values[..., :2], values[..., 2] if values.shape[-1] == 3 else None)
    height, width = output.orig_shape

    def rebuild(refined: list[Floats]) -> Any:
        after = np.array(refined[0], np.float64)
        # Clipping must not put what is there to (0, 0), which is this package's missing.
        inside = np.clip(after[..., :2], 0.0, [width, height])
        after[..., :2] = np.where((present(after) & ~present(inside))[..., None], [1e-3, 0.0], inside)
        shown = values.shape[-1]
        new = copy.copy(output)
        new.keypoints = type(keypoints)(put_back(own, before[..., :shown], after[..., :shown]), keypoints.orig_shape)
        return new

    boxes = None if output.boxes is None else to_numpy(output.boxes.xyxy)
    return Extracted([before], rebuild, boxes=[boxes], images=[output.orig_img[..., ::-1]])
