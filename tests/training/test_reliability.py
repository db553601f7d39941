"""The rule for an estimator's weight is fitted where labels and a reference outlier rate allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import make_weights, random_poses
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import measured_prior_weight
from posefix.io.coco import Annotations, Results, annotations_of
from posefix.keypoints.skeleton import COCO
from posefix.training import reliability
from posefix.training.reliability import fit_reliability
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights

#: Of the estimator's keypoints from the labelled ones, and its scores.
OFFSET = np.array([3.0, 2.0, -1.0])
CALIBRATION = Calibration(policy="always", reference_outlier_rate=0.4, prior_weight=1.3)


def confident_weights(calibration: Calibration) -> Weights:
    """Random weights that are confident of everything."""
    weights = make_weights(calibration, input_hw=(64, 64), pose_entry="correction")
    weights.state["correction.log_gain"] += 6.0
    return weights


@pytest.fixture
def people(tmp_path: Path) -> tuple[Annotations, Results, Any]:
    """Labelled people of eight images, an estimator's results for them, and the labelled poses."""
    rng = np.random.default_rng(0)
    images, labels, results, poses = [], [], [], random_poses(rng, 8)
    poses[..., 2] = 2
    for number, pose in enumerate(poses, 1):
        name = f"{number:012d}.png"
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (480, 640, 3)).astype(np.uint8))
        images.append({"id": number, "file_name": name, "width": 640, "height": 480})
        low, high = pose[:, :2].min(0), pose[:, :2].max(0)
        box = [*low.tolist(), *(high - low).tolist()]
        common = {"image_id": number, "category_id": 1}
        person = {"id": number, "bbox": box, "area": 20000.0, "num_keypoints": 17, "iscrowd": 0}
        labels.append(common | person | {"keypoints": pose.ravel().tolist()})
        given = pose + OFFSET
        results.append(common | {"keypoints": given.ravel().tolist(), "score": 1.0})
    content = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "person"}]}
    return annotations_of(json.loads(json.dumps(content)), COCO), Results("results", results), poses


@pytest.mark.parametrize("best", [1.0, 3.0])
def test_the_exponent_that_fits_and_the_closeness_of_labels(
    people: tuple[Annotations, Results, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: float
) -> None:
    truth, results, poses = people
    weights = confident_weights(CALIBRATION)
    refiner = Refiner(weights, device="cpu", precision="float32")
    images = [str(tmp_path / f"{n:012d}.png") for n in range(1, 9)]

    def counts(given: Any) -> Any:
        prepared = refiner.prepare_images(images, list(given[:, None]), None, color="rgb", skeleton=None)
        return refiner.runner.counts(refiner.forward(list(prepared), Options()).pieces).sum(-1)

    rule = Calibration(reference_outlier_rate=0.4, outlier_exponent=best)
    right = 1.3 * float(measured_prior_weight(counts(poses + OFFSET), rule))

    def reached(refiner: Refiner, seen: Any, outputs: Any, power: float) -> Any:
        return np.full(len(seen.targets), -abs(np.log(power / right)))

    monkeypatch.setattr(reliability, "_similarity", reached)
    found = fit_reliability(weights, truth, tmp_path, [results])
    assert found.outlier_exponent == best
    confident, _, close = counts(poses)
    assert found.independent_close_share == pytest.approx(close / confident, abs=0.03)
    assert found.prior_weight == 1.3


def test_similarity_by_weight(people: tuple[Annotations, Results, Any], tmp_path: Path) -> None:
    """Poses that are nearly right are best left alone by a network that knows nothing."""
    truth, results, _ = people
    found = fit_reliability(confident_weights(CALIBRATION), truth, tmp_path, [results])
    assert found.outlier_exponent == 1.0  # with many outliers, the largest weight


def test_what_cannot_be_fitted_stays(people: tuple[Annotations, Results, Any], tmp_path: Path) -> None:
    truth, results, _ = people
    plain = Calibration(policy="always")
    assert fit_reliability(confident_weights(plain), truth, tmp_path, [results]) == plain
    no_people = annotations_of({"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}, COCO)
    assert fit_reliability(confident_weights(CALIBRATION), no_people, tmp_path, []) == CALIBRATION
