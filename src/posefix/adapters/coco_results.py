"""COCO results: a list of people of any images, (0, 0, 0) is missing; all else in an entry stays."""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, put_back_numbers
from posefix.exceptions import InputError
from posefix.io.json import spelled_id
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """A list of objects with ``image_id`` and ``keypoints``."""
    return (
        isinstance(output, list)
        and len(output) > 0
        and all(isinstance(e, dict) and {"image_id", "keypoints"} <= set(e) for e in output)
    )


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """People grouped by image, in the order in which the images first appear.

    Raises:
        InputError: entries with different numbers of keypoints.
    """
    return by_image(output, box_field="bbox")


def by_image(entries: list[dict[str, Any]], box_field: str) -> Extracted:
    """What COCO's and AlphaPose's lists share.

    Args:
        entries: the people.
        box_field: what the xywh box is called.

    Raises:
        InputError: entries with different numbers of keypoints.
    """
    lengths = sorted({len(e["keypoints"]) for e in entries})
    if len(lengths) != 1 or lengths[0] % 3:
        raise InputError(f"results: expected as many [x, y, score] in every entry, got lists of {lengths} numbers")
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(spelled_id(entry["image_id"]), []).append(index)
    before = np.array([e["keypoints"] for e in entries], np.float64).reshape(len(entries), -1, 3)
    boxes = np.array([_box(e.get(box_field)) for e in entries], np.float64)

    def rebuild(refined: list[Floats]) -> Any:
        new = [dict(e) for e in entries]
        for rows, after in zip(groups.values(), refined, strict=True):
            for index, pose in zip(rows, after, strict=True):
                values = put_back_numbers(entries[index]["keypoints"], before[index], pose, 3)
                new[index]["keypoints"] = values
        return new

    return Extracted(
        keypoints=[before[rows] for rows in groups.values()],
        rebuild=rebuild,
        boxes=[boxes[rows] for rows in groups.values()],
        ids=[entries[rows[0]]["image_id"] for rows in groups.values()],
    )


def _box(box: Any) -> list[float]:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return [np.nan] * 4
    left, top, width, height = (float(v) for v in box)
    return [left, top, left + width, top + height]
