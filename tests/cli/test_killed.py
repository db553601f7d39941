"""``posefix refine`` and checkpoints killed at random moments, and a disk that is full."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from factories import annotation_file, make_weights, results_of
from posefix.cli.main import main
from posefix.drawing.tracks import write_video
from posefix.exceptions import PosefixError
from posefix.training.checkpoint import load_checkpoint, save_checkpoint
from posefix.training.example import write_example
from posefix.weights.weights import save_weights

pytestmark = pytest.mark.slow  # processes of their own
KILLS = 20


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    # A server that has imported everything makes each process in milliseconds, so kills fall into the work.
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["posefix.inference.results", "posefix.cli.main", "posefix.training.checkpoint"])
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    data = annotation_file(rng, images=6, people=3)
    (tmp_path / "results.json").write_text(json.dumps(results_of(data, rng)))
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "images").mkdir()
    for image in data["images"]:
        cv2.imwrite(str(tmp_path / "images" / image["file_name"]), np.zeros((480, 640, 3), np.uint8))
    save_weights(tmp_path / "weights", make_weights(input_hw=(64, 64), width=0.35))
    return tmp_path


def arguments(place: Path, out: Path) -> list[str]:
    given = ["refine", str(place / "results.json"), "--images", str(place / "images"), "--out", str(out)]
    return [*given, "--annotations", str(place / "val.json"), "--weights", str(place / "weights"), "--device", "cpu"]


def refine(place: Path, out: Path) -> None:
    torch.set_num_threads(1)
    main(arguments(place, out), standalone_mode=False)


def train(path: Path) -> None:
    """A checkpoint after another, without the steps between them."""
    network = torch.nn.Linear(400, 400)
    optimiser = torch.optim.AdamW(network.parameters())
    for step in range(10**6):
        save_checkpoint(path, network, network, optimiser, {"step": step})


def killed_after(process: multiprocessing.process.BaseProcess, seconds: float) -> bool:
    """Whether it was still at work."""
    process.join(seconds)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def test_refine_leaves_the_old_file_or_the_new_one(place: Path, context: ForkServerContext) -> None:
    out = place / "out.json"
    start = time.monotonic()
    refine(place, out)
    whole = time.monotonic() - start
    new, old = out.read_bytes(), b"[]\n"
    rng, cut = np.random.default_rng(1), 0
    for _ in range(KILLS):
        out.write_bytes(old)
        process = context.Process(target=refine, args=(place, out))
        process.start()
        cut += killed_after(process, float(rng.uniform(0, 1.5 * whole)))
        assert out.read_bytes() in (old, new)
    assert cut > 0
    refine(place, out)  # nothing that a kill left stands in the way
    assert out.read_bytes() == new


def test_a_checkpoint_is_whole_whenever_training_is_killed(tmp_path: Path, context: ForkServerContext) -> None:
    path, rng = tmp_path / "checkpoint.safetensors", np.random.default_rng(2)
    network = torch.nn.Linear(400, 400)
    for _ in range(KILLS):
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = context.Process(target=train, args=(path,))
        process.start()
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_mtime_ns == before:  # until it is at work
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert killed_after(process, float(rng.uniform(0, 0.1)))
        facts = load_checkpoint(path, network, network, torch.optim.AdamW(network.parameters()))
        assert facts["step"] >= 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("needs the program mount")
    if done.returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_training_with_one_sentence(tmp_path: Path, small_disk: Path) -> None:
    write_example(tmp_path / "kites")
    config = tmp_path / "kites" / "kite.yaml"
    text = re.sub(r"(?m)^out:.*$", f"out: {small_disk}/run", config.read_text())
    config.write_text(text.replace("steps: 400", "steps: 2"))
    done = CliRunner().invoke(main, ["train", str(config), "--device", "cpu"])
    assert done.exit_code == 1, done.output
    assert "No space left on device" in done.output.splitlines()[-1]
    assert "Traceback" not in done.output
    assert not list(small_disk.rglob("*.part*"))


def test_the_last_checkpoint_stays_when_the_disk_is_full(small_disk: Path) -> None:
    path, network = small_disk / "checkpoint.safetensors", torch.nn.Linear(30, 30)
    save_checkpoint(path, network, network, torch.optim.AdamW(network.parameters()), {"step": 1})
    (small_disk / "ballast").write_bytes(os.urandom(shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(PosefixError, match="No space left on device"):
        save_checkpoint(path, network, network, torch.optim.AdamW(network.parameters()), {"step": 2})
    facts = load_checkpoint(path, network, network, torch.optim.AdamW(network.parameters()))
    assert facts["step"] == 1
    assert sorted(os.listdir(small_disk)) == ["ballast", "checkpoint.safetensors"]


def test_a_video_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "a.mp4").write_bytes(b"old")
    frames = np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3)).astype(np.uint8)
    with pytest.raises(PosefixError, match="is the disk full"):
        write_video(small_disk / "a.mp4", frames, 25.0)
    assert [(p.name, p.read_bytes()) for p in small_disk.iterdir()] == [("a.mp4", b"old")]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(place: Path, small_disk: Path) -> None:
    out = small_disk / "out.json"
    out.write_bytes(b"[]\n")
    (small_disk / "ballast").write_bytes(os.urandom(56_000))
    done = CliRunner().invoke(main, arguments(place, out))
    assert done.exit_code == 1, done.output
    assert "No space left on device" in done.output
    assert "Traceback" not in done.output
    assert out.read_bytes() == b"[]\n"
    assert sorted(os.listdir(small_disk)) == ["ballast", "out.json"]
