"""Poses as heatmaps and heatmaps as poses: pure functions on tensors, differentiable where it makes sense.

Shape letters: B people, K keypoints, (h, w) pixels of a heatmap. ``heatmap_points`` are in heatmap pixels: x = 0 is
the centre of the first column. Every Gaussian is separable, so drawing is an outer product of two vectors and smoothing
two small matrix products; nothing here loops over people or keypoints.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Pixels; stands in for std = 0 (a person without area, a keypoint without sigma), so that nothing divides by zero.
_LEAST_STD = 1e-3


def _profile(positions: Tensor, size: int, std: Tensor | float) -> Tensor:
    """(...) positions and std → (..., size) values exp(−(i − position)² / (2 std²))."""
    grid = torch.arange(size, device=positions.device, dtype=positions.dtype)
    spread = std.unsqueeze(-1).clamp_min(_LEAST_STD) if isinstance(std, Tensor) else std
    return torch.exp(-0.5 * ((grid - positions.unsqueeze(-1)) / spread) ** 2)


def _stand_in(points: Tensor, there: Tensor) -> Tensor:
    """Points, the origin for those that are not there: 0 · NaN would get into gradients."""
    return torch.where(there.unsqueeze(-1), points, torch.zeros_like(points))


def draw_gaussians(points: Tensor, valid: Tensor, map_hw: tuple[int, int], std: Tensor | float) -> Tensor:
    """One Gaussian of height 1 per keypoint (PoseFix §3.3).

    Args:
        points: (B, K, 2) in pixels of the map.
        valid: (B, K) bool; other keypoints give an empty map, whatever their coordinates.
        map_hw: size (h, w).
        std: pixels of the map, a number or (B, K).

    Returns:
        (B, K, h, w).
    """
    there = valid & torch.isfinite(points).all(-1)
    points = _stand_in(points, there)
    rows = _profile(points[..., 1], map_hw[0], std) * there.unsqueeze(-1)
    columns = _profile(points[..., 0], map_hw[1], std)
    return rows.unsqueeze(-1) * columns.unsqueeze(-2)


def log_gaussians(points: Tensor, map_hw: tuple[int, int], std: Tensor) -> Tensor:
    """Logarithm of one Gaussian of height 1 per keypoint.

    Args:
        points: (B, K, 2) in pixels of the map, finite.
        map_hw: size (h, w).
        std: (B, K) pixels of the map.

    Returns:
        (B, K, h, w).
    """
    rows, columns = (
        ((torch.arange(size, device=points.device, dtype=points.dtype) - position) / std.unsqueeze(-1)).square()
        for size, position in zip(map_hw, (points[..., 1:], points[..., :1]), strict=True)
    )
    return -0.5 * (rows.unsqueeze(-1) + columns.unsqueeze(-2))


def one_hot_targets(heatmap_points: Tensor, valid: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """Bilinear one-hot maps: each target spreads over at most 4 heatmap pixels and sums to 1 (PoseFix §3.4).

    Heatmap pixel indices are clipped into the map and the weights renormalised, as in the reference.

    Args:
        heatmap_points: (B, K, 2).
        valid: (B, K) bool; others give an empty map.
        map_hw: (h, w).

    Returns:
        (B, K, h, w).
    """

    def tent(position: Tensor, size: int) -> Tensor:
        grid = torch.arange(size, device=position.device, dtype=position.dtype)
        inside = position.clamp(0, size - 1)
        return (1 - (grid - inside.unsqueeze(-1)).abs()).clamp_min(0)

    points = torch.where(valid.unsqueeze(-1), heatmap_points, torch.zeros_like(heatmap_points))
    rows, columns = tent(points[..., 1], map_hw[0]), tent(points[..., 0], map_hw[1])
    target = rows.unsqueeze(-1) * columns.unsqueeze(-2)
    return target * valid[..., None, None]


def soft_argmax(logits: Tensor) -> Tensor:
    """Expectation of (x, y) under the soft-max over all heatmap pixels (PoseFix eq. 4).

    Args:
        logits: (B, K, h, w).

    Returns:
        (B, K, 2) heatmap pixels.
    """
    return expected_position(heatmap_probabilities(logits))


def heatmap_probabilities(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Soft-max over all heatmap pixels of each map.

    Args:
        logits: (B, K, h, w).
        temperature: divides the logits; a number or (K,).

    Returns:
        (B, K, h, w), each map sums to 1.
    """
    if isinstance(temperature, Tensor):
        temperature = temperature[:, None, None]
    return torch.softmax((logits / temperature).flatten(2), dim=-1).view_as(logits)


def expected_position(probabilities: Tensor) -> Tensor:
    """(B, K, h, w) distributions over heatmap pixels → (B, K, 2) mean (x, y) in heatmap pixels."""
    height, width = probabilities.shape[-2:]
    rows = torch.arange(height, device=probabilities.device, dtype=probabilities.dtype)
    columns = torch.arange(width, device=probabilities.device, dtype=probabilities.dtype)
    x = (probabilities.sum(-2) * columns).sum(-1)
    y = (probabilities.sum(-1) * rows).sum(-1)
    return torch.stack([x, y], dim=-1)


def expected_similarity(probabilities: Tensor, heatmap_points: Tensor, std: Tensor) -> Tensor:
    """Expected keypoint similarity of given points: Σ prob(heatmap pixel) · exp(−‖heatmap pixel − p‖² / (2 std²)).

    Args:
        probabilities: (B, K, h, w) distributions over heatmap pixels.
        heatmap_points: (B, K, 2), or (B, K, M, 2), M points of each map; non-finite points have similarity 0.
        std: (B, K), or (B, K, M or 1), length scale of keypoint similarity, sqrt(area) · 2σ, in heatmap pixels.

    Returns:
        (B, K) or (B, K, M) in [0, 1].
    """
    if heatmap_points.ndim == 3:
        return expected_similarity(probabilities, heatmap_points.unsqueeze(2), std.unsqueeze(2)).squeeze(2)
    height, width = probabilities.shape[-2:]
    there = torch.isfinite(heatmap_points).all(-1)
    points = _stand_in(heatmap_points, there)
    rows, columns = _profile(points[..., 1], height, std), _profile(points[..., 0], width, std)
    by_row = probabilities @ columns.transpose(-1, -2)
    return (by_row * rows.transpose(-1, -2)).sum(-2) * there


def expected_similarity_argmax(probabilities: Tensor, std: Tensor, steps: int = 3) -> tuple[Tensor, Tensor]:
    """The point of greatest expected keypoint similarity, and the value there.

    The best heatmap pixel of the map smoothed by the similarity's Gaussian, then a few mean-shift steps, each of which
    can only increase the expected similarity (the kernel is a Gaussian), to come between heatmap pixels.

    Args:
        probabilities: (B, K, h, w) distributions over heatmap pixels.
        std: (B, K) length scale of keypoint similarity in heatmap pixels.
        steps: mean-shift steps.

    Returns:
        (B, K, 2) heatmap pixels and (B, K) expected similarities.
    """
    points = _highest(_smoothed(probabilities, std)).to(std.dtype)
    for _ in range(steps):
        points, _, _ = _mean_shift(probabilities, points.unsqueeze(2), std)
        points = points.squeeze(2)
    return points, expected_similarity(probabilities, points, std)


def expected_similarity_modes(
    probabilities: Tensor, std: Tensor, count: int, steps: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """The places where expected keypoint similarity has its greatest local maxima, best first.

    Args:
        probabilities: (B, K, h, w) distributions over heatmap pixels.
        std: (B, K) length scale of keypoint similarity in heatmap pixels.
        count: M.
        steps: mean-shift steps.

    Returns:
        (B, K, M, 2) heatmap pixels, (B, K, M) expected similarities, 0 where there are fewer maxima, and (B, K, M)
        variances of the distribution around each, heatmap pixels².
    """
    width = probabilities.shape[-1]
    smoothed = _smoothed(probabilities, std)
    highest = torch.nn.functional.max_pool2d(smoothed, 5, stride=1, padding=2)
    peaks = torch.where(smoothed >= highest, smoothed, torch.zeros_like(smoothed))
    heights, index = peaks.flatten(2).topk(count, dim=-1)
    points = torch.stack([index % width, torch.div(index, width, rounding_mode="floor")], -1).to(std.dtype)
    for _ in range(steps):
        points, _, _ = _mean_shift(probabilities, points, std)
    _, similarity, near = _mean_shift(probabilities, points, std)
    # Seen through the kernel a Gaussian of variance v has 1 / (1 / v + 1 / std²).
    kernel = std.square().unsqueeze(-1).clamp_min(_LEAST_STD)
    variance = 1 / (1 / near.clamp_min(_LEAST_STD) - 1 / kernel).clamp_min(_LEAST_STD)
    return points, torch.where(heights > 0, similarity, torch.zeros_like(similarity)), variance


def _highest(maps: Tensor) -> Tensor:
    """(B, K, 2) x and y of the greatest heatmap pixel, the first of equal ones.

    Row first: a search through whole maps took a third of the time of decoding in compiled graphs.
    """
    row = maps.amax(-1).argmax(-1, keepdim=True)
    column = maps.gather(-2, row[..., None].expand(*row.shape, maps.shape[-1])).argmax(-1)
    return torch.cat([column, row], -1)


def _smoothed(probabilities: Tensor, std: Tensor) -> Tensor:
    """(B, K, h, w) expected similarity of every heatmap pixel's centre."""
    height, width = probabilities.shape[-2:]
    rows = torch.arange(height, device=std.device, dtype=std.dtype)
    columns = torch.arange(width, device=std.device, dtype=std.dtype)
    return _smoothing(rows, std) @ probabilities @ _smoothing(columns, std)


def _smoothing(grid: Tensor, std: Tensor) -> Tensor:
    """(B, K, n, n) values exp(−(i − j)² / (2 std²)) for n positions."""
    distance = grid[:, None] - grid
    return torch.exp(-0.5 * (distance / std.clamp_min(_LEAST_STD)[..., None, None]) ** 2)


def _mean_shift(probabilities: Tensor, points: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of (B, K, M, 2) points: where it leads, their expected similarity, and the variance near them."""
    height, width = probabilities.shape[-2:]
    rows = torch.arange(height, device=std.device, dtype=std.dtype)
    columns = torch.arange(width, device=std.device, dtype=std.dtype)
    near_rows = _profile(points[..., 1], height, std.unsqueeze(-1))
    near_columns = _profile(points[..., 0], width, std.unsqueeze(-1))
    by_column = torch.einsum("bkhw,bkmh->bkmw", probabilities, near_rows) * near_columns
    by_row = torch.einsum("bkhw,bkmw->bkmh", probabilities, near_columns) * near_rows
    mass = by_column.sum(-1)
    safe = mass.clamp_min(torch.finfo(std.dtype).tiny)
    shifted = torch.stack([(by_column * columns).sum(-1) / safe, (by_row * rows).sum(-1) / safe], -1)
    across = (by_column * (columns - points[..., :1]).square()).sum(-1)
    along = (by_row * (rows - points[..., 1:]).square()).sum(-1)
    return shifted, mass, (across + along) / (2 * safe)


def mirror_maps(probabilities: Tensor, flip_indices: Tensor, shift: float) -> Tensor:
    """Bring maps of a mirrored crop back: left and right exchanged, columns reversed and shifted.

    Heatmap pixel c of the mirrored crop lies at heatmap pixel ``w − 1 − c + shift`` of the original. A fractional shift
    is interpolated linearly, which keeps the expectation (soft-argmax of the mean map is then the mean of both
    soft-argmaxes, the reference's flip test, up to mass at the border).

    Args:
        probabilities: (B, K, h, w) of the mirrored crop.
        flip_indices: (K,) permutation.
        shift: heatmap pixels in [0, 1).

    Returns:
        (B, K, h, w).
    """
    back = probabilities[:, flip_indices].flip(-1)
    if shift == 0.0:
        return back
    # What would leave the map stays in its last column.
    neighbours = torch.cat([torch.zeros_like(back[..., :1]), back[..., :-2], back[..., -2:].sum(-1, True)], dim=-1)
    return back * (1 - shift) + neighbours * shift
