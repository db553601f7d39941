"""Poses of one keypoint set in terms of another: what both have, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import SkeletonError
from posefix.geometry import boxes_around_points
from posefix.keypoints.poses import framing, read_poses
from posefix.keypoints.skeleton import Skeleton

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SharedKeypoints:
    """The keypoints that two sets have in common; S of them. ``share_keypoints`` makes it.

    Attributes:
        source: the poses' set.
        target: the other set.
        from_source: (S,) their indices in the source.
        from_target: (S,) their indices in the target.
        identical: whether every keypoint stays in its place, so that there is nothing to do.
    """

    source: Skeleton
    target: Skeleton
    from_source: npt.NDArray[np.int64]
    from_target: npt.NDArray[np.int64]
    identical: bool

    def to_target(self, keypoints: Floats) -> Floats:
        """(N, K_source, …) → (N, K_target, …): zero, which is missing, where the source has no such keypoint."""
        moved = np.zeros((len(keypoints), len(self.target), *keypoints.shape[2:]), keypoints.dtype)
        moved[:, self.from_target] = keypoints[:, self.from_source]
        return moved

    def put_back(self, keypoints: Floats, refined: Floats) -> Floats:
        """A copy of (N, K_source, …) with the shared keypoints of (N, K_target, …); all others as they were."""
        merged = np.array(keypoints)
        merged[:, self.from_source] = refined[:, self.from_target]
        return merged

    def boxes(self, keypoints: Any, image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
        """(N, 4) xyxy px around all keypoints of the source, ×1.2; NaN for people with none of the shared ones.

        Around all, because the head's top or the neck show more of a person's extent than shoulders; strays far
        outside the image do not count (``framing``).
        """
        poses = read_poses(keypoints, self.source)
        boxes = boxes_around_points(poses.points, framing(poses, image_hw))
        boxes[~poses.valid[:, self.from_source].any(-1)] = np.nan
        return boxes


def share_keypoints(source: Skeleton, target: Skeleton) -> SharedKeypoints:
    """What two sets share, by name.

    Names that either never annotates do not count, even where the sets are the same: no network has learnt
    PoseTrack's ears. As in the reference it sees none, and what an estimator said of them stays.

    Raises:
        SkeletonError: nothing.
    """
    index = source.map_to(target)
    never = source.unannotated | target.unannotated
    index[[k in never for k in target.keypoints]] = -1
    found = np.flatnonzero(index >= 0)
    if not len(found):
        raise SkeletonError(
            f"skeletons {source.name!r} and {target.name!r} share no keypoint; names must agree, as 'left_knee' does"
        )
    identical = source.keypoints == target.keypoints and len(found) == len(source)
    return SharedKeypoints(source, target, index[found], found.astype(np.int64), identical)
