"""Backends against each other: network alone and end to end, as ratios within this run.

    python benchmarks/engines.py                        # what is installed, all usable cores
    python benchmarks/engines.py --threads 1 --rounds 9

Every backend runs in short turns, one after the other and again, so that other work on the machine meets all of them
alike; the median over the rounds counts. The CPU time per crop hardly feels other work at all. Network alone is the
model on ready crops by the same streams; end to end is ``Refiner.refine_batch`` on images of eight people: all of them,
and a quarter of them, of whose time the beginning (cutting the first crops) and the end (the last people, of whom a
core may wait for another) are a larger part.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.streams import usable_cores
from posefix.network.inputs import NetworkInput

PEOPLE = 8
KINDS = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
MODULES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


@dataclass
class Times:
    """Seconds per crop, one number per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], object], crops: int) -> None:
        """One round."""
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        self.wall.append((time.perf_counter() - wall) / crops)
        self.cpu.append((time.process_time() - cpu) / crops)


def make_people(images: int) -> tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.float64]]]:
    """Images of noise, and the poses of eight people in each."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, (400, 240), (images, PEOPLE, 1, 2))
    points = corner + rng.uniform(0, (120, 200), (images, PEOPLE, 17, 2))
    poses = np.concatenate([points, np.ones((*points.shape[:3], 1))], -1)
    return [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(images)], list(poses)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="folder or hub repository; default those in the package")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    images, poses = make_people(options.images)
    few = max(options.images // 4, 1)
    crops, some = options.images * PEOPLE, few * PEOPLE

    refiners, start_up, alone, latency, whole, part = {}, {}, {}, {}, {}, {}
    for backend, precision in KINDS:
        if importlib.util.find_spec(MODULES[backend]):
            start = time.perf_counter()
            name = f"{backend} {precision}"
            refiners[name] = Refiner.from_pretrained(
                options.weights, device="cpu", backend=backend, precision=precision, threads=options.threads
            )
            refiners[name].refine_batch(images[:few], poses[:few])
            start_up[name] = time.perf_counter() - start
            alone[name], latency[name], whole[name], part[name] = Times(), Times(), Times(), Times()
    first = next(iter(refiners.values()))
    inputs = NetworkInput.join([first.prepare(i, p).inputs for i, p in zip(images, poses, strict=True)])
    for _ in range(options.rounds):
        for name, refiner in refiners.items():

            def network(refiner: Refiner = refiner, inputs: NetworkInput = inputs) -> None:
                for piece in refiner.runner.start(inputs, Options(prior_weight=1.0)):
                    piece.result()

            alone[name].add(network, crops)
            one = inputs.take(slice(0, 1))
            latency[name].add(lambda run=network, one=one: run(inputs=one), 1)
            whole[name].add(lambda refiner=refiner: refiner.refine_batch(images, poses), crops)
            part[name].add(lambda refiner=refiner: refiner.refine_batch(images[:few], poses[:few]), some)

    base = statistics.median(whole[next(iter(whole))].wall)
    print(f"{options.threads} threads, {options.rounds} rounds of {crops} crops; end to end relative to the first,")
    print("and to the network alone: time, and CPU time")
    print(
        f"{'':<18}{'network':>8}{'end to end':>12}{'ratio':>7}{'share':>7}{'CPU':>6}{f'{some} people':>11}{'share':>7}"
        f"{'CPU ms/crop':>13}{'one crop':>10}{'start':>8}"
    )
    for name in refiners:
        speed, total, short, alone_one = (statistics.median(t[name].wall) for t in (alone, whole, part, latency))
        network_cpu, cpu = (statistics.median(t[name].cpu) for t in (alone, whole))
        print(
            f"{name:<18}{1 / speed:>6.1f}/s{1 / total:>10.1f}/s{base / total:>7.2f}{speed / total:>7.0%}"
            f"{network_cpu / cpu:>6.0%}{1 / short:>9.1f}/s{speed / short:>7.0%}{1e3 * cpu:>13.1f}"
            f"{1e3 * alone_one:>7.0f} ms{start_up[name]:>6.1f} s"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    print(f"peak memory with all of them loaded {peak:.0f} MiB")


if __name__ == "__main__":
    main()
