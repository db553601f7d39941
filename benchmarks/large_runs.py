"""What parts and Ray cost: the same people refined as one file, in parts, and on Ray with one actor.

    python benchmarks/large_runs.py ../shared/data/coco --people 20000 --tiny

Prints one line per run: seconds, people/s, CPU seconds of the process itself and its largest memory. ``--tiny`` takes
an untrained network of 64 × 64 px, so that reading, cutting and writing show; without it, the weights in the package.
The input is the given results over and over, each time with images of other names (links), so that nothing is merged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, save_weights


def write_input(data: Path, results: str, people: int, folder: Path) -> None:
    """``results.json`` with that many people, and the folder ``images`` of links."""
    entries = json.loads((data / "results" / results).read_text())
    images = {i["id"]: i["file_name"] for i in json.loads((data / "val.json").read_text())["images"]}
    (folder / "images").mkdir()
    out: list[dict[str, Any]] = []
    copy = 0
    while len(out) < people:
        for entry in entries[: people - len(out)]:
            name = f"{copy}_{Path(images[entry['image_id']]).name}"
            link = folder / "images" / name
            if not link.is_symlink():
                link.symlink_to((data / "val" / images[entry["image_id"]]).resolve())
            out.append(entry | {"file_name": name, "image_id": f"{copy}_{entry['image_id']}"})
        copy += 1
    (folder / "results.json").write_text(json.dumps(out))


def run(title: str, people: int, arguments: list[str]) -> float:
    """One command in a process of its own."""
    start = time.perf_counter()
    code = (
        "import sys, resource; from posefix.cli.main import main; main.main(sys.argv[1:], standalone_mode=False); "
        "u = resource.getrusage(resource.RUSAGE_SELF); "
        "print('USAGE', u.ru_utime + u.ru_stime, u.ru_maxrss // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    seconds = time.perf_counter() - start
    _, cpu, memory = next(line for line in done.stdout.splitlines() if line.startswith("USAGE")).split()
    own = f"driver {float(cpu):.1f} CPU s, {memory} MiB"
    print(f"{title:24} {seconds:8.1f} s {people / seconds:8.1f} people/s   {own}", flush=True)
    return seconds


def main() -> None:
    """Run all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with val.json, val/ and results/")
    parser.add_argument("--results", default="simplepose.json")
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(options.data, options.results, options.people, folder)
        weights: list[str] = []
        if options.tiny:
            torch.manual_seed(0)
            config = ModelConfig(input_hw=(64, 64))
            save_weights(folder / "tiny", Weights(config, COCO, Calibration(), RefinementNetwork(config).state_dict()))
            weights = ["--weights", str(folder / "tiny")]
        common = ["refine", str(folder / "results.json"), "--images", str(folder / "images"), *weights]
        print(f"{options.people} people, {os.cpu_count()} CPUs, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
        for number in range(options.rounds):
            run("one file", options.people, [*common, "--out", str(folder / "plain.json")])
            run("parts", options.people, [*common, "--out", str(folder / f"parts{number}.json"), "--resume"])
            if not options.no_ray:
                ray = ["--engine", "ray", "--actors", "1"]
                run("Ray, one actor", options.people, [*common, "--out", str(folder / f"ray{number}.json"), *ray])
            same = (folder / "plain.json").read_bytes() == (folder / f"parts{number}.json").read_bytes()
            print("the same bytes" if same else "the same people", flush=True)
            assert json.loads((folder / "plain.json").read_text()) == json.loads(
                (folder / f"parts{number}.json").read_text()
            )


if __name__ == "__main__":
    main()
