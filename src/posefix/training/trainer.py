"""The training loop."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posefix.exceptions import TrainingError
from posefix.keypoints.codec import HeatmapCodec
from posefix.network.devices import autocast_dtype, pick_device
from posefix.network.model import RefinementNetwork
from posefix.training.checkpoint import load_checkpoint, save_checkpoint
from posefix.training.config import Optimisation, TrainingConfig
from posefix.training.data.batches import BatchStream
from posefix.training.data.device import images_for
from posefix.training.data.people import read_people
from posefix.training.data.sampling import Batch
from posefix.training.initial_weights import (
    start_from_imagenet,
    start_from_movenet,
    start_from_weights,
)
from posefix.training.losses import coordinate_loss, heatmap_loss
from posefix.training.progress import Progress
from posefix.training.schedule import average_decay, learning_rate

logger = logging.getLogger(__name__)

#: Called with the averaged network at each validation; returns figures for the log.
Validate = Callable[[RefinementNetwork], dict[str, float]]

#: The prior's few scalars move on a log scale and need larger steps than filters.
_PRIOR_RATE = 10.0


def build_network(config: TrainingConfig) -> RefinementNetwork:
    """A network with its start weights; random ones depend on the configuration's seed alone.

    Raises:
        WeightsError: start weights that cannot be read or do not fit.
        TrainingError: a frozen trunk or head that would be random.
    """
    torch.manual_seed(config.seed)
    network = RefinementNetwork(config.model)
    filled: set[str] = set()
    if config.start.movenet:
        filled = start_from_movenet(network, config.start.movenet)
    elif config.start.imagenet:
        start_from_imagenet(network, config.start.imagenet)
    elif config.start.weights:
        filled = start_from_weights(network, config.start.weights)
    random = [n for n in network.state_dict() if n.startswith(_frozen(config)) and n not in filled]
    if config.model.is_mobilenet and random:
        option = "freeze_trunk" if config.optimisation.freeze_trunk else "frozen_blocks"
        raise TrainingError(
            f"{option} in optimisation: {random[0]} has no start weights and would stay random; give start.movenet or "
            f"start.weights of this keypoint set, or leave {option} away"
        )
    return network


def _frozen(config: TrainingConfig) -> tuple[str, ...]:
    """Beginnings of the names of what a MobileNetV2 keeps as it came."""
    optimisation = config.optimisation
    if optimisation.freeze_trunk:
        return ("trunk.", "head.")
    blocks = (f"trunk.blocks.{i}." for i in range(optimisation.frozen_blocks))
    return ("trunk.stem.", *blocks) if optimisation.frozen_blocks else ()


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    device: str = "auto",
    validate: Validate | None = None,
    progress: bool = True,
) -> RefinementNetwork:
    """Train a refiner; under ``torchrun`` on several processes.

    Writes into ``config.out``: ``checkpoint.safetensors`` every few minutes, ``log.jsonl``, and at the end
    nothing else: the caller saves the returned network with its skeleton and model card.

    Args:
        config: the run.
        resume: go on from the checkpoint in ``config.out``; the result is the same as without the break.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``…
        validate: called every ``config.validation.every`` steps and at the end.
        progress: show a bar, or without a terminal lines in the log.

    Returns:
        the network with averaged weights, in evaluation mode, on the CPU.

    Raises:
        TrainingError: data or configuration do not fit, a checkpoint is in the way or missing, or the loss is
            no longer finite (the last good checkpoint stays).
    """
    rank, world = _join_processes(device)
    several_gpus = world > 1 and device == "auto" and torch.cuda.is_available()
    target = pick_device(f"cuda:{os.environ['LOCAL_RANK']}" if several_gpus else device)
    out, optimisation = Path(config.out), config.optimisation
    path = out / "checkpoint.safetensors"
    if path.exists() and not resume:
        raise TrainingError(f"{path} exists: continue with --resume, or choose another 'out' folder")
    if resume and not path.exists():
        raise TrainingError(f"nothing to resume: {path} does not exist")

    network = build_network(config).to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.model.is_mobilenet:
        network.frozen = optimisation.freeze_trunk
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.startswith(_frozen(config)))
    if optimisation.network_rate == 0:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("prior."))
    average = copy.deepcopy(network).requires_grad_(False).eval()
    optimiser = _make_optimiser(network, optimisation)
    start = 0
    if resume:
        facts = load_checkpoint(path, network, average, optimiser)
        start = int(facts["step"])
        logger.info("resuming at step %d of %d", start, optimisation.steps)
    # Each process sees its own part of every step's samples; gradients are averaged by DDP.
    model: nn.Module = network if world == 1 else DistributedDataParallel(network)
    people = read_people(config.sets, config.skeleton)
    stream = BatchStream(
        people,
        config.skeleton,
        config.model,
        config.augmentation,
        batch_size=optimisation.batch_size,
        seed=config.seed,
        rank=rank,
        cache_gb=config.cache_gb,
        workers=config.workers,
        rates=config.rates,
        images=images_for(
            people,
            config.model,
            target,
            feeding=config.feeding,
            cache_gb=config.cache_gb,
            workers=config.workers,
        ),
    )
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        logger.info("%d people on %d images, device %s", len(people), len(people.paths), target)

    def save(step: int) -> None:
        if rank == 0:
            save_checkpoint(path, network, average, optimiser, {"step": step, "config": config.to_dict()})

    dtype = autocast_dtype(target, optimisation.bfloat16)
    network.train()
    saved = time.monotonic()
    samples = optimisation.batch_size * world
    bar = Progress(optimisation.steps, start, samples, shown=progress and rank == 0)
    meter = _Meter(samples, target)
    for step, batch in enumerate(meter.timed(stream.batches(start, optimisation.steps)), start=start):
        rate = learning_rate(step, optimisation)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        tensors = batch.to(target)
        # Apart: weights that autocast has cast without a graph must not be reused where there is one.
        with torch.autocast(target.type, dtype or torch.bfloat16, enabled=dtype is not None):
            tensors = with_own_output(network, tensors, config.augmentation.self_input_prob)
        optimiser.zero_grad(set_to_none=True)
        value, logits = 0.0, []
        for part in _parts(tensors, optimisation.micro_batch):
            with torch.autocast(target.type, dtype or torch.bfloat16, enabled=dtype is not None):
                part_logits = model(part)
            loss = _loss(part_logits, part, network, optimisation) * (len(part_logits) / len(tensors))
            loss.backward()  # type: ignore[no-untyped-call]
            value += float(loss.detach())
            logits.append(part_logits.detach())
        if not math.isfinite(value):
            bar.close()
            raise TrainingError(
                f"the loss of step {step} is {value}; the last good checkpoint is {path if path.exists() else 'none'}: "
                "lower optimisation.learning_rate and continue with --resume"
            )
        if optimisation.clip:
            nn.utils.clip_grad_norm_(network.parameters(), optimisation.clip)
        optimiser.step()
        _update_average(average, network, average_decay(step, optimisation))

        meter.add(value, batch, torch.cat(logits), config.model.codec)
        bar.step()
        last = step + 1 == optimisation.steps
        if rank == 0 and ((step + 1) % 50 == 0 or last):
            record = {"step": step + 1, "rate": rate, **meter.take()}
            bar.describe(_describe(record))
            _append(out / "log.jsonl", record)
        every = config.validation.every
        if validate and rank == 0 and (last or (every and (step + 1) % every == 0)):
            figures = validate(copy.deepcopy(average).cpu())
            _append(out / "log.jsonl", {"step": step + 1, **figures})
            bar.clear()
            logger.info("step %d: %s", step + 1, "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        if last or time.monotonic() - saved > 60 * config.checkpoint_minutes:
            save(step + 1)
            saved = time.monotonic()
    bar.close()
    if world > 1:
        torch.distributed.destroy_process_group()
    result: RefinementNetwork = average.cpu()
    return result


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch, ``size`` samples at a time; 0 is all."""
    for start in range(0, len(batch), size or len(batch)):
        yield batch.take(slice(start, start + (size or len(batch))))


def _loss(logits: Tensor, batch: Batch, network: RefinementNetwork, optimisation: Optimisation) -> Tensor:
    codec, mask = network.config.codec, batch.target_mask
    target = codec.encode(batch.targets, mask, network.config.map_hw).to(logits.dtype)
    loss = optimisation.heatmap_loss * heatmap_loss(logits, target)
    if optimisation.coordinate_loss:
        loss = loss + optimisation.coordinate_loss * coordinate_loss(logits, codec.to_heatmap(batch.targets), mask)
    return loss


@torch.no_grad()
def with_own_output(network: RefinementNetwork, batch: Batch, share: float) -> Batch:
    """A batch of tensors whose first samples have the network's own output for them as input pose.

    Args:
        network: as it is now.
        batch: tensors.
        share: of the samples (their order is random already).
    """
    count = round(share * len(batch))
    if count == 0:
        return batch
    some = batch.take(slice(0, count))
    points, confidence = network.config.codec.decode(network(some), some.std)
    # What was missing is filled.
    new = {
        "crop_points": points,
        "valid": torch.ones_like(some.valid),
        "scores": confidence / confidence.amax(-1, keepdim=True).clamp_min(1e-9),
    }
    return replace(batch, **{name: torch.cat([value, getattr(batch, name)[count:]]) for name, value in new.items()})


def _join_processes(device: str) -> tuple[int, int]:
    """(rank, number) of this process under torchrun; (0, 1) without."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        cuda = device != "cpu" and torch.cuda.is_available()
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return torch.distributed.get_rank(), world


def _make_optimiser(network: RefinementNetwork, optimisation: Optimisation) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        prior = name.startswith("prior.")
        factor = _PRIOR_RATE if prior else optimisation.network_rate
        decay = optimisation.weight_decay if parameter.ndim > 1 and not prior else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    cls = torch.optim.AdamW if optimisation.optimiser == "adamw" else torch.optim.Adam
    options = [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    return cls(options, lr=optimisation.learning_rate)


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1.0 - decay)
    for own, other in zip(average.buffers(), network.buffers(), strict=True):
        own.copy_(other)


class _Meter:
    """Loss, input and output error in crop pixels, speed and waiting, since the last ``take``."""

    def __init__(self, samples_per_step: int, device: torch.device) -> None:
        self._samples, self._device = samples_per_step, device
        self._reset()

    def _reset(self) -> None:
        self._since, self._steps, self._loss = time.monotonic(), 0, 0.0
        self._waits: list[float] = []
        self._input: list[float] = []
        self._output: list[float] = []

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; how long each lets the device wait is measured."""
        while True:
            # A GPU waits only once its queue is empty; emptying it at every step would itself slow training down.
            measured = self._device.type != "cuda" or self._steps % 10 == 0
            if measured and self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            began = time.monotonic()
            batch = next(batches, None)
            if measured:
                self._waits.append(time.monotonic() - began)
            if batch is None:
                return
            yield batch

    def add(self, loss: float, batch: Batch, logits: Tensor, codec: HeatmapCodec) -> None:
        self._steps += 1
        self._loss += loss
        if self._steps % 10:
            return  # decoding every step would cost more than it tells
        points = codec.decode(logits, torch.from_numpy(batch.std).to(logits.device))[0].cpu()
        targets, mask = torch.from_numpy(batch.targets), torch.from_numpy(batch.target_mask)
        both = mask & torch.from_numpy(batch.valid)
        if both.any():
            inputs = torch.from_numpy(batch.crop_points)
            self._input.append(float((inputs - targets).norm(dim=-1)[both].mean()))
            self._output.append(float((points - targets).norm(dim=-1)[both].mean()))

    def take(self) -> dict[str, float]:
        seconds = max(time.monotonic() - self._since, 1e-9)
        record = {
            "loss": self._loss / max(self._steps, 1),
            "input_px": sum(self._input) / max(len(self._input), 1),
            "output_px": sum(self._output) / max(len(self._output), 1),
            "samples_per_s": self._steps * self._samples / seconds,
            "wait": sum(self._waits) / max(len(self._waits), 1) * self._steps / seconds,
        }
        self._reset()
        return {k: round(v, 4) for k, v in record.items()}


def _describe(record: dict[str, Any]) -> str:
    return (
        f"loss {record['loss']:.3f}, error {record['input_px']:.1f} → {record['output_px']:.1f} px, "
        f"{record['samples_per_s']:.0f} samples/s, waiting {record['wait']:.0%}"
    )


def _append(path: Path, record: dict[str, Any]) -> None:
    try:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written: {error.strerror}; the last checkpoint stays: make room and continue with "
            "--resume"
        ) from error
