"""Train a student network on a teacher's heatmaps, without labels; resumable, one thread.

    python tools/teach.py …                      # targets, once per set of images
    python tools/distil.py configs/distil/student.yaml [--resume] [--evaluate]

Loss: cross-entropy against each heatmap divided by its sum, weighted by its height, so that what the teacher does
not see asks nothing. Writes ``checkpoint.safetensors`` (every few minutes), ``log.jsonl`` and at the end
``student.safetensors`` (averaged weights, float16) into ``out``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from student import Student
from teach import CROP_PER_HEATMAP, INPUT_HW, MAP_HW, MARGIN
from torch import Tensor
from torch.nn import functional as F

from posefix.evaluation.coco_ap import evaluate
from posefix.geometry import crop_affine, crop_rectangles, invert_affine, transform_points, warp_crop
from posefix.io.coco import read_annotations
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities
from posefix.keypoints.oks import keypoint_std
from posefix.keypoints.skeleton import COCO
from posefix.training.checkpoint import load_checkpoint, save_checkpoint
from posefix.training.config import Optimisation
from posefix.training.schedule import learning_rate
from posefix.weights.weights import load_weights

STRIDE, OFFSET = 4, 1.5


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each crop: scale (largest change), rotation (standard deviation, degrees; of a share of the
    samples), shift (share of the crop), mirror (share), colour (largest change of a channel's gain)."""

    scale: float = 0.25
    rotation: float = 20.0
    rotation_share: float = 0.5
    shift: float = 0.05
    mirror: float = 0.5
    colour: float = 0.25


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        out: folder.
        targets: files of tools/teach.py.
        seed: of everything random.
        frozen_blocks: the stem and this many blocks of the trunk stay as they are.
        trunk_rate: share of the learning rate that the package's own layers get.
        augmentation: of the crops.
        optimisation: as for ``posefix train``; its losses do not count here.
        validation: (annotations, images) pairs.
        every: steps between two validations; 0 is only at the end.
        checkpoint_minutes: between two checkpoints.
    """

    out: str
    targets: tuple[str, ...]
    seed: int = 1
    frozen_blocks: int = 6
    trunk_rate: float = 0.3
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimisation: Optimisation = field(default_factory=Optimisation)
    validation: tuple[tuple[str, str], ...] = ()
    every: int = 0
    checkpoint_minutes: float = 3.0


def read_config(path: Path) -> Config:
    """YAML → configuration; ``$NAMES`` in paths come from the environment."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    expand = os.path.expandvars
    data["out"], data["targets"] = expand(data["out"]), tuple(expand(t) for t in data["targets"])
    data["validation"] = tuple((expand(a), expand(i)) for a, i in data.get("validation", ()))
    data["augmentation"] = Augmentation(**data.get("augmentation", {}))
    data["optimisation"] = Optimisation(**data.get("optimisation", {}))
    return Config(**data)


class Targets:
    """Crops and heatmaps of several files of tools/teach.py; read from disk when asked for."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._files = [safe_open(p, framework="numpy") for p in paths]
        self._ends = [(f.get_tensor("crop_ends"), f.get_tensor("map_ends")) for f in self._files]
        self._starts = np.cumsum([0, *(len(c) - 1 for c, _ in self._ends)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """(336, 272, 3) RGB and (K, 64, 48) heights in 255ths of person ``index``."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[number])
        blobs = []
        for name, ends in zip(("crops", "maps"), self._ends[number], strict=True):
            blobs.append(self._files[number].get_slice(name)[int(ends[row]) : int(ends[row + 1])])
        image = np.ascontiguousarray(cv2.imdecode(blobs[0], cv2.IMREAD_COLOR)[..., ::-1])
        maps = np.frombuffer(zlib.decompress(blobs[1].tobytes()), np.uint8)
        return image, maps.reshape(-1, *MAP_HW)


def draw_affine(rng: np.random.Generator, augmentation: Augmentation) -> tuple[npt.NDArray[np.float64], bool]:
    """(2, 3) kept crop with margin → the student's crop, and whether it is mirrored."""
    height, width = INPUT_HW
    scale = math.exp(rng.uniform(-1, 1) * math.log1p(augmentation.scale))
    angle = rng.normal() * augmentation.rotation if rng.random() < augmentation.rotation_share else 0.0
    shift = rng.uniform(-augmentation.shift, augmentation.shift, 2) * (width, height)
    centre = np.array([width, height]) / 2 + MARGIN + shift
    half = np.array([width, height]) / 2 / scale
    mirrored = bool(rng.random() < augmentation.mirror)
    rectangle = np.concatenate([centre - half, centre + half])[None]
    turned = crop_affine(rectangle, INPUT_HW, rotation=np.array([angle]), mirror=np.array([mirrored]))
    return turned[0], mirrored


def cell_map(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(B, 2, 3) kept crop → student's crop, to (B, 2, 3) student's heatmap → teacher's heatmap."""
    back = invert_affine(affine)
    per_pixel = np.array(CROP_PER_HEATMAP)[:, None]
    linear = back[..., :2] * STRIDE / per_pixel
    constant = (back[..., :2].sum(-1) * OFFSET + back[..., 2] - MARGIN) / per_pixel[:, 0]
    return np.concatenate([linear, constant[..., None]], axis=-1)


def warp_maps(maps: Tensor, affine: npt.NDArray[np.float64]) -> Tensor:
    """The teacher's (B, K, 64, 48) heatmaps at the student's heatmap pixels; 0 outside."""
    height, width = MAP_HW
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    own = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).float()
    theirs = own @ torch.from_numpy(affine).float().transpose(1, 2)[:, None]
    grid = theirs * 2 / torch.tensor([width - 1.0, height - 1.0]) - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def make_batch(targets: Targets, config: Config, step: int) -> tuple[Tensor, Tensor]:
    """Crops (B, 256, 192, 3) and heatmaps (B, K, 64, 48) of a step: a function of seed and step."""
    size, count = config.optimisation.batch_size, len(targets)
    rng = np.random.default_rng((config.seed, 1, step))
    crops, maps, affines, mirrored = [], [], [], []
    for place in range(step * size, (step + 1) * size):
        image, heat = targets.read(_shuffled(count, config.seed, place // count)[place % count])
        affine, mirror = draw_affine(rng, config.augmentation)
        crops.append(warp_crop(image, affine, INPUT_HW, antialias=True))
        maps.append(torch.from_numpy(heat.copy()))
        affines.append(affine)
        mirrored.append(mirror)
    change = rng.uniform(-1, 1, (size, 1, 1, 3)) * config.augmentation.colour
    colour = np.clip(np.stack(crops) * (1 + change), 0, 255).astype(np.float32)
    heat = warp_maps(torch.stack(maps).float() / 255, cell_map(np.stack(affines)))
    flip = torch.from_numpy(COCO.flip_indices)
    return torch.from_numpy(colour), torch.where(torch.tensor(mirrored)[:, None, None, None], heat[:, flip], heat)


_ORDERS: dict[tuple[int, int, int], npt.NDArray[np.int64]] = {}


def _shuffled(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    key = (count, seed, epoch)
    if key not in _ORDERS:
        _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng((seed, 0, epoch)).permutation(count)
    return _ORDERS[key]


def distillation_loss(logits: Tensor, heatmaps: Tensor) -> Tensor:
    """Divergence of the soft-max over heatmap pixels from the normalised heatmap, weighted by its height."""
    flat = heatmaps.flatten(2).clamp_min(0)
    weight = flat.amax(-1)
    target = flat / flat.sum(-1, keepdim=True).clamp_min(1e-6)
    entropy = -(target * torch.log(target.clamp_min(1e-12))).sum(-1)
    cross = -(target * torch.log_softmax(logits.flatten(2), dim=-1)).sum(-1)
    return (weight * (cross - entropy)).sum() / weight.sum().clamp_min(1e-6)


class Validation:
    """AP of the student alone in labelled boxes."""

    def __init__(self, sets: tuple[tuple[str, str], ...]) -> None:
        self._sets = [(read_annotations(a, COCO), Path(i)) for a, i in sets]
        self._crops: list[tuple[Tensor, npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        for truth, folder in self._sets:
            rows = np.flatnonzero((truth.ground_truth[..., 2] > 0).any(-1))
            affine = crop_affine(crop_rectangles(truth.boxes_xyxy[rows], INPUT_HW), INPUT_HW)
            crops = []
            for row, matrix in zip(rows, affine, strict=True):
                name = str(folder / truth.images[truth.image_ids[row]].file_name)
                image = cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
                crops.append(warp_crop(np.ascontiguousarray(image), matrix, INPUT_HW, antialias=True))
            area = truth.area[rows] * affine[:, 0, 0] * affine[:, 1, 1]
            self._crops.append((torch.from_numpy(np.stack(crops)), affine, keypoint_std(area, COCO.sigmas), rows))

    @torch.inference_mode()
    def __call__(self, student: Student) -> dict[str, float]:
        """One figure for each set, by the name of its images' folder."""
        figures = {}
        for (truth, folder), (crops, affine, std, rows) in zip(self._sets, self._crops, strict=True):
            entries = []
            for start in range(0, len(crops), 8):
                part = slice(start, start + 8)
                with torch.autocast("cpu", torch.bfloat16):
                    logits = student(crops[part])
                scale = torch.from_numpy(std[part]).float() / STRIDE
                found, confidence = expected_similarity_argmax(heatmap_probabilities(logits), scale)
                points = transform_points(invert_affine(affine[part]), found.numpy() * STRIDE + OFFSET)
                for row, pose, score in zip(rows[part], points, confidence.numpy(), strict=True):
                    keypoints = np.concatenate([pose, score[:, None]], axis=-1)
                    entries.append(
                        {
                            "image_id": np.asarray(truth.image_ids)[row].item(),
                            "category_id": 1,
                            "keypoints": keypoints.reshape(-1).tolist(),
                            "score": float(score.mean()),
                        }
                    )
            figures[folder.name] = round(evaluate(truth, entries).ap, 4)
        return figures


def start_student(config: Config) -> Student:
    """Trunk and head of the package's weights, a decoder drawn from the seed; frozen layers need no gradients."""
    torch.manual_seed(config.seed)
    weights = load_weights(None)
    student = Student(weights.config.width, weights.config.last_channels, frozen_blocks=config.frozen_blocks)
    state = {k: v.float() for k, v in weights.state.items() if k.startswith(("trunk.", "head."))}
    missing = student.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    frozen = ("trunk.stem.", *(f"trunk.blocks.{i}." for i in range(config.frozen_blocks)))
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student


def make_optimiser(student: Student, config: Config) -> torch.optim.AdamW:
    """The package's layers learn more slowly; biases do not decay."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            factor = config.trunk_rate if name.startswith(("trunk.", "head.")) else 1.0
            decay = config.optimisation.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    options = [{"params": p, "factor": f, "weight_decay": d} for (f, d), p in groups.items()]
    return torch.optim.AdamW(options, lr=config.optimisation.learning_rate)


def _parts(size: int, micro: int) -> Iterator[slice]:
    for start in range(0, size, micro or size):
        yield slice(start, min(start + (micro or size), size))


def train(config: Config, *, resume: bool) -> Student:
    """Train; returns the averaged student."""
    out, optimisation = Path(config.out), config.optimisation
    path = out / "checkpoint.safetensors"
    if path.exists() != resume:
        raise SystemExit(f"{path}: {'exists, continue with --resume' if path.exists() else 'nothing to resume'}")
    out.mkdir(parents=True, exist_ok=True)
    student = start_student(config)
    average = copy.deepcopy(student).requires_grad_(False).eval()
    optimiser, targets, start = make_optimiser(student, config), Targets(config.targets), 0
    if resume:
        start = int(load_checkpoint(path, student, average, optimiser)["step"])
    validation = Validation(config.validation) if config.validation else None
    print(f"{len(targets)} people, step {start} of {optimisation.steps}", flush=True)

    def note(record: dict[str, Any]) -> None:
        with (out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)

    if validation and start == 0:
        note({"step": 0, **validation(average)})
    saved, total, seen = time.monotonic(), 0.0, 0
    began, worked = time.monotonic(), time.process_time()
    for step in range(start, optimisation.steps):
        rate = learning_rate(step, optimisation)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        crops, heatmaps = make_batch(targets, config, step)
        optimiser.zero_grad(set_to_none=True)
        for part in _parts(len(crops), optimisation.micro_batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=optimisation.bfloat16 != "off"):
                logits = student(crops[part])
            loss = distillation_loss(logits, heatmaps[part]) * (len(logits) / len(crops))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        seen += 1
        if not math.isfinite(total):
            raise SystemExit(f"the loss of step {step} is not finite; the last good checkpoint is {path}")
        torch.nn.utils.clip_grad_norm_(student.parameters(), optimisation.clip or math.inf)
        optimiser.step()
        decay = min(optimisation.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for own, new in zip(average.parameters(), student.parameters(), strict=True):
                if new.requires_grad:
                    own.lerp_(new, 1 - decay)
        done, last = step + 1, step + 1 == optimisation.steps
        if done % 25 == 0 or last:
            samples = seen * optimisation.batch_size
            speed = samples / (time.monotonic() - began), samples / (time.process_time() - worked)
            record = {"step": done, "rate": round(rate, 7), "loss": round(total / seen, 4)}
            note({**record, "per_s": round(speed[0], 2), "per_cpu_s": round(speed[1], 2)})
            total, seen, began, worked = 0.0, 0, time.monotonic(), time.process_time()
        if validation and (last or (config.every and done % config.every == 0)):
            note({"step": done, **validation(average)})
            began, worked = time.monotonic(), time.process_time()
        if last or time.monotonic() - saved > 60 * config.checkpoint_minutes:
            save_checkpoint(path, student, average, optimiser, {"step": done})
            saved = time.monotonic()
    return average


def main() -> None:
    """Train or go on, then write the student."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    config = read_config(options.config)
    student = train(config, resume=options.resume)
    state = {k: v.half().contiguous() for k, v in student.state_dict().items()}
    save_file(state, Path(config.out) / "student.safetensors")


if __name__ == "__main__":
    main()
