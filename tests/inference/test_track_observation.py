"""What is seen of tracks: exchanged sides where the network leans to the given pose, and memory that stays flat."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import posefix.inference.track_observation as observation
import posefix.inference.track_refinement as module
from factories import make_weights
from posefix.inference.refiner import Refiner
from posefix.inference.runner import Runner, View
from posefix.inference.track_observation import LEAST_WEIGHT, Memory, Observer
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.video.left_right import exchange_sides, side_groups
from posefix.video.options import VideoOptions
from posefix.video.tracks import read_tracks
from posefix.weights.calibration import Calibration

LEFT = np.array([name.startswith("left_") for name in COCO.keypoints])
SIDED = COCO.flip_indices != np.arange(17)


class Leaning(nn.Module):
    """A network to which left is where x is greater, but which believes the given pose more than the image.

    Args:
        refiner: whose configuration it has.
        lean: share of the distribution that is where the given pose says.
        facing: whether it takes the sides of the legs from the given arms.
    """

    def __init__(self, refiner: Refiner, lean: float, facing: bool = False) -> None:
        super().__init__()
        self.config, self.mean, self.lean, self.passes = refiner.network.config, torch.zeros(1), lean, 0
        self.facing = facing

    def image_logits_and_peaks(self, inputs: NetworkInput) -> tuple[Tensor, None]:
        self.passes += len(inputs)
        points, mirror = inputs.crop_points, inputs.crop_points[:, COCO.flip_indices]
        greater = torch.where(points[..., :1] > mirror[..., :1], points, mirror)
        shown = torch.where(torch.from_numpy(LEFT)[:, None], greater, points + mirror - greater)
        if self.facing:
            arms, legs = side_groups(COCO)[:2]
            turned = ((points - shown)[:, arms].abs().amax((1, 2)) > 1)[:, None, None]
            shown[:, legs] = torch.where(turned, shown[:, COCO.flip_indices[legs]], shown[:, legs])
        height, width = (side // 4 for side in self.config.input_hw)
        maps = [self.config.codec.encode(p, inputs.valid, (height, width)) for p in (points, shown)]
        return torch.log(self.lean * maps[0] + (1 - self.lean) * maps[1] + 1e-6), None

    def forward(self, inputs: NetworkInput) -> View:
        return View(self.image_logits_and_peaks(inputs.to("cpu"))[0], None, inputs.without_crops())

    def log_prior(self, image_logits: Tensor, inputs: NetworkInput) -> None:
        return None


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(Calibration(policy="safe")), device="cpu", precision="float32")


def standing(frames: int) -> npt.NDArray[np.float64]:
    """(T, 1, 17, 3) a person seen from the front: left keypoints have the greater x."""
    height = np.linspace(20, 220, 17) // 26 * 26
    x = 120 + np.where(SIDED, np.where(LEFT, 30, -30), 0)
    pose = np.stack([x, height, np.full(17, 0.8)], -1)
    tracks = np.repeat(pose[None, None], frames, 0)
    tracks[..., 0] += 2.0 * np.arange(frames)[:, None, None]
    return tracks


def refine(
    refiner: Refiner, network: Leaning, frames: Any, tracks: Any, online: bool
) -> Iterator[module.RefinedFrames]:
    runner = Runner(network, refiner.weights, threads=0)  # type: ignore[arg-type]
    observer = Observer(runner, network, refiner.weights.calibration, COCO)  # type: ignore[arg-type]
    read = read_tracks(tracks, COCO, max_gap=15, causal=online)
    return module.refine_tracks(observer, frames, read, VideoOptions(online=online, delay=2))


def found(refiner: Refiner, network: Leaning, tracks: Any, online: bool = False) -> npt.NDArray[np.bool_]:
    frames = [np.zeros((240, 240, 3), np.uint8)] * len(tracks)
    return np.concatenate([p.exchanged for p in refine(refiner, network, frames, tracks, online)])[:, 0]


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_whole_track_with_exchanged_sides_is_found(refiner: Refiner, group: int, online: bool) -> None:
    wanted = np.zeros((12, len(side_groups(COCO))), bool)
    wanted[:, group] = True
    given = exchange_sides(standing(12), wanted[:, None], COCO)
    exchanged = found(refiner, Leaning(refiner, lean=0.6), given, online)
    np.testing.assert_array_equal(exchanged[2:], wanted[2:])


def test_legs_are_judged_with_the_corrected_arms(refiner: Refiner) -> None:
    wanted = np.zeros((12, len(side_groups(COCO))), bool)
    wanted[:, 0] = True
    given = exchange_sides(standing(12), wanted[:, None], COCO)
    np.testing.assert_array_equal(found(refiner, Leaning(refiner, 0.6, facing=True), given), wanted)


def test_a_right_track_stays_and_costs_one_pass(refiner: Refiner) -> None:
    network = Leaning(refiner, lean=0.6)
    assert not found(refiner, network, standing(12)).any()
    assert network.passes == 12


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
def test_memory_does_not_grow_with_the_video(refiner: Refiner, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    """A video four times as long needs no more memory than a few frames'; each frame is read once."""
    monkeypatch.setattr(module, "WINDOW", 40)
    monkeypatch.setattr(module, "OVERLAP", 10)
    monkeypatch.setattr(module, "_BLOCK", 16)
    network = Leaning(refiner, lean=0.5)
    read = 0

    def camera(count: int) -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal read
        for number in range(count):
            read += 1
            yield np.full((480, 640, 3), number % 256, np.uint8)

    def peak(count: int) -> int:
        tracks = np.repeat(standing(1), count, 0)
        tracemalloc.start()
        done = sum(len(part) for part in refine(refiner, network, camera(count), tracks, online))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == count
        return most

    peak(8)  # what is made once
    short, long = (peak(count) for count in ((24, 96) if online else (60, 240)))
    assert read == 8 + (24 + 96 if online else 60 + 240)
    assert long - short < 4 * 480 * 640 * 3


@pytest.mark.parametrize(("outliers", "given"), [(500, None), (0, None), (500, 0.1)])
def test_the_measured_weight_in_a_video_has_a_least_value(
    monkeypatch: pytest.MonkeyPatch, outliers: int, given: float | None
) -> None:
    weights = make_weights(Calibration(reference_outlier_rate=0.02, prior_weight=1.5))
    observer = Observer(None, weights.build(), weights.calibration, COCO)  # type: ignore[arg-type]
    compared = np.array([[1000], [outliers], [300]]), np.zeros((1, 17, 2)), np.ones((1, 17), bool)
    monkeypatch.setattr(observation, "_compared_with_image", lambda *args: compared)
    known = np.ones((1, 17), bool)
    weight, memory = observation._weigh(observer, [None], known, given, Memory())  # type: ignore[list-item]
    if given is not None:  # asked for: taken as it is
        assert weight == pytest.approx(1.5 * given)
    elif outliers:
        assert weight == pytest.approx(1.5 * LEAST_WEIGHT)
    else:
        assert weight > 1.5
    assert (memory.confident, memory.outliers) == (1000, outliers)
