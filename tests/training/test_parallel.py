"""``torchrun`` with two processes trains, validates and writes one set of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from factories import annotation_file
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, load_weights, save_weights

CONFIG = """
out: run
model: {input_hw: [64, 64]}
start: {weights: start}
sets: [{annotations: train.json, images: .}]
optimisation: {steps: 4, batch_size: 2, warmup: 2, freeze_trunk: true, bfloat16: "off"}
validation: {annotations: train.json, images: ., results: [results.json], every: 2}
"""


pytestmark = pytest.mark.slow  # processes of their own


def test_two_processes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = annotation_file(rng)
    for image in content["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), rng.integers(0, 256, (480, 640, 3)).astype(np.uint8))
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.9}
        for a in content["annotations"]
    ]
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "config.yaml").write_text(CONFIG)
    model = ModelConfig(input_hw=(64, 64))
    save_weights(tmp_path / "start", Weights(model, COCO, Calibration(), RefinementNetwork(model).state_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "posefix", "train", str(tmp_path / "config.yaml"), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert load_weights(tmp_path / "run" / "weights").build() is not None
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "results_ap" in r] == [2, 4]
