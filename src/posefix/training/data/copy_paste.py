"""A second person pasted next to the first: crowds for sets whose images show one person each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from posefix.geometry import transform_points, warp_crop
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import ModelConfig
from posefix.training.data.people import Images, People

Floats = npt.NDArray[np.floating]

#: Thickness of an edge, and radius of the disc around a keypoint, in square roots of the person's area.
_LIMB, _DISC = 0.22, 0.16
#: Second people are this much larger or smaller, and this far away in sizes of the first's box.
_SCALE, _ASIDE, _ABOVE = (0.6, 1.5), (0.25, 1.0), (-0.25, 0.25)


@dataclass(frozen=True)
class CopyPaste:
    """Second people for B samples.

    Attributes:
        there: (B,) bool, which samples have one.
        rows: (B,) index of each person.
        to_image: (B, 2, 3) from their own image to the first person's.
        ground_truth: (B, K, 3) [x, y, v] in the first person's image; v = 0 where there is no person.
        outline: (B, K, 2) the same with estimates where there is no annotation, NaN where there is neither.
        behind: (B,) bool, whether the first person covers them.
    """

    there: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    to_image: Floats
    ground_truth: Floats
    outline: Floats
    behind: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Masks:
    """The M second people that show in a batch of crops.

    Attributes:
        crops: (M,) int64, in which crop.
        rows: (M,) int64, index of each person.
        affine: (M, 2, 3) their own image → crop.
        alpha: (M, H, W) uint8, 255 where they cover the crop.
    """

    crops: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    affine: Floats
    alpha: npt.NDArray[np.uint8]


def choose_others(people: People, rows: npt.NDArray[np.int64], share: float, rng: np.random.Generator) -> CopyPaste:
    """Choose second people and where they stand.

    Args:
        people: all.
        rows: (B,) the first ones.
        share: of the samples that get a second person.
        rng: source of randomness.
    """
    count = len(rows)
    others = rng.choice(len(people), count, p=people.share)
    there = (rng.random(count) < share) & (others != rows)
    first, second = people.boxes_xyxy[rows].astype(np.float64), people.boxes_xyxy[others].astype(np.float64)
    size = first[:, 2:] - first[:, :2]
    scale = np.sqrt(people.area[rows] / people.area[others]) * rng.uniform(*_SCALE, count)
    side = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    offset = np.stack([side * rng.uniform(*_ASIDE, count), rng.uniform(*_ABOVE, count)], axis=1) * size
    centre = (first[:, :2] + first[:, 2:]) / 2 + offset
    to_image = np.zeros((count, 2, 3))
    to_image[:, [0, 1], [0, 1]] = scale[:, None]
    to_image[:, :, 2] = centre - scale[:, None] * (second[:, :2] + second[:, 2:]) / 2
    ground_truth = np.array(people.ground_truth[others], np.float32)
    ground_truth[..., :2] = transform_points(to_image, ground_truth[..., :2])
    ground_truth *= there[:, None, None] & (ground_truth[..., 2:] > 0)
    outline = transform_points(to_image, _outline(people, others))
    return CopyPaste(there, others, to_image, ground_truth, outline, rng.random(count) < 0.5)


def _outline(people: People, rows: npt.NDArray[np.int64]) -> Floats:
    """(B, K, 2) px in their own images: labelled points, else the first estimate's, else NaN."""
    ground_truth = people.ground_truth[rows]
    known = ground_truth[..., 2:] > 0
    other = (
        people.estimates[rows, 0, :, :2] if people.estimates.shape[1] else np.full_like(ground_truth[..., :2], np.nan)
    )
    return np.where(known, ground_truth[..., :2], other)


def draw_masks(
    people: People,
    copy_paste: CopyPaste,
    rows: npt.NDArray[np.int64],
    affine: Floats,
    skeleton: Skeleton,
    model: ModelConfig,
    rng: np.random.Generator,
) -> Masks:
    """Cut second people out along their edges.

    Args:
        people: all.
        copy_paste: from ``choose_others``.
        rows: (B,) the first people.
        affine: (B, 2, 3) image → crop of the first people.
        skeleton: its edges are what silhouettes are drawn from.
        model: crop size.
        rng: for the outline's softness.
    """
    edges = skeleton.edge_indices
    zoom = np.sqrt(np.abs(np.linalg.det(affine[:, :, :2])))
    ours = transform_points(affine, _outline(people, rows))
    theirs = transform_points(affine, copy_paste.outline)
    crops, alpha = [], []
    for i in np.flatnonzero(copy_paste.there):
        size = zoom[i] * copy_paste.to_image[i, 0, 0] * np.sqrt(people.area[copy_paste.rows[i]])
        mask = _silhouette(theirs[i], edges, size, model.input_hw)
        if copy_paste.behind[i]:
            own = _silhouette(ours[i], edges, zoom[i] * np.sqrt(people.area[rows[i]]), model.input_hw)
            mask = np.minimum(mask, 255 - own)
        if mask.any():
            crops.append(i)
            alpha.append(np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.8, 2.0)), np.uint8))
    index = np.array(crops, np.int64)
    full = np.tile(np.eye(3), (len(index), 1, 1))
    full[:, :2] = copy_paste.to_image[index]
    stacked = np.stack(alpha) if alpha else np.zeros((0, *model.input_hw), np.uint8)
    return Masks(index, copy_paste.rows[index], affine[index] @ full, stacked)


def paste_others(
    crops: npt.NDArray[np.uint8], people: People, images: Images, masks: Masks, model: ModelConfig
) -> None:
    """Paint second people into (B, H, W, 3) crops of the first, in place."""
    for i, row, affine, alpha in zip(masks.crops, masks.rows, masks.affine, masks.alpha, strict=True):
        crop = warp_crop(images[int(people.image[row])], affine, model.input_hw, antialias=model.antialias)
        soft = alpha[..., None].astype(np.float32) / 255
        crops[i] = (crop * soft + crops[i] * (1 - soft)).astype(np.uint8)


def _silhouette(
    points: Floats, edges: npt.NDArray[np.int64], size: float, hw: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """(H, W) 255 near a person's keypoints and edges."""
    mask = np.zeros(hw, np.uint8)
    size = min(max(size, 1.0), 4 * max(hw))
    there = np.asarray(np.isfinite(points).all(-1))
    # Far outside, drawing would only cost time and overflow.
    whole = np.clip(np.nan_to_num(points), -4000, 4000).round().astype(int)
    for a, b in edges[there[edges].all(-1)]:
        cv2.line(mask, whole[a].tolist(), whole[b].tolist(), 255, max(int(_LIMB * size), 1))
    for point in whole[there].tolist():
        cv2.circle(mask, point, max(int(_DISC * size), 1), 255, -1)
    return mask
