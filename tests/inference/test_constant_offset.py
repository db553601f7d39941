"""An offset that all keypoints have is found and taken off; errors of the pose are not mistaken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from factories import make_weights
from posefix.inference.constant_offset import ConstantOffset, measured_offset
from posefix.inference.refiner import Refiner
from posefix.inference.runner import Runner, View
from posefix.inference.track_observation import Observer
from posefix.inference.track_refinement import refine_tracks
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.video.options import VideoOptions
from posefix.video.tracks import read_tracks
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.float64]
HALF = np.array([-0.45, -0.55])


def differences(people: int, offset: Any = (0.0, 0.0), own: float = 0.3, seed: int = 0) -> Floats:
    """(B, 17, 2) heatmap pixels: of all keypoints, of each keypoint, of each frame, and a tenth gross errors."""
    rng = np.random.default_rng(seed)
    found = np.asarray(offset) + rng.normal(0, own, (17, 2)) + rng.normal(0, 0.5, (people, 17, 2))
    gross = rng.random((people, 17)) < 0.1
    found[gross] += rng.normal(0, 6, (int(gross.sum()), 2))
    return found


def all_usable(found: Floats) -> npt.NDArray[np.bool_]:
    return np.ones(found.shape[:2], bool)


@pytest.mark.parametrize("seed", range(5))
def test_what_all_keypoints_have_is_found(seed: int) -> None:
    found = differences(50, HALF, seed=seed)
    known = ConstantOffset.unknown(17).seen(found, all_usable(found))
    np.testing.assert_allclose(known.value(), HALF, atol=0.2)
    mirrored = ConstantOffset.unknown(17).seen(-found, all_usable(found))
    np.testing.assert_allclose(mirrored.value(), -HALF, atol=0.2)


def test_people_one_after_another_say_the_same() -> None:
    found = differences(64, HALF)
    at_once = ConstantOffset.unknown(17).seen(found, all_usable(found)).value()
    known = ConstantOffset.unknown(17)
    values = []
    for one in found:
        known = known.seen(one[None], np.ones((1, 17), bool))
        values.append(known.value())
    np.testing.assert_allclose(known.value(), at_once, atol=0.1)
    assert (np.linalg.norm(np.diff(values[10:], axis=0), axis=-1) < 0.1).all()  # so that nothing jumps online


def test_errors_of_the_pose_are_no_offset() -> None:
    values = [
        ConstantOffset.unknown(17).seen(found, all_usable(found)).value()
        for found in (differences(30, own=own, seed=seed) for own in (0.2, 0.4, 0.6) for seed in range(40))
    ]
    assert sum(bool(v.any()) for v in values) <= 2
    assert np.abs(values).max() < 0.1


def test_too_little_says_nothing() -> None:
    found = differences(50, HALF)
    few = all_usable(found)
    few[:, 5:] = False
    assert not ConstantOffset.unknown(17).seen(found, few).value().any()
    assert not ConstantOffset.unknown(17).seen(found[:2], all_usable(found[:2])).value().any()
    assert not ConstantOffset.unknown(17).seen(found[:0], all_usable(found[:0])).value().any()
    # Of another person, or of another image: no offset at all.
    assert not ConstantOffset.unknown(17).seen(found + 20, all_usable(found)).value().any()


def test_people_and_keypoints_must_agree() -> None:
    found = differences(60, HALF)
    np.testing.assert_allclose(measured_offset(found, all_usable(found)), HALF, atol=0.2)
    assert not measured_offset(found[:20], all_usable(found[:20])).any()
    one_sided = np.random.default_rng(1).normal(0, 0.8, (60, 1, 2)) + 0.2 * differences(60)  # people beside their boxes
    assert np.abs(measured_offset(one_sided, all_usable(one_sided))).max() < 0.1
    assert not measured_offset(found[:0], all_usable(found[:0])).any()


class Showing(nn.Module):
    """A network that sees each keypoint ``offset`` crop pixels away from the pose that it is given."""

    def __init__(self, refiner: Refiner, offset: Floats) -> None:
        super().__init__()
        self.config, self.network, self.offset = refiner.network.config, refiner.network, torch.tensor(offset).float()

    def forward(self, inputs: NetworkInput, *, count: bool = False) -> View:
        inputs = inputs.to("cpu")
        height, width = (side // 4 for side in self.config.input_hw)
        maps = self.config.codec.encode(inputs.crop_points + self.offset, inputs.valid, (height, width))
        return View(torch.log(maps + 1e-6), None, inputs.without_crops())

    def log_prior(self, image_logits: Tensor, inputs: NetworkInput) -> Tensor | None:
        return self.network.log_prior(image_logits, inputs)


@pytest.mark.parametrize("policy", ["safe", "always"])
@pytest.mark.parametrize("online", [False, True])
def test_tracks_lose_their_offset(online: bool, policy: Any) -> None:
    """Calm tracks, too, which would stay as they are; they do, but for the offset."""
    calibration = Calibration(policy=policy, reference_outlier_rate=0.02)
    weights = make_weights(calibration, pose_prior=True, adaptive_prior=False, uses_scores=False)
    refiner = Refiner(weights, device="cpu", precision="float32")
    pose = np.random.default_rng(0).uniform((60, 30), (180, 210), (17, 2))
    tracks = np.repeat(np.concatenate([pose, np.full((17, 1), 0.8)], -1)[None, None], 16, 0)

    def moved(offset: Any) -> Floats:
        network = Showing(refiner, np.asarray(offset, np.float64))
        runner = Runner(network, refiner.weights, threads=0)  # type: ignore[arg-type]
        observer = Observer(runner, network, calibration, COCO)  # type: ignore[arg-type]
        read = read_tracks(tracks, COCO, max_gap=15, causal=online)
        frames = [np.zeros((240, 240, 3), np.uint8)] * len(tracks)
        parts = list(refine_tracks(observer, frames, read, VideoOptions(online=online, delay=2)))
        away = (np.concatenate([p.keypoints for p in parts]) - tracks)[-4:, 0, :, :2]
        known = np.concatenate([p.offset for p in parts])[-4:]
        np.testing.assert_allclose(away, np.broadcast_to(known, away.shape), atol=0.4)
        return np.asarray(away)

    away = moved((-2.0, -1.6))
    scale = away.mean((0, 1)) / (-2.0, -1.6)  # image pixels per crop pixel
    np.testing.assert_allclose(scale, scale[0], rtol=0.1)
    assert 0.3 < scale[0] < 1.5
    if policy == "safe" and not online:
        np.testing.assert_array_equal(moved((0.0, 0.0)), 0.0)
