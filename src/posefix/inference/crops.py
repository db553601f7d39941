"""From an image's people to what the network sees, and from its output back to the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.geometry import (
    box_area,
    boxes_around_points,
    boxes_meet,
    boxes_xywh_to_xyxy,
    crop_affine,
    crop_rectangles,
    invert_affine,
    read_otherwise,
    transform_points,
    warp_crops,
)
from posefix.keypoints.mapping import SharedKeypoints
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_std
from posefix.keypoints.poses import Poses, framing, read_poses
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.tensors import real_array

Floats = npt.NDArray[np.floating]

logger = logging.getLogger(__name__)

#: People of an image from which on their crops are cut when they are asked for.
CROWD = 256
#: Of a keypoint that has a place.
LEAST_CONFIDENCE = 1e-6
#: Other people that are kept of each person, the nearest ones.
NEAREST = 8
#: Share of the keypoints within one length scale from which two detections are of the same person.
SAME = 0.5
#: Coordinate of who is not there: runtimes of graphs differ in what they do with NaN.
FAR = 1e6
#: Distance to the image's border, in length scales of keypoint similarity, within which nothing is filled: keypoints
#: outside the image gather there. Of those filled so near, 19 % were labelled in the image, of the others 63 %.
_BORDER = 0.75


@dataclass(frozen=True)
class Prepared:
    """One image's people, ready for the network.

    Attributes:
        poses: in the refiner's keypoint set.
        rows: (R,) people that can be refined: those with a box that shows something of the image.
        affine: (R, 2, 3) image → crop.
        inputs: what the network sees of those R people.
        given: (N, K, 2 or 3) the poses as they came, maybe of another keypoint set.
        shared: what that set and the refiner's have in common.
        image_hw: size of the image.
    """

    poses: Poses
    rows: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]
    inputs: NetworkInput
    given: Floats
    shared: SharedKeypoints
    image_hw: tuple[int, int]

    def moved(self, offset: tuple[float, float] | None) -> Prepared:
        """With every keypoint moved by (x, y) crop pixels; the crops stay."""
        if offset is None or not any(offset):
            return self
        points, original = self.poses.points.copy(), self.poses.original.copy()
        shift = (offset / self.affine[:, (0, 1), (0, 1)])[:, None] * self.poses.valid[self.rows, :, None]
        points[self.rows] += shift
        original[self.rows, :, :2] += shift.astype(original.dtype)
        crop_points = self.inputs.crop_points + np.asarray(offset, np.float32)
        return replace(
            self,
            poses=replace(self.poses, points=points, original=original),
            inputs=replace(self.inputs, crop_points=crop_points),
        )


@dataclass(frozen=True)
class Prediction:
    """The network's result for B people, in crop pixels.

    Attributes:
        points: (B, K, 2) best points.
        confidence: (B, K) their expected keypoint similarity.
        input_confidence: (B, K) that of the input points; 0 where there is none.
        presence: (B, K) how likely the image shows each keypoint at all.
    """

    points: Floats
    confidence: Floats
    input_confidence: Floats
    presence: Floats

    def take(self, rows: slice | npt.NDArray[np.int64]) -> Prediction:
        """Some of the people."""
        return Prediction(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def join(parts: Sequence[Prediction], num_keypoints: int) -> Prediction:
        """People one after another; of no parts, of no people."""
        if not parts:
            return Prediction(np.zeros((0, num_keypoints, 2)), *(np.zeros((0, num_keypoints)) for _ in range(3)))
        names = [f.name for f in fields(Prediction)]
        return Prediction(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


@dataclass(frozen=True)
class Refined:
    """One image's people after refinement; K is the number of keypoints they came with.

    Attributes:
        keypoints: (N, K, 2 or 3) as the poses came.
        confidence: (N, K) expected keypoint similarity; 0 where nothing was refined.
        filled: (N, K) bool, missing keypoints that were given a place.
        pose_consistency: (N,) how consistent the given pose is with the image: the mean over its valid keypoints
            of expected similarity where they are, relative to that of the best point. 1 where nothing was
            refined. Poses that needed much correction are right less often, so it ranks people.
    """

    keypoints: Floats
    confidence: Floats
    filled: npt.NDArray[np.bool_]
    pose_consistency: Floats


@dataclass(frozen=True, eq=False)
class CropCutter:
    """Crops of an image, cut when some of them are taken: those of thousands of people would fill the memory.

    Attributes:
        image: (H, W, 3) uint8.
        affine: (R, 2, 3) image → crop.
        input_hw: size of a crop.
        antialias: as for ``warp_crops``.
    """

    image: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    input_hw: tuple[int, int]
    antialias: bool

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(R', h, w, 3) the crops of some people."""
        return warp_crops(self.image, self.affine[rows], self.input_hw, antialias=self.antialias)

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


def pose_consistency_of(prepared: Prepared, prediction: Prediction) -> Floats:
    """(N,) ``Refined.pose_consistency`` of one image's people."""
    valid = prepared.poses.valid[prepared.rows]
    ratio = np.where(valid, prediction.input_confidence / np.maximum(prediction.confidence, 1e-9), 0.0)
    pose_consistency = np.ones(len(prepared.poses.points))
    counts = valid.sum(-1)
    pose_consistency[prepared.rows] = np.where(counts > 0, ratio.sum(-1) / np.maximum(counts, 1), 1.0)
    return np.minimum(pose_consistency, 1.0)


def prepare(
    image: npt.NDArray[np.uint8],
    own: Poses,
    boxes_xyxy: Any,
    shared: SharedKeypoints,
    config: ModelConfig,
    *,
    doubted: bool = True,
) -> Prepared:
    """Cut the crops of one image's people: everything before the network (thread-safe).

    Args:
        image: (H, W, 3) uint8 RGB.
        own: its people, of the keypoint set ``shared.source``.
        boxes_xyxy: (N, 4) or None, see ``Refiner.refine``.
        shared: the keypoints' set and the network's, ``shared.target``.
        config: of the network.
        doubted: whether boxes may be wrong; else they are taken as they are.

    Raises:
        InputError: boxes of another shape.
    """
    poses = own if shared.identical else read_poses(shared.to_target(own.original), shared.target)
    image_hw = (image.shape[0], image.shape[1])
    if shared.identical:
        around = boxes_around_points(poses.points, framing(poses, image_hw))
    else:
        around = shared.boxes(own.original, image_hw)
    frame = np.array([0.0, 0.0, image_hw[1], image_hw[0]]) - 0.5
    boxes = _person_boxes(around, boxes_xyxy, frame) if doubted else np.asarray(boxes_xyxy, np.float64)
    rows = np.flatnonzero(boxes_meet(boxes, frame))
    input_hw = config.input_hw
    affine = crop_affine(crop_rectangles(boxes[rows], input_hw, config.crop_margin), input_hw)
    area = AREA_PER_BOX * box_area(boxes[rows]) * affine[:, 0, 0] * affine[:, 1, 1]
    std = keypoint_std(area, shared.target.sigmas).astype(np.float32)
    inputs = NetworkInput(
        crops=(CropCutter if len(rows) > CROWD else warp_crops)(image, affine, input_hw, antialias=config.antialias),
        crop_points=transform_points(affine, poses.points[rows]).astype(np.float32),
        valid=poses.valid[rows],
        std=std,
        scores=poses.scores[rows].astype(np.float32),
        others=others_in_crops(poses.points, poses.valid, rows, affine, std),
    )
    return Prepared(poses, rows, affine, inputs, own.original, shared, image_hw)


def others_in_crops(
    points: Floats, valid: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], affine: Floats, std: Floats
) -> npt.NDArray[np.float32]:
    """Keypoints of the nearest other people; further detections of the same person are none.

    Args:
        points: (N, K, 2) of all people of an image, in its pixels.
        valid: (N, K) which there are.
        rows: (R,) people with a crop.
        affine: (R, 2, 3) image → crop.
        std: (R, K) length scale of keypoint similarity in crop pixels.

    Returns:
        (R, ``NEAREST``, K, 2) in crop pixels; ``FAR`` where there is no other person or keypoint.
    """
    found = np.full((len(rows), NEAREST, *points.shape[1:]), FAR, np.float32)
    count = min(NEAREST, len(points) - 1)
    if count < 1:
        return found
    points = np.where(valid[..., None], points, 0.0)
    centre = points.sum(1) / np.maximum(valid.sum(1), 1)[:, None]
    for start in range(0, len(rows), CROWD):
        block = slice(start, start + CROWD)
        own = rows[block]
        distance = np.hypot(*np.moveaxis(centre[own, None] - centre, -1, 0))
        distance[:, ~valid.any(1)] = distance[np.arange(len(own)), own] = np.inf
        near = np.argsort(distance, axis=1, kind="stable")[:, :count]
        seen = transform_points(affine[block], points[near].reshape(len(own), -1, 2)).reshape(*near.shape, -1, 2)
        there = valid[near] & np.isfinite(np.take_along_axis(distance, near, 1))[..., None]
        both = there & valid[own, None]
        apart = np.linalg.norm(seen - transform_points(affine[block], points[own])[:, None], axis=-1)
        alike = both & (apart < std[block, None])
        same = alike.sum(-1) >= SAME * np.maximum(both.sum(-1), 1)
        found[block, :count] = np.where((there & ~same[..., None])[..., None], seen, FAR)
    return found


def _person_boxes(
    around: npt.NDArray[np.float64], boxes_xyxy: Any, frame: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(N, 4) given boxes, else boxes around the valid keypoints; NaN for people with neither.

    A box that has nothing of the person's keypoints is none. One that reaches farther than an image's size beyond the
    image (``frame``, its corners) is cut to it, or the person would be too small in the crop.
    """
    if boxes_xyxy is None:
        return around
    if isinstance(boxes_xyxy, np.ndarray) and boxes_xyxy.dtype.kind == "O":
        boxes_xyxy = boxes_xyxy.tolist()
    if isinstance(boxes_xyxy, list | tuple):
        boxes_xyxy = [[np.nan] * 4 if box is None else box for box in boxes_xyxy]
    boxes = real_array(boxes_xyxy, "boxes_xyxy").astype(np.float64)
    if boxes.size == 0 and len(around) == 0:
        return around
    if boxes.shape != around.shape:
        raise InputError(f"boxes_xyxy: expected {around.shape}, one box per person, got {boxes.shape}")
    finite = np.isfinite(boxes).all(-1)
    inverted = np.flatnonzero(finite & (boxes[:, 2:] < boxes[:, :2]).any(-1))
    if len(inverted):
        got = ", ".join(f"{v:g}" for v in boxes[inverted[0]])
        raise InputError(
            f"boxes_xyxy: expected [left, top, right, bottom] with right > left and bottom > top, got [{got}] for "
            f"person {inverted[0]}; boxes_xywh_to_xyxy turns [left, top, width, height] into that, NaN is no box"
        )
    usable = np.asarray(finite & (boxes[:, 2:] > boxes[:, :2]).all(-1))
    if read_otherwise(boxes[usable], boxes_xywh_to_xyxy(boxes[usable]), around[usable]):
        raise InputError(
            "boxes_xyxy: expected [left, top, right, bottom] around the keypoints, got what fits them as [left, top, "
            "width, height]; boxes_xywh_to_xyxy turns these into that"
        )
    there = boxes_meet(boxes, around) | ~np.isfinite(around).all(-1)
    if (usable & ~there).any():
        who = ", ".join(map(str, np.flatnonzero(usable & ~there)[:10].tolist()))
        logger.warning("boxes_xyxy: not where the keypoints are, so not used: those of people %s", who)
    low, high = np.tile(frame[:2], 2), np.tile(frame[2:], 2)
    far = np.asarray(((boxes < low - (high - low)) | (boxes > high + (high - low))).any(-1))
    boxes = np.where(far[:, None], np.clip(boxes, low, high), boxes)
    return np.where((usable & there)[:, None], boxes, around)


def _finite_only(prepared: Prepared, prediction: Prediction) -> tuple[Prepared, Prediction]:
    """Without people for whom the network has numbers that are not finite: they stay as they are."""
    values = (prediction.points, *(v[..., None] for v in (prediction.confidence, prediction.input_confidence)))
    finite = np.isfinite(np.concatenate([*values, prediction.presence[..., None]], -1)).all((1, 2))
    if finite.all():
        return prepared, prediction
    logger.warning("the network's numbers are not finite for %d people, who stay as they are", (~finite).sum())
    rows = np.flatnonzero(finite)
    inputs = prepared.inputs.take(rows)
    return replace(prepared, rows=prepared.rows[rows], affine=prepared.affine[rows], inputs=inputs), prediction.take(
        rows
    )


def well_inside(points: Floats, std: Floats, image_hw: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether places are so far from the image's border that the image can show a keypoint there.

    Args:
        points: (..., 2) image pixels.
        std: (...) image pixels, length scale of keypoint similarity.
        image_hw: (2,) or (..., 2).
    """
    size_wh = np.asarray(image_hw)[..., ::-1]
    return np.asarray(np.minimum(points + 0.5, size_wh - 0.5 - points).min(-1) >= _BORDER * std)


def paste_back(
    prepared: Prepared,
    prediction: Prediction,
    margin: Floats | None,
    *,
    fill_missing: bool,
    fill_threshold: float = 0.0,
) -> Refined:
    """The prediction in the image's pixels; inputs that may stay, stay exactly.

    Args:
        prepared: one image's people.
        prediction: for ``prepared.rows``.
        margin: (K,) an input stays where its expected similarity is at least the best one's minus this; None
            keeps none.
        fill_missing: whether missing keypoints take the prediction, where it lies well inside the image.
        fill_threshold: least confidence at which they do.

    Returns:
        the people in the keypoint set they came in.
    """
    prepared, prediction = _finite_only(prepared, prediction)
    poses, rows = prepared.poses, prepared.rows
    points = transform_points(invert_affine(prepared.affine), prediction.points)
    valid = np.asarray(poses.valid[rows])
    keep = np.zeros_like(valid)
    if margin is not None:
        keep = valid & (prediction.input_confidence >= prediction.confidence - margin)
    confidence = np.where(keep, prediction.input_confidence, prediction.confidence) * prediction.presence
    # A score of 0 means missing to every reader.
    confidence = np.clip(confidence, LEAST_CONFIDENCE, 1.0)
    filled = np.zeros(poses.valid.shape, bool)
    if fill_missing:
        inside = well_inside(points, prepared.inputs.std / prepared.affine[:, :1, 0], prepared.image_hw)
        filled[rows] = ~valid & poses.known & inside & (confidence >= fill_threshold)
    known = np.zeros(poses.valid.shape)
    known[rows] = np.where(valid | filled[rows], confidence, 0.0)
    result = np.array(poses.original)
    moves = (valid & ~keep) | filled[rows]
    result[rows, :, :2] = np.where(moves[..., None], points, poses.original[rows][..., :2])
    if result.shape[2] == 3:
        result[rows, :, 2] = np.where(valid | filled[rows], confidence, poses.original[rows][..., 2])
    consistency = pose_consistency_of(prepared, prediction)
    shared = prepared.shared
    if shared.identical:
        return Refined(result, known, filled, consistency)
    there = prepared.given.shape[:2]
    return Refined(
        shared.put_back(prepared.given, result),
        shared.put_back(np.zeros(there), known),
        shared.put_back(np.zeros(there), filled) > 0,
        consistency,
    )
