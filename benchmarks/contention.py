"""Throughput under other load: every backend alone, and next to processes that keep cores busy.

    python benchmarks/contention.py              # one busy process
    python benchmarks/contention.py --busy 2

For comparison torch also runs as it does by default, with threads inside the layers, on batches of 16. Rounds with and
without the busy processes alternate; the median counts. The last column is what the other work leaves.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.streams import usable_cores
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def rate(run: Callable[[], object], crops: int, seconds: float) -> float:
    """Crops per second."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        count += crops
    return count / (time.perf_counter() - start)


def runs(threads: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Name → what to run, and how many crops that is."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    poses = rng.uniform(20, 200, (16, 17, 3))
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for backend, module in (("torch", "torch"), ("onnx", "onnxruntime"), ("openvino", "openvino")):
        if not importlib.util.find_spec(module):
            continue
        refiner = Refiner.from_pretrained(device="cpu", backend=backend, threads=threads)
        inputs = refiner.prepare(image, poses).inputs

        def streams(refiner: Refiner = refiner, inputs: NetworkInput = inputs) -> None:
            for piece in refiner.runner.start(inputs, Options(prior_weight=1.0)):
                piece.result()

        found[f"{backend}, {threads} streams of one thread"] = streams, len(inputs)
        if backend == "torch":
            batch = inputs.to("cpu")

            def layers(network: RefinementNetwork = refiner.network, tensors: NetworkInput = batch) -> None:
                torch.set_num_threads(threads)
                with torch.inference_mode():
                    network.image_logits(tensors)

            found[f"torch, {threads} threads inside the layers"] = layers, len(inputs)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--busy", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    measured = runs(options.threads)
    for run, _ in measured.values():
        run()
    speeds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in measured}
    for _ in range(options.rounds):
        for loaded in (0, 1):
            context = multiprocessing.get_context("spawn")
            busy = [context.Process(target=spin, daemon=True) for _ in range(options.busy * loaded)]
            for process in busy:
                process.start()
            try:
                time.sleep(1.0 if busy else 0.0)  # until they spin
                for name, (run, crops) in measured.items():
                    speeds[name][loaded].append(rate(run, crops, options.seconds))
            finally:
                for process in busy:
                    process.terminate()
                    process.join()
    print(f"network alone, crops/s; {options.busy} busy processes; {options.rounds} rounds")
    print(f"{'':<40}{'alone':>8}{'loaded':>8}{'left':>7}")
    for name, both in speeds.items():
        alone, loaded = (statistics.median(s) for s in both)
        print(f"{name:<40}{alone:>8.1f}{loaded:>8.1f}{100 * loaded / alone:>6.0f}%")


if __name__ == "__main__":
    main()
