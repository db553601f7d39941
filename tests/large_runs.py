"""A small input for runs in parts, and the command that refines it, which several test files vary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from factories import annotation_file, make_weights, results_of
from posefix.weights.weights import save_weights


def write_input(folder: Path, images: int = 24) -> list[dict[str, Any]]:
    """Images, some of them damaged, tiny weights and ``results.json`` in a folder."""
    rng = np.random.default_rng(3)
    (folder / "images").mkdir()
    for index in range(1, images + 1):
        texture = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
        cv2.imwrite(str(folder / "images" / f"{index:03d}.jpg"), texture)
        if index % 6 == 0:  # one in every part
            code = (folder / "images" / f"{index:03d}.jpg").read_bytes()
            (folder / "images" / f"{index:03d}.jpg").write_bytes(code[: len(code) // 2])
    entries = results_of(annotation_file(rng, images=images, people=3), rng)
    for entry in entries:
        entry["file_name"] = f"{entry['image_id']:03d}.jpg"
    entries[4]["keypoints"] = [1, 2, 3]
    (folder / "results.json").write_text(json.dumps(entries))
    save_weights(folder / "weights", make_weights(input_hw=(64, 64)))
    return entries


def command(folder: Path, out: Path, *more: str, results: str = "results.json") -> list[str]:
    """Arguments of ``posefix`` after the program's name."""
    return [
        "refine",
        str(folder / results),
        "--images",
        str(folder / "images"),
        "--out",
        str(out),
        *("--weights", str(folder / "weights"), "--device", "cpu", "--batch-size", "8", *more),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
