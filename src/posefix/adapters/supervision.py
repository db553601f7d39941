"""supervision ``KeyPoints``: pixels; any of its scores may be absent; what it does not know is (0, 0)."""

from __future__ import annotations

import copy
from typing import Any

from posefix.adapters.base import Extracted, Floats, Images, check_2d, is_a, put_back, to_numpy, with_scores
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """``sv.KeyPoints``."""
    return is_a(output, "supervision", "KeyPoints")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people. ``keypoint_confidence`` was called ``confidence`` before 0.29."""
    fields = vars(output)
    field = "keypoint_confidence" if "keypoint_confidence" in fields else "confidence"
    confidence = fields.get(field)
    points = check_2d(to_numpy(output.xy), "KeyPoints.xy")
    scores = None if confidence is None else to_numpy(confidence).reshape(points.shape[:2])
    before = with_scores(points, scores)

    def rebuild(refined: list[Floats]) -> Any:
        new = copy.deepcopy(output)
        if len(before):
            new.xy = put_back(output.xy, before[..., :2], refined[0][..., :2])
            if confidence is not None:
                setattr(new, field, put_back(confidence, before[..., 2], refined[0][..., 2]))
        return new

    return Extracted([before], rebuild)
