"""Small changes of the code that nothing else noticed: each test here fails when its line is changed.

``tests/mutants.py`` makes the changes and runs the tests against them.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from factories import make_weights, random_poses
from posefix.exceptions import InputError
from posefix.geometry import boxes_around_points
from posefix.inference import reliability, results
from posefix.inference.decoding import count_outliers, decode
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.rescoring import DUPLICATE_OKS, duplicates, person_scores, rescore
from posefix.inference.results import refine_results
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import expected_similarity, expected_similarity_argmax
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.network.prior import PosePrior
from posefix.training import trainer
from posefix.training.config import Optimisation
from posefix.training.schedule import average_decay
from posefix.weights.calibration import Calibration

SIGMAS = np.array(COCO.sigmas)
K = len(COCO)


# ---------------------------------------------------------------- flip test


def bumps(x: torch.Tensor, y: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    """(B, K, h, w) logits of narrow Gaussians."""
    rows, columns = torch.arange(hw[0])[:, None], torch.arange(hw[1])[None]
    return -((rows - y[..., None, None]) ** 2 + (columns - x[..., None, None]) ** 2).float()


def test_mirrored_output_says_the_same_of_the_mirrored_image() -> None:
    """With maps that mirror exactly, the flip test changes neither points nor any keypoint's confidence."""
    network = make_weights(input_hw=(96, 64), width=0.35, pose_prior=False, adaptive_prior=False).build()
    calibration = Calibration(temperature=tuple(np.linspace(0.5, 4.0, K).tolist()))  # left and right differ
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(3, n - 4, (2, K))).float() for n in (16, 24))
    order = torch.from_numpy(COCO.flip_indices)
    std = torch.from_numpy(rng.uniform(4, 12, (2, K))).float()
    points, valid = torch.zeros(2, K, 2), torch.ones(2, K, dtype=torch.bool)

    def view(at: torch.Tensor, by: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, NetworkInput]:
        return bumps(at, by, (24, 16)), NetworkInput(torch.zeros(2, 96, 64, 3), points, valid, spread, torch.ones(2, K))

    def read(*views: tuple[torch.Tensor, NetworkInput]) -> tuple[torch.Tensor, ...]:
        return decode(network, calibration, order, "expected_similarity", views, None, torch.ones(2))

    plain, mirrored = view(x, y, std), view(15 - x[:, order], y[:, order], std[:, order])
    alone, both = read(plain), read(plain, mirrored)
    torch.testing.assert_close(both[0], alone[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(both[1], alone[1], atol=1e-4, rtol=0)
    off = read(plain, view(15 - x[:, order] + 1, y[:, order], std[:, order]))
    assert float((off[0] - alone[0])[..., 0].abs().mean()) > 1.0  # one heatmap pixel would be seen


def test_mirrored_inputs_exchange_scores_and_sizes() -> None:
    rng = np.random.default_rng(0)
    values = [rng.uniform(0, 1, s) for s in ((1, 8, 8, 3), (1, K, 2), (1, K), (1, K))]
    given = NetworkInput(values[0], values[1], values[2] > 0.5, values[2], values[3])
    mirrored = given.mirrored(COCO.flip_indices)
    left, right = COCO.index("left_wrist"), COCO.index("right_wrist")
    assert mirrored.scores[0, left] == given.scores[0, right] != given.scores[0, left]
    assert mirrored.std[0, left] == given.std[0, right]
    assert mirrored.valid[0, left] == given.valid[0, right]
    assert mirrored.crop_points[0, left, 0] == 7 - given.crop_points[0, right, 0]


# ---------------------------------------------------------------- reliability


def test_what_counts_as_confident_and_as_outlier() -> None:
    std = torch.full((1, 1), 3.0)
    valid = torch.ones(1, 1, dtype=torch.bool)
    middle = torch.tensor([[10.0]])

    def confidence(width: float) -> float:
        logits = bumps(middle, middle, (21, 21)) / (2 * width**2)
        _, value = expected_similarity_argmax(logits.flatten(2).softmax(-1).view(1, 1, 21, 21), std)
        return float(value)

    def count(width: float, distance: float) -> tuple[int, ...]:
        logits = bumps(middle, middle, (21, 21)) / (2 * width**2)
        point = torch.tensor([[[10.0 + distance * 3.0, 10.0]]])
        given = NetworkInput(torch.zeros(1, 21, 21, 3), point, valid, std, torch.ones(1, 1))
        return tuple(count_outliers(logits, given, HeatmapCodec(1, 0.0)).flatten().tolist())

    narrow, wide = 1.9, 2.1
    assert confidence(narrow) > 0.7 > confidence(wide) > 0.6
    assert count(narrow, 0)[0] == 1
    assert count(wide, 0)[0] == 0
    assert count(1.0, 1.45) == (1, 0, 0)
    assert count(1.0, 1.55) == (1, 1, 0)
    assert count(1.0, 0.28) == (1, 0, 1)
    assert count(1.0, 0.32) == (1, 0, 0)


def test_limits_of_the_measured_weight() -> None:
    counts = [[10_000, 10**6, 10**6], [10_000, 0, 0], [0, 0, 10**6]]
    low, high, largest = reliability.measured_prior_weight(counts, Calibration(reference_outlier_rate=0.03))
    assert (float(low), float(high), float(largest)) == (0.2, 1.75, 4.0)


def test_so_many_people_are_measured(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.MEASURED == 256
    assert results.MEASURED_PER_IMAGE == 3


# ---------------------------------------------------------------- ranking


def test_the_default_ranking_weighs_scores_with_the_consistency() -> None:
    consistency, confidence = np.array([0.9, 0.5]), np.array([0.3, 0.2])
    np.testing.assert_allclose(person_scores([0.8, 0.0], confidence, consistency, "pose_consistency"), [0.72, 0.0])
    np.testing.assert_allclose(person_scores([0.8, 0.0], confidence, consistency, "product"), [0.24, 0.0])
    for call in (refine_results,):
        assert call.__kwdefaults__["ranking"] == "pose_consistency"


def test_duplicates_are_told_at_half() -> None:
    base = random_poses(np.random.default_rng(0), 1)[0]
    corners = boxes_around_points(base[None, :, :2], np.ones((1, K), bool))[0]
    area = 0.53 * float(np.prod(corners[2:] - corners[:2]))
    assert DUPLICATE_OKS == 0.5

    def found(wanted: float) -> float:
        step = np.sqrt(-2 * np.log(wanted) * area) * 2 * SIGMAS  # each keypoint has this similarity
        other = base.copy()
        other[:, 0] += step
        pair = np.stack([base, other])
        value = duplicates(pair, np.array([0.9, 0.8]), ["a", "a"], SIGMAS)
        return float(value[1])

    assert found(0.56) == pytest.approx(0.56, abs=0.05)
    assert found(0.40) == 0.0
    same = np.stack([base, base])
    new, lowered = rescore([0.9, 0.8], same, np.ones(2), ["a", "a"], SIGMAS, ranking="pose_consistency", soft_nms=True)
    assert lowered == 1
    np.testing.assert_allclose(np.asarray(new), [0.9, 0.0], atol=1e-6)  # a full repeat keeps nothing


def test_similarity_is_the_gaussian_itself() -> None:
    points, targets = np.zeros((1, K, 2)), np.zeros((1, K, 2))
    assert keypoint_similarity(points, targets, np.array([100.0]), SIGMAS).tolist() == [[1.0] * K]
    uniform = torch.zeros(1, 1, 9, 9)
    uniform[0, 0, 4, 4] = 1.0
    at = torch.tensor([[[4.0, 4.0]]])
    assert float(expected_similarity(uniform, at, torch.full((1, 1), 2.0))) == pytest.approx(1.0)


def test_missing_points_do_not_count_for_consistency() -> None:
    refiner = Refiner(make_weights(input_hw=(64, 64), width=0.35), device="cpu")
    pose = random_poses(np.random.default_rng(1), 1)
    image = np.random.default_rng(2).integers(0, 255, (480, 640, 3), np.uint8)
    few = pose.copy()
    few[0, 8:] = 0
    one = next(iter(refiner.refine_images([refiner.prepare(image, few)], Options(prior_weight=1.0))))
    assert 0 < float(one.pose_consistency[0]) <= 1
    poses = read_poses(few, COCO)
    assert int(poses.valid.sum()) == 8
    # Eight keypoints that stay where the image shows them are fully consistent, however many are missing.
    prepared = SimpleNamespace(poses=poses, rows=np.array([0]))
    given = SimpleNamespace(input_confidence=np.where(poses.valid, 0.8, 0.0), confidence=np.full((1, K), 0.8))
    from posefix.inference.crops import pose_consistency_of

    assert pose_consistency_of(prepared, given).tolist() == pytest.approx([1.0])  # type: ignore[arg-type]


# ---------------------------------------------------------------- geometry and decoding


def test_points_on_an_axis_without_scores_are_there() -> None:
    pose = np.full((1, K, 2), 50.0)
    pose[0, 0], pose[0, 1], pose[0, 2] = (0.0, 7.0), (7.0, 0.0), (0.0, 0.0)
    assert read_poses(pose, COCO).valid[0, :3].tolist() == [True, True, False]


@pytest.mark.parametrize("box", [[90.0, 10.0, 10.0, 200.0], [10.0, 200.0, 90.0, 10.0]])
def test_boxes_inverted_along_one_axis_are_refused(box: list[float]) -> None:
    refiner = Refiner(make_weights(input_hw=(64, 64), width=0.35), device="cpu")
    pose = random_poses(np.random.default_rng(1), 1)
    with pytest.raises(InputError, match="right > left and bottom > top"):
        refiner.prepare(np.zeros((480, 640, 3), np.uint8), pose, np.array([box]))


def test_three_steps_of_mean_shift() -> None:
    logits = torch.full((1, 1, 15, 15), -9.0)
    logits[0, 0, 7, 6], logits[0, 0, 7, 9], logits[0, 0, 4, 8] = 3.0, 2.9, 2.0
    heat = logits.flatten(2).softmax(-1).view(1, 1, 15, 15)
    std = torch.full((1, 1), 2.0)
    by_steps = [expected_similarity_argmax(heat, std, steps)[0] for steps in range(5)]
    default = expected_similarity_argmax(heat, std)[0]
    assert torch.equal(default, by_steps[3])
    assert not torch.allclose(by_steps[3], by_steps[2], atol=1e-3)
    assert not torch.allclose(by_steps[3], by_steps[4], atol=1e-5)


# ---------------------------------------------------------------- training


def test_rates_and_decay_of_the_parameters() -> None:
    network = make_weights(input_hw=(64, 64), width=0.35).build()
    optimiser = trainer._make_optimiser(network, Optimisation(weight_decay=0.1, network_rate=0.5))
    names = {id(p): n for n, p in network.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            prior = name.startswith("prior.")
            assert group["factor"] == (10.0 if prior else 0.5), name
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 and not prior else 0.0), name


def test_the_average_follows_fast_at_first() -> None:
    decays = [average_decay(step, Optimisation(average=0.9)) for step in (0, 10, 80, 81, 1000)]
    assert decays == pytest.approx([0.1, 11 / 20, 0.9, 0.9, 0.9])


def test_quiet_scores_have_a_floor_of_three_hundredths() -> None:
    torch.manual_seed(0)
    prior = PosePrior(2, adaptive=True, scored=True)
    assert prior.listen is not None
    nn.init.normal_(prior.listen[-1].weight)
    logits, points = torch.randn(1, 2, 8, 8), torch.full((1, 2, 2), 3.0)
    valid, std = torch.ones(1, 2, dtype=torch.bool), torch.full((1, 2), 2.0)

    def at(score: float) -> torch.Tensor:
        return prior(logits, points, valid, std, torch.tensor([[1.0, score]]))

    assert torch.equal(at(0.001), at(0.03))
    assert not torch.allclose(at(0.03), at(0.1))
    assert not torch.allclose(at(0.2), at(0.3))
