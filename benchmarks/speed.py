"""Crops per second: bare network and end to end, as a table with ratios within this run.

    python benchmarks/speed.py                         # embedded weights on the CPU
    python benchmarks/speed.py --device cuda --paper   # also the paper's networks, random weights

End to end is `Refiner.refine_batch` on 640 × 480 images of 8 people: crops, network, decoding, way back. The CPU's
memory allocator matters: preload tcmalloc (LD_PRELOAD=libtcmalloc_minimal.so.4) and compare.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from posefix.inference.crops import Prepared
from posefix.inference.options import Options, make_options
from posefix.inference.refiner import Refiner
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import PAPER_CALIBRATION
from posefix.weights.weights import Weights, load_weights

PEOPLE = 8


def rate(run: Callable[[], object], crops: int, seconds: float, device: str) -> float:
    """Crops per second, after one run to warm up."""
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    run()
    sync()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        sync()
        count += crops
    return count / (time.perf_counter() - start)


def networks(paper: bool) -> dict[str, Weights]:
    """Name → weights; the paper's are random."""
    embedded = load_weights()
    found = {"embedded {}x{}".format(*embedded.config.input_hw): embedded}
    for depth, hw in ((50, (256, 192)), (152, (384, 288))) if paper else ():
        config = ModelConfig.paper(depth, hw)
        state = RefinementNetwork(config).state_dict()
        found[f"ResNet-{depth} {hw[0]}x{hw[1]}"] = Weights(config, COCO, PAPER_CALIBRATION, state, {}, "random")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--paper", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(options.images)]
    corner = rng.uniform(0, (400, 240), (options.images, PEOPLE, 1, 2))
    points = corner + rng.uniform(0, (120, 200), (options.images, PEOPLE, 17, 2))
    poses = list(np.concatenate([points, np.ones((*points.shape[:3], 1))], -1))
    crops_in_all = options.images * PEOPLE
    print(f"{options.device}, {options.threads} threads, torch {torch.__version__}, batches of {options.batch_size}")
    print(f"{'network':<22}{'precision':<11}{'bare':>10}{'end to end':>12}{'with flip':>11}   crops/s (ratio to first)")
    first = None
    for name, weights in networks(options.paper).items():
        for precision in ("float32", "bfloat16"):
            refiner = Refiner(weights, device=options.device, precision=precision)
            prepared = [refiner.prepare(i, p) for i, p in zip(images[:2], poses[:2], strict=True)]
            people = len(prepared) * PEOPLE
            plain = make_options(batch_size=options.batch_size)

            def bare(refiner: Refiner = refiner, prepared: list[Prepared] = prepared, plain: Options = plain) -> object:
                return refiner.refine_prepared(prepared, plain)

            def whole(flip_indices: bool, refiner: Refiner = refiner) -> object:
                return refiner.refine_batch(images, poses, flip_test=flip_indices, batch_size=options.batch_size)

            speeds = [
                rate(bare, people, options.seconds, options.device),
                rate(lambda: whole(False), crops_in_all, options.seconds, options.device),
                rate(lambda: whole(True), crops_in_all, options.seconds, options.device),
            ]
            first = first or speeds[1]
            columns = "".join(f"{s:{w}.1f}" for s, w in zip(speeds, (10, 12, 11), strict=True))
            print(f"{name:<22}{precision:<11}{columns}   {speeds[1] / first:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
