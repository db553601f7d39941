"""What a batch will be, decided on the CPU: who, which poses, which crops, what happens to them. No pixels here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.geometry import box_area, boxes_around_points, crop_affine, crop_rectangles, transform_points
from posefix.keypoints.oks import ANNOTATORS_ERROR, AREA_PER_BOX, keypoint_std
from posefix.keypoints.poses import relative_scores
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.pose_errors.synthesis import ErrorRates, PoseError, synthesize
from posefix.training.config import Augmentation
from posefix.training.data.copy_paste import CopyPaste, Masks, choose_others, draw_masks
from posefix.training.data.people import People
from posefix.training.data.photometric import Distortion, draw_distortion

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Largest standard deviation of a coarse estimator's noise, in square roots of the person's area.
_COARSEST = 0.08
#: Share of keypoints that a sample with drop-out loses.
_DROPPED_KEYPOINTS = 0.2


@dataclass(frozen=True)
class Batch(NetworkInput):
    """B training samples: what the network sees and what it should answer, in crop pixels.

    Attributes:
        targets: (B, K, 2) float32 labelled pose; 0 where there is none.
        target_mask: (B, K) bool, labelled and inside the crop.
    """

    targets: Any
    target_mask: Any


@dataclass(frozen=True)
class Plan:
    """All decisions of one batch of B samples; the pixels follow from it on any device.

    Attributes:
        rows: (B,) whose crops.
        affine: (B, 2, 3) their image → crop.
        masks: second people to paint in.
        distort: what happens to the pixels then.
        batch: the samples, without crops yet.
    """

    rows: npt.NDArray[np.int64]
    affine: Floats
    masks: Masks
    distort: Distortion
    batch: Batch


def plan_batch(
    people: People,
    skeleton: Skeleton,
    model: ModelConfig,
    augmentation: Augmentation,
    batch_size: int,
    rng: np.random.Generator,
    rates: ErrorRates | None = None,
) -> Plan:
    """Draw people, corrupt their poses, choose their crops and what happens to them.

    Args:
        people: all of them.
        skeleton: the keypoint set.
        model: tells the crops' size.
        augmentation: what happens to them.
        batch_size: B.
        rng: source of all randomness.
        rates: of the synthetic errors; default the reference's.
    """
    rows = rng.choice(len(people), batch_size, p=people.share)
    second = choose_others(people, rows, augmentation.copy_paste, rng)
    points, valid, scores = _input_poses(people, rows, second, skeleton, augmentation, rng, rates)
    boxes = _boxes(people, rows, points, valid, augmentation, rng)
    affine, mirror = _affine(boxes, model, augmentation, rng)

    order = np.where(mirror[:, None], skeleton.flip_indices, np.arange(len(skeleton)))
    take = np.arange(batch_size)[:, None]
    crop_points = transform_points(affine, points)[take, order]
    valid = valid[take, order]
    ground_truth = people.ground_truth[rows]
    targets = transform_points(affine, ground_truth[..., :2])[take, order]
    height, width = model.input_hw
    inside = ((targets >= 0) & (targets <= (width - 1, height - 1))).all(-1)
    target_mask = (ground_truth[..., 2] > 0)[take, order] & inside
    scale = np.abs(np.linalg.det(affine[:, :, :2]))
    std = keypoint_std(AREA_PER_BOX * box_area(boxes) * scale, skeleton.sigmas)
    return Plan(
        rows=rows,
        affine=affine,
        masks=draw_masks(people, second, rows, affine, skeleton, model, rng),
        distort=draw_distortion(batch_size, model.input_hw, augmentation, rng),
        batch=Batch(
            crops=None,
            crop_points=np.where(valid[..., None], crop_points, 0).astype(np.float32),
            valid=valid,
            std=std.astype(np.float32),
            scores=scores[take, order].astype(np.float32),
            targets=np.where(target_mask[..., None], targets, 0).astype(np.float32),
            target_mask=target_mask,
        ),
    )


def _input_poses(
    people: People,
    rows: npt.NDArray[np.int64],
    second: CopyPaste,
    skeleton: Skeleton,
    augmentation: Augmentation,
    rng: np.random.Generator,
    rates: ErrorRates | None,
) -> tuple[Floats, Bools, Floats]:
    """(B, K, 2) image px, (B, K) valid and (B, K) scores: synthetic errors, or a real estimate, partly replaced."""
    ground_truth, estimates = people.ground_truth[rows], people.estimates[rows]
    mask = ground_truth[..., 2] > 0
    centres, centre_mask = ground_truth[..., :2], mask
    if estimates.shape[1]:
        known = np.isfinite(estimates[:, 0, :, 0])
        centres = np.where(mask[..., None], centres, np.where(known[..., None], estimates[:, 0, :, :2], 0))
        centre_mask = mask | known
    boxes = people.boxes_xyxy[rows]
    area = people.area[rows] if augmentation.person_area else box_area(boxes)
    severity = (1 + augmentation.severity) ** rng.uniform(-1, 1, len(rows))
    points, kinds = synthesize(
        centres,
        mask,
        skeleton,
        area,
        rng,
        others=np.concatenate([people.others[rows], second.ground_truth[:, None]], axis=1),
        overlap=people.overlap[rows] + second.there,
        centre_mask=centre_mask,
        rates=rates,
        severity=severity,
    )
    closer = np.where(rng.random(len(rows)) < augmentation.low_jitter_prob, rng.uniform(0.1, 1.0, len(rows)), 1.0)
    pull = np.where(kinds == PoseError.GOOD, closer[:, None], 1.0)[..., None]
    points = centres + pull * (points - centres)
    coarse = (rng.random(len(rows)) < augmentation.noise_prob) * rng.uniform(0, _COARSEST, len(rows)) * np.sqrt(area)
    points = points + coarse[:, None, None] * rng.standard_normal(points.shape)
    valid, scores = centre_mask, np.ones(mask.shape)
    if estimates.shape[1] and augmentation.real_pose_prob > 0:
        slot = rng.integers(estimates.shape[1], size=len(rows))
        chosen = estimates[np.arange(len(rows)), slot]
        usable = np.isfinite(chosen[..., 0])
        left = np.where(rng.random(len(rows)) < augmentation.error_shrink_prob, rng.random(len(rows)), 1.0)
        error = np.where(mask[..., None], chosen[..., :2] - ground_truth[..., :2], 0.0)
        found = chosen[..., :2] - (1 - left)[:, None, None] * error
        fixed = (rng.random(len(rows)) < augmentation.error_fix_prob) * rng.random(len(rows))
        right = mask & (rng.random(mask.shape) < fixed[:, None])
        noise = keypoint_std(area, skeleton.sigmas)[..., None] * rng.standard_normal(points.shape)
        found = np.where(right[..., None], ground_truth[..., :2] + ANNOTATORS_ERROR * noise, found)
        real = usable & (rng.random(len(rows)) < augmentation.real_pose_prob)[:, None]
        real &= rng.random(real.shape) >= augmentation.real_noise
        points = np.where(real[..., None], found, points)
        valid = valid | real
        # The score of one estimator is another's to some power; a synthetic error has none of its own.
        scores_given = relative_scores(chosen[..., 2], usable)
        power = 2.0 ** rng.uniform(-1, 1, (len(rows), 1)) * (rng.random((len(rows), 1)) < augmentation.score_prob)
        scores = np.where(real, scores_given**power, 1.0)
    lossy = rng.random(len(rows)) < augmentation.keypoint_dropout
    valid = valid & ~(lossy[:, None] & (rng.random(valid.shape) < _DROPPED_KEYPOINTS))
    return np.where(valid[..., None], points, 0.0), valid, np.where(valid, scores, 1.0)


def _boxes(
    people: People,
    rows: npt.NDArray[np.int64],
    points: Floats,
    valid: Bools,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Floats:
    around_input = boxes_around_points(points, valid)
    use = (rng.random(len(rows)) < augmentation.input_box) & np.isfinite(around_input).all(-1)
    return np.where(use[:, None], around_input, people.boxes_xyxy[rows])


def _affine(
    boxes: Floats, model: ModelConfig, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Floats, Bools]:
    count = len(boxes)
    rectangles = crop_rectangles(boxes, model.input_hw)
    centre = (rectangles[:, :2] + rectangles[:, 2:]) / 2
    half = (rectangles[:, 2:] - rectangles[:, :2]) / 2
    half = half * (1 + augmentation.scale * rng.uniform(-1, 1, (count, 1)))
    centre = centre + augmentation.shift * half * rng.uniform(-1, 1, (count, 2))
    turned = rng.random(count) < augmentation.rotation_share
    rotation = turned * augmentation.rotation * rng.uniform(-1, 1, count)
    mirror = rng.random(count) < augmentation.mirror
    grown = np.concatenate([centre - half, centre + half], axis=1)
    return crop_affine(grown, model.input_hw, rotation=rotation, mirror=mirror), mirror
