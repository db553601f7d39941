"""From an image's people to what the network sees, and from its answer back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.geometry import (
    box_area,
    boxes_around_points,
    crop_affine,
    crop_rectangles,
    invert_affine,
    transform_points,
    warp_crop,
)
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_std
from posefix.keypoints.poses import Poses

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Crops:
    """What goes to the network for B people, in crop pixels.

    Attributes:
        crops: (B, H, W, 3) uint8 RGB.
        crop_points: (B, K, 2) float32.
        valid: (B, K) bool.
        std: (B, K) float32 length scale of keypoint similarity.
        scores: (B, K) float32 estimator's score over that of the person's best keypoint; 1 where nothing is known.
    """

    crops: npt.NDArray[np.uint8]
    crop_points: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    std: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.crops)

    def take(self, rows: slice) -> Crops:
        """Some of the people."""
        return Crops(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def join(parts: Sequence[Crops]) -> Crops:
        """People of several images one after another."""
        return Crops(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Crops)))


@dataclass(frozen=True)
class Prepared:
    """One image's people, ready for the network.

    Attributes:
        poses: as they came.
        rows: (R,) people that can be refined: those with a box.
        affine: (R, 2, 3) image → crop.
        crops: of those R people.
    """

    poses: Poses
    rows: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]
    crops: Crops


@dataclass(frozen=True)
class Answer:
    """The network's answer for B people, in crop pixels.

    Attributes:
        points: (B, K, 2) best points.
        confidence: (B, K) their expected keypoint similarity.
        input_confidence: (B, K) that of the input points; 0 where there is none.
    """

    points: Floats
    confidence: Floats
    input_confidence: Floats


@dataclass(frozen=True)
class Refined:
    """One image's people after refinement.

    Attributes:
        keypoints: (N, K, 2 or 3) as the poses came.
        pose_consistency: (N,) how far the image bears out the pose that was given: the mean over its valid keypoints
            of expected similarity where they are, relative to that of the best point. 1 where nothing was
            refined. Poses that needed much correction are right less often, so it ranks people.
    """

    keypoints: Floats
    pose_consistency: Floats


def pose_consistency_of(prepared: Prepared, answer: Answer) -> Floats:
    """(N,) ``Refined.pose_consistency`` of one image's people."""
    valid = prepared.poses.valid[prepared.rows]
    ratio = np.where(valid, answer.input_confidence / np.maximum(answer.confidence, 1e-9), 0.0)
    pose_consistency = np.ones(len(prepared.poses.points))
    counts = valid.sum(-1)
    pose_consistency[prepared.rows] = np.where(counts > 0, ratio.sum(-1) / np.maximum(counts, 1), 1.0)
    return np.minimum(pose_consistency, 1.0)


def cut_crops(
    image: npt.NDArray[np.uint8],
    poses: Poses,
    boxes_xyxy: Any,
    sigmas: Sequence[float],
    input_hw: tuple[int, int],
    *,
    antialias: bool,
) -> Prepared:
    """Cut every person's crop.

    Args:
        image: (H, W, 3) uint8 RGB.
        poses: its N people.
        boxes_xyxy: (N, 4) or None, see ``Refiner.refine``.
        sigmas: (K,).
        input_hw: crop size.
        antialias: average pixels where a crop shrinks the image.

    Raises:
        InputError: boxes of another shape.
    """
    boxes = _person_boxes(poses, boxes_xyxy)
    rows = np.flatnonzero(np.isfinite(boxes).all(-1))
    affine = crop_affine(crop_rectangles(boxes[rows], input_hw), input_hw)
    crops = [warp_crop(image, matrix, input_hw, antialias=antialias) for matrix in affine]
    area = AREA_PER_BOX * box_area(boxes[rows]) * affine[:, 0, 0] * affine[:, 1, 1]
    return Prepared(
        poses,
        rows,
        affine,
        Crops(
            np.stack(crops) if crops else np.zeros((0, *input_hw, 3), np.uint8),
            transform_points(affine, poses.points[rows]).astype(np.float32),
            poses.valid[rows],
            keypoint_std(area, sigmas).astype(np.float32),
            poses.scores[rows].astype(np.float32),
        ),
    )


def _person_boxes(poses: Poses, boxes_xyxy: Any) -> npt.NDArray[np.float64]:
    """(N, 4) given boxes, else boxes around the valid keypoints; NaN for who has neither."""
    around = boxes_around_points(poses.points, poses.valid)
    if boxes_xyxy is None:
        return around
    if hasattr(boxes_xyxy, "detach"):
        boxes_xyxy = boxes_xyxy.detach().cpu().float()
    boxes = np.asarray(boxes_xyxy, np.float64)
    if boxes.size == 0 and len(poses.points) == 0:
        return around
    if boxes.shape != around.shape:
        raise InputError(f"boxes_xyxy: expected {around.shape}, one box per person, got {boxes.shape}")
    usable = np.asarray(np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1))
    return np.where(usable[:, None], boxes, around)


def paste_back(prepared: Prepared, answer: Answer, margin: Floats | None, *, fill_missing: bool) -> Floats:
    """The network's answer in the image's pixels; inputs that may stay, stay exactly.

    Args:
        prepared: one image's people.
        answer: the network's, for ``prepared.rows``.
        margin: (K,) an input stays where its expected similarity is at least the best one's minus this; None
            keeps none.
        fill_missing: whether missing keypoints take the answer.

    Returns:
        (N, K, 2 or 3) as the poses came, a new array.
    """
    poses, rows = prepared.poses, prepared.rows
    result = np.array(poses.original)
    if not len(rows):
        return result
    points = transform_points(invert_affine(prepared.affine), answer.points)
    valid = np.asarray(poses.valid[rows])
    keep = np.zeros_like(valid)
    if margin is not None:
        keep = valid & (answer.input_confidence >= answer.confidence - margin)
    confidence = np.where(keep, answer.input_confidence, answer.confidence)
    given = poses.original[rows]
    filled = ~valid & poses.known if fill_missing else np.zeros_like(valid)
    stays = keep | ~(valid | filled)
    result[rows, :, :2] = np.where(stays[..., None], given[..., :2], points)
    if result.shape[2] == 3:
        result[rows, :, 2] = np.where(valid | filled, confidence, given[..., 2])
    return result
