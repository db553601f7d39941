"""The input pose as a prior over heatmap pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posefix.network.prior import PosePrior

MAP_HW = (16, 12)


@pytest.fixture(params=["fixed", "adaptive", "scored"])
def prior(request: Any) -> PosePrior:
    return PosePrior(5, adaptive=request.param != "fixed", scored=request.param == "scored")


def pose() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image logits, points near the middle of the map, everything valid, a std of 1.2 heatmap pixels."""
    points = torch.rand(2, 5, 2) + torch.tensor([5.0, 7.0])
    return torch.randn(2, 5, *MAP_HW), points, torch.ones(2, 5, dtype=torch.bool), torch.full((2, 5), 1.2)


def test_prior_is_a_distribution(prior: PosePrior) -> None:
    total = prior(*pose()).exp().sum((-1, -2))
    torch.testing.assert_close(total, torch.ones(2, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -1e9, 6.0])
def test_a_missing_keypoint_has_a_uniform_prior(prior: PosePrior, rubbish: float) -> None:
    image_logits, points, valid, std = pose()
    points[0, 1], valid[0, 1] = rubbish, False
    log_prior = prior(image_logits, points, valid, std)
    torch.testing.assert_close(log_prior[0, 1].exp(), torch.full(MAP_HW, 1 / (MAP_HW[0] * MAP_HW[1])))
    assert torch.isfinite(log_prior).all()


def test_prior_peaks_at_the_pose_and_falls_to_its_floor(prior: PosePrior) -> None:
    image_logits, points, valid, std = pose()
    points = points.round()
    density = prior(image_logits, points, valid, std).exp()
    best = density.flatten(2).argmax(-1)
    torch.testing.assert_close(torch.stack([best % MAP_HW[1], best // MAP_HW[1]], -1).float(), points)
    floor = 0.1 / (MAP_HW[0] * MAP_HW[1])
    assert (density >= floor * 0.999).all()
    torch.testing.assert_close(density[..., -1, -1], torch.full((2, 5), floor), atol=1e-5, rtol=0)


def test_prior_is_wider_for_larger_people_and_flatter_with_less_share(prior: PosePrior) -> None:
    image_logits, points, valid, std = pose()
    peak = prior(image_logits, points, valid, std).amax((-1, -2))
    assert (prior(image_logits, points, valid, std * 2).amax((-1, -2)) < peak).all()
    assert (PosePrior(5, adaptive=False, share=0.5)(image_logits, points, valid, std).amax((-1, -2)) < peak).all()


def test_an_adaptive_prior_starts_as_the_fixed_one_and_stays_bounded() -> None:
    fixed, adaptive = PosePrior(5, adaptive=False), PosePrior(5, adaptive=True)
    batch = pose()
    torch.testing.assert_close(adaptive(*batch), fixed(*batch))
    assert adaptive.adapt is not None
    torch.nn.init.normal_(adaptive.adapt[-1].weight, std=100.0)  # type: ignore[arg-type]
    changed = adaptive(*batch)
    assert not torch.allclose(changed, fixed(*batch))
    assert torch.isfinite(changed).all()
    # At most all trust is lost or the floor is e³ lower.
    assert (changed >= float(np.log(0.1 / (MAP_HW[0] * MAP_HW[1]))) - 3.1).all()


def test_a_scored_prior_hears_of_each_keypoints_score() -> None:
    prior = PosePrior(5, adaptive=True, scored=True)
    batch = pose()
    torch.testing.assert_close(prior(*batch, torch.rand(2, 5)), PosePrior(5, adaptive=False)(*batch))
    assert prior.listen is not None
    torch.nn.init.normal_(prior.listen[-1].weight)  # type: ignore[arg-type]
    plain = prior(*batch)
    # No scores are scores of 1.
    torch.testing.assert_close(prior(*batch, torch.ones(2, 5)), plain)
    scores = torch.ones(2, 5)
    scores[1, 3] = 0.2
    changed = (prior(*batch, scores) != plain).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[1, 3]]
    # Nothing is quieter than silence, and where a keypoint is missing, its score does not matter.
    scores[1, 3] = 1e-6
    quiet = prior(*batch, scores)
    scores[1, 3] = 0.0
    assert torch.equal(prior(*batch, scores), quiet)
    batch[2][1, 3] = False
    torch.testing.assert_close(prior(*batch, scores), prior(*batch))


def test_people_without_area_have_a_prior(prior: PosePrior) -> None:
    image_logits, points, valid, _ = pose()
    assert torch.isfinite(prior(image_logits, points, valid, torch.zeros(2, 5))).all()
    assert torch.isfinite(prior(image_logits, points.round(), valid, torch.zeros(2, 5))).all()


def test_scores_above_the_best_are_the_best() -> None:
    torch.manual_seed(0)
    made = PosePrior(5, adaptive=True, scored=True)
    assert made.listen is not None
    torch.nn.init.normal_(made.listen[-1].weight)
    best, above = torch.ones(2, 5), torch.full((2, 5), 1.7)
    given = pose()
    torch.testing.assert_close(made(*given, above), made(*given, best))
    torch.testing.assert_close(made(*given, None), made(*given, best))


def test_half_a_heatmap_pixel_is_a_spread(prior: PosePrior) -> None:
    """Small people have narrow priors; only a spread of nothing is widened."""
    image_logits, points, valid, std = pose()
    narrow, wide = (prior(image_logits, points.round(), valid, std * s).amax((-1, -2)).mean() for s in (0.3, 0.8))
    assert narrow > wide + 0.5
