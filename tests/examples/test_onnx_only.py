"""The example without posefix gives posefix's numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from factories import make_weights
from posefix.inference.export import export_model
from posefix.inference.refiner import Refiner
from posefix.weights.calibration import Calibration

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_only.py"


@pytest.mark.slow
def test_same_as_posefix(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    weights = make_weights(Calibration(policy="safe", margin=(0.01,) * 17), input_hw=(64, 64), uses_scores=True)
    export_model(weights, tmp_path)
    spec = importlib.util.spec_from_file_location("onnx_only", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    refiner = Refiner(weights, device="cpu", precision="float32")
    for side in (60, 200):
        pose = np.column_stack([rng.uniform(20, 20 + side, (17, 2)), rng.uniform(0.2, 1, 17)])
        expected = refiner.refine(image, pose[None], prior_weight=1.0)[0]
        np.testing.assert_allclose(module.refine(tmp_path, image, pose), expected, atol=1.0 if side > 100 else 0.05)
