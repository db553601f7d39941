"""An estimator's reliability follows from its share of outliers, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from factories import make_weights, random_poses
from posefix.exceptions import ImageError, InputError, WeightsError
from posefix.inference import results
from posefix.inference.crops import FAR, Prediction
from posefix.inference.decoding import count_outliers
from posefix.inference.engine import Measured
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import (
    CLOSE_SHARE,
    LARGEST_WEIGHT,
    LIMITS,
    PRIOR_SHARE,
    Reliability,
    measured_prior_weight,
)
from posefix.inference.report import reliability_line
from posefix.inference.results import MEASURED, MEASURED_PER_IMAGE, refine_results
from posefix.inference.runner import Runner, View
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.mapping import share_keypoints
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.floating]

#: A share that random poses under a random network exceed without meeting the limits.
REFERENCE_RATE = 0.55


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    """Confident of everything it sees: a random network with large image logits."""
    weights = make_weights(Calibration(policy="always", reference_outlier_rate=REFERENCE_RATE), pose_entry="correction")
    weights.state["correction.log_gain"] += 6.0
    return Refiner(weights, device="cpu", precision="float32")


def make_image(seed: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)


@pytest.fixture
def scenes() -> tuple[list[npt.NDArray[np.uint8]], list[Floats]]:
    """Images of one, five, none and two people."""
    rng = np.random.default_rng(4)
    return [make_image(i) for i in range(4)], [random_poses(rng, n) for n in (1, 5, 0, 2)]


def peaks(at: Floats, height: int = 24, width: int = 20) -> torch.Tensor:
    """(B, K, h, w) logits with a sharp peak at each cell; none where it is NaN."""
    y, x = np.mgrid[:height, :width]
    square = (x - at[..., 0, None, None]) ** 2 + (y - at[..., 1, None, None]) ** 2
    return torch.from_numpy(np.nan_to_num(-square * 4)).float()


def seen(points: torch.Tensor, valid: torch.Tensor, std: torch.Tensor) -> NetworkInput:
    return NetworkInput(crops=None, crop_points=points, valid=valid, std=std, scores=None)


def test_departures_are_counted_where_the_image_is_sure() -> None:
    at = np.array([[[5, 6], [10, 12], [np.nan, np.nan], [3, 3]]], float)
    given = torch.from_numpy(np.array([[[5.5, 6], [10, 15], [4, 4], [18, 20]]])).float()
    valid, std = torch.tensor([[True, True, True, False]]), torch.full((1, 4), 2.0)
    codec = HeatmapCodec(stride=1, offset=0.0)
    # The first is there, the second 1.5 length scales off, the third unknown to the image, the last missing.
    assert count_outliers(peaks(at), seen(given, valid, std), codec).tolist() == [[2], [1], [1]]
    assert count_outliers(peaks(at), seen(given, valid, 2 * std), codec)[1].tolist() == [0]


def test_a_place_at_another_person_is_no_outlier() -> None:
    at = np.array([[[5, 6], [10, 12], [15, 3]]], float)
    given = torch.from_numpy(np.array([[[5.0, 6], [10, 18], [15, 9]]])).float()
    pose = seen(given, torch.ones(1, 3, dtype=torch.bool), torch.full((1, 3), 2.0))
    codec, absent = HeatmapCodec(stride=1, offset=0.0), [FAR, FAR]

    def outliers(*people: list[list[float]]) -> list[int]:
        return count_outliers(peaks(at), replace(pose, others=torch.tensor([people])), codec)[:, 0].tolist()

    assert outliers([absent] * 3) == [3, 2, 1]
    # The second is 6 from its place. Another person's is 2 from there in the first case and 4 in the next.
    assert outliers([absent] * 3, [absent, [10.0, 10.0], absent]) == [3, 1, 1]
    assert outliers([absent] * 3, [absent, [10.0, 8.0], absent]) == [3, 2, 1]
    # The same keypoint counts, no other one, and of each keypoint another person's.
    assert outliers([absent, [15.0, 3.0], [10.0, 12.0]]) == [3, 2, 1]
    assert outliers([absent, [10.0, 12.0], absent], [absent, absent, [15.0, 3.0]]) == [3, 0, 1]


def weight(counts: Any, rate: float = 0.03, labelled_close_share: float = 0.0) -> Floats:
    calibration = Calibration(reference_outlier_rate=rate, labelled_close_share=labelled_close_share)
    return measured_prior_weight(counts, calibration)


def test_trust_is_inverse_to_departures() -> None:
    # Of an unknown estimator the poses count more than usual: a strong one has more to lose.
    assert weight([0, 0, 0]) == pytest.approx(PRIOR_SHARE**-1.5)
    assert weight([10**7, 3 * 10**5, 5 * 10**6]) == pytest.approx(1, abs=1e-4)
    assert weight([10**7, 6 * 10**5, 0]) == pytest.approx(2**-1.5, abs=1e-4)
    # Few keypoints change little, many all of it; never beyond the limits.
    by_count = weight([[10, 100, 1000, 10**7], [1, 10, 100, 10**6], [0, 0, 0, 0]], rate=0.05)
    assert (np.diff(by_count) < 0).all()
    assert by_count[0] > 0.85 * weight([0, 0, 0])
    assert weight([10**7, 10**7, 0]) == LIMITS[0]
    assert weight([10**7, 0, 0]) == LIMITS[1]


def test_poses_that_were_refined_already_weigh_more() -> None:
    close = np.array([0, CLOSE_SHARE, 0.85, 0.95, 1.0])
    many = weight(10**7 * np.stack([close**0, 0.03 * close**0, close]))
    np.testing.assert_allclose(many, [1, 1, (0.22 / 0.15) ** 3, LARGEST_WEIGHT, LARGEST_WEIGHT], rtol=1e-4)
    # A few people who happen to be close do not count as refined.
    assert weight([10, 0, 10]) < 1.25 * weight([0, 0, 0])


def test_errors_shared_with_the_network_are_added() -> None:
    calibration = Calibration(reference_outlier_rate=0.03, independent_close_share=0.58, outlier_exponent=3.0)
    close = np.array([0.4, 0.58, 0.68, 0.68])
    outliers = np.array([0.03, 0.03, 0.03, 0.02])
    found = measured_prior_weight(10**7 * np.stack([close**0, outliers, close]), calibration)
    np.testing.assert_allclose(found, [1, 1, (3 / 4) ** 3, 1], rtol=1e-4)


def test_poses_like_labelled_ones_weigh_more() -> None:
    labelled, close = 0.5, np.array([0.35, 0.5, 0.6, 0.7])
    few, fewer, many = (
        weight(10**7 * np.stack([close**0, 0 * close + share, close]), labelled_close_share=labelled)
        for share in (0.03 / 1.44, 0.025, 0.06)
    )
    # Coarser poses, and those that may share the image's errors, weigh what their outliers say.
    np.testing.assert_allclose(few, [1.44**1.5, 1.44**1.5 * 1.2**4.5, 1.44**1.5, 1.44**1.5], rtol=1e-3)
    np.testing.assert_allclose(fewer, 1.2**1.5, rtol=1e-3)
    np.testing.assert_allclose(many, 2**-1.5, rtol=1e-3)
    assert weight([10**7, 0, 5 * 10**6], labelled_close_share=labelled) == LARGEST_WEIGHT
    assert weight([10**7, 0, 5 * 10**6]) == LIMITS[1]
    # A few people do not count as labelled.
    assert weight([30, 0, 15], labelled_close_share=labelled) < 1.25 * weight([0, 0, 0])


def test_measured_by_image(refiner: Refiner, scenes: tuple[Any, Any]) -> None:
    images, poses = scenes
    measured = [refiner.measure_reliability([i], [p]) for i, p in zip(images, poses, strict=True)]
    assert measured[2] == 1
    assert len({1.0, *measured}) == 4
    assert all(LIMITS[0] < m < LIMITS[1] for m in measured)
    for image, pose, prior_weight in zip(images, poses, measured, strict=True):
        np.testing.assert_allclose(
            refiner.refine(image, pose), refiner.refine(image, pose, prior_weight=prior_weight), atol=2e-3
        )
    fixed = refiner.refine(images[1], poses[1], prior_weight=1.0)
    assert np.abs(refiner.refine(images[1], poses[1]) - fixed).max() > 0.01


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batching_does_not_matter(refiner: Refiner, scenes: tuple[Any, Any], batch_size: int) -> None:
    images, poses = scenes
    together = refiner.refine_batch(images, poses, batch_size=batch_size)
    for image, pose, refined in zip(images, poses, together, strict=True):
        np.testing.assert_allclose(refined, refiner.refine(image, pose), atol=2e-3)


def test_who_cannot_be_refined_does_not_count(refiner: Refiner, scenes: tuple[Any, Any]) -> None:
    image, pose = scenes[0][1], scenes[1][1]
    lost = np.concatenate([pose[:2], np.full((1, 17, 3), np.nan), pose[2:]])
    np.testing.assert_allclose(np.delete(refiner.refine(image, lost), 2, 0), refiner.refine(image, pose), atol=2e-3)
    assert refiner.measure_reliability([image], [lost]) == refiner.measure_reliability([image], [pose])


class Views:
    """A model whose people have 200 confident keypoints; of those at x = 1 all are outliers, and none is close."""

    backend, precision = "test", "float32"

    def forward(self, inputs: NetworkInput) -> View:
        return View(None, None, inputs.without_crops())

    def count(self, view: View) -> Any:
        far = view.inputs.crop_points[:, 0, 0] == 1
        return np.stack([np.full(len(far), 200), 200 * far, 0 * far])

    def decode(self, views: Any, prior_weight: Floats, decoder: str) -> Prediction:
        return Prediction(*(np.asarray(prior_weight)[:, None],) * 4)


@pytest.mark.parametrize(
    ("x", "flip_test", "outliers"), [(0, False, 0), (1, False, 400), (1, True, 200), (62, True, 200)]
)
def test_a_mirrored_output_counts_like_the_other(x: float, flip_test: bool, outliers: int) -> None:
    weights = replace(make_weights(input_hw=(64, 64)), calibration=Calibration(reference_outlier_rate=REFERENCE_RATE))
    points = np.full((2, 17, 2), x, np.float32)
    pose = (points, np.ones((2, 17), bool), np.ones((2, 17), np.float32), np.ones((2, 17), np.float32))
    runner = Runner(Views(), weights, threads=0)  # type: ignore[arg-type]
    options = Options(flip_test=flip_test)
    pieces = runner.start(NetworkInput(np.zeros((2, 64, 64, 3), np.uint8), *pose), options)
    expected = weight([400, outliers, 0], REFERENCE_RATE)
    assert runner.reliability(runner.counts(pieces)) == Reliability(expected, 400, outliers)
    np.testing.assert_allclose(runner.finish(pieces, options, np.array([0, 0])).confidence, expected)


def test_a_results_file_is_trusted_as_one(refiner: Refiner, scenes: tuple[Any, Any], tmp_path: Path) -> None:
    images, poses = scenes
    entries = []
    for image_id, (image, people) in enumerate(zip(images, poses, strict=True)):
        cv2.imwrite(str(tmp_path / f"{image_id:012d}.png"), image[..., ::-1])
        name = f"{image_id:012d}.png"
        entries += [{"image_id": image_id, "file_name": name, "keypoints": p.ravel().tolist()} for p in people]
    entries.append({"image_id": 9, "file_name": "gone.png", "keypoints": poses[0][0].ravel().tolist()})
    refined, report = refine_results(refiner, entries, tmp_path)
    best = [p[:MEASURED_PER_IMAGE] for p in poses]
    assert report.prior_weight == refiner.measure_reliability(images, best)
    assert report.confident >= report.outliers > 0
    line = (
        f"{report.outliers} of {report.confident} keypoints that the image shows clearly are elsewhere in its poses "
        f"(reliability {report.prior_weight:.2f} of usual)"
    )
    assert line in report.summary()
    again, given = refine_results(refiner, entries, tmp_path, options=Options(prior_weight=report.prior_weight))
    assert (again, given.prior_weight) == (refined, report.prior_weight)
    other, _ = refine_results(refiner, entries, tmp_path, options=Options(prior_weight=1.0))
    assert other != refined
    assert given.confident == 0
    assert "(1 suits a usual estimator)" in given.summary()
    assert refine_results(refiner, [], tmp_path)[1].prior_weight == 1


def test_measured_on_the_best_scored_of_many_images() -> None:
    scores = (0.1, None, 0.9, float("nan"), 0.5, 0.7)
    entries: list[Any] = [{"image_id": 1, "score": s, "keypoints": [5] * 51} for s in scores]
    shared = share_keypoints(COCO, COCO)
    ((_, best),) = results._sample(results._read(entries, None, shared, use_boxes=False))
    assert best == [2, 5, 4]
    seen: list[str] = []

    def prepare(unit: tuple[str, list[int]]) -> Any:
        if unit[0].startswith("bad"):
            raise ImageError(unit[0])
        seen.append(unit[0])
        return SimpleNamespace(rows=unit[1])

    taken: list[Any] = []
    watcher = SimpleNamespace(
        forward=lambda sample, _: (taken.extend(sample), Measured([], [], Reliability(1.0, 7, 1)))[1],
        decode=lambda *_: [],
    )
    many: list[Any] = [
        {"image_id": f"{'bad' if i % 2 else 'good'}{i:04d}", "keypoints": [5] * 51} for i in range(2000) for _ in "abc"
    ]
    people = results._read(many, None, shared, use_boxes=False)

    def measure(prepare: Any) -> Reliability:
        done = results._Done(len(many))
        return results._measure(watcher, results._sample(people), prepare, Options(), 2, done)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="zip"):  # nothing is decoded here
        measure(prepare)
    assert MEASURED <= sum(len(p.rows) for p in taken) < MEASURED + 3
    where = sorted(p.rows[0] for p in taken)
    assert where[0] < 600
    assert where[-1] > 5400
    assert len(seen) < 100
    with pytest.raises(RuntimeError, match="broken"):
        measure(lambda _: _raise())


def _raise() -> None:
    raise RuntimeError("broken")


def test_weights_that_cannot_tell(scenes: tuple[Any, Any], tmp_path: Path) -> None:
    images, poses = scenes
    silent = [
        make_weights(pose_entry="correction"),
        make_weights(
            Calibration(policy="always", reference_outlier_rate=REFERENCE_RATE),
            pose_entry="correction",
            pose_prior=False,
        ),
    ]
    for weights in silent:
        weights.state["correction.log_gain"] += 6.0
        refiner = Refiner(weights, device="cpu", precision="float32")
        assert refiner.measure_reliability(images, poses) == 1
        np.testing.assert_array_equal(
            refiner.refine(images[1], poses[1]), refiner.refine(images[1], poses[1], prior_weight=1)
        )
        assert refine_results(refiner, [], tmp_path)[1].prior_weight is None


def test_wrong_questions(refiner: Refiner, scenes: tuple[Any, Any]) -> None:
    images, poses = scenes
    assert refiner.measure_reliability([], []) == 1
    with pytest.raises(InputError, match="as many images as arrays of keypoints, got 4 and 3"):
        refiner.measure_reliability(images, poses[:3])
    for one, name in (("one.jpg", "path"), (Path("one.jpg"), "path"), (images[0], "array")):
        with pytest.raises(InputError, match=f"got one {name} and 1"):
            refiner.measure_reliability(one, poses[:1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size"):
        refiner.measure_reliability(images, poses, batch_size=-1)
    for wrong in (-0.1, 1.0, "much"):
        with pytest.raises(WeightsError, match="reference_outlier_rate: expected a"):
            replace(Calibration(), reference_outlier_rate=wrong)


def test_a_low_weight_of_one_that_is_like_the_network_is_told_apart() -> None:
    calibration = Calibration(reference_outlier_rate=0.022, outlier_exponent=3.0, independent_close_share=0.58)
    runner = Runner(SimpleNamespace(), make_weights(calibration, pose_prior=True), threads=0)  # type: ignore[arg-type]
    alike, weak = (runner.reliability(np.array(c, float)[:, None]) for c in ((3000, 20, 2300), (3000, 160, 1500)))
    assert alike.prior_weight < 0.8 > weak.prior_weight
    assert (alike.alike, weak.alike) == (True, False)
    said = [reliability_line(r.prior_weight, r.confident, r.outliers, r.alike) for r in (alike, weak)]
    assert "like the network itself" in said[0]
    assert "looks weak" in said[1]
