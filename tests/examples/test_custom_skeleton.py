"""A user's own keypoint set: the example runs, and its error rates reach the training samples."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from factories import FOUR
from posefix.exceptions import TrainingError
from posefix.io.json import write_json
from posefix.network.config import ModelConfig
from posefix.pose_errors.synthesis import ErrorRates, PartRates
from posefix.training.config import Augmentation, SetConfig, TrainingConfig, read_config
from posefix.training.data.batches import BatchStream
from posefix.training.data.people import read_people

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_skeleton.py"
NEVER = PartRates((0.0, 0.0), (0.0, 0.0, 0.0), 0.0, (0.0, 0.0))
ALWAYS_MIRRORED = PartRates((0.0, 0.0), (0.0, 0.0, 0.0), 1.0, (0.0, 0.0))


@pytest.mark.slow
def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--steps", "5"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    output = capsys.readouterr().out
    assert "left_wing" in output
    assert "all keypoints:" in output
    assert not list(tmp_path.glob("tmp*"))  # what it wrote is gone


def test_rates_reach_the_samples(tmp_path: Path) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    kites = example["write_set"](tmp_path, 4, np.random.default_rng(0))
    skeleton = example["KITE"]
    people = read_people((kites,), skeleton)
    model = ModelConfig(input_hw=(64, 64), num_keypoints=4)
    plain = Augmentation(scale=0, rotation_share=0, mirror=0)
    rates = ErrorRates({"wing": ALWAYS_MIRRORED}, other=NEVER)
    batch = BatchStream(people, skeleton, model, plain, batch_size=20, seed=0, rates=rates).batch(0)
    away = np.linalg.norm(batch.crop_points - batch.targets, axis=-1)
    mirrored = np.linalg.norm(batch.crop_points - batch.targets[:, skeleton.flip_indices], axis=-1)
    # Errors leave at least one keypoint in twenty good, whatever the rates.
    assert (mirrored < away)[:, 1:3].mean() > 0.8
    assert (away[:, [0, 3]] < 4).all()


def test_rates_in_a_configuration(tmp_path: Path) -> None:
    rates = ErrorRates({"hand": ALWAYS_MIRRORED}, other=NEVER)
    settings: dict[str, Any] = {
        "sets": [{"annotations": "a.json", "images": "a"}],
        "skeleton": FOUR.to_dict(),
        "rates": rates.to_dict(),
        "model": {"num_keypoints": 4},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    config = read_config(tmp_path / "own.yaml")
    assert config.rates == rates
    assert config.skeleton == FOUR
    write_json(tmp_path / "record.json", config.to_dict())  # the record is plain data
    assert ErrorRates.from_dict(config.to_dict()["rates"]) == rates
    without = TrainingConfig((SetConfig("a", "b"),))
    assert without.rates is None
    assert without.to_dict()["rates"] is None
    settings["rates"]["hand"]["jitters"] = 1
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(TrainingError, match="error rates"):
        read_config(tmp_path / "own.yaml")
