"""Samples per second of training with one process and with several on this machine, as a table.

    python benchmarks/parallel_training.py ../shared/data/coco --processes 1 2

DATA is a folder with train.json and train/. Every process is one of ``torchrun``, on the CPU and with one thread. The
network is the package's, without its frozen trunk's gradients, as configs/embedded.yaml trains it. The first 50 steps
do not count. It starts from the package's weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import posefix

EMBEDDED = Path(posefix.__file__).parent / "weights" / "pretrained"


def samples_per_second(data: Path, processes: int, steps: int, folder: Path) -> float:
    """Of a run of its own."""
    folder.mkdir()
    config = {
        "out": str(folder / "run"),
        "model": json.loads((EMBEDDED / "config.json").read_text())["model"],
        "start": {"weights": str(EMBEDDED)},
        "sets": [{"annotations": str(data / "train.json"), "images": str(data / "train")}],
        "optimisation": {"steps": steps, "batch_size": 16, "freeze_trunk": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "posefix", "train", str(folder / "config.yaml"), "--device", "cpu"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return float([r["samples_per_s"] for r in records if "samples_per_s" in r][-1])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    print("| processes | samples/s | times one |\n|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for count in options.processes:
            speed = samples_per_second(options.data.resolve(), count, options.steps, Path(folder) / str(count))
            first = first or speed / count
            print(f"| {count} | {speed:.1f} | {speed / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
