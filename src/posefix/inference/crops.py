"""From an image's people to what the network sees, and from its output back to the image."""

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
from posefix.keypoints.mapping import SharedKeypoints
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_std
from posefix.keypoints.poses import Poses, read_poses
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Prepared:
    """One image's people, ready for the network.

    Attributes:
        poses: in the refiner's keypoint set.
        rows: (R,) people that can be refined: those with a box.
        affine: (R, 2, 3) image → crop.
        inputs: what the network sees of those R people.
        given: (N, K, 2 or 3) the poses as they came, maybe of another keypoint set.
        shared: what that set and the refiner's have in common.
    """

    poses: Poses
    rows: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]
    inputs: NetworkInput
    given: Floats
    shared: SharedKeypoints


@dataclass(frozen=True)
class Prediction:
    """The network's result for B people, in crop pixels.

    Attributes:
        points: (B, K, 2) best points.
        confidence: (B, K) their expected keypoint similarity.
        input_confidence: (B, K) that of the input points; 0 where there is none.
    """

    points: Floats
    confidence: Floats
    input_confidence: Floats

    def take(self, rows: slice) -> Prediction:
        """Some of the people."""
        return Prediction(self.points[rows], self.confidence[rows], self.input_confidence[rows])

    @staticmethod
    def join(parts: Sequence[Prediction], num_keypoints: int) -> Prediction:
        """People one after another; of no parts, of nobody."""
        if not parts:
            return Prediction(np.zeros((0, num_keypoints, 2)), *(np.zeros((0, num_keypoints)) for _ in range(2)))
        names = [f.name for f in fields(Prediction)]
        return Prediction(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


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


def pose_consistency_of(prepared: Prepared, prediction: Prediction) -> Floats:
    """(N,) ``Refined.pose_consistency`` of one image's people."""
    valid = prepared.poses.valid[prepared.rows]
    ratio = np.where(valid, prediction.input_confidence / np.maximum(prediction.confidence, 1e-9), 0.0)
    pose_consistency = np.ones(len(prepared.poses.points))
    counts = valid.sum(-1)
    pose_consistency[prepared.rows] = np.where(counts > 0, ratio.sum(-1) / np.maximum(counts, 1), 1.0)
    return np.minimum(pose_consistency, 1.0)


def prepare(
    image: npt.NDArray[np.uint8], own: Poses, boxes_xyxy: Any, shared: SharedKeypoints, config: ModelConfig
) -> Prepared:
    """Cut the crops of one image's people: everything before the network (thread-safe).

    Args:
        image: (H, W, 3) uint8 RGB.
        own: its people, of the keypoint set ``shared.source``.
        boxes_xyxy: (N, 4) or None, see ``Refiner.refine``.
        shared: the keypoints' set and the network's, ``shared.target``.
        config: of the network.

    Raises:
        InputError: boxes of another shape.
    """
    poses = own if shared.identical else read_poses(shared.to_target(own.original), shared.target)
    around = boxes_around_points(poses.points, poses.valid) if shared.identical else shared.boxes(own.original)
    boxes = _person_boxes(around, boxes_xyxy)
    rows = np.flatnonzero(np.isfinite(boxes).all(-1))
    input_hw = config.input_hw
    affine = crop_affine(crop_rectangles(boxes[rows], input_hw), input_hw)
    crops = [warp_crop(image, matrix, input_hw, antialias=config.antialias) for matrix in affine]
    area = AREA_PER_BOX * box_area(boxes[rows]) * affine[:, 0, 0] * affine[:, 1, 1]
    inputs = NetworkInput(
        crops=np.stack(crops) if crops else np.zeros((0, *input_hw, 3), np.uint8),
        crop_points=transform_points(affine, poses.points[rows]).astype(np.float32),
        valid=poses.valid[rows],
        std=keypoint_std(area, shared.target.sigmas).astype(np.float32),
        scores=poses.scores[rows].astype(np.float32),
    )
    return Prepared(poses, rows, affine, inputs, own.original, shared)


def _person_boxes(around: npt.NDArray[np.float64], boxes_xyxy: Any) -> npt.NDArray[np.float64]:
    """(N, 4) given boxes, else boxes around the valid keypoints; NaN for who has neither."""
    if boxes_xyxy is None:
        return around
    if hasattr(boxes_xyxy, "detach"):
        boxes_xyxy = boxes_xyxy.detach().cpu().float()
    boxes = np.asarray(boxes_xyxy, np.float64)
    if boxes.size == 0 and len(around) == 0:
        return around
    if boxes.shape != around.shape:
        raise InputError(f"boxes_xyxy: expected {around.shape}, one box per person, got {boxes.shape}")
    usable = np.asarray(np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1))
    return np.where(usable[:, None], boxes, around)


def paste_back(prepared: Prepared, prediction: Prediction, margin: Floats | None, *, fill_missing: bool) -> Refined:
    """The prediction in the image's pixels; inputs that may stay, stay exactly.

    Args:
        prepared: one image's people.
        prediction: for ``prepared.rows``.
        margin: (K,) an input stays where its expected similarity is at least the best one's minus this; None
            keeps none.
        fill_missing: whether missing keypoints take the prediction.

    Returns:
        the people in the keypoint set they came in.
    """
    keypoints = _pasted(prepared, prediction, margin, fill_missing=fill_missing)
    if not prepared.shared.identical:
        keypoints = prepared.shared.put_back(prepared.given, keypoints)
    return Refined(keypoints, pose_consistency_of(prepared, prediction))


def _pasted(prepared: Prepared, prediction: Prediction, margin: Floats | None, *, fill_missing: bool) -> Floats:
    """(N, K, 2 or 3) of the refiner's keypoint set."""
    poses, rows = prepared.poses, prepared.rows
    result = np.array(poses.original)
    if not len(rows):
        return result
    points = transform_points(invert_affine(prepared.affine), prediction.points)
    valid = np.asarray(poses.valid[rows])
    keep = np.zeros_like(valid)
    if margin is not None:
        keep = valid & (prediction.input_confidence >= prediction.confidence - margin)
    confidence = np.where(keep, prediction.input_confidence, prediction.confidence)
    given = poses.original[rows]
    filled = ~valid & poses.known if fill_missing else np.zeros_like(valid)
    stays = keep | ~(valid | filled)
    result[rows, :, :2] = np.where(stays[..., None], given[..., :2], points)
    if result.shape[2] == 3:
        result[rows, :, 2] = np.where(valid | filled, confidence, given[..., 2])
    return result
