"""``distort.py`` on tensors: the same decisions, carried out for many crops at once on any device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from posefix.training.data.photometric import Corruption, Distortion

#: Quantisation tables of brightness and colour at quality 50 (JPEG standard, annex K.1).
_TABLES = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99",
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32,
)
#: [r, g, b] → brightness, blue and red difference (JFIF).
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


def distort_tensors(crops: Tensor, decided: Distortion) -> Tensor:
    """Change crops as decided.

    Args:
        crops: (B, H, W, 3) float32 whole grey levels; may be overwritten.
        decided: from ``draw_distortion``.

    Returns:
        (B, H, W, 3) float32 whole grey levels in 0–255.
    """
    device = crops.device
    if len(decided.colour):
        matrix = torch.from_numpy(decided.colour).to(device)
        flat = torch.baddbmm(matrix[:, None, :, 3], crops.flatten(1, 2), matrix[..., :3].mT)
        crops = flat.view_as(crops).clamp_(0, 255).round_()
    for damages, change in (
        ((Corruption.BLUR, Corruption.SMALL), _soften),
        ((Corruption.JPEG,), _compress),
        ((Corruption.NOISE,), _make_noisy),
    ):
        rows = np.flatnonzero(np.isin(decided.corruption, damages))
        if len(rows):
            index = torch.from_numpy(rows).to(device)
            crops[index] = change(crops[index], decided, rows).clamp_(0, 255).round_()
    return _erase(crops, decided) if len(decided.covered) else crops


def _soften(crops: Tensor, decided: Distortion, rows: npt.NDArray[np.int64]) -> Tensor:
    """Blur and low resolution: both are one matrix over rows and one over columns."""
    blurs = torch.from_numpy(decided.corruption[rows] == Corruption.BLUR).to(crops.device)[:, None, None]
    strength = torch.from_numpy(decided.strength[rows]).to(crops.device)
    matrices = []
    for side in crops.shape[1:3]:
        parts = np.floor(side / decided.strength[rows].astype(np.float64)).astype(np.float32)
        small = _small_matrix(side, torch.from_numpy(parts).to(crops.device))
        matrices.append(torch.where(blurs, _blur_matrix(side, strength), small))
    down, across = matrices
    return (down[:, None] @ crops.permute(0, 3, 1, 2) @ across[:, None].mT).permute(0, 2, 3, 1)


def _blur_matrix(side: int, std: Tensor) -> Tensor:
    """(B, side, side) Gaussian of OpenCV's extent, mirrored at the border without repeating it."""
    std = std[:, None, None]
    radius = torch.round(6 * std + 1).div(2, rounding_mode="floor")
    to = torch.arange(side, device=std.device, dtype=torch.float32)[:, None]
    source = to.T

    def weight(offset: Tensor) -> Tensor:
        return torch.exp(-0.5 * (offset / std) ** 2) * (offset.abs() <= radius)

    matrix = weight(source - to)
    matrix = matrix + weight(-source - to) * (source > 0)
    matrix = matrix + weight(2 * (side - 1) - source - to) * (source < side - 1)
    return matrix / matrix.sum(-1, keepdim=True)


def _small_matrix(side: int, parts: Tensor) -> Tensor:
    """(B, side, side) mean over each of (B,) equal parts, then bilinear between their centres."""
    parts = parts[:, None, None]
    each = side / parts
    pixel = torch.arange(side, device=parts.device, dtype=torch.float32)
    part, column = pixel[:, None], pixel[None]
    overlap = torch.minimum((part + 1) * each, column + 1) - torch.maximum(part * each, column)
    shrink = overlap.clamp(min=0) / each * (part < parts)
    centre = ((pixel[:, None] + 0.5) / each - 0.5).clamp(min=0).minimum(parts - 1)
    return (1 - (centre - column).abs()).clamp(min=0) @ shrink


def _compress(crops: Tensor, decided: Distortion, rows: npt.NDArray[np.int64]) -> Tensor:
    """What JPEG does to an image: 8 × 8 cosine transforms, rounded; colour at half the resolution."""
    device = crops.device
    # OpenCV takes the first channel for blue.
    ycc = np.ascontiguousarray(_YCC[:, ::-1])
    there, back = (torch.from_numpy(np.ascontiguousarray(m.T)).to(device) for m in (ycc, np.linalg.inv(ycc)))
    planes = (crops @ there).permute(0, 3, 1, 2)
    quality = torch.from_numpy(decided.strength[rows]).to(device)[:, None]
    percent = torch.where(quality < 50, torch.floor(5000 / quality), 200 - 2 * quality)
    tables = [torch.tensor([float(v) for v in t.split()], device=device) for t in _TABLES]
    bright_table, colour_table = (((t * percent + 50) / 100).floor().clamp(1, 255).view(-1, 8, 8) for t in tables)
    bright = _quantise(planes[:, :1] - 128, bright_table) + 128
    colour = _quantise(functional.avg_pool2d(planes[:, 1:], 2), colour_table)
    colour = functional.interpolate(colour, scale_factor=2, mode="bilinear")
    return torch.cat([bright, colour], 1).permute(0, 2, 3, 1) @ back


def _quantise(planes: Tensor, table: Tensor) -> Tensor:
    """(B, C, H, W) with cosine coefficients rounded to multiples of (B, 8, 8)."""
    frequency = torch.arange(8, device=planes.device, dtype=torch.float32)[:, None]
    cosine = torch.cos((2 * frequency.T + 1) * frequency * torch.pi / 16) / 2
    cosine[0] = 8**-0.5
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    table = table[:, None, None, None]
    rounded = torch.round(cosine @ blocks @ cosine.T / table) * table
    return (cosine.T @ rounded @ cosine).transpose(3, 4).reshape(planes.shape)


def _make_noisy(crops: Tensor, decided: Distortion, rows: npt.NDArray[np.int64]) -> Tensor:
    generator = torch.Generator(crops.device).manual_seed(decided.seed)
    strength = torch.from_numpy(decided.strength[rows]).to(crops.device)[:, None, None, None]
    return crops + strength * torch.randn(crops.shape, generator=generator, device=crops.device)


def _erase(crops: Tensor, decided: Distortion) -> Tensor:
    """Rectangles of other crops, or of one colour."""
    arrays = (decided.covered, decided.erase, decided.other, decided.plain)
    covered, erase, other, plain = (torch.from_numpy(a).to(crops.device) for a in arrays)
    top, left, high, wide, y, x = erase.T[..., None, None]
    row = torch.arange(crops.shape[1], device=crops.device)[:, None] - top
    column = torch.arange(crops.shape[2], device=crops.device) - left
    inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
    y, x = (y + row).clamp(0, crops.shape[1] - 1), (x + column).clamp(0, crops.shape[2] - 1)
    source = torch.where(
        other[:, None, None, None] < 0, plain[:, None, None].float(), crops[other[:, None, None], y, x]
    )
    result = crops.clone()
    result[covered] = torch.where(inside[..., None], source, crops[covered])
    return result
