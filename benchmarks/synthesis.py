"""Synthetic poses per second on one core.

    OMP_NUM_THREADS=1 python benchmarks/synthesis.py

The reference implementation makes 20 to 150.
"""

from __future__ import annotations

import time

import numpy as np

from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.synthesis import synthesize

PEOPLE, REPEATS = 1024, 10


def main() -> None:
    """Time poses without other instances, with one, and with three in a crowd."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (PEOPLE, 1, 2))
    centres = corner + rng.uniform(0, (100, 200), (PEOPLE, len(COCO), 2))
    ground_truth = rng.random((PEOPLE, len(COCO))) < 0.85
    area = np.full(PEOPLE, 0.53 * 100 * 200)
    print("other instances  poses/s")
    for count in (0, 1, 3):
        near = np.zeros((PEOPLE, count, len(COCO), 3))
        near[..., :2] = centres[:, None] + rng.uniform(-120, 120, (PEOPLE, count, 1, 2))
        near[..., 2] = 2
        synthesize(centres, ground_truth, COCO, area, rng, others=near)
        start = time.perf_counter()
        for _ in range(REPEATS):
            synthesize(centres, ground_truth, COCO, area, rng, others=near)
        print(f"{count:10d}  {PEOPLE * REPEATS / (time.perf_counter() - start):,.0f}")


if __name__ == "__main__":
    main()
