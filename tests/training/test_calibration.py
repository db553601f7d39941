"""Temperature and margin that were there are found again, and the calibration error measures what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factories import FOUR
from posefix.keypoints.codec import HeatmapCodec
from posefix.training.calibration import (
    GRID,
    MARGINS,
    Observations,
    calibration_error,
    fit_margin,
    fit_temperature,
    predict,
    reliability,
)


def sample(true_heat: float, people: int = 1500) -> Observations:
    """Annotations drawn from the soft-max of broad random logits at a known temperature."""
    rng = np.random.default_rng(0)
    height, width, count = 12, 12, len(FOUR)
    centre = rng.uniform(3, 8, (people, count, 2))
    spread = rng.uniform(0.7, 2.0, (people, count, 1, 1))
    rows = (np.arange(height)[:, None] - centre[..., 1, None, None]) ** 2
    columns = (np.arange(width)[None, :] - centre[..., 0, None, None]) ** 2
    logits = torch.tensor(-(rows + columns) / (2 * spread**2)).half()
    probabilities = torch.softmax(logits.float().flatten(2) / true_heat, -1)
    heatmap_points = torch.multinomial(probabilities.flatten(0, 1), 1).view(people, count).numpy()
    targets = np.stack([heatmap_points % width, heatmap_points // width], -1) * 4.0 + 1.5
    area = np.full(people, 30.0**2)
    std = torch.tensor(30.0 * 2 * np.array(FOUR.sigmas), dtype=torch.float32).expand(people, count)
    known = np.ones((people, count), bool)
    points = torch.from_numpy(targets.astype(np.float32))
    return Observations(logits, std, points, torch.from_numpy(known), targets, known, area, np.arange(people) % 50)


def two_places(margin: float, people: int = 800, right: float = 0.8) -> Observations:
    """The input at one place, the image's best at another; that is right in ``right`` of the cases above a margin."""
    rng = np.random.default_rng(1)
    count, (row, input_column, other_column) = len(FOUR), (5, 2, 9)
    advantage = rng.uniform(0, 0.25, (people, count))
    logits = torch.full((people, count, 12, 12), -30.0)
    logits[:, :, row, input_column] = torch.from_numpy(np.log((1 - advantage) / 2)).float()
    logits[:, :, row, other_column] = torch.from_numpy(np.log((1 + advantage) / 2)).float()
    there = np.where(advantage > margin, rng.random(advantage.shape) < right, rng.random(advantage.shape) < 1 - right)
    columns = np.where(there, other_column, input_column)
    places = (
        np.stack(np.broadcast_arrays(c, row), -1) * 4.0 + 1.5 for c in (columns, np.full_like(columns, input_column))
    )
    targets, points = places
    known = np.ones((people, count), bool)
    std = torch.full((people, count), 2.0)
    return Observations(
        logits,
        std,
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(known),
        targets,
        known,
        np.full(people, 30.0**2),
        np.arange(people) % 100,
    )


@pytest.mark.parametrize("planted", [0.0, 0.02, 0.1])
def test_margin_is_found_again(planted: float) -> None:
    found = fit_margin(two_places(planted), HeatmapCodec(4, 1.5), FOUR.sigmas, (1.0,) * 4)
    # Above the planted one, the gain falls by a twentieth within a twentieth of the rest of the range.
    assert planted <= found <= planted + (0.25 - planted) / 20


def test_moves_that_do_not_help_are_not_made() -> None:
    seen = two_places(1.0)
    assert fit_margin(seen, HeatmapCodec(4, 1.5), FOUR.sigmas, (1.0,) * 4) == MARGINS[-1]
    # What is not labelled says nothing.
    labelled = two_places(0.02)
    labelled.ground_truth[400:] = False
    labelled.targets[400:] = seen.targets[400:]
    found = fit_margin(labelled, HeatmapCodec(4, 1.5), FOUR.sigmas, (1.0,) * 4)
    assert 0.02 <= found <= 0.03


@pytest.mark.parametrize("true_heat", [0.75, 1.0, 1.6])
def test_temperature_is_found_again(true_heat: float) -> None:
    seen = sample(true_heat)
    found = fit_temperature(seen, HeatmapCodec(4, 1.5), FOUR)
    step = np.abs(np.log(GRID)[:, None] - np.log(GRID)[None]).max(initial=0) / (len(GRID) - 1)
    assert np.allclose(np.log(found), np.log(true_heat), atol=1.5 * step)
    errors = []
    for heat in ((true_heat,) * 4, (3.0,) * 4):
        confidence, similarity = predict(seen, HeatmapCodec(4, 1.5), FOUR.sigmas, heat)
        errors.append(calibration_error(confidence.ravel(), similarity.ravel()))
    assert errors[0] < 0.02 < errors[1]


def test_calibration_error() -> None:
    confidence = np.array([0.05, 0.95, 0.95, 0.95])
    assert calibration_error(confidence, confidence) == 0
    assert calibration_error(confidence, confidence - 0.03) == pytest.approx(0.03)
    # Within one bin too high and too low cancel; across bins they do not.
    assert calibration_error(confidence, np.array([0.15, 1.0, 0.9, 0.95])) == pytest.approx(0.1 / 4)
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0
    assert reliability(confidence, confidence) == [
        pytest.approx((0.05, 0.05, 1)),
        pytest.approx((0.95, 0.95, 3)),
    ]
