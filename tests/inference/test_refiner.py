"""Laws of refining: no person is lost, nothing is mutated, and the result does not depend on the way of calling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from factories import make_weights
from posefix.exceptions import ImageError, InputError, WeightsError
from posefix.geometry import flip_points
from posefix.inference.options import make_options
from posefix.inference.refiner import Refiner
from posefix.keypoints.poses import relative_scores
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights

Floats = npt.NDArray[np.floating]


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(), device="cpu", precision="float32")


@pytest.fixture
def scene() -> tuple[npt.NDArray[np.uint8], Floats]:
    """A textured image with three people."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    poses = rng.uniform((20, 20), (120, 200), (3, 17, 2)) + np.array([[[0, 0]], [[90, 10]], [[180, 20]]])
    return image, np.concatenate([poses, rng.uniform(0.2, 1, (3, 17, 1))], axis=-1)


def test_shapes_types_and_no_mutation(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    image_before, keypoints_before = image.copy(), keypoints.copy()
    refined = refiner.refine(image, keypoints)
    assert refined.shape == keypoints.shape
    assert refined.dtype == np.float64
    assert np.isfinite(refined).all()
    assert ((refined[..., 2] >= 0) & (refined[..., 2] <= 1 + 1e-6)).all()
    assert refiner.refine(image, keypoints.astype(np.float32)).dtype == np.float32
    assert refiner.refine(image, keypoints[..., :2]).shape == (3, 17, 2)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(keypoints, keypoints_before)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 17, 3)), np.zeros((0, 17, 2)), torch.zeros(0, 17, 3), np.zeros(0)])
def test_nobody(refiner: Refiner, scene: tuple[Any, Floats], empty: Any) -> None:
    refined = refiner.refine(scene[0], empty)
    assert refined.shape[:2] == (0, 17)
    assert refiner.refine(scene[0], empty, boxes_xyxy=np.zeros((0, 4))).shape[0] == 0


def test_no_images(refiner: Refiner) -> None:
    assert refiner.refine_batch([], []) == []


def test_order_of_people_does_not_matter(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    order = [2, 0, 1]
    np.testing.assert_allclose(
        refiner.refine(image, keypoints[order]), refiner.refine(image, keypoints)[order], atol=1e-3
    )


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batching_does_not_matter(refiner: Refiner, scene: tuple[Any, Floats], batch_size: int) -> None:
    image, keypoints = scene
    images, poses = [image, image[::-1].copy(), image], [keypoints, keypoints[:1], keypoints[:0]]
    together = refiner.refine_batch(images, poses, batch_size=batch_size)
    for one_image, pose, refined in zip(images, poses, together, strict=True):
        np.testing.assert_allclose(refined, refiner.refine(one_image, pose), atol=1e-3)


def test_missing_keypoints_have_no_influence(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    answers = []
    for stand_in in ([np.nan, np.nan, 0.9], [0, 0, 0], [1e6, -1e6, 0], [np.inf, 3, 1], [5, 5, -1], [5, 5, np.nan]):
        pose = keypoints.copy()
        pose[:, [3, 9]] = stand_in
        answers.append(refiner.refine(image, pose))
        assert np.isfinite(answers[-1]).all()
        left = refiner.refine(image, pose, fill_missing=False)
        np.testing.assert_array_equal(left[:, [3, 9]], pose[:, [3, 9]])
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_zero_without_scores_is_missing(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    pose = keypoints.copy()
    pose[1, 4] = 0
    with_scores = refiner.refine(image, pose)[..., :2]
    np.testing.assert_array_equal(refiner.refine(image, pose[..., :2]), with_scores)


def test_person_without_any_keypoint_passes_through(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    pose = keypoints.copy()
    pose[1] = [np.nan, 7, 0]
    refined = refiner.refine(image, pose)
    np.testing.assert_array_equal(refined[1], pose[1])
    np.testing.assert_allclose(refined[[0, 2]], refiner.refine(image, keypoints)[[0, 2]], atol=1e-3)
    boxes = np.array([[np.nan] * 4, [100, 20, 200, 200], [5, 5, 5, 5]])
    found = refiner.refine(image, pose, boxes_xyxy=boxes)
    assert np.isfinite(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], refined[[0, 2]], atol=1e-3)


@pytest.mark.parametrize("kind", ["refiner", "listener"])
def test_mirrored_image_gives_mirrored_answer(
    kind: str, scene: tuple[Any, Floats], request: pytest.FixtureRequest
) -> None:
    # With the flip test the network's answer is symmetric by construction; crops and cells mirror exactly.
    refiner: Refiner = request.getfixturevalue(kind)
    image, keypoints = scene
    width = image.shape[1]
    refined = refiner.refine(image, keypoints, flip_test=True)
    mirrored = keypoints[:, COCO.flip_indices].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    other = refiner.refine(image[:, ::-1], mirrored, flip_test=True)
    back = np.concatenate(
        [flip_points(other[..., :2], width, COCO.flip_indices), other[:, COCO.flip_indices, 2:]], axis=-1
    )
    # Bilinear warping rounds to 1/32 px and to grey levels: not bit for bit.
    assert np.median(np.abs(back - refined)) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2)])
def test_tiny_images(refiner: Refiner, scene: tuple[Any, Floats], size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert np.isfinite(refiner.refine(image, scene[1])).all()


def test_people_outside_the_image_and_without_extent(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    far = keypoints.copy()
    far[0, :, :2] += 5000
    far[1, :, :2] = 50.0
    far[2, 5, :2] = (-3000, 9000)
    refined = refiner.refine(image, far)
    assert np.isfinite(refined).all()
    np.testing.assert_array_equal(refined[0], far[0])  # nothing of that person is in the image


def test_byte_order_does_not_matter(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    exact = keypoints.astype(np.float64)
    np.testing.assert_array_equal(refiner.refine(image, exact.astype(">f8")), refiner.refine(image, exact))


def test_grey_float_and_bgr_images(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    expected = refiner.refine(image, keypoints)
    np.testing.assert_array_equal(refiner.refine(image[..., ::-1], keypoints, color="bgr"), expected)
    np.testing.assert_array_equal(refiner.refine(torch.from_numpy(image), keypoints), expected)
    assert refiner.refine(image[..., 0], keypoints).shape == keypoints.shape


def test_safe_policy_keeps_exactly_what_is_good_enough(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    keep_all = Refiner(make_weights(Calibration(policy="safe", margin=(1.0,) * 17)), device="cpu")
    refined = keep_all.refine(image, keypoints)
    np.testing.assert_array_equal(refined[..., :2], keypoints[..., :2])
    moved = keep_all.refine(image, keypoints, policy="always")
    assert (moved[..., :2] != keypoints[..., :2]).any()


def test_decoders_and_temperature(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    weights = make_weights()
    plain = Refiner(weights, device="cpu", precision="float32")
    soft = plain.refine(image, keypoints, decoder="soft_argmax")
    best = plain.refine(image, keypoints)
    # Of all points the decoder's has the greatest expected similarity.
    assert (best[..., 2] >= soft[..., 2] - 1e-6).all()
    flat = Refiner(
        replace(weights, calibration=Calibration(policy="always", temperature=(5.0,) * 17)),
        device="cpu",
        precision="float32",
    )
    assert flat.refine(image, keypoints)[..., 2].mean() < best[..., 2].mean()


def test_bfloat16_is_close(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    exact = Refiner(make_weights(), device="cpu", precision="float32").refine(image, keypoints)
    rough = Refiner(make_weights(), device="cpu", precision="bfloat16").refine(image, keypoints)
    assert np.median(np.abs(exact - rough)) < 0.5


@pytest.mark.parametrize(
    ("keypoints", "part"),
    [
        (
            np.zeros((3, 16, 3)),
            r"keypoints: expected \(N, 17, 3\) or \(N, 17, 2\) for skeleton 'coco', got \(3, 16, 3\)",
        ),
        (np.zeros((17, 3)), r"for one person pass keypoints\[None\]"),
        (np.zeros((2, 17, 4)), r"got \(2, 17, 4\)"),
        ([["a"] * 17], "expected numbers"),
        ([[[1, 2, 3]], [[1, 2]]], "equally many numbers"),
        (None, "expected numbers"),
    ],
)
def test_wrong_keypoints(refiner: Refiner, scene: tuple[Any, Floats], keypoints: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        refiner.refine(scene[0], keypoints)


def test_the_weights_trust_multiplies_the_users(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    plain = Refiner(make_weights(), device="cpu")
    half = Refiner(make_weights(Calibration(policy="always", prior_weight=0.5)), device="cpu")
    np.testing.assert_array_equal(half.refine(image, keypoints), plain.refine(image, keypoints, prior_weight=0.5))
    np.testing.assert_array_equal(half.refine(image, keypoints, prior_weight=2.0), plain.refine(image, keypoints))
    assert not np.array_equal(half.refine(image, keypoints), plain.refine(image, keypoints))
    with pytest.raises(WeightsError, match="prior_weight: expected a number"):
        Calibration(prior_weight=0.0)


def test_wrong_everything_else(refiner: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    with pytest.raises(InputError, match=r"boxes_xyxy: expected \(3, 4\)"):
        refiner.refine(image, keypoints, boxes_xyxy=np.zeros((2, 4)))
    with pytest.raises(TypeError, match="flip_indices"):
        refiner.refine(image, keypoints, flip_indices=True)
    with pytest.raises(InputError, match="policy: expected one of safe, always, got 'never'"):
        refiner.refine(image, keypoints, policy="never")
    with pytest.raises(InputError, match="batch_size"):
        make_options(batch_size=0)
    for wrong in (-0.5, float("nan"), float("inf"), "much"):
        with pytest.raises(InputError, match="prior_weight: expected a"):
            make_options(prior_weight=wrong)
    with pytest.raises(InputError, match="as many images"):
        refiner.refine_batch([image], [keypoints, keypoints])
    with pytest.raises(ImageError):
        refiner.refine("/no/such/image.jpg", keypoints)
    with pytest.raises(InputError, match="device"):
        Refiner(make_weights(), device="cuda:99")
    with pytest.raises(InputError, match="precision"):
        Refiner(make_weights(), precision="half")


@pytest.fixture(scope="module")
def listener() -> Refiner:
    """A refiner that uses scores."""
    torch.manual_seed(5)
    weights = make_weights(uses_scores=True)
    for name in ("prior.listen.2.weight", "correction.out.weight"):
        torch.nn.init.normal_(weights.state[name], std=0.1)
    return Refiner(weights, device="cpu", precision="float32")


def test_scores_matter_but_not_their_unit(listener: Refiner, scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    points = listener.refine(image, keypoints)[..., :2]
    doubled, without, reversed_ = keypoints * [1, 1, 64], keypoints[..., :2], keypoints.copy()
    reversed_[..., 2] = keypoints[..., ::-1, 2]
    np.testing.assert_allclose(listener.refine(image, doubled)[..., :2], points, atol=1e-6)
    assert not np.allclose(listener.refine(image, without), points, atol=1e-3)
    assert not np.allclose(listener.refine(image, reversed_)[..., :2], points, atol=1e-3)


@pytest.mark.parametrize("visibility", [np.ones(17), np.full(17, 0.3), np.array([2, 1] * 8 + [2])])
def test_visibilities_and_equal_scores_tell_nothing(
    listener: Refiner, scene: tuple[Any, Floats], visibility: Floats
) -> None:
    image, keypoints = scene
    keypoints[..., 2] = visibility
    want = listener.refine(image, keypoints[..., :2])
    np.testing.assert_allclose(listener.refine(image, keypoints)[..., :2], want, atol=1e-6)


def test_scores_are_each_persons_own() -> None:
    scores = np.array([[0.2, 0.8, 0.4, 7.0], [3.0, 12.5, 6.25, 0.0], [1.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    valid = scores > 0
    valid[0, 3] = False
    want = [[0.25, 1, 0.5, 1], [0.24, 1, 0.5, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    np.testing.assert_allclose(relative_scores(scores, valid), want)
    np.testing.assert_allclose(relative_scores(np.array([20, 60, 80], np.uint8), np.ones(3, bool)), [0.25, 0.75, 1])
    np.testing.assert_allclose(relative_scores(np.array([-3.0, 0.5, 0.0]), np.ones(3, bool)), [0, 1, 0])
    assert (relative_scores(np.array([-3.0, -0.5]), np.ones(2, bool)) == 1).all()
    odd = relative_scores(np.array([np.inf, 0.5, np.nan, 0.25]), np.array([True, True, False, True]))
    assert odd.tolist() == [1, 1, 1, 0.5]
    assert relative_scores(np.zeros((0, 17)), np.zeros((0, 17), bool)).shape == (0, 17)


def test_repr_tells_what_it_is(refiner: Refiner) -> None:
    text = repr(refiner)
    assert text.startswith("Refiner(mobilenet_v2 256x192, skeleton 'coco', weights test, backend 'torch', float32, ")
    assert text.endswith(f"device 'cpu', threads {refiner.threads})")


def test_paper_network_refines(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    config = ModelConfig.paper(50, (64, 64))
    network = RefinementNetwork(config)
    weights = Weights(config, COCO, Calibration("soft_argmax", "always"), network.state_dict(), {}, "paper")
    folded = Refiner(weights, device="cpu", precision="float32")
    refined = folded.refine(image, keypoints, flip_test=True)
    assert np.isfinite(refined).all()
    # Folding batch norm leaves the function as it is.
    inputs = folded.prepare(image, keypoints).inputs.to("cpu")
    with torch.inference_mode():
        plain, fast = weights.build()(inputs), folded.network(inputs)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5)


def test_keypoints_that_nobody_annotates_are_left_alone(scene: tuple[Any, Floats]) -> None:
    image, keypoints = scene
    skeleton = replace(COCO, unannotated=frozenset({"left_ear", "right_ear"}))
    plain = make_weights()
    refiner = Refiner(replace(plain, skeleton=skeleton), device="cpu", precision="float32")
    ears = [COCO.index("left_ear"), COCO.index("right_ear")]
    pose = keypoints.copy()
    refined = refiner.refine(image, pose)
    np.testing.assert_array_equal(refined[:, ears], pose[:, ears])
    elsewhere = pose.copy()
    elsewhere[:, ears] = [900.0, 900.0, 1.0]
    others = np.setdiff1d(np.arange(17), ears)
    np.testing.assert_array_equal(refiner.refine(image, elsewhere)[:, others], refined[:, others])
