"""Weights and configuration: strict, safe, and every fault one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import make_weights
from posefix.exceptions import WeightsError
from posefix.inference.refiner import Refiner
from posefix.network.config import ModelConfig, Normalisation
from posefix.weights.calibration import Calibration
from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, Weights, load_weights, save_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_weights(tmp_path / "weights", make_weights(), half=False)
    return tmp_path / "weights"


def test_round_trip(folder: Path) -> None:
    weights, again = make_weights(), load_weights(folder)
    assert again.config == weights.config
    assert again.skeleton == weights.skeleton
    assert again.calibration == weights.calibration
    assert again.origin == str(folder)
    for name, tensor in weights.state.items():
        torch.testing.assert_close(again.state[name], tensor, rtol=0, atol=0)
    assert not list(folder.glob("*.tmp"))


def test_half_precision_is_stored_and_computes_in_float32(tmp_path: Path) -> None:
    save_weights(tmp_path, make_weights(), half=True)
    assert (tmp_path / WEIGHTS_NAME).stat().st_size < 5.5e6
    assert all(p.dtype == torch.float32 for p in load_weights(tmp_path).build().parameters())


def test_refiner_saves_what_it_loaded(folder: Path, tmp_path: Path) -> None:
    image, pose = np.full((50, 60, 3), 90, np.uint8), np.random.default_rng(0).uniform(5, 45, (1, 17, 3))
    first = Refiner.from_pretrained(folder, device="cpu")
    first.save_pretrained(tmp_path / "copy")
    second = Refiner.from_pretrained(tmp_path / "copy", device="cpu")
    np.testing.assert_array_equal(first.refine(image, pose), second.refine(image, pose))


def edit(folder: Path, change: Any) -> None:
    data = json.loads((folder / CONFIG_NAME).read_text())
    change(data)
    (folder / CONFIG_NAME).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: d.update(format="other"), "not posefix's"),
        (lambda d: d.pop("skeleton"), "lacks the key 'skeleton'"),
        (lambda d: d["model"].update(depth=5), "unknown key 'depth'"),
        (lambda d: d["model"].update(backbone="vgg"), "backbone must be one of"),
        (lambda d: d["model"].update(input_hw=[250, 192]), "divisible by 32"),
        (lambda d: d["model"].update(input_hw="big"), "wrong type|input_hw"),
        (lambda d: d["model"].update(num_keypoints=16), "16 keypoints"),
        (lambda d: d["calibration"].update(temperature=[1.0, 1.0]), "17 values"),
        (lambda d: d["calibration"].update(policy="x"), "policy must be one of"),
        (lambda d: d["skeleton"].update(sigmas=[1.0]), "expected 17 sigmas"),
        (lambda d: d.update(model=3), "expected a JSON object"),
    ],
)
def test_wrong_configuration(folder: Path, change: Any, part: str) -> None:
    edit(folder, change)
    with pytest.raises(WeightsError, match=part) as caught:
        load_weights(folder).build()
    assert "\n" not in str(caught.value)


def test_wrong_tensors(folder: Path) -> None:
    path = folder / WEIGHTS_NAME
    state = load_file(path)
    missing = dict(state)
    missing.pop("head.2.bias")
    save_file(missing, path)
    with pytest.raises(WeightsError, match=r"head.2.bias is missing; they belong to another model"):
        Refiner.from_pretrained(folder)
    save_file(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="extra is not known"):
        Refiner.from_pretrained(folder)
    save_file(state | {"head.2.bias": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"shape \(3,\), expected \(17,\)"):
        Refiner.from_pretrained(folder)


def test_damaged_and_absent_files(folder: Path, tmp_path: Path) -> None:
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(folder)
    path.unlink()
    with pytest.raises(WeightsError, match=f"has no {WEIGHTS_NAME}"):
        load_weights(folder)
    (folder / CONFIG_NAME).write_text("{")
    with pytest.raises(WeightsError, match=r"has no|not JSON"):
        load_weights(folder)
    with pytest.raises(WeightsError, match="no such folder"):
        load_weights(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "file.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match="expected a folder"):
        load_weights(tmp_path / "file.bin")


def test_nothing_is_unpickled(folder: Path) -> None:
    torch.save(make_weights().state, folder / WEIGHTS_NAME)
    with pytest.raises(WeightsError, match="no safetensors file"):
        load_weights(folder)


def test_configuration_survives_json() -> None:
    for config in (ModelConfig(), ModelConfig.paper(), ModelConfig.paper(50, (256, 192), 16)):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    calibration = Calibration(temperature=(1.5,) * 17, margin=(0.1,) * 17)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    with pytest.raises(WeightsError, match="channels"):
        Normalisation(channels="grb")


def test_weights_refuse_another_skeleton() -> None:
    weights = make_weights()
    with pytest.raises(WeightsError, match="16 keypoints"):
        replace(weights, config=replace(weights.config, num_keypoints=16))


def test_embedded_weights_work_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = load_weights()
    assert isinstance(weights, Weights)
    assert weights.origin == "embedded"
    assert weights.about
    size = sum(t.numel() * t.element_size() for t in weights.state.values())
    assert size < 12e6
    # The bound is the package's: 12 MB of float16 (docs/architecture.md).
    assert sum(p.numel() for p in weights.build().parameters()) < 6e6
