"""MediaPipe Pose: 33 landmarks, normalised by the image's width and height; those of the skeleton are refined.

``z``, ``presence``, world landmarks and masks stay as they are. A landmark without ``visibility`` counts as there.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_a, single_size, unchanged
from posefix.keypoints.layouts import MEDIAPIPE
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """A result with ``pose_landmarks`` (of the tasks or the older solutions), these alone, or one person's."""
    if isinstance(output, list):
        first = output[0] if output else None
        first = first[0] if isinstance(first, list) and first else first
        return is_a(first, "mediapipe", "NormalizedLandmark")
    return hasattr(output, "pose_landmarks") or is_a(output, "mediapipe", "NormalizedLandmarkList")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people; the image is needed for its size.

    Raises:
        InputError: no image.
    """
    people = _people(output)
    width, height = single_size(images, "MediaPipe landmarks") if people else (1, 1)
    size = np.array([width, height], np.float64)
    before = np.array([[_row(mark, size) for mark in person] for person in people], np.float64)
    before = before.reshape(len(people), -1, 3) if people else np.zeros((0, 0, 3))

    def rebuild(refined: list[Floats]) -> Any:
        new = [
            [_landmark(*each, size) for each in zip(person, old, after, strict=True)]
            for person, old, after in zip(people, before, refined[0], strict=True)
        ]
        return _like(output, new)

    return Extracted([before], rebuild, names=MEDIAPIPE)


def _people(output: Any) -> list[list[Any]]:
    landmarks = getattr(output, "pose_landmarks", output)
    if landmarks is None:
        return []
    if hasattr(landmarks, "landmark"):  # the older solutions know one person
        return [list(landmarks.landmark)]
    return landmarks if not landmarks or isinstance(landmarks[0], list) else [landmarks]


def _row(mark: Any, size: Floats) -> list[float]:
    visibility = getattr(mark, "visibility", None)
    return [mark.x * size[0], mark.y * size[1], 1.0 if visibility is None else visibility]


def _landmark(mark: Any, before: Floats, after: Floats, size: Floats) -> Any:
    new: Any = copy.deepcopy(mark)
    same = unchanged(before, after)
    for axis, name in enumerate(("x", "y")):
        if not same[axis]:
            setattr(new, name, float(after[axis] / size[axis]))
    if not same[2] and getattr(mark, "visibility", None) is not None:
        new.visibility = float(after[2])
    return new


def _like(output: Any, people: list[list[Any]]) -> Any:
    """New landmarks in an object as the old ones came in."""
    if isinstance(output, list):
        return people if not output or isinstance(output[0], list) else people[0]
    if not hasattr(output, "pose_landmarks"):
        return _landmark_list(output, people)
    old = output.pose_landmarks
    new = old if old is None else _like(old, people) if isinstance(old, list) else _landmark_list(old, people)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.replace(output, pose_landmarks=new)
    if hasattr(output, "_replace"):
        return output._replace(pose_landmarks=new)
    result = copy.copy(output)
    result.pose_landmarks = new
    return result


def _landmark_list(old: Any, people: list[list[Any]]) -> Any:
    new = copy.deepcopy(old)
    for target, source in zip(new.landmark, people[0], strict=True):
        target.x, target.y = source.x, source.y
        if getattr(source, "visibility", None) is not None:
            target.visibility = source.visibility
    return new
