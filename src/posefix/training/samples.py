"""Batches of training samples: synthetic errors, crops, augmentation. Every batch is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from posefix.geometry import (
    box_area,
    boxes_around_points,
    crop_affine,
    crop_rectangles,
    transform_points,
    warp_crop,
)
from posefix.network.config import ModelConfig
from posefix.similarity import AREA_PER_BOX, keypoint_std
from posefix.skeleton import Skeleton
from posefix.synthesis import ErrorRates, PoseError, synthesize
from posefix.training.company import Company, add_company, place_beside
from posefix.training.config import Augmentation
from posefix.training.people import People, Pictures

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Largest standard deviation of a coarse estimator's noise, in square roots of the person's area.
_COARSEST = 0.08
#: Share of keypoints that a sample with drop-out loses.
_DROPPED_KEYPOINTS = 0.2


@dataclass(frozen=True)
class Batch:
    """B training samples in crop pixels.

    Attributes:
        crops: (B, H, W, 3) uint8 RGB.
        crop_points: (B, K, 2) float32 input pose; 0 where not valid.
        valid: (B, K) bool.
        targets: (B, K, 2) float32 annotated pose; 0 where there is none.
        target_mask: (B, K) bool, annotated and inside the crop.
        std: (B, K) float32 length scale of keypoint similarity, from the area that test time would assume.
    """

    crops: npt.NDArray[np.uint8]
    crop_points: npt.NDArray[np.float32]
    valid: Bools
    targets: npt.NDArray[np.float32]
    target_mask: Bools
    std: npt.NDArray[np.float32]


def make_batch(
    people: People,
    pictures: Pictures,
    skeleton: Skeleton,
    model: ModelConfig,
    augmentation: Augmentation,
    batch_size: int,
    rng: np.random.Generator,
    rates: ErrorRates | None = None,
) -> Batch:
    """Draw people, corrupt their poses, cut and augment their crops.

    Args:
        people: all of them.
        pictures: theirs.
        skeleton: the keypoint set.
        model: tells crop size and how crops are made.
        augmentation: what happens to them.
        batch_size: B.
        rng: source of all randomness.
        rates: of the synthetic errors; default the reference's.

    Returns:
        the batch.
    """
    rows = rng.choice(len(people), batch_size, p=people.share)
    second = place_beside(people, rows, augmentation.company, rng)
    points, valid = _input_poses(people, rows, second, skeleton, augmentation, rng, rates)
    boxes = _boxes(people, rows, points, valid, augmentation, rng)
    affine, mirror = _affine(boxes, model, augmentation, rng)

    order = np.where(mirror[:, None], skeleton.flip, np.arange(len(skeleton)))
    take = np.arange(batch_size)[:, None]
    crop_points = transform_points(affine, points)[take, order]
    valid = valid[take, order]
    annotated = people.annotated[rows]
    targets = transform_points(affine, annotated[..., :2])[take, order]
    height, width = model.input_hw
    inside = ((targets >= 0) & (targets <= (width - 1, height - 1))).all(-1)
    target_mask = (annotated[..., 2] > 0)[take, order] & inside

    images = [pictures[int(i)] for i in people.picture[rows]]
    crops = np.stack(
        [warp_crop(i, a, model.input_hw, antialias=model.antialias) for i, a in zip(images, affine, strict=True)]
    )
    add_company(crops, people, pictures, second, rows, affine, skeleton, model, rng)
    _colour(crops, augmentation, rng)
    _degrade(crops, augmentation, rng)
    _occlude(crops, augmentation, rng)
    scale = np.abs(np.linalg.det(affine[:, :, :2]))
    std = keypoint_std(AREA_PER_BOX * box_area(boxes) * scale, skeleton.sigmas)
    return Batch(
        crops=crops,
        crop_points=np.where(valid[..., None], crop_points, 0).astype(np.float32),
        valid=valid,
        targets=np.where(target_mask[..., None], targets, 0).astype(np.float32),
        target_mask=target_mask,
        std=std.astype(np.float32),
    )


def _input_poses(
    people: People,
    rows: npt.NDArray[np.int64],
    second: Company,
    skeleton: Skeleton,
    augmentation: Augmentation,
    rng: np.random.Generator,
    rates: ErrorRates | None,
) -> tuple[Floats, Bools]:
    """(B, K, 2) image px and (B, K): synthetic errors, or a real estimate with some of its keypoints replaced."""
    annotated, estimates = people.annotated[rows], people.estimates[rows]
    mask = annotated[..., 2] > 0
    centres, centre_mask = annotated[..., :2], mask
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
        neighbours=np.concatenate([people.neighbours[rows], second.annotated[:, None]], axis=1),
        overlap=people.overlap[rows] + second.there,
        centre_mask=centre_mask,
        rates=rates,
        severity=severity,
    )
    closer = np.where(rng.random(len(rows)) < augmentation.precise, rng.uniform(0.1, 1.0, len(rows)), 1.0)
    pull = np.where(kinds == PoseError.GOOD, closer[:, None], 1.0)[..., None]
    points = centres + pull * (points - centres)
    coarse = (rng.random(len(rows)) < augmentation.coarse) * rng.uniform(0, _COARSEST, len(rows)) * np.sqrt(area)
    points = points + coarse[:, None, None] * rng.standard_normal(points.shape)
    valid = centre_mask
    if estimates.shape[1] and augmentation.real > 0:
        slot = rng.integers(estimates.shape[1], size=len(rows))
        chosen = estimates[np.arange(len(rows)), slot]
        usable = np.isfinite(chosen[..., 0])
        real = usable & (rng.random(len(rows)) < augmentation.real)[:, None]
        real &= rng.random(real.shape) >= augmentation.real_noise
        points = np.where(real[..., None], chosen[..., :2], points)
        valid = valid | real
    lossy = rng.random(len(rows)) < augmentation.drop
    valid = valid & ~(lossy[:, None] & (rng.random(valid.shape) < _DROPPED_KEYPOINTS))
    return np.where(valid[..., None], points, 0.0), valid


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


def _colour(crops: npt.NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Brightness, contrast, a tint per channel and saturation, as one 3×4 colour matrix per crop, in place."""
    if augmentation.colour <= 0:
        return
    count, strength = len(crops), augmentation.colour
    grey = np.array([0.299, 0.587, 0.114])
    saturation = rng.uniform(1 - strength, 1 + strength, (count, 1, 1))
    saturation = np.where(rng.random((count, 1, 1)) < 0.1 * strength, 0.0, saturation)
    tint = rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength, (count, 3, 1))
    contrast = rng.uniform(1 - strength, 1 + strength, (count, 1, 1))
    brightness = rng.uniform(-strength, strength, (count, 1, 1)) * 80
    matrix = (saturation * np.eye(3) + (1 - saturation) * grey) * tint * contrast
    offset = np.broadcast_to((1 - contrast) * 112 + brightness, (count, 3, 1))
    full = np.concatenate([matrix, offset], axis=2).astype(np.float32)
    for crop, transform in zip(crops, full, strict=True):
        cv2.transform(crop, transform, dst=crop)


def _degrade(crops: npt.NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Blur, low resolution or noise on a share of the crops, in place."""
    height, width = crops.shape[1:3]
    for i in np.flatnonzero(rng.random(len(crops)) < augmentation.degrade):
        choice = rng.integers(4)
        if choice == 0:
            crops[i] = cv2.GaussianBlur(crops[i], (0, 0), rng.uniform(0.6, 2.5))
        elif choice == 1:
            factor = rng.uniform(1.5, 5.0)
            small = cv2.resize(crops[i], (int(width / factor), int(height / factor)), interpolation=cv2.INTER_AREA)
            crops[i] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        elif choice == 2:
            quality = int(rng.integers(15, 60))
            _, code = cv2.imencode(".jpg", crops[i], [cv2.IMWRITE_JPEG_QUALITY, quality])
            crops[i] = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        else:
            noise = rng.standard_normal(crops[i].shape, np.float32) * np.float32(rng.uniform(4, 20))
            crops[i] = np.clip(crops[i] + noise, 0, 255).astype(np.uint8)


def _occlude(crops: npt.NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator) -> None:
    """A rectangle of another crop of the batch, or of plain colour, over a share of the crops, in place."""
    height, width = crops.shape[1:3]
    source = crops.copy() if augmentation.occlude > 0 else crops
    for i in np.flatnonzero(rng.random(len(crops)) < augmentation.occlude):
        h, w = int(rng.uniform(0.1, 0.4) * height), int(rng.uniform(0.1, 0.5) * width)
        top, left = int(rng.integers(height - h)), int(rng.integers(width - w))
        if rng.random() < 0.5:
            crops[i, top : top + h, left : left + w] = rng.integers(256, size=3)
        else:
            other = source[rng.integers(len(crops))]
            y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
            crops[i, top : top + h, left : left + w] = other[y : y + h, x : x + w]


class BatchStream:
    """Batches step after step, prepared ahead by threads (OpenCV and numpy release the interpreter lock)."""

    def __init__(
        self,
        people: People,
        skeleton: Skeleton,
        model: ModelConfig,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        cache_gb: float = 4.0,
        workers: int = 2,
        rates: ErrorRates | None = None,
    ) -> None:
        self._rates = rates
        self._people, self._skeleton, self._model = people, skeleton, model
        self._augmentation, self._batch_size = augmentation, batch_size
        self._pictures = Pictures(people.paths, cache_gb)
        self._seed, self._rank, self._workers = seed, rank, max(workers, 1)

    def batch(self, step: int) -> Batch:
        """The batch of one step: the same in every run, whatever was asked for before."""
        rng = np.random.default_rng([self._seed, step, self._rank])
        return make_batch(
            self._people,
            self._pictures,
            self._skeleton,
            self._model,
            self._augmentation,
            self._batch_size,
            rng,
            self._rates,
        )

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the steps start … stop − 1, in order."""
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: list[Future[Batch]] = []
            for step in range(start, min(start + 2 * self._workers, stop)):
                waiting.append(pool.submit(self.batch, step))
            for step in range(start, stop):
                done = waiting.pop(0).result()
                ahead = step + 2 * self._workers
                if ahead < stop:
                    waiting.append(pool.submit(self.batch, ahead))
                yield done
