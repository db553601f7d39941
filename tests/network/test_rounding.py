from __future__ import annotations

import numpy as np
import torch

from posefix.network.rounding import rounded_filters


def nearest(weights: np.ndarray) -> np.ndarray:
    return torch.from_numpy(weights).bfloat16().float().numpy()


def test_rounded_filters_are_bfloat16_and_near() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 3, (300, 1, 3, 3)).astype(np.float32)
    weights[0], weights[1, 0, 0], weights[2] = 0, 1.5, -weights[2] * 1e-30
    rounded = rounded_filters(weights)
    np.testing.assert_array_equal(rounded, nearest(rounded))
    # The neighbour above or below.
    assert (np.abs(rounded - weights) <= np.abs(weights) * 2.0**-7).all()
    assert not rounded[0].any()
    assert (rounded[1, 0, 0] == 1.5).all()


def test_sums_stay_where_rounding_each_weight_changes_them() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 3, (300, 25)).astype(np.float32)
    weights -= weights.mean(1, keepdims=True)
    error, alone = (np.abs((each(weights) - weights).sum(1)).mean() for each in (rounded_filters, nearest))
    assert error < 0.2 * alone
    # At a small price for single weights.
    squares = [float(np.square(each(weights) - weights).mean()) for each in (rounded_filters, nearest)]
    assert squares[0] < 2 * squares[1]


def test_no_filters() -> None:
    assert rounded_filters(np.zeros((0, 1, 3, 3), np.float32)).shape == (0, 1, 3, 3)
