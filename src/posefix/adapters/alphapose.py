"""AlphaPose JSON: as COCO results, but images by file name, the box as ``box``; 17, 26 (Halpe) or 136 keypoints."""

from __future__ import annotations

from typing import Any

from posefix.adapters import coco_results
from posefix.adapters.base import Extracted, Images
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """COCO results whose ``image_id`` is a file name and that have AlphaPose's fields ``box`` or ``idx``."""
    return (
        coco_results.recognise(output)
        and isinstance(output[0]["image_id"], str)
        and ("box" in output[0] or "idx" in output[0])
    )


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """People grouped by image. Person scores (0 to 6) stay: they rank, and are on no scale of the refiner's.

    Raises:
        InputError: entries with different numbers of keypoints.
    """
    return coco_results.by_image(output, box_field="box")
