from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import (
    draw_gaussians,
    expected_position,
    expected_similarity,
    expected_similarity_argmax,
    expected_similarity_modes,
    heatmap_probabilities,
    mirror_maps,
    one_hot_targets,
    soft_argmax,
)

MAP_HW = (16, 12)
B, K = 3, 5


def random_points(margin: float = 0.0) -> Tensor:
    """(B, K, 2) heatmap pixels inside the map."""
    height, width = MAP_HW
    size = torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64)
    return margin + torch.rand(B, K, 2, dtype=torch.float64) * (size - 2 * margin)


def random_maps(sharpness: float = 2.0) -> Tensor:
    return heatmap_probabilities(torch.randn(B, K, *MAP_HW, dtype=torch.float64) * sharpness)


def heatmap_points() -> Tensor:
    """(h·w, 2) x, y of every heatmap pixel."""
    rows, columns = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in MAP_HW), indexing="ij")
    return torch.stack([columns, rows], -1).reshape(-1, 2)


# ---------------------------------------------------------------- drawing


def test_gaussians_are_the_formula() -> None:
    points, valid = random_points(), torch.ones(B, K, dtype=torch.bool)
    std = torch.rand(B, K, dtype=torch.float64) * 3 + 0.5
    drawn = draw_gaussians(points, valid, MAP_HW, std)
    squared = (heatmap_points() - points[:, :, None]).square().sum(-1)
    expected = torch.exp(-squared / (2 * std[..., None] ** 2)).view(B, K, *MAP_HW)
    torch.testing.assert_close(drawn, expected)
    torch.testing.assert_close(
        draw_gaussians(points, valid, MAP_HW, 2.0),
        draw_gaussians(points, valid, MAP_HW, torch.full((B, K), 2.0, dtype=torch.float64)),
    )


def test_gaussians_peak_at_one_on_a_cell() -> None:
    points = random_points().round()
    drawn = draw_gaussians(points, torch.ones(B, K, dtype=torch.bool), MAP_HW, 1.5)
    peak = drawn.flatten(2).argmax(-1)
    torch.testing.assert_close(heatmap_points()[peak], points)
    assert (drawn.amax((-1, -2)) == 1).all()


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1e30, 5.0])
def test_what_is_not_valid_draws_nothing(rubbish: float) -> None:
    points, valid = random_points(), torch.ones(B, K, dtype=torch.bool)
    valid[0, 1], points[0, 1] = False, rubbish
    drawn = draw_gaussians(points, valid, MAP_HW, 1.5)
    assert (drawn[0, 1] == 0).all()
    assert torch.isfinite(drawn).all()
    target = one_hot_targets(points, valid, MAP_HW)
    assert (target[0, 1] == 0).all()
    assert torch.isfinite(target).all()


def test_missing_keypoints_leave_gradients_finite() -> None:
    points, valid = random_points(), torch.ones(B, K, dtype=torch.bool)
    valid[0, 1], points[0, 1] = False, math.nan
    points.requires_grad_()
    std = torch.full((B, K), 1.5, dtype=torch.float64, requires_grad=True)
    draw_gaussians(points, valid, MAP_HW, std).sum().backward()
    for gradient in (points.grad, std.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert (gradient[0, 1] == 0).all()


def test_mirrored_points_draw_mirrored_maps() -> None:
    points, valid = random_points(), torch.ones(B, K, dtype=torch.bool)
    mirrored = points.clone()
    mirrored[..., 0] = MAP_HW[1] - 1 - points[..., 0]
    torch.testing.assert_close(
        draw_gaussians(mirrored, valid, MAP_HW, 1.5), draw_gaussians(points, valid, MAP_HW, 1.5).flip(-1)
    )
    torch.testing.assert_close(
        one_hot_targets(mirrored, valid, MAP_HW), one_hot_targets(points, valid, MAP_HW).flip(-1)
    )


def test_one_hot_targets_round_trip() -> None:
    points, valid = random_points(), torch.ones(B, K, dtype=torch.bool)
    target = one_hot_targets(points, valid, MAP_HW)
    torch.testing.assert_close(target.sum((-1, -2)), torch.ones(B, K, dtype=torch.float64))
    assert ((target > 0).sum((-1, -2)) <= 4).all()
    assert (target >= 0).all()
    torch.testing.assert_close(expected_position(target), points, atol=1e-9, rtol=0)


def test_one_hot_targets_outside_are_clipped_into_the_map() -> None:
    points = torch.tensor([[[-3.0, 4.2], [100.0, 100.0], [5.5, -0.4], [-1e9, 1e9]]])
    target = one_hot_targets(points, torch.ones(1, 4, dtype=torch.bool), MAP_HW)
    torch.testing.assert_close(target.sum((-1, -2)), torch.ones(1, 4))
    expected = torch.tensor([[[0.0, 4.2], [11, 15], [5.5, 0], [0, 15]]])
    torch.testing.assert_close(expected_position(target), expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- decoding


def test_probabilities_sum_to_one_and_ignore_a_constant() -> None:
    logits = torch.randn(B, K, *MAP_HW, dtype=torch.float64) * 50
    probabilities = heatmap_probabilities(logits)
    torch.testing.assert_close(probabilities.sum((-1, -2)), torch.ones(B, K, dtype=torch.float64))
    torch.testing.assert_close(heatmap_probabilities(logits + 1000), probabilities)


def test_temperature_is_per_keypoint() -> None:
    logits = torch.randn(B, K, *MAP_HW, dtype=torch.float64)
    temperature = torch.linspace(0.5, 3, K, dtype=torch.float64)
    tempered = heatmap_probabilities(logits, temperature)
    for k in range(K):
        expected = heatmap_probabilities(logits[:, k : k + 1], float(temperature[k]))
        torch.testing.assert_close(tempered[:, k : k + 1], expected)


def test_soft_argmax_of_a_one_hot_is_its_cell() -> None:
    points = random_points().round()
    logits = draw_gaussians(points, torch.ones(B, K, dtype=torch.bool), MAP_HW, 0.2) * 1000
    torch.testing.assert_close(soft_argmax(logits), points, atol=1e-9, rtol=0)


def test_soft_argmax_moves_with_the_map_and_stays_inside() -> None:
    logits = torch.randn(B, K, *MAP_HW, dtype=torch.float64)
    points = soft_argmax(logits)
    assert (points >= 0).all()
    assert (points <= torch.tensor([MAP_HW[1] - 1, MAP_HW[0] - 1])).all()
    mirrored = soft_argmax(logits.flip(-1))
    torch.testing.assert_close(mirrored[..., 0], MAP_HW[1] - 1 - points[..., 0])
    torch.testing.assert_close(mirrored[..., 1], points[..., 1])
    torch.testing.assert_close(soft_argmax(logits.transpose(-1, -2)), points.flip(-1))
    order = torch.randperm(K)
    torch.testing.assert_close(soft_argmax(logits[:, order]), points[:, order])


def test_soft_argmax_is_the_formula() -> None:
    probabilities = random_maps()
    expected = probabilities.flatten(2) @ heatmap_points()
    torch.testing.assert_close(expected_position(probabilities), expected)


def test_expected_similarity_is_the_formula_and_bounded() -> None:
    probabilities, points = random_maps(), random_points()
    std = torch.rand(B, K, dtype=torch.float64) * 3 + 0.3
    value = expected_similarity(probabilities, points, std)
    kernel = torch.exp(-(heatmap_points() - points[:, :, None]).square().sum(-1) / (2 * std[..., None] ** 2))
    torch.testing.assert_close(value, (probabilities.flatten(2) * kernel).sum(-1))
    assert ((value >= 0) & (value <= 1)).all()
    several = expected_similarity(probabilities, torch.stack([points, points + 1], 2), torch.stack([std, 2 * std], 2))
    apart = [value, expected_similarity(probabilities, points + 1, 2 * std)]
    torch.testing.assert_close(several, torch.stack(apart, 2))
    points[0, 0] = math.nan
    points[0, 1, 0] = math.inf
    assert (expected_similarity(probabilities, points, std)[0, :2] == 0).all()


def test_expected_similarity_of_a_certain_map_is_the_similarity() -> None:
    points = random_points().round()
    certain = one_hot_targets(points, torch.ones(B, K, dtype=torch.bool), MAP_HW)
    std = torch.full((B, K), 1.7, dtype=torch.float64)
    torch.testing.assert_close(expected_similarity(certain, points, std), torch.ones(B, K, dtype=torch.float64))
    away = points + torch.tensor([1.0, 0.0])
    expected = torch.full((B, K), math.exp(-1 / (2 * 1.7**2)), dtype=torch.float64)
    torch.testing.assert_close(expected_similarity(certain, away, std), expected)
    best, value = expected_similarity_argmax(certain, std)
    torch.testing.assert_close(best, points, atol=1e-9, rtol=0)
    torch.testing.assert_close(value, torch.ones(B, K, dtype=torch.float64))


@pytest.mark.parametrize("heatmap_std_px", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0])
def test_argmax_is_no_worse_than_any_cell_or_the_soft_argmax(heatmap_std_px: float, sharpness: float) -> None:
    probabilities = random_maps(sharpness)
    std = heatmap_std_px * (1 + torch.rand(B, K, dtype=torch.float64))
    _, value = expected_similarity_argmax(probabilities, std)
    for heatmap_pixel in heatmap_points():
        at_heatmap_pixel = expected_similarity(probabilities, heatmap_pixel.expand(B, K, 2), std)
        assert (at_heatmap_pixel <= value + 1e-12).all()
    # The soft-argmax may lie between heatmap pixels, so only nearly.
    assert (expected_similarity(probabilities, expected_position(probabilities), std) <= value * 1.02).all()


def test_mean_shift_never_lowers_and_comes_to_rest() -> None:
    probabilities = random_maps()
    std = 0.5 + 2 * torch.rand(B, K, dtype=torch.float64)
    values = torch.stack([expected_similarity_argmax(probabilities, std, steps=s)[1] for s in range(12)])
    assert (values.diff(dim=0) >= -1e-12).all()
    point, value = expected_similarity_argmax(probabilities, std, steps=300)
    here = point.clone().requires_grad_()
    expected_similarity(probabilities, here, std).sum().backward()
    assert here.grad is not None
    torch.testing.assert_close(here.grad, torch.zeros_like(here), atol=1e-5, rtol=0)
    assert (value >= values[-1] - 1e-12).all()


def test_a_smooth_peak_between_cells_is_found() -> None:
    points = random_points(margin=4.0)
    maps = draw_gaussians(points, torch.ones(B, K, dtype=torch.bool), MAP_HW, 1.0)
    maps = maps / maps.sum((-1, -2), keepdim=True)
    best, _ = expected_similarity_argmax(maps, torch.full((B, K), 1.0, dtype=torch.float64), steps=30)
    torch.testing.assert_close(best, points, atol=2e-3, rtol=0)


def test_of_two_modes_the_better_is_taken_not_their_middle() -> None:
    maps = torch.zeros(1, 1, *MAP_HW, dtype=torch.float64)
    maps[0, 0, 2, 2], maps[0, 0, 12, 9] = 0.6, 0.4
    best, value = expected_similarity_argmax(maps, torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(best[0, 0], torch.tensor([2.0, 2.0], dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(value) == pytest.approx(0.6)


def test_argmax_moves_with_the_map() -> None:
    probabilities = random_maps()
    std = 0.5 + torch.rand(B, K, dtype=torch.float64)
    points, value = expected_similarity_argmax(probabilities, std)
    mirrored, mirrored_value = expected_similarity_argmax(probabilities.flip(-1), std)
    torch.testing.assert_close(mirrored[..., 0], MAP_HW[1] - 1 - points[..., 0])
    torch.testing.assert_close(mirrored_value, value)
    order = torch.randperm(K)
    torch.testing.assert_close(expected_similarity_argmax(probabilities[:, order], std[:, order])[0], points[:, order])


def test_no_extent_and_no_mass_give_numbers() -> None:
    probabilities = random_maps().float()
    points, value = expected_similarity_argmax(probabilities, torch.zeros(B, K))
    assert torch.isfinite(points).all()
    torch.testing.assert_close(value, probabilities.amax((-1, -2)))
    nothing = expected_similarity_argmax(torch.zeros(B, K, *MAP_HW), torch.ones(B, K))
    assert all(torch.isfinite(t).all() for t in nothing)


# ---------------------------------------------------------------- flip test


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.75])
def test_mean_of_mirrored_maps_has_the_mean_of_the_soft_argmaxes(shift: float) -> None:
    plain, mirrored = random_maps(), random_maps()
    mirrored[..., 0] = 0
    mirrored = mirrored / mirrored.sum((-1, -2), keepdim=True)
    flip_indices = torch.tensor([0, 2, 1, 4, 3])
    back = mirror_maps(mirrored, flip_indices, shift)
    torch.testing.assert_close(back.sum((-1, -2)), torch.ones(B, K, dtype=torch.float64))
    expected = expected_position(mirrored)[:, flip_indices]
    expected[..., 0] = MAP_HW[1] - 1 - expected[..., 0] + shift
    torch.testing.assert_close(expected_position(back), expected)
    mean = expected_position((plain + back) / 2)
    torch.testing.assert_close(mean, (expected_position(plain) + expected) / 2)


def test_mirroring_twice_without_shift_is_nothing_and_mass_is_kept() -> None:
    maps, flip_indices = random_maps(), torch.tensor([0, 2, 1, 4, 3])
    original = maps.clone()
    torch.testing.assert_close(mirror_maps(mirror_maps(maps, flip_indices, 0.0), flip_indices, 0.0), maps)
    torch.testing.assert_close(mirror_maps(maps, flip_indices, 0.75).sum((-1, -2)), maps.sum((-1, -2)))
    torch.testing.assert_close(maps, original)


# ---------------------------------------------------------------- calculus, emptiness, compilation


def test_gradients() -> None:
    logits = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(1, 2, 2, dtype=torch.float64) * 2).requires_grad_()
    std = (torch.rand(1, 2, dtype=torch.float64) + 0.5).requires_grad_()
    valid = torch.tensor([[True, False]])
    assert torch.autograd.gradcheck(soft_argmax, (logits,))
    assert torch.autograd.gradcheck(lambda p, s: draw_gaussians(p, valid, (4, 3), s), (points, std))
    assert torch.autograd.gradcheck(
        lambda lo, p, s: expected_similarity(heatmap_probabilities(lo), p, s), (logits, points, std)
    )


def test_nobody() -> None:
    maps, points, std = torch.zeros(0, K, *MAP_HW), torch.zeros(0, K, 2), torch.zeros(0, K)
    valid = torch.zeros(0, K, dtype=torch.bool)
    assert draw_gaussians(points, valid, MAP_HW, 2.0).shape == maps.shape
    assert one_hot_targets(points, valid, MAP_HW).shape == maps.shape
    assert soft_argmax(maps).shape == points.shape
    assert expected_similarity(maps, points, std).shape == std.shape
    best, value = expected_similarity_argmax(maps, std)
    assert best.shape == points.shape
    assert value.shape == std.shape
    assert mirror_maps(maps, torch.arange(K), 0.75).shape == maps.shape


def test_the_codec_hands_the_decoder_on() -> None:
    codec, logits = HeatmapCodec(4, 1.5), torch.randn(2, 3, 9, 7)
    std = torch.full((2, 3), 6.0)
    points, confidence = codec.decode(logits, std, "soft_argmax")
    torch.testing.assert_close(points, soft_argmax(logits) * 4 + 1.5)
    torch.testing.assert_close(confidence, codec.similarity(heatmap_probabilities(logits), points, std))
    assert not torch.allclose(points, codec.decode(logits, std)[0])


def test_the_codec_knows_where_pixels_lie() -> None:
    codec = HeatmapCodec(8, 3.5)
    assert (codec.to_crop(2.0), codec.to_heatmap(19.5), codec.mirror_shift) == (19.5, 2.0, 0.0)
    assert HeatmapCodec(4, 0.0).mirror_shift == 0.75
    probabilities = heatmap_probabilities(torch.randn(2, 3, 9, 7) * 3)
    std = torch.full((2, 3), 12.0)
    points, confidence = codec.decode_probabilities(probabilities, std)
    expected, similarity = expected_similarity_argmax(probabilities, std / 8)
    torch.testing.assert_close(points, expected * 8 + 3.5)
    torch.testing.assert_close(confidence, similarity)
    torch.testing.assert_close(codec.similarity(probabilities, points, std), similarity)


def test_temperature_divides() -> None:
    logits = torch.randn(1, 2, 3, 4)
    found = heatmap_probabilities(logits, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(found[0, 0], torch.softmax(logits[0, 0].flatten() / 2, 0).view(3, 4))
    torch.testing.assert_close(found[0, 1], torch.softmax(logits[0, 1].flatten() * 2, 0).view(3, 4))
    torch.testing.assert_close(heatmap_probabilities(logits, 2.0)[0, 0], found[0, 0])


def test_each_mode_has_its_place_height_and_spread() -> None:
    """Two round Gaussians far apart, in a map that is no square."""
    grid_x, grid_y = torch.meshgrid(torch.arange(40.0), torch.arange(24.0), indexing="xy")
    parts = []
    for (x, y), spread, mass in (((10.0, 8.0), 1.5, 0.6), ((30.0, 15.0), 2.5, 0.4)):
        bump = torch.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * spread**2))
        parts.append(mass * bump / bump.sum())
    heat = sum(parts).expand(2, 3, 24, 40)  # type: ignore[union-attr]
    points, heights, variances = expected_similarity_modes(heat, torch.full((2, 3), 2.0), 3)
    torch.testing.assert_close(
        points[..., :2, :], torch.tensor([[10.0, 8.0], [30.0, 15.0]]).expand(2, 3, 2, 2), atol=0.02, rtol=0
    )
    expected = torch.tensor([0.6 / (1 + 1.5**2 / 4), 0.4 / (1 + 2.5**2 / 4)]).expand(2, 3, 2)
    torch.testing.assert_close(heights[..., :2], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(variances[..., :2], torch.tensor([1.5**2, 2.5**2]).expand(2, 3, 2), atol=0, rtol=0.05)
