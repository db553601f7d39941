"""Samples per second of batch making alone and of training, and how long training waits for data, as a table.

    python benchmarks/feeding.py CONFIG.yaml                                    # on the CPU
    python benchmarks/feeding.py packed/config.yaml --device cuda --batch-size 256 --threads 1 4 16

CONFIG is a training configuration, best of packed sets (tools/pack_shards.py). Its model and augmentation count, its
start weights do not: they are random, unless it has a second opinion. Training warms up for 50 steps, not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from posefix.training.config import Optimisation, Start, TrainingConfig, read_config
from posefix.training.data.batches import BatchStream
from posefix.training.data.device import DeviceImages
from posefix.training.data.people import People, read_people
from posefix.training.trainer import train

WARM_UP = 50


def alone(people: People, config: TrainingConfig, images: DeviceImages | None, steps: int, device: str) -> float:
    """Samples per second without training on them; the first tenth only warms up."""
    stream = BatchStream(
        people,
        config.skeleton,
        config.model,
        config.augmentation,
        batch_size=config.optimisation.batch_size,
        seed=0,
        cache_gb=config.cache_gb,
        workers=config.workers,
        rates=config.rates,
        images=images,
    )
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    skip, start = max(steps // 10, 2 * config.workers), 0.0
    for step, _ in enumerate(stream.batches(0, skip + steps), start=1):
        if step == skip:
            sync()
            start = time.perf_counter()
    sync()
    return steps * config.optimisation.batch_size / (time.perf_counter() - start)


def training(config: TrainingConfig, steps: int, device: str) -> tuple[float, float]:
    """Samples per second of training, and the share of time it waits for batches."""
    with tempfile.TemporaryDirectory() as out:
        optimisation = replace(config.optimisation, steps=WARM_UP + -(-steps // WARM_UP) * WARM_UP)
        run = replace(config, out=out, start=Start(), optimisation=optimisation, checkpoint_minutes=1e6)
        train(run, device=device, progress=False)
        lines = (Path(out) / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines][1:]
    return tuple(sum(r[key] for r in records) / len(records) for key in ("samples_per_s", "wait"))  # type: ignore[return-value]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=Optimisation.batch_size)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="that prepare batches")
    parser.add_argument("--cache-gb", type=float, help="default: the configuration's")
    parser.add_argument("--no-training", action="store_true", help="only batch making")
    options = parser.parse_args()
    config = read_config(options.config)
    optimisation = replace(config.optimisation, batch_size=options.batch_size)
    config = replace(config, optimisation=optimisation, cache_gb=options.cache_gb or config.cache_gb)
    people = read_people(config.sets, config.skeleton)
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU"
    print(f"{options.device} ({name}), {torch.get_num_threads()} torch threads, torch {torch.__version__}")
    print(f"{len(people)} people on {len(people.paths)} images, batches of {options.batch_size}, {options.steps} steps")
    start = time.perf_counter()
    device = torch.device(options.device)
    images = DeviceImages(people, config.model, device, cache_gb=config.cache_gb, workers=max(options.threads))
    print(f"decoded onto the device: {images.nbytes / 2**30:.2f} GiB in {time.perf_counter() - start:.1f} s")
    print(f"{'feeding':<9}{'threads':>8}{'alone':>11}{'training':>11}{'waiting':>9}   samples/s")
    for feeding in ("cpu", "device"):
        for threads in options.threads:
            run = replace(config, feeding=feeding, workers=threads)
            rate = alone(people, run, images if feeding == "device" else None, options.steps, options.device)
            columns = f"{rate:11.0f}"
            if not options.no_training:
                speed, wait = training(run, options.steps, options.device)
                columns += f"{speed:11.0f}{wait:9.0%}"
            print(f"{feeding:<9}{threads:>8}{columns}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    gpu = f", on the GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if device.type == "cuda" else ""
    print(f"peak memory {peak:.0f} MiB{gpu}")


if __name__ == "__main__":
    main()
