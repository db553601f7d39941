"""Train an image network on a teacher's heatmaps; resumable, on a CPU or a GPU.

    python tools/distil.py configs/distil/student.yaml [--resume] [--device cuda]

Targets of a person: the logarithm of the teacher's heatmaps (averaged over views, times a sharpness), the logits of
MoveNet's own network times a weight, and where a keypoint is labelled a prior around the label; of their sum the
soft-max. All crops and targets stay on the device: about 0.5 MB per person.

Writes ``checkpoint.safetensors`` (every few minutes), ``log.jsonl`` and at the end ``student.safetensors`` (averaged
weights, float16) into ``out``; tools/student.py measures it and makes a start for ``posefix train`` of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import yaml
from pack_crops import INPUT_HW, MARGIN
from safetensors.torch import load_file, save
from teacher import CELL, KEPT, KEPT_MAP_HW, Doubles, Teacher, centred, compose, mean_heatmaps, sample
from torch import Tensor, nn
from torch.nn import functional as F

from posefix.geometry import invert_affine
from posefix.io.atomic import write_file
from posefix.keypoints.heatmaps import draw_gaussians
from posefix.keypoints.oks import keypoint_std
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.devices import pick_device
from posefix.network.mobilenet import Mix
from posefix.network.model import RefinementNetwork
from posefix.training.checkpoint import load_checkpoint, save_checkpoint
from posefix.training.initial_weights import start_from_movenet


@dataclass(frozen=True)
class Targets:
    """What is to be learned."""

    sharpness: float  # multiplies the logarithm of the teacher's heatmaps
    floor: float  # lower heights of these say nothing
    own_weight: float  # multiplies MoveNet's logits, averaged over the crop and its mirror image
    label_weight: float  # multiplies the logarithm of the prior around labels:
    label_floor: float  # this, plus a Gaussian of the length scale of keypoint similarity,
    label_least_std: float  # but of at least so many pixels
    labelled_height: float  # keypoints count by the height of their heatmap, labelled ones at least so much
    seen_height: float  # from here on the teacher sees a keypoint
    seen_share: float  # people of whom it sees a smaller share are left out


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each crop."""

    scale: float  # largest change
    rotation: float  # standard deviation, degrees
    rotation_share: float  # of the samples
    shift: float  # largest, share of the crop
    mirror: float  # share of the samples
    channels: float  # largest change of each colour's gain
    brightness: float  # largest change of all three
    contrast: float  # largest change
    offset: float  # largest, grey levels
    grey: float  # share of the samples without colours
    degrade: float  # share of the samples at half resolution, and share of the samples with noise
    noise: float  # largest standard deviation, grey levels
    occlude: float  # probability of each of two rectangles: part of another sample, and a single colour


@dataclass(frozen=True)
class Config:
    """A run."""

    out: str  # folder
    teacher: str  # folder of model.xml and model.bin
    movenet: str  # of tools/import_movenet.py: stem and blocks start from it, and it adds to the targets
    model: ModelConfig  # the network whose trunk and head this is
    crops: Mapping[str, int]  # files of tools/pack_crops.py, and how often each one's people are drawn
    views: tuple[tuple[float, float, float, float], ...]  # of the teacher, see mean_heatmaps
    targets: Targets
    augmentation: Augmentation
    steps: int  # over which the learning rate falls to 0, as a cosine
    batch_size: int
    learning_rate: float
    trunk_rate: float  # share of it that stem and blocks get
    weight_decay: float  # of all but biases
    betas: tuple[float, float]  # of AdamW
    clip: float  # of the gradient's norm
    warmup: int  # steps
    average: float  # decay of the weights' moving average
    presence_weight: float  # of the loss by which each map's greatest logit learns the height of the heatmap
    compile: bool = True  # on a GPU
    stop: int = 0  # ends after so many steps, with the average as it is then; 0 is after all
    student: str = ""  # student.safetensors of another run to go on from
    checkpoint_minutes: float = 3.0
    seed: int = 1


def read_config(path: Path) -> Config:
    """YAML → configuration; ``$NAMES`` come from the environment, absent keys from the file that it ``extends``."""
    data: dict[str, Any] = {"extends": path.name}
    while "extends" in data:
        data = yaml.safe_load(os.path.expandvars((path.parent / data.pop("extends")).read_text())) | data
    data["model"] = ModelConfig.from_dict(data["model"])
    data["targets"] = Targets(**data["targets"])
    data["augmentation"] = Augmentation(**data["augmentation"])
    return Config(**data)


class People(NamedTuple):
    """N people of K keypoints, on the device."""

    crops: Tensor  # (N, 3, 400, 304) uint8 RGB
    targets: Tensor  # (N, K, 100, 76) uint8, each map's greatest value is 255
    weights: Tensor  # (N, K) of each keypoint in the loss
    heights: Tensor  # (N, K) of the teacher's heatmaps
    shares: Doubles  # (N,) probability that a sample is of this person; not on the device


def image_network(network: RefinementNetwork) -> nn.Module:
    """Crops (B, 3, H, W) in −1…1 → logits (B, K, H/4, W/4): trunk and head under the same names."""
    return nn.Sequential(OrderedDict(trunk=network.trunk, head=network.head))


def read_crops(path: str) -> tuple[Tensor, dict[str, Any]]:
    """(N, 3, 400, 304) uint8 RGB of a file of tools/pack_crops.py, and its other arrays."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    blob, ends = arrays.pop("blob"), arrays.pop("ends")

    def decode(i: int) -> Any:
        return np.asarray(cv2.imdecode(blob[ends[i] : ends[i + 1]], cv2.IMREAD_COLOR))[..., ::-1].transpose(2, 0, 1)

    with ThreadPoolExecutor() as threads:
        return torch.from_numpy(np.stack(list(threads.map(decode, range(len(ends) - 1))))), arrays


def own_logits(network: nn.Module, crops: Tensor) -> Tensor:
    """(B, K, 100, 76) of crops in 0…255 whose sides the network cannot take as they are."""
    below, right = (-s % 32 for s in crops.shape[-2:])
    logits: Tensor = network(F.pad(crops / 127.5 - 1, (0, right, 0, below)))
    return logits[..., : KEPT_MAP_HW[0], : KEPT_MAP_HW[1]].float()


@torch.no_grad()
def make_targets(
    crops: Tensor, labels: Tensor, std: Tensor, *, teacher: nn.Module, movenet: nn.Module, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, weights and heights of some people, as in ``People``.

    Args:
        crops: (B, 3, 400, 304) uint8.
        labels: (B, K, 3) pixels of the crop and visibility.
        std: (B, K) length scale of keypoint similarity, pixels.
        teacher: see ``mean_heatmaps``.
        movenet: see ``image_network``.
        config: what the targets are made of.
    """
    kept, how = crops.float(), config.targets
    heat = mean_heatmaps(teacher, kept, config.views)
    with torch.autocast(kept.device.type, torch.bfloat16, enabled=kept.is_cuda):
        flip = torch.from_numpy(COCO.flip_indices).to(kept.device)
        own = (own_logits(movenet, kept) + own_logits(movenet, kept.flip(3)).flip(3)[:, flip]) / 2
    labelled = labels[..., 2] > 0
    cells = (labels[..., :2] + MARGIN - 1.5) / 4
    # Where there is no label the prior is the same everywhere, which the soft-max does not see.
    around = draw_gaussians(cells, labelled, KEPT_MAP_HW, std.clamp_min(how.label_least_std) / 4)
    logits = how.sharpness * torch.log(heat.clamp_min(how.floor)) + how.own_weight * own
    flat = (logits + how.label_weight * torch.log(around + how.label_floor)).flatten(2)
    # Divided by its greatest value, the soft-max is this.
    targets = torch.exp(flat - flat.amax(-1, keepdim=True)).view_as(heat)
    heights = heat.flatten(2).amax(-1)
    weights = torch.where(labelled, heights.clamp_min(how.labelled_height), heights)
    return (targets * 255).round().to(torch.uint8), weights, heights


def read_people(config: Config, device: torch.device) -> People:
    """Everyone with targets."""
    teacher = Teacher(config.teacher).to(device).eval()
    model = ModelConfig(width=config.model.width, last_channels=config.model.last_channels, pose_entry="none")
    network = RefinementNetwork(model)
    start_from_movenet(network, config.movenet)
    movenet = image_network(network).to(device).eval()
    parts, repeats = [], []
    for path, times in config.crops.items():
        crops, arrays = read_crops(path)
        crops, labels = crops.to(device), torch.from_numpy(arrays["labels"]).to(device)
        std = torch.from_numpy(keypoint_std(arrays["areas"], COCO.sigmas)).float().to(device)
        size = 128 if crops.is_cuda else 16
        chunks = zip(*(torch.split(v, size) for v in (crops, labels, std)), strict=True)
        made = [make_targets(*chunk, teacher=teacher, movenet=movenet, config=config) for chunk in chunks]
        targets, weights, heights = (torch.cat(v) for v in zip(*made, strict=True))
        parts.append((crops, targets, weights, heights))
        seen = (heights > config.targets.seen_height).float().mean(1) > config.targets.seen_share
        repeats.append(seen.cpu().double().numpy() * times)
        print(f"{path}: {int(seen.sum())} of {len(crops)} people", flush=True)
    shares = np.concatenate(repeats)
    crops, targets, weights, heights = (torch.cat(v) for v in zip(*parts, strict=True))
    return People(crops, targets, weights, heights, shares / shares.sum())


def draw_affines(rng: np.random.Generator, count: int, how: Augmentation) -> tuple[Doubles, Any]:
    """(count, 2, 3) pixel of the changed crop → pixel of the crop, and which of them mirror."""
    scale = np.exp(rng.uniform(-1, 1, count) * math.log1p(how.scale))
    turned = rng.random(count) < how.rotation_share
    degrees = np.where(turned, rng.normal(size=count) * how.rotation, 0.0)
    shift = rng.uniform(-how.shift, how.shift, (count, 2)) * INPUT_HW[::-1]
    mirrored = rng.random(count) < how.mirror
    return centred(1 / scale, degrees, shift, INPUT_HW, mirror=mirrored), mirrored


def change_light(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Colour, contrast, resolution, noise and rectangles in front; (B, 3, H, W) in 0…255."""
    count, _, height, width = images.shape
    device = images.device

    def even(channels: int = 1) -> Tensor:
        return torch.rand(count, channels, 1, 1, device=device, generator=generator)

    def change(largest: float, channels: int = 1) -> Tensor:
        return (even(channels) * 2 - 1) * largest

    x = images * (1 + change(how.channels, 3)) * (1 + change(how.brightness))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + change(how.contrast)) + mean + change(how.offset)
    x = torch.where(even() < how.grey, x.mean(1, keepdim=True), x)
    poor = round(count * how.degrade)  # samples come in random order
    small = F.avg_pool2d(x[:poor], 2)
    noise = torch.randn(x[poor : 2 * poor].shape, device=device, generator=generator)
    noisy = x[poor : 2 * poor] + noise * even()[:poor] * how.noise
    x = torch.cat([F.interpolate(small, (height, width), mode="bilinear"), noisy, x[2 * poor :]])
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    for other in (True, False):
        middle = even() * height, even() * width
        half = (0.03 + 0.10 * even()) * height, (0.03 + 0.13 * even()) * width
        inside = ((rows - middle[0]).abs() < half[0]) & ((columns - middle[1]).abs() < half[1])
        front = x.roll(1, 0).flip(3) if other else even(3) * 255
        x = torch.where(inside & (even() < how.occlude), front, x)
    return x.clamp(0, 255)


@torch.no_grad()
def make_batch(people: People, config: Config, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A step's images (B, 3, H, W) in −1…1, targets (B, K, H/4, W/4), weights and heights (B, K).

    A function of seed and step.
    """
    rng, device = np.random.default_rng((config.seed, step)), people.crops.device
    chosen = rng.choice(len(people.shares), config.batch_size, p=people.shares)
    affine, mirrored = draw_affines(rng, config.batch_size, config.augmentation)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    rows, mirror = torch.from_numpy(chosen).to(device), torch.from_numpy(mirrored).to(device)
    kept = compose(KEPT, affine)
    images = change_light(sample(people.crops[rows].float(), kept, INPUT_HW), config.augmentation, generator)
    # Heatmap pixel of the changed crop → heatmap pixel of what is kept.
    cells = compose(invert_affine(CELL), compose(kept, CELL))
    targets = sample(people.targets[rows].float(), cells, (INPUT_HW[0] // 4, INPUT_HW[1] // 4)) / 255
    flip = torch.from_numpy(COCO.flip_indices).to(device)
    targets = torch.where(mirror[:, None, None, None], targets[:, flip], targets)
    weights, heights = (
        torch.where(mirror[:, None], v[:, flip], v) for v in (people.weights[rows], people.heights[rows])
    )
    # Moved out of the crop: nothing to learn but absence.
    inside = targets.flatten(2).amax(-1) > 0.5
    return images / 127.5 - 1, targets, weights * inside, heights * inside


def losses(logits: Tensor, targets: Tensor, weights: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of the soft-max from the targets, and cross-entropy of the greatest logits with the heights."""
    flat, target = logits.float().flatten(2), targets.flatten(2)
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
    divergence = (target * (torch.log(target.clamp_min(1e-9)) - torch.log_softmax(flat, -1))).sum(-1)
    presence = F.binary_cross_entropy_with_logits(flat.amax(-1), heights.clamp(0, 1))
    return (divergence * weights).sum() / weights.sum().clamp_min(1), presence


def start_student(config: Config) -> nn.Module:
    """Stem and blocks of MoveNet, the rest random; or another run's student."""
    torch.manual_seed(config.seed)
    network = RefinementNetwork(config.model)
    start_from_movenet(network, config.movenet)
    for module in network.trunk.modules():
        if isinstance(module, Mix):
            nn.init.normal_(module.project.weight, std=1e-3)
    student = image_network(network)
    if config.student:
        student.load_state_dict({k: v.float() for k, v in load_file(config.student).items()})
    return student


def make_optimiser(student: nn.Module, config: Config, *, fused: bool) -> torch.optim.AdamW:
    """MoveNet's layers learn more slowly; biases do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        factor = config.trunk_rate if name.startswith(("trunk.stem.", "trunk.blocks.")) else 1.0
        groups.setdefault((factor, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    options = [{"params": p, "factor": f, "weight_decay": d} for (f, d), p in groups.items()]
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=config.betas, fused=fused)


def train(config: Config, device: torch.device, *, resume: bool) -> nn.Module:
    """Train; returns the averaged student."""
    out = Path(config.out)
    path = out / "checkpoint.safetensors"
    if path.exists() != resume:
        raise SystemExit(f"{path}: {'exists, continue with --resume' if path.exists() else 'nothing to resume'}")
    out.mkdir(parents=True, exist_ok=True)
    cuda = device.type == "cuda"
    student: nn.Module = start_student(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(student).requires_grad_(False).eval()
    optimiser = make_optimiser(student, config, fused=cuda)
    start = int(load_checkpoint(path, student, average, optimiser)["step"]) if resume else 0
    for parameter, state in optimiser.state.items():
        # The fused optimiser wants the parameter's own layout, which the file does not keep.
        state.update({k: torch.empty_like(parameter).copy_(v) for k, v in state.items() if v.ndim == 4})
    people = read_people(config, device)
    torch.backends.cudnn.benchmark = True  # from here on all batches have one size
    model: Any = torch.compile(student, dynamic=False) if config.compile and cuda else student
    own: list[Tensor] = list(student.parameters())
    averaged: list[Tensor] = list(average.parameters())
    total, skipped, counted, began, saved = torch.zeros(2, device=device), 0, 0, time.monotonic(), time.monotonic()
    end = config.stop or config.steps
    for step in range(start, end):
        rate = min(1, (step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate * group["factor"]
        images, *wanted = make_batch(people, config, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        divergence, presence = losses(logits, *wanted)
        optimiser.zero_grad(set_to_none=True)
        (divergence + config.presence_weight * presence).backward()  # type: ignore[no-untyped-call]
        if bool(torch.isfinite(nn.utils.clip_grad_norm_(own, config.clip))):
            optimiser.step()
        else:
            skipped += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, own, 1 - min(config.average, (1 + step) / (20 + step)))
        total, counted = total + torch.stack([divergence, presence]).detach(), counted + 1
        done, last = step + 1, step + 1 == end
        if done % 100 == 0 or last:
            mean, seconds = (total / counted).tolist(), time.monotonic() - began
            record = {"step": done, "divergence": round(mean[0], 4), "presence": round(mean[1], 4), "skipped": skipped}
            record["per_s"] = round(counted * config.batch_size / seconds, 1)
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
            total, counted, began = torch.zeros_like(total), 0, time.monotonic()
        if last or time.monotonic() - saved > 60 * config.checkpoint_minutes:
            save_checkpoint(path, student, average, optimiser, {"step": done})
            saved = time.monotonic()
    return average


def main() -> None:
    """Train or go on, then write the student."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    config = read_config(options.config)
    student = train(config, pick_device(options.device), resume=options.resume)
    state = {k: v.half().cpu().contiguous() for k, v in student.state_dict().items()}
    write_file(Path(config.out) / "student.safetensors", save(state))


if __name__ == "__main__":
    main()
