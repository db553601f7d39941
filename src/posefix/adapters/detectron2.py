"""detectron2 ``Instances``: continuous coordinates (+0.5 at a pixel's centre), normalised soft-max scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_a, put_back, to_numpy
from posefix.exceptions import InputError
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """``Instances``, or the predictor's dict with ``instances``."""
    return is_a(output.get("instances") if isinstance(output, dict) else output, "detectron2", "Instances")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people.

    Raises:
        InputError: instances of a model that estimates no poses.
    """
    instances = output["instances"] if isinstance(output, dict) else output
    fields = dict(instances.get_fields())
    own = fields.get("pred_keypoints")
    if own is None and any(len(f) for f in fields.values()):
        raise InputError(f"detectron2 Instances: expected the field pred_keypoints, got {', '.join(sorted(fields))}")
    before = np.zeros((0, 0, 3)) if own is None else to_numpy(own)
    # (0, 0) is missing in this frame, before half a pixel is taken off.
    before[..., :2] -= 0.5 * present(before[..., :2])[..., None]

    def rebuild(refined: list[Floats]) -> Any:
        new = type(instances)(instances.image_size)
        if own is not None:
            shifted = np.concatenate([refined[0][..., :2] + 0.5, refined[0][..., 2:]], axis=-1)
            fields["pred_keypoints"] = put_back(own, before, refined[0], shifted)
        for name, value in fields.items():
            new.set(name, value)
        return {**output, "instances": new} if isinstance(output, dict) else new

    boxes = to_numpy(fields["pred_boxes"].tensor) if "pred_boxes" in fields else None
    return Extracted([before], rebuild, boxes=[boxes])
