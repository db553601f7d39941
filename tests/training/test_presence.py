"""Presence: what distinguishes people from poses moved to empty places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from factories import make_weights
from posefix.inference.decoding import presence
from posefix.training.presence import PresenceObservations, _moved, confidences, fit_presence
from posefix.weights.calibration import Calibration


def observations(separated: float) -> PresenceObservations:
    """200 people and 200 moved poses, whose peaks differ by ``separated``."""
    rng = np.random.default_rng(0)
    moved = np.arange(400) >= 200
    peaks = rng.normal(0, 1, (400, 17)) - separated * moved[:, None]
    similarity = rng.uniform(0.7, 1, (400, 17)) * ~moved[:, None]
    return PresenceObservations(peaks, np.full((400, 17), 0.85), similarity, np.ones((400, 17), bool), moved)


def test_what_the_peaks_tell_is_learnt() -> None:
    weights = make_weights()
    seen = observations(4.0)
    confidence, similarity = confidences(seen, weights, fit_presence(seen))
    assert confidence[: 200 * 17].mean() > 0.8
    assert confidence[200 * 17 :].mean() < 0.05
    assert np.square(confidence - similarity).mean() < 0.02
    blind = observations(0.0)
    confidence, _ = confidences(blind, weights, fit_presence(blind))
    assert 0.5 < confidence[: 200 * 17].mean() / 0.85 < 0.95
    assert abs(confidence[: 200 * 17].mean() - confidence[200 * 17 :].mean()) < 0.02


def test_presence_grows_with_every_peak_and_is_1_where_nothing_is_known() -> None:
    peaks = torch.zeros(2, 17)
    peaks[1, 3] = 1.0
    calibration = replace(Calibration(), presence=(1.0, 2.0, -0.5))
    found = presence(peaks, peaks, calibration)
    assert (found[1] > found[0]).all()
    assert found[1].argmax() == 3
    torch.testing.assert_close(found[0], torch.full((17,), 1 / (1 + np.exp(0.5))).float())
    assert (presence(None, peaks, calibration) == 1).all()
    assert (presence(peaks, peaks, Calibration()) == 1).all()


def test_poses_are_moved_to_where_nobody_is() -> None:
    rng = np.random.default_rng(1)
    pose = np.concatenate([rng.uniform(0, 40, (17, 2)), np.ones((17, 1))], axis=-1)
    others = np.array([[0.0, 0.0, 60.0, 100.0]])
    for _ in range(20):
        moved = _moved(pose, others, (100, 200), rng)
        assert moved is not None
        assert moved[:, 0].min() > 40
    assert _moved(pose, np.array([[-500.0, -500.0, 900.0, 900.0]]), (100, 200), rng) is not None  # tiny overlap by IoU
    assert _moved(pose, np.array([[0.0, 0.0, 40.0, 40.0]]), (40, 40), rng) is None
