"""OpenPose JSON, one frame: BODY_25, COCO-18 or Pose2Sim's 26; (0, 0, 0) is missing.

Pixels, or normalised by ``--keypoint_scale``.

All coordinates within [0, 1] are read as scale 3, x / (width − 1); within [−1, 1] as scale 4. Hands and faces stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, put_back_numbers, single_size
from posefix.exceptions import InputError
from posefix.io.json import is_number
from posefix.keypoints.layouts import BODY_25, HALPE_26, OPENPOSE_18
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

_NAMES = {3 * len(names): names for names in (BODY_25, OPENPOSE_18, HALPE_26)}
#: The field's name, and what OpenPose before 1.3 called it.
_FIELDS = ("pose_keypoints_2d", "pose_keypoints")


def recognise(output: Any) -> bool:
    """The content of one frame's file; lists of frames are taken apart before."""
    return isinstance(output, dict) and isinstance(output.get("people"), list) and "annotations" not in output


def numbers_of(person: Any) -> Any:
    """A person's body keypoints as they stand there; None where there are none."""
    return next((person[f] for f in _FIELDS if isinstance(person, dict) and person.get(f)), None)


def is_usable(person: Any) -> bool:
    """Whether a person has no body keypoints, or those of a known set; null counts as a number that is missing."""
    flat = numbers_of(person)
    if flat is None:
        return isinstance(person, dict)
    return isinstance(flat, list) and len(flat) in _NAMES and all(isinstance(v, (int, float, type(None))) for v in flat)


def _is_value(value: Any) -> bool:
    return value is None or is_number(value) or (isinstance(value, float) and value != value)


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One frame's people; those without body keypoints (hands alone) are left as they are.

    Raises:
        InputError: another keypoint set, or normalised coordinates and no image.
    """
    people = output["people"]
    fields = [next((f for f in _FIELDS if isinstance(p, dict) and p.get(f)), None) for p in people]
    rows = [i for i, field in enumerate(fields) if field is not None]
    lists = [people[i][fields[i]] for i in rows]
    wrong = next((f for f in lists if not isinstance(f, (list, tuple)) or not all(map(_is_value, f))), None)
    if wrong is not None:
        raise InputError(f"OpenPose: expected lists of numbers in pose_keypoints_2d, got {shown(wrong)}")
    lengths = {len(flat) for flat in lists}
    if not lengths <= set(_NAMES) or len(lengths) > 1:
        raise InputError(
            "OpenPose: expected 75 numbers (BODY_25), 54 (COCO) or 78 (Halpe's 26, of Pose2Sim) in pose_keypoints_2d "
            "of every person, "
            f"got {', '.join(map(str, sorted(lengths)))}"
        )
    names = _NAMES[lengths.pop()] if lengths else None
    own = np.array(lists, np.float64).reshape(len(lists), -1, 3) if lists else np.zeros((0, 0, 3))
    scale, shift = _frame(own, images)
    before = own.copy()
    before[..., :2] = np.where(present(own)[..., None], (own[..., :2] - shift) / scale, own[..., :2])

    def rebuild(refined: list[Floats]) -> Any:
        new = [dict(p) if isinstance(p, dict) else p for p in people]
        normalised = bool((scale != 1).any())
        for index, flat, old, after in zip(rows, lists, before, refined[0], strict=True):
            written = np.concatenate([after[:, :2] * scale + shift, after[:, 2:]], axis=-1)
            digits = 6 if normalised else 3
            new[index][fields[index]] = put_back_numbers(flat, old, after, digits, own_after=written)
        return {**output, "people": new}

    return Extracted([before], rebuild, names=names)


def _frame(own: Floats, images: Images) -> tuple[Floats, Floats]:
    """Scale and shift from pixels to the file's coordinates."""
    found = own[present(own)][:, :2] if own.size else np.zeros((0, 2))
    if not found.size or np.abs(found).max() > 1 or len(found) < 2:
        return np.ones(2), np.zeros(2)
    width, height = single_size(images, "OpenPose with normalised coordinates")
    unit = 1.0 / np.maximum(np.array([width - 1.0, height - 1.0]), 1.0)
    return (unit, np.zeros(2)) if found.min() >= 0 else (2 * unit, -np.ones(2))
