"""The mix of an image model and the own network is fitted where labels tell, and left alone where they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from factories import make_weights
from image_model_files import write_heatmap_onnx
from posefix.cli.main import main
from posefix.exceptions import InputError
from posefix.io.coco import annotations_of, read_annotations, read_results
from posefix.keypoints.skeleton import COCO
from posefix.network.config import Normalisation
from posefix.network.image_model import ImageModel, ImageModelConfig
from posefix.training.fusion import choose, fit_fusion
from posefix.weights.calibration import Calibration
from posefix.weights.image_models import describe_image_model
from posefix.weights.weights import Weights, load_weights, save_weights, with_image_model

CALIBRATION = Calibration(policy="always", reference_outlier_rate=0.2)


def scene(folder: Path, people: int = 12) -> tuple[Path, Path, dict[str, Any]]:
    """Images of one white spot each, where all keypoints of a person are annotated, and an estimator beside it."""
    rng = np.random.default_rng(0)
    images, labels, results = [], [], []
    for number in range(1, people + 1):
        image = np.zeros((256, 256, 3), np.uint8)
        spot = rng.uniform(100, 156, 2)
        cv2.circle(image, tuple(int(v) for v in spot.round()), 6, (255, 255, 255), -1)
        image = cv2.GaussianBlur(image, (0, 0), 6)
        cv2.imwrite(str(folder / f"{number:012d}.png"), image)
        spread = np.array([[-60.0, -80.0], [60.0, 80.0]])
        points = np.concatenate([np.tile(spot, (15, 1)), spot + spread])
        truth = np.concatenate([points, np.full((17, 1), 2.0)], -1)
        given = points + rng.normal(0, 14, points.shape)
        given[15:] = points[15:]
        images.append({"id": number, "file_name": f"{number:012d}.png", "width": 256, "height": 256})
        box = [float(spot[0]) - 64, float(spot[1]) - 84, 128.0, 168.0]
        labels.append(
            {"id": number, "image_id": number, "category_id": 1, "keypoints": truth.ravel().tolist(), "area": 8000.0}
            | {"bbox": box, "num_keypoints": 17, "iscrowd": 0}
        )
        pose = np.concatenate([given, np.ones((17, 1))], -1)
        results.append({"image_id": number, "category_id": 1, "keypoints": pose.ravel().tolist(), "score": 1.0})
    content = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "person"}]}
    truth_file, results_file = folder / "truth.json", folder / "results.json"
    truth_file.write_text(json.dumps(content))
    results_file.write_text(json.dumps(results))
    return truth_file, results_file, content


def looking(factor: float = 1.0) -> Weights:
    """Weights with an image model that finds the spot, and an own network that says nothing useful."""
    config = ImageModelConfig(input_hw=(256, 192), sharpness=4.0 * factor)

    def spot(crops: torch.Tensor) -> torch.Tensor:
        bright = crops.float().mean(-1)[:, None] / 255
        return torch.nn.functional.interpolate(bright, (64, 48), mode="area").expand(-1, 17, -1, -1)

    return with_image_model(make_weights(CALIBRATION, pose_entry="correction"), ImageModel(spot, config), CALIBRATION)


def test_a_mix_that_is_much_too_blunt_is_sharpened(tmp_path: Path) -> None:
    truth, results, _ = scene(tmp_path)
    found = fit_fusion(looking(0.02), read_annotations(truth, COCO), tmp_path, [read_results(results)])
    assert found.sharpness == pytest.approx(0.16)
    assert found.similarity[1] > found.similarity[0]
    assert 0 < found.reference_outlier_rate < 1


def test_closeness_is_that_of_labelled_poses(tmp_path: Path) -> None:
    truth, results, content = scene(tmp_path)
    labels = read_annotations(truth, COCO)
    at_the_spot = fit_fusion(looking(10.0), labels, tmp_path, [read_results(results)])
    for person in content["annotations"]:
        for index in range(15):
            person["keypoints"][3 * index] += 12.0
    beside = fit_fusion(looking(10.0), annotations_of(content, COCO), tmp_path, [read_results(results)])
    assert at_the_spot.labelled_close_share > 0.5 > beside.labelled_close_share


def test_an_image_model_that_shows_everything_beside_its_place(tmp_path: Path) -> None:
    """Whatever offset is believed before, about the same comes out."""
    truth, results, _ = scene(tmp_path, people=40)
    labels, files = read_annotations(truth, COCO), [read_results(results)]

    def beside(known: tuple[float, float]) -> Weights:
        weights = looking(10.0)
        assert weights.image_model is not None
        config = replace(weights.image_model.config, offset=known)
        return replace(weights, image_model=replace(weights.image_model, config=config))

    exact = fit_fusion(beside((0.0, 0.0)), labels, tmp_path, files).offset
    assert max(map(abs, exact)) < 1
    for known in ((4.0, -3.0), (-3.0, 4.0)):
        np.testing.assert_allclose(fit_fusion(beside(known), labels, tmp_path, files).offset, exact, atol=1.3)


def test_halves_must_agree() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(40)
    better = np.stack([np.full(40, 0.5), np.full(40, 0.6), rng.uniform(0.3, 0.7, 40)])
    assert choose(better, groups, 0) == 1
    # What is best in one half and worst in the other is not taken.
    odd = np.where(groups % 2, 0.9, 0.0)
    assert choose(np.stack([np.full(40, 0.5), odd, 0.89 - odd]), groups, 0) == 0
    assert choose(better, np.zeros(40, int), 0) == 0


def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    truth, results, content = scene(tmp_path, 2)
    with pytest.raises(InputError, match="these weights have none"):
        fit_fusion(make_weights(CALIBRATION), read_annotations(truth, COCO), tmp_path, [read_results(results)])
    nobody = annotations_of(content | {"annotations": []}, COCO)
    with pytest.raises(InputError, match="sharpness needs labels"):
        fit_fusion(looking(), nobody, tmp_path, [read_results(results)])


def test_the_command_writes_the_mix(tmp_path: Path) -> None:
    truth, results, _ = scene(tmp_path)
    bright = Normalisation("rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    file = write_heatmap_onnx(tmp_path / "spot.onnx", "udp")
    model = describe_image_model(file, "tinypose", sharpness=0.08, normalisation=bright)
    folder = tmp_path / "stronger"
    save_weights(folder, with_image_model(make_weights(CALIBRATION, pose_entry="correction"), model, CALIBRATION))
    result = CliRunner().invoke(
        main, ["calibrate", str(folder), str(truth), str(results), "--images", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    written = load_weights(folder)
    assert written.image_model is not None
    assert written.image_model.config.sharpness > 0.08
    assert f"sharpness 0.08 → {written.image_model.config.sharpness:g}" in result.output
    assert written.calibration.policy == "safe"
    assert len(written.calibration.temperature) == 17
    assert replace(written.image_model.config, sharpness=0.08, own_weight=1.0) == model.config
