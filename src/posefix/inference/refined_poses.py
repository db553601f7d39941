"""What ``Refiner.predict`` returns: refined poses, and what happened to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.drawing.draw import draw
from posefix.exceptions import InputError, MissingDependencyError
from posefix.inference.crops import Prepared, Refined
from posefix.inference.reliability import Reliability
from posefix.inference.rescoring import duplicates, person_scores
from posefix.io.images import Image
from posefix.keypoints.skeleton import Skeleton
from posefix.tensors import real_array

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RefinedPoses:
    """The refined people of one image; N of them with K keypoints. Indexing and iterating give single people.

    Attributes:
        keypoints: (N, K, 3) [x, y, confidence] px; confidence 0 where a keypoint has no place.
        moved: (N, K) px that each keypoint moved; 0 where it stayed, was filled or is missing.
        filled: (N, K) bool, missing keypoints that were given a place.
        scores: (N,) person scores as ``posefix refine`` writes them: the estimator's, lowered where the image
            contradicts the pose and where it repeats a better-scored person.
        duplicates: (N,) OKS with the better-scored person that is repeated; 0 for all others.
        skeleton: the keypoints' set.
        reliability: of the estimator, as measured on these people, with the ``prior_weight`` that was used.

    Examples:
        >>> poses = refiner.predict(image, keypoints)
        >>> poses.keypoints.shape, poses.moved.shape, poses.scores.shape
        ((2, 17, 3), (2, 17), (2,))
        >>> best = poses[poses.scores.argmax()]
        >>> print(best)
        RefinedPoses(1 person, 17 keypoints: 17 moved, 0 filled)
    """

    keypoints: Floats
    moved: Floats
    filled: Bools
    scores: Floats
    duplicates: Floats
    skeleton: Skeleton
    reliability: Reliability

    def __repr__(self) -> str:
        people = "1 person" if len(self) == 1 else f"{len(self)} people"
        moved, filled = int((self.moved > 0).sum()), int(self.filled.sum())
        return f"RefinedPoses({people}, {len(self.skeleton)} keypoints: {moved} moved, {filled} filled)"

    @property
    def confidence(self) -> Floats:
        """(N, K) expected keypoint similarity."""
        return self.keypoints[..., 2]

    def __len__(self) -> int:
        return len(self.keypoints)

    def __iter__(self) -> Iterator[RefinedPoses]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, rows: int | slice | npt.NDArray[Any]) -> RefinedPoses:
        """Some of the people; an integer is one person, still with a first axis."""
        if isinstance(rows, (int, np.integer)):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"expected a person below {len(self)}, got {rows}")
            rows = slice(rows, rows + 1 or None)
        names = [f.name for f in fields(self) if f.name not in ("skeleton", "reliability")]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def to_coco(self, image_id: int | str, category_id: int = 1) -> list[dict[str, Any]]:
        """Entries of a COCO results file.

        Args:
            image_id: of the image.
            category_id: of people.

        Examples:
            >>> [entry["image_id"] for entry in poses.to_coco(image_id=139)]
            [139, 139]
        """
        flat = np.round(np.asarray(self.keypoints, np.float64), 3).reshape(len(self), -1).tolist()
        return [
            {"image_id": image_id, "category_id": category_id, "keypoints": row, "score": round(score, 6)}
            for row, score in zip(flat, self.scores.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """``supervision.KeyPoints``.

        Raises:
            MissingDependencyError: supervision is not installed.

        Examples:
            >>> key_points = poses.to_supervision()  # doctest: +SKIP
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError("to_supervision needs supervision: pip install supervision") from error
        confidence = np.asarray(self.confidence, np.float32)
        names = set(supervision.KeyPoints.__dataclass_fields__)
        values = {"xy": np.asarray(self.keypoints[..., :2], np.float32)}
        values["keypoint_confidence" if "keypoint_confidence" in names else "confidence"] = confidence
        if "detection_confidence" in names:
            values["detection_confidence"] = np.asarray(self.scores, np.float32)
        return supervision.KeyPoints(**values)

    def plot(self, image: Any, *, threshold: float = 0.2, color: str = "rgb") -> Image:
        """The image with the poses drawn on it; filled keypoints are hollow.

        Args:
            image: whatever ``load_image`` takes.
            threshold: keypoints below this confidence are left out.
            color: channel order of an array.

        Returns:
            (H, W, 3) uint8 RGB.

        Examples:
            >>> poses.plot(image).shape
            (480, 640, 3)
        """
        return draw(image, self.keypoints, skeleton=self.skeleton, threshold=threshold, filled=self.filled, color=color)


def make_refined_poses(
    prepared: Prepared, refined: Refined, reliability: Reliability, scores: Any = None
) -> RefinedPoses:
    """``RefinedPoses`` of one image.

    Args:
        prepared: its people as they came.
        refined: as they left.
        reliability: of the estimator.
        scores: (N,) of the estimator; default the mean score of a person's keypoints.

    Raises:
        InputError: as many scores as people are expected.
    """
    skeleton, given = prepared.shared.source, np.asarray(prepared.given, np.float64)
    before = given[..., :2]
    after = np.asarray(refined.keypoints[..., :2], np.float64)
    there = np.isfinite(before).all(-1) & (refined.confidence > 0) & ~refined.filled
    moved = np.linalg.norm(np.where(there[..., None], after - before, 0.0), axis=-1)
    keypoints = np.concatenate([after, refined.confidence[..., None]], axis=-1)
    if scores is None:
        known = np.nan_to_num(given[..., 2]) if given.shape[2] == 3 else there.astype(np.float64)
        scores = np.where(there, np.maximum(known, 0.0), 0.0).sum(-1) / np.maximum(there.sum(-1), 1)
    own = real_array(scores, "person_scores").astype(np.float64)
    if own.shape != (len(given),):
        raise InputError(f"person_scores: expected ({len(given)},), one per person, got {own.shape}")
    ranked = person_scores(own.tolist(), keypoints[..., 2].mean(-1), refined.pose_consistency, "pose_consistency")
    new = own if ranked is None else np.asarray(ranked)
    repeated = duplicates(keypoints, new, np.zeros(len(new), int).tolist(), skeleton.sigmas)
    return RefinedPoses(keypoints, moved, refined.filled, new * (1 - repeated), repeated, skeleton, reliability)
