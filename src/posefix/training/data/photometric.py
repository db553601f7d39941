"""What happens to finished crops: colour, blur, low resolution, compression, noise, occlusion; decided, then done.

The decisions are plain numbers, so that OpenCV here and ``device_retouch.py`` on a GPU do the same with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from posefix.training.config import Augmentation

_GREY = np.array([0.299, 0.587, 0.114])


class Corruption(IntEnum):
    """How a crop loses quality, and what its ``strength`` is."""

    NONE = -1
    BLUR = 0  # standard deviation, px
    SMALL = 1  # factor by which it is shrunk and blown up again
    JPEG = 2  # quality
    NOISE = 3  # standard deviation, grey levels


@dataclass(frozen=True)
class Distortion:
    """Decisions for B crops.

    Attributes:
        colour: (B, 3, 4) float32 matrix on [r, g, b, 1]; (0, 3, 4) where no colours change.
        corruption: (B,) int8 ``Corruption``.
        strength: (B,) float32, its size.
        seed: of the noise.
        covered: (M,) crops with a rectangle over them.
        erase: (M, 6) int64 [top, left, height, width, y, x] of the rectangle, and where in the other crop its
            pixels come from.
        other: (M,) int64 crop that the rectangle is cut from; −1 is plain colour.
        plain: (M, 3) uint8 that colour.
    """

    colour: npt.NDArray[np.float32]
    corruption: npt.NDArray[np.int8]
    strength: npt.NDArray[np.float32]
    seed: int
    covered: npt.NDArray[np.int64]
    erase: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    plain: npt.NDArray[np.uint8]


def draw_distortion(
    count: int, input_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> Distortion:
    """Decide for ``count`` crops of ``input_hw``."""
    height, width = input_hw
    colour = _draw_colour(count, augmentation.colour, rng)
    damaged = rng.random(count) < augmentation.degrade
    kind = rng.integers(4, size=count)
    low = np.array([0.6, 1.5, 15.0, 4.0])[kind]
    high = np.array([2.5, 5.0, 60.0, 20.0])[kind]
    strength = rng.uniform(low, high).astype(np.float32)
    strength = np.where(kind == Corruption.JPEG, np.floor(strength), strength)
    seed = int(rng.integers(2**31))
    covered = np.flatnonzero(rng.random(count) < augmentation.occlude)
    shape = (rng.uniform((0.1, 0.1), (0.4, 0.5), (len(covered), 2)) * (height, width)).astype(np.int64)
    free = np.array([height, width]) - shape
    corner, origin = rng.integers(0, free), rng.integers(0, free)
    is_plain = rng.random(len(covered)) < 0.5
    return Distortion(
        colour=colour,
        corruption=np.where(damaged, kind, Corruption.NONE).astype(np.int8),
        strength=strength,
        seed=seed,
        covered=covered,
        erase=np.concatenate([corner, shape, origin], axis=1),
        other=np.where(is_plain, -1, rng.integers(count, size=len(covered))),
        plain=rng.integers(256, size=(len(covered), 3), dtype=np.uint8),
    )


def _draw_colour(count: int, strength: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Brightness, contrast, a tint per channel and saturation as one matrix per crop."""
    if strength <= 0:
        return np.zeros((0, 3, 4), np.float32)
    saturation = rng.uniform(1 - strength, 1 + strength, (count, 1, 1))
    saturation = np.where(rng.random((count, 1, 1)) < 0.1 * strength, 0.0, saturation)
    tint = rng.uniform(1 - 0.3 * strength, 1 + 0.3 * strength, (count, 3, 1))
    contrast = rng.uniform(1 - strength, 1 + strength, (count, 1, 1))
    brightness = rng.uniform(-strength, strength, (count, 1, 1)) * 80
    matrix = (saturation * np.eye(3) + (1 - saturation) * _GREY) * tint * contrast
    offset = np.broadcast_to((1 - contrast) * 112 + brightness, (count, 3, 1))
    return np.concatenate([matrix, offset], axis=2).astype(np.float32)


def distort(crops: npt.NDArray[np.uint8], decided: Distortion) -> None:
    """Change (B, H, W, 3) crops as decided, in place."""
    if len(decided.colour):
        for crop, matrix in zip(crops, decided.colour, strict=True):
            cv2.transform(crop, matrix, dst=crop)
    rng = np.random.default_rng(decided.seed)
    for i in np.flatnonzero(decided.corruption != Corruption.NONE):
        crops[i] = _corrupt(crops[i], Corruption(decided.corruption[i]), float(decided.strength[i]), rng)
    source = crops.copy() if len(decided.covered) else crops
    for i, (top, left, h, w, y, x), other, plain in zip(
        decided.covered, decided.erase, decided.other, decided.plain, strict=True
    ):
        crops[i, top : top + h, left : left + w] = plain if other < 0 else source[other, y : y + h, x : x + w]


def _corrupt(
    crop: npt.NDArray[np.uint8], corruption: Corruption, strength: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    height, width = crop.shape[:2]
    if corruption == Corruption.BLUR:
        return np.asarray(cv2.GaussianBlur(crop, (0, 0), strength), np.uint8)
    if corruption == Corruption.SMALL:
        small = cv2.resize(crop, (int(width / strength), int(height / strength)), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if corruption == Corruption.JPEG:
        _, code = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])
        return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    noise = rng.standard_normal(crop.shape, np.float32) * np.float32(strength)
    return np.asarray(np.clip(crop + noise, 0, 255).astype(np.uint8))
