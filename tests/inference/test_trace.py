"""How many files one call of ``refine`` enters, and in how many containers a pose is on its way."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import posefix
from factories import make_weights, random_poses
from posefix.inference.refiner import Refiner
from posefix.weights.calibration import Calibration

SOURCE = Path(posefix.__file__).parent
CONTAINERS = {"Poses", "NetworkInput", "Prepared", "View", "Prediction", "Refined"}
MOST_FILES = 14


def test_the_way_of_a_pose_is_short() -> None:
    pytest.importorskip("onnxruntime")
    weights = make_weights(Calibration(reference_outlier_rate=0.5), input_hw=(64, 64), width=0.35)
    refiner = Refiner(weights, device="cpu", backend="onnx", threads=1)
    image, poses = np.zeros((48, 64, 3), np.uint8), random_poses(np.random.default_rng(0), 2)
    files: dict[str, None] = {}
    made: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and SOURCE in path.parents:
            files[str(path.relative_to(SOURCE))] = None
        # A dataclass's own __init__ has no file.
        elif event == "call" and frame.f_code.co_name == "__init__" and str(path) == "<string>":
            kind = type(frame.f_locals["self"])
            if kind.__module__.startswith("posefix."):
                made[kind.__name__] = None

    threading.setprofile(note)  # for the streams, which start with the first call
    sys.setprofile(note)
    try:
        refiner.refine(image, poses)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    print(f"\n{len(files)} files: {', '.join(files)}\n{len(made)} containers: {', '.join(made)}")
    assert {"inference/refiner.py", "inference/graph_model.py"} <= set(files)
    assert len(files) <= MOST_FILES
    assert set(made) == CONTAINERS
