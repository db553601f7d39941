"""The same numbers to the last bit, however people are put together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from factories import make_weights, random_poses
from posefix.exceptions import InputError
from posefix.inference.crops import Prepared, Refined
from posefix.inference.full_batches import refine_in_full_batches
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.runner import Runner


@pytest.fixture(scope="module", params=["streams", "batches"])
def refiner(request: pytest.FixtureRequest) -> Refiner:
    made = Refiner(make_weights(input_hw=(64, 64)), device="cpu", precision="float32")
    if request.param == "batches":  # as on a GPU
        made.threads, made.runner = 0, Runner(made.model, made.weights, 0)
    return made


def images(refiner: Refiner, counts: list[int]) -> list[Prepared]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    poses = [random_poses(rng, count) for count in counts]
    if counts[1]:
        poses[1][0, :, 2] = 0  # no person to crop
    return [refiner.prepare(pixels, p) for p in poses]


@pytest.mark.parametrize("batch_size", [4, 7])
def test_numbers_do_not_depend_on_the_company(refiner: Refiner, batch_size: int) -> None:
    counts = [3, 1, 0, 12, 1, 2, 5, 1, 9, 0]
    prepared, options = images(refiner, counts), Options(batch_size=batch_size)
    whole = list(refine_in_full_batches(refiner, prepared, options))
    assert [len(r.keypoints) for r in whole] == counts
    for cut in (0, 2, 4, 7):
        parts = [*refine_in_full_batches(refiner, prepared[:cut], options)]
        parts += refine_in_full_batches(refiner, prepared[cut:], options)
        for one, other in zip(whole, parts, strict=True):
            assert np.array_equal(one.keypoints, other.keypoints)
            assert np.array_equal(one.pose_consistency, other.pose_consistency)


def test_it_is_the_refinement_of_one_image(refiner: Refiner) -> None:
    prepared = images(refiner, [3, 2, 4])
    options = Options(prior_weight=1.0, batch_size=8)
    for one, other in zip(
        refine_in_full_batches(refiner, prepared, options), refiner.refine_prepared(prepared, options), strict=True
    ):
        assert np.allclose(one.keypoints, other.keypoints, atol=1e-3)
        assert np.allclose(one.pose_consistency, other.pose_consistency, atol=1e-4)


def test_results_come_as_soon_as_they_can(refiner: Refiner) -> None:
    read = 0

    def stream() -> Iterator[Prepared]:
        nonlocal read
        for image in images(refiner, [2] * 12):
            read += 1
            yield image

    results: Iterator[Refined] = refine_in_full_batches(refiner, stream(), Options(batch_size=4))
    next(results)
    assert read <= 6  # two groups of at most four people, and the image that did not fit in
    assert len(list(results)) == 11


def test_nobody(refiner: Refiner) -> None:
    assert list(refine_in_full_batches(refiner, [], Options())) == []
    (only,) = refine_in_full_batches(refiner, images(refiner, [0, 0])[:1], Options())
    assert only.keypoints.shape == (0, 17, 3)


def test_a_batch_of_images_is_its_images(refiner: Refiner) -> None:
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (480, 640, 3)).astype(np.uint8) for _ in range(5)]
    poses = [random_poses(rng, count) for count in (2, 0, 5, 1, 3)]
    for ours, image, pose in zip(refiner.refine_batch(pixels, poses, batch_size=4), pixels, poses, strict=True):
        np.testing.assert_allclose(ours, refiner.refine(image, pose), atol=1e-2)
    with pytest.raises(InputError, match="keypoints"):
        refiner.refine_batch(pixels, [*poses[:3], poses[3][..., :1], poses[4]])
