"""Weights and configuration: strict, safe, and every fault one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
from posefix.io.atomic import JOURNAL
from posefix.network.config import ModelConfig, Normalisation
from posefix.weights.calibration import Calibration
from posefix.weights.weights import CONFIG_NAME, WEIGHTS_NAME, Weights, load_weights, save_weights, weights_files


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
        (lambda d: d["model"].update(input_hw="big"), "input_hw: expected a list"),
        (lambda d: d["model"].update(num_keypoints=16), "16 keypoints"),
        (lambda d: d["calibration"].update(temperature=[1.0, 1.0]), "17 values"),
        (lambda d: d["calibration"].update(policy="x"), "policy must be one of"),
        (lambda d: d["skeleton"].update(sigmas=[1.0]), "expected 17 sigmas"),
        (lambda d: d.update(model=3), "expected an object"),
    ],
)
def test_wrong_configuration(folder: Path, change: Any, part: str) -> None:
    edit(folder, change)
    with pytest.raises(WeightsError, match=part) as caught:
        load_weights(folder).build()
    assert "\n" not in str(caught.value)


def test_wrong_tensors(folder: Path) -> None:
    path = folder / WEIGHTS_NAME
    edit(folder, lambda d: d.pop("sha256"))
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


def test_tensors_that_the_configuration_was_not_written_with(folder: Path, tmp_path: Path) -> None:
    """As after a kill between two renames, or a mirror that mixes two versions."""
    weights = make_weights()
    other = replace(weights, state={k: v + 1 if v.is_floating_point() else v for k, v in weights.state.items()})
    save_weights(tmp_path / "other", other)
    (folder / WEIGHTS_NAME).write_bytes((tmp_path / "other" / WEIGHTS_NAME).read_bytes())
    with pytest.raises(WeightsError, match=r"is not the file that config\.json was written with"):
        load_weights(folder)
    # A calibration that was edited by hand belongs to the same tensors.
    edit(tmp_path / "other", lambda d: d["calibration"].update(prior_weight=0.5))
    assert load_weights(tmp_path / "other").calibration.prior_weight == 0.5
    for wrong in (7, "", ["a"], "0" * 64):
        edit(tmp_path / "other", lambda d, wrong=wrong: d.update(sha256=wrong))
        with pytest.raises(WeightsError, match="sha256"):
            load_weights(tmp_path / "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(folder: Path, value: float, tmp_path: Path) -> None:
    state = load_file(folder / WEIGHTS_NAME)
    state["head.2.bias"][3] = value
    with pytest.raises(WeightsError, match=r"head\.2\.bias has numbers that are not finite"):
        save_weights(tmp_path / "new", replace(make_weights(), state=state))
    assert not (tmp_path / "new").exists()
    with pytest.raises(WeightsError, match=r"head\.2\.bias has numbers that are not finite"):
        Refiner(replace(make_weights(), state=state))
    edit(folder, lambda d: d.pop("sha256"))
    save_file(state, folder / WEIGHTS_NAME)
    with pytest.raises(WeightsError, match=r"head\.2\.bias has numbers that are not finite"):
        load_weights(folder)
    state["head.2.bias"][3] = 1e6  # too large for float16
    with pytest.raises(WeightsError, match="not finite"):
        save_weights(tmp_path / "new", replace(make_weights(), state=state), half=True)


def test_a_folder_killed_while_it_is_written_loads_as_one_version(folder: Path) -> None:
    """Between the two renames the tensors are new and the old configuration is still in its place."""
    other = replace(make_weights(), about={"title": "new"})
    other = replace(other, state={k: v + 1 if v.is_floating_point() else v for k, v in other.state.items()})
    files = weights_files(other)
    (folder / WEIGHTS_NAME).write_bytes(files[WEIGHTS_NAME])
    (folder / JOURNAL).mkdir()
    (folder / JOURNAL / CONFIG_NAME).write_bytes(files[CONFIG_NAME])
    assert load_weights(folder).about == {"title": "new"}
    Refiner.from_pretrained(folder).save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", CONFIG_NAME, WEIGHTS_NAME]


WRITER = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from factories import make_weights
from posefix.weights.weights import save_weights
weights = [replace(make_weights(width=0.25), about={"title": t}) for t in ("a", "b")]
weights[1] = replace(weights[1], state={k: v + 1 if v.is_floating_point() else v for k, v in weights[1].state.items()})
print("ready", flush=True)
while True:
    for each in weights:
        save_weights(sys.argv[1], each)
"""


@pytest.mark.slow
def test_killed_writers_leave_weights_that_load(tmp_path: Path) -> None:
    """Two processes write two versions over each other and are killed at random moments."""
    folder = tmp_path / "weights"
    rng = np.random.default_rng(0)
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parents[1])]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for _ in range(5):
            time.sleep(float(rng.uniform(0.05, 0.3)))
            if folder.exists():
                load_weights(folder)  # also while they write
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        load_weights(folder).build()


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
    # 14 MB of float16.
    assert size < 14e6
    assert sum(p.numel() for p in weights.build().parameters()) < 7e6
