"""An exported folder gives torch's numbers: as one file for any program, and through ``Refiner``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from factories import make_weights
from posefix.cli.demo_pose import demo_crops
from posefix.cli.main import main
from posefix.exceptions import InputError, MissingDependencyError, WeightsError
from posefix.inference import export
from posefix.inference.export import check_parity, export_model
from posefix.inference.graph_model import OnnxRuntime, OpenVino
from posefix.inference.refiner import Refiner
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, save_weights

MODULES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture
def weights() -> Weights:
    made = make_weights(Calibration(policy="always", reference_outlier_rate=0.05), input_hw=(64, 64), uses_scores=True)
    made.state["correction.log_gain"] += 4.0
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("file_format", "half", "limit"), [("onnx", True, 0.5), ("openvino", False, 0.02)])
def test_round_trip(weights: Weights, tmp_path: Path, file_format: str, half: bool, limit: float) -> None:
    pytest.importorskip(MODULES[file_format])
    export_model(weights, tmp_path / "out", file_format=file_format, half=half)
    parity = check_parity(weights, tmp_path / "out", demo_crops(weights, np.random.default_rng(0), people=8))
    assert parity.keypoints == 8 * 17
    assert parity.per_mille <= parity.largest < limit
    refiner = Refiner.from_pretrained(tmp_path / "out", precision="float32")
    assert refiner.weights.exported == tmp_path / "out"
    assert refiner.model.backend in ("onnx", "openvino")
    rng = np.random.default_rng(1)
    image, poses = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), rng.uniform(5, 85, (3, 17, 3))
    expected = Refiner(weights, device="cpu", precision="float32").refine(image, poses)
    np.testing.assert_allclose(refiner.refine(image, poses), expected, atol=2 * limit)
    with pytest.raises(InputError, match="is an exported model"):
        _ = refiner.network


def test_the_file_stands_alone(weights: Weights, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    export_model(weights, tmp_path)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["crops", "crop_points", "valid", "std", "scores", "prior_weight"]
    outputs = [o.name for o in session.get_outputs()]
    assert outputs == [
        *["points", "confidence", "input_confidence", "presence", "confident", "outliers", "close", "image_logits"]
    ]
    said = json.loads(session.get_modelmeta().custom_metadata_map["posefix"])
    assert said == json.loads((tmp_path / "config.json").read_text())
    crops = demo_crops(weights, np.random.default_rng(0), people=5)
    feed = {n: getattr(crops, n) for n in ("crops", "crop_points", "valid", "std", "scores")}
    for people in (1, 5):
        some: dict[str, Any] = {k: v[:people] for k, v in feed.items()} | {"prior_weight": np.ones(people, np.float32)}
        found = dict(zip(outputs, session.run(None, some), strict=True))
        assert found["points"].shape == (people, 17, 2)
        assert found["image_logits"].shape == (people, 17, 16, 16)
    # More weight on the given pose brings the points nearer to it.
    far, near = (
        np.abs(
            session.run(["points"], feed | {"prior_weight": np.full(5, w, np.float32)})[0] - crops.crop_points
        ).mean()
        for w in (0.1, 5.0)
    )
    assert near < far


@pytest.mark.slow
def test_half_is_half(weights: Weights, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for name, half in (("whole", False), ("half", True)):
        export_model(weights, tmp_path / name, half=half)
    whole, half = ((tmp_path / n / "model.onnx").stat().st_size for n in ("whole", "half"))
    assert half < 0.65 * whole


@pytest.mark.slow
def test_command_fails_above_the_limit(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    save_weights(tmp_path / "weights", weights)
    arguments = ["export", "--weights", str(tmp_path / "weights"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "against torch in float32, 544 keypoints: 99.9 % within 0.0" in result.output
    monkeypatch.setattr(export, "check_parity", lambda *_: export.Parity(544, 3.0, 2.0, 0.1))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "differs from torch by more than 0.1 px" in result.output


@pytest.mark.parametrize("file_format", ["onnx", "openvino"])
def test_without_onnx_the_message_says_what_to_install(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        MissingDependencyError, match=rf"needs the package onnx: pip install 'posefix\[{file_format}\]'"
    ):
        export_model(weights, tmp_path / "out", file_format=file_format)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_mistakes_are_named(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file_format: expected one of onnx, openvino, got 'tflite'"):
        export_model(weights, tmp_path, file_format="tflite")
    pytest.importorskip("onnxruntime")
    export_model(weights, tmp_path / "out")
    loaded = Refiner.from_pretrained(tmp_path / "out").weights
    with pytest.raises(WeightsError, match="is exported already"):
        export_model(loaded, tmp_path / "again")
    with pytest.raises(InputError, match="is an exported model, expected 'onnx' or 'openvino', got 'torch'"):
        Refiner.from_pretrained(tmp_path / "out", backend="torch")
    (tmp_path / "out" / "decode.onnx").unlink()
    with pytest.raises(WeightsError, match=r"decode\.onnx or decode\.xml cannot be read"):
        Refiner.from_pretrained(tmp_path / "out")


def test_auto_takes_the_runtime_that_computes_right(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in MODULES.values():
        pytest.importorskip(module)
    export_model(weights, tmp_path)

    def wrong(*_: object, **__: object) -> None:
        raise WeightsError("computes other numbers")

    monkeypatch.setattr(OpenVino, "load", wrong)
    assert Refiner.from_pretrained(tmp_path).model.backend == "onnx"
    monkeypatch.setattr(OnnxRuntime, "load", wrong)
    with pytest.raises(WeightsError, match="computes other numbers"):
        Refiner.from_pretrained(tmp_path)
