"""Keypoint sets of estimators, by name: which of an output's keypoints are a skeleton's."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from posefix.exceptions import SkeletonError
from posefix.keypoints.skeleton import COCO, Skeleton

_FEET = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")


def _numbered(*groups: tuple[str, int]) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for name, count in groups for i in range(count))


_FACE_AND_HANDS = _numbered(("face", 68), ("left_hand", 21), ("right_hand", 21))

#: The 33 landmarks of MediaPipe Pose (ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker).
MEDIAPIPE = (
    *("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer"),
    *("left_ear", "right_ear", "mouth_left", "mouth_right"),
    *(
        f"{side}_{part}"
        for part in ("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel", "foot")
        for side in ("left", "right")
    ),
)
#: The 18 of OpenPose's COCO model; also rtmlib's and AlphaPose's OpenPose order.
OPENPOSE_18 = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
#: OpenPose's BODY_25 (its doc/02_output.md).
BODY_25 = (*OPENPOSE_18[:8], "mid_hip", *OPENPOSE_18[8:], *_FEET)
#: Halpe's 26 body keypoints (github.com/Fang-Haoshu/Halpe-FullBody), of AlphaPose and of rtmlib's BodyWithFeet.
HALPE_26 = (
    *COCO.keypoints,
    *("head_top", "neck", "pelvis", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe"),
    *("left_heel", "right_heel"),
)
#: The 133 of COCO-WholeBody (Jin et al., ECCV 2020).
WHOLEBODY_133 = (*COCO.keypoints, *_FEET, *_FACE_AND_HANDS)

#: Keypoint sets known by their size, for outputs that name nothing.
BY_COUNT = {
    len(names): names
    for names in (
        COCO.keypoints,
        OPENPOSE_18,
        HALPE_26,
        WHOLEBODY_133,
        (*OPENPOSE_18, *_FEET, *_FACE_AND_HANDS),  # 134, rtmlib's Wholebody in OpenPose order
        (*HALPE_26, *_FACE_AND_HANDS),  # 136, Halpe's full body
    )
}


def plain_name(name: str) -> str:
    """A keypoint's name as skeletons spell it: ``LeftEye``, ``left-eye``, ``L_eye``, ``LEye``, ``eye left`` →
    ``left_eye``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name.strip())
    words = [w for w in re.split(r"[\s_.\-]+", spaced.lower()) if w]
    words = [{"l": "left", "r": "right"}.get(w, w) for w in words]
    if len(words) > 1 and words[-1] in ("left", "right"):
        words = [words[-1], *words[:-1]]
    return "_".join(words)


def columns(names: tuple[str, ...] | None, count: int, skeleton: Skeleton) -> npt.NDArray[np.int64]:
    """Which of an output's keypoints are the skeleton's.

    Args:
        names: what the output calls them; None where it does not: as many as the skeleton has are the skeleton's
            own, in order, and other sizes are looked up in ``BY_COUNT``.
        count: how many it has.
        skeleton: the refiner's.

    Returns:
        (K,) index of each keypoint of the skeleton, −1 where the output has none such.

    Raises:
        SkeletonError: fewer than half of the skeleton's keypoints are there, or the size belongs to no known set.
    """
    if names is None and count == len(skeleton):
        return np.arange(count)
    if names is not None and len(names) != count:
        raise SkeletonError(
            f"output: expected a pose of {len(names)} keypoints, got {count}; landmarks of hands and faces are no pose"
        )
    known = BY_COUNT.get(count) if names is None else tuple(plain_name(n) for n in names)
    if known is None:
        raise SkeletonError(
            f"output: expected {len(skeleton)} keypoints of skeleton {skeleton.name!r} or a set that contains them "
            f"({', '.join(map(str, BY_COUNT))} keypoints), got {count}"
        )
    twice = [k for k in skeleton.keypoints if known.count(k) > 1]
    if twice:
        raise SkeletonError(f"output: expected one keypoint called {twice[0]!r}, got {known.count(twice[0])}")
    index = np.array([known.index(k) if k in known else -1 for k in skeleton.keypoints], np.int64)
    if 2 * (index >= 0).sum() < len(skeleton):
        listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        raise SkeletonError(
            f"output: expected keypoints named as in skeleton {skeleton.name!r} "
            f"({', '.join(skeleton.keypoints)}), got {listed}"
        )
    return index
