"""``torchrun`` with two processes trains, validates and writes one set of weights, and survives a death by --resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
optimisation: {steps: STEPS, batch_size: 2, warmup: 2, freeze_trunk: true, bfloat16: "off"}
validation: {annotations: train.json, images: ., results: [results.json], every: EVERY}
CHECKPOINTS
"""


pytestmark = pytest.mark.slow  # processes of their own


def write_run(folder: Path, steps: int, every: int, checkpoints: str = "") -> list[str]:
    """Data, start weights and configuration; returns the command that trains with two processes."""
    rng = np.random.default_rng(0)
    content = annotation_file(rng)
    for image in content["images"]:
        cv2.imwrite(str(folder / image["file_name"]), rng.integers(0, 256, (480, 640, 3)).astype(np.uint8))
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.9}
        for a in content["annotations"]
    ]
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    config = CONFIG.replace("STEPS", str(steps)).replace("EVERY", str(every)).replace("CHECKPOINTS", checkpoints)
    (folder / "config.yaml").write_text(config)
    model = ModelConfig(input_hw=(64, 64))
    save_weights(folder / "start", Weights(model, COCO, Calibration(), RefinementNetwork(model).state_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*command, "-m", "posefix", "train", str(folder / "config.yaml"), "--device", "cpu"]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def test_two_processes(tmp_path: Path) -> None:
    command = write_run(tmp_path, steps=4, every=2)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert load_weights(tmp_path / "run" / "weights").build() is not None
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "results_ap" in r] == [2, 4]


def children_of(parent: int) -> dict[int, str]:
    """Processes and the rank that each has."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent:
            ranks = [e.decode().partition("=")[2] for e in environment if e.startswith(b"RANK=")]
            found[int(path.name)] = ranks[0] if ranks else ""
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_and_resume_goes_on(tmp_path: Path) -> None:
    command = write_run(tmp_path, steps=40, every=0, checkpoints="checkpoint_minutes: 0.0")
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env=ENVIRONMENT)
        end = time.monotonic() + 200
        while not checkpoint.exists() and time.monotonic() < end:
            time.sleep(0.02)
        (second,) = (pid for pid, rank in children_of(process.pid).items() if rank == "1")
        os.kill(second, signal.SIGKILL)
        assert process.wait(200) != 0
    told = (tmp_path / "stderr").read_text()
    assert "Signal 9 (SIGKILL)" in told
    assert "another process of this training has ended; continue with --resume" in told
    done = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stderr
    assert load_weights(tmp_path / "run" / "weights").build() is not None
