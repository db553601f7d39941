"""Crops made on the device: images decoded onto it once, then cut and augmented there in batches.

Decisions come from ``plan.py``; only they and silhouettes travel to the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.exceptions import TrainingError
from posefix.geometry import invert_affine
from posefix.inference.batching import pool_of_generator
from posefix.network.config import ModelConfig
from posefix.training.data.people import Images, People
from posefix.training.data.photometric_torch import distort_tensors
from posefix.training.data.sampling import Plan

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating]

#: Shrunk copies of each image, by 1, 2, 4 and 8, for crops that would skip pixels.
_LEVELS = 4
#: Copies that travel to the device together.
_TOGETHER = 4000
#: Images decoded to estimate the size of all.
_PROBED = 32


class DeviceImages:
    """All images of a training run on one device, and the crops cut from them.

    They lie one after the other in one flat tensor, each in its own size: four bytes per pixel.

    Args:
        people: whose images.
        model: crop size; with ``antialias``, shrunk copies are kept as well.
        device: where.
        cache_gb: memory they may take there.
        workers: threads that decode.

    Raises:
        TrainingError: an image cannot be read, or they do not fit.
    """

    def __init__(
        self, people: People, model: ModelConfig, device: torch.device, *, cache_gb: float = 4.0, workers: int = 2
    ) -> None:
        self._image, self._model, self._device = people.image, model, device
        self._levels = _LEVELS if model.antialias else 1
        budget, shapes, flat = int(cache_gb * 2**30), [], []
        for image in self._decode(people, max(workers, 1)):
            shapes += [level.shape for level in image]
            flat += [level.reshape(-1) for level in image]
            budget -= sum(level.nbytes for level in image)
            if budget < 0:
                raise TrainingError(
                    f"feeding: the images take more than cache_gb, {cache_gb} GiB, on the device: raise it, pack the "
                    "sets with tools/pack_shards.py, or choose feeding: cpu"
                )
        self._hw = np.array(shapes, np.int64).reshape(-1, self._levels, 2)
        ends = np.cumsum(self._hw.prod(-1).reshape(-1))
        self._start = np.concatenate([[0], ends[:-1]]).reshape(-1, self._levels)
        self._pixels = torch.empty(int(ends[-1]), dtype=torch.int32, device=device)
        for first in range(0, len(flat), _TOGETHER):
            part = np.concatenate(flat[first : first + _TOGETHER])
            end = int(ends[min(first + _TOGETHER, len(flat)) - 1])
            self._pixels[end - len(part) : end] = torch.from_numpy(part)
        # A stream of its own lets crops be made while the network computes.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self._stream is not None:
            torch.cuda.synchronize(device)

    @property
    def nbytes(self) -> int:
        """Memory taken on the device."""
        return self._pixels.nbytes

    def _decode(self, people: People, workers: int) -> Iterator[list[npt.NDArray[np.int32]]]:
        """Each image as (H, W) of [r, g, b, 0] in one int32, and its shrunk copies."""
        images = Images(people.paths, 0.0, people.codes)

        def pack(index: int) -> list[npt.NDArray[np.int32]]:
            levels = [images.decode(index)]
            height, width = levels[0].shape[:2]
            for level in range(1, self._levels):
                small = (max(width >> level, 1), max(height >> level, 1))
                levels.append(np.asarray(cv2.resize(levels[0], small, interpolation=cv2.INTER_AREA), np.uint8))
            # Four bytes are one aligned read on a GPU, three are not.
            return [np.dstack([p, np.zeros_like(p[..., 0])]).view(np.int32)[..., 0] for p in levels]

        count, block = len(people.paths), 64 * workers
        with pool_of_generator(workers) as pool:
            for start in range(0, count, block):  # in blocks, so that a full budget stops it early
                yield from pool.map(pack, range(start, min(start + block, count)))

    @torch.no_grad()
    def paint(self, plan: Plan) -> Tensor:
        """(B, H, W, 3) uint8 crops of a batch, on the device and complete; from one thread at a time."""
        if self._stream is None:
            return self._paint(plan)
        with torch.cuda.stream(self._stream):
            crops = self._paint(plan)
        self._stream.synchronize()
        return crops

    def _paint(self, plan: Plan) -> Tensor:
        crops = self._cut(plan.rows, plan.affine)
        masks = plan.masks
        if len(masks.crops):
            index = torch.from_numpy(masks.crops).to(self._device)
            alpha = torch.from_numpy(masks.alpha).to(self._device, torch.float32)[..., None] / 255
            crops[index] = torch.lerp(crops[index], self._cut(masks.rows, masks.affine), alpha).floor()
        return distort_tensors(crops, plan.distort).to(torch.uint8)

    def _cut(self, rows: npt.NDArray[np.int64], affine: Floats) -> Tensor:
        """(B, H, W, 3) float32 whole grey levels: bilinear, zero outside, as ``geometry.warp_crop``."""
        image = self._image[rows]
        inverse, level = self._sampling(image, affine)
        data = [inverse.astype(np.float32), self._hw[image, level], self._start[image, level]]
        maps, hw, start = (torch.from_numpy(a).to(self._device, non_blocking=True) for a in data)
        height, width = (hw[:, i, None, None] for i in (0, 1))
        maps = maps[..., None, None]
        across = torch.arange(self._model.input_hw[1], device=self._device)
        down = torch.arange(self._model.input_hw[0], device=self._device)[:, None]
        x, y = (maps[:, i, 0] * across + maps[:, i, 1] * down + maps[:, i, 2] for i in (0, 1))
        # Far outside is black wherever it is exactly, and must stay a valid integer.
        x, y = x.clamp(min=-2).minimum(width + 1.0), y.clamp(min=-2).minimum(height + 1.0)
        left, top = x.floor(), y.floor()
        right_share, low_share = x - left, y - top
        crops = torch.zeros((len(rows), *self._model.input_hw, 3), device=self._device)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = left.long() + dx, top.long() + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = (right_share if dx else 1 - right_share) * (low_share if dy else 1 - low_share) * inside
            column, row = column.clamp(min=0).minimum(width - 1), row.clamp(min=0).minimum(height - 1)
            packed = self._pixels[start[:, None, None] + row * width + column]
            colours = packed[..., None].view(torch.uint8)[..., :3]
            crops += colours * weight[..., None]
        return crops.round_()

    def _sampling(
        self, image: npt.NDArray[np.int64], affine: Floats
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(B, 2, 3) crop → shrunk copy of the image, and (B,) which copy."""
        finite = np.asarray(np.isfinite(affine).all((1, 2)))
        usable = np.where(finite[:, None, None], affine, 0.0)
        scale = np.sqrt(np.abs(np.linalg.det(usable[:, :, :2])))
        bad = np.asarray(scale <= 1e-6)
        inverse = invert_affine(np.where(bad[:, None, None], np.eye(2, 3), usable))
        inverse[bad] = [[0, 0, -2], [0, 0, -2]]  # outside everywhere
        shrink = 1.0 / np.where(bad, 1.0, np.minimum(scale, 1.0))
        level = np.minimum(np.log2(shrink).astype(np.int64), self._levels - 1)
        # Pixel p of a shrunk image is the mean of a block whose centre lies at (p + 0.5) · ratio − 0.5.
        ratio = (self._hw[image, 0] / self._hw[image, level])[:, ::-1]
        inverse /= ratio[..., None]
        inverse[..., 2] += 0.5 / ratio - 0.5
        return inverse, level


def images_for(
    people: People, model: ModelConfig, device: torch.device, *, feeding: str, cache_gb: float, workers: int
) -> DeviceImages | None:
    """Images on the device where ``feeding`` of the configuration says so; None is the CPU's way.

    Raises:
        TrainingError: ``feeding: device``, and they do not fit into ``cache_gb``.
    """
    if feeding == "cpu" or (feeding == "auto" and device.type != "cuda"):
        return None
    if feeding == "auto":
        images = Images(people.paths, 0.0, people.codes)
        probed = np.linspace(0, len(people.paths) - 1, _PROBED).astype(int)
        pixels = float(np.mean([images.decode(int(i))[..., 0].size for i in probed])) * len(people.paths)
        needed = pixels * 4 * (4 / 3 if model.antialias else 1) * 1.1 / 2**30
        if needed > cache_gb:
            logger.info("feeding from the CPU: about %.1f GiB of images, but cache_gb is %s", needed, cache_gb)
            return None
    made = DeviceImages(people, model, device, cache_gb=cache_gb, workers=workers)
    logger.info("%d images decoded onto %s, %.2f GiB", len(people.paths), device, made.nbytes / 2**30)
    return made
