"""CrowdPose: its own file's names, its area, its split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from factories import annotation_file, results_of
from posefix.cli.main import main
from posefix.evaluation.coco_ap import evaluate
from posefix.evaluation.crowdpose import PAPER_SPLIT, evaluate_crowdpose
from posefix.exceptions import FileFormatError, InputError
from posefix.io.coco import annotations_of
from posefix.keypoints.skeleton import CROWDPOSE

INDEX = (0.0, 0.15, 0.2, 0.5, 0.8, 1.0)


@pytest.fixture
def data() -> dict[str, Any]:
    """As the data set's files are: 'head' in the names, crowd index, no area."""
    data = annotation_file(np.random.default_rng(0), images=6, people=4, skeleton=CROWDPOSE)
    data["categories"][0]["keypoints"] = [*CROWDPOSE.keypoints[:12], "head", "neck"]
    for image, index in zip(data["images"], INDEX, strict=True):
        image["crowdIndex"] = index
    for person in data["annotations"]:
        del person["area"]
    return data


@pytest.fixture
def results(data: dict[str, Any]) -> list[dict[str, Any]]:
    return results_of(data, np.random.default_rng(1), noise=8.0)


def part(data: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    chosen = {i["id"] for i in data["images"] if low <= i["crowdIndex"] < high}
    return data | {
        "images": [i for i in data["images"] if i["id"] in chosen],
        "annotations": [a for a in data["annotations"] if a["image_id"] in chosen],
    }


@pytest.mark.parametrize("split", [(0.2, 0.8), PAPER_SPLIT])
def test_split(split: tuple[float, float], data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    metrics = evaluate_crowdpose(data, results, split=split)
    assert metrics.overall == evaluate(data, results, CROWDPOSE)
    for value, bounds in ((metrics.easy, (0, split[0])), (metrics.medium, split), (metrics.hard, (split[1], 2))):
        own = part(data, *bounds)
        ids = {i["id"] for i in own["images"]}
        assert value == pytest.approx(evaluate(own, [r for r in results if r["image_id"] in ids], CROWDPOSE).ap)
    assert len({metrics.easy, metrics.medium, metrics.hard}) == 3


def test_area_is_the_boxs_whatever_the_file_says(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    expected = evaluate_crowdpose(data, results)
    for person in data["annotations"]:
        person["area"] = 1e5
    assert evaluate_crowdpose(data, results) == expected
    assert evaluate(data, results, CROWDPOSE).ap > expected.overall.ap


def test_similarity_is_crowdposes(data: dict[str, Any]) -> None:
    """One person whose every keypoint is off by d: AP is the share of thresholds below exp(−d² / (2·area·(2σ)²))."""
    data |= {"images": data["images"][:1], "annotations": data["annotations"][:1]}
    person = data["annotations"][0]
    pose = np.reshape(np.array(person["keypoints"], float), (14, 3))
    seen = pose[:, 2] > 0
    sigmas = np.array([0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]) / 10
    area = 0.53 * person["bbox"][2] * person["bbox"][3]
    oks = np.exp(-(15.0**2) / (2 * area * (2 * sigmas[seen]) ** 2)).mean()
    pose[:, 0] += 15
    entry = {"image_id": 1, "category_id": 1, "keypoints": pose.reshape(-1).tolist(), "score": 1.0}
    metrics = evaluate_crowdpose(data, [entry])
    assert metrics.overall.ap == pytest.approx((np.linspace(0.5, 0.95, 10) <= oks).mean())
    assert metrics.easy == metrics.overall.ap
    assert np.isnan(metrics.medium)
    assert np.isnan(metrics.hard)


def test_the_files_names_are_known(data: dict[str, Any]) -> None:
    assert annotations_of(data, CROWDPOSE).ground_truth.shape == (24, 14, 3)
    data["categories"][0]["keypoints"][12] = "top_head"  # mmpose's
    assert annotations_of(data, CROWDPOSE).ground_truth.shape == (24, 14, 3)


def test_refusals(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="split"):
        evaluate_crowdpose(data, results, split=(0.8, 0.1))
    del data["images"][2]["crowdIndex"]
    with pytest.raises(FileFormatError, match="image 2: expected a number as 'crowdIndex'"):
        evaluate_crowdpose(data, results)


def test_command(data: dict[str, Any], results: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(results))
    command = ["evaluate", str(tmp_path / "val.json"), str(tmp_path / "results.json"), "--metric", "crowdpose"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].split() == ["results", "AP", "AP50", "AP75", "AR", "easy", "medium", "hard"]
    hard = 100 * evaluate_crowdpose(data, results).hard
    assert float(done.output.splitlines()[2].split()[-1]) == pytest.approx(hard, abs=0.06)
