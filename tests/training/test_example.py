"""``posefix train --example``: what it writes trains, and the commands of its README run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from posefix.cli.main import main
from posefix.inference.refiner import Refiner
from posefix.io.coco import read_annotations, read_results
from posefix.training.config import read_config
from posefix.training.example import write_example
from posefix.weights.model_card import model_card
from posefix.weights.weights import load_weights


def run(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line))


@pytest.mark.slow
def test_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train --example kites")
    assert result.exit_code == 0, result.output
    assert "posefix train kites/kite.yaml" in result.output
    monkeypatch.chdir(tmp_path / "kites")
    text = Path("kite.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    settings["optimisation"] |= {"steps": 2, "warmup": 1, "batch_size": 2}
    Path("kite.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    lines = re.findall(r"^posefix (.*)$", Path("README.md").read_text(encoding="utf-8"), re.M)
    assert [line.split()[0] for line in lines] == ["train", "refine", "evaluate", "diagnose"]
    for line in lines:
        result = run(line)
        assert result.exit_code == 0, f"{line}: {result.output}"
    assert Path("report.html").stat().st_size > 10_000
    refiner = Refiner.from_pretrained("run/weights")
    assert refiner.skeleton.keypoints[3] == "knot"
    weights = load_weights("run/weights")
    assert weights.about["licence"] == "cc0-1.0"
    assert "# Kites" in model_card(weights)
    result = run("calibrate run/weights val.json results.json --images val/ --margin 0.02")
    assert result.exit_code == 0, result.output
    assert "expected calibration error after:" in result.output
    calibration = load_weights("run/weights").calibration
    assert calibration.policy == "safe"
    assert calibration.margin == (0.02,) * 5
    assert len(calibration.temperature) == 5
    # Also by the weights' own keypoint set.
    assert run("evaluate val.json results.json --skeleton run/weights").exit_code == 0


def test_files_are_what_the_configuration_says(tmp_path: Path) -> None:
    config = read_config(write_example(tmp_path / "new"))
    assert config.model.num_keypoints == len(config.skeleton) == 5  # the file does not give it
    annotations = read_annotations(config.validation.annotations, config.skeleton)
    results = read_results(config.validation.results[0])
    assert len(annotations.image_ids) == len(results) == 100
    assert (annotations.ground_truth[..., :2] > 0).all()
    assert (annotations.ground_truth[..., :2] < 128).all()


def test_content_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    result = run(f"train --example {tmp_path}")
    assert result.exit_code == 1
    assert "expected a new or empty folder" in result.output
    assert run("train").exit_code == 2
    assert "train --example DIR" in run("train").output
    assert run(f"train some.yaml --example {tmp_path}").exit_code == 2
