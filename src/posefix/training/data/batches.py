"""Batches of training samples: synthetic errors, crops, augmentation. Every batch is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.geometry import warp_crop
from posefix.inference.batching import pool_of_generator
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import ModelConfig
from posefix.pose_errors.synthesis import ErrorRates
from posefix.training.config import Augmentation
from posefix.training.data.copy_paste import paste_others
from posefix.training.data.device import DeviceImages
from posefix.training.data.people import Images, People
from posefix.training.data.photometric import distort
from posefix.training.data.sampling import Batch, Plan, plan_batch

Bools = npt.NDArray[np.bool_]


def fill_batch(plan: Plan, people: People, images: Images | DeviceImages, model: ModelConfig) -> Batch:
    """The planned batch, with its crops cut and augmented: in memory, or on the device where the images are."""
    if isinstance(images, DeviceImages):
        crops: npt.NDArray[np.uint8] | Tensor = images.paint(plan)
    else:
        crops = _paint(plan, people, images, model)
    return replace(plan.batch, crops=crops)


def _paint(plan: Plan, people: People, images: Images, model: ModelConfig) -> npt.NDArray[np.uint8]:
    sources = [images[int(i)] for i in people.image[plan.rows]]
    crops = np.stack(
        [warp_crop(i, a, model.input_hw, antialias=model.antialias) for i, a in zip(sources, plan.affine, strict=True)]
    )
    paste_others(crops, people, images, plan.masks, model)
    distort(crops, plan.distort)
    return crops


class BatchStream:
    """Batches step after step, prepared ahead by threads (OpenCV and numpy release the interpreter lock).

    With images on the device, they only plan, and one more thread has the crops made there.
    """

    def __init__(
        self,
        people: People,
        skeleton: Skeleton,
        model: ModelConfig,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        cache_gb: float = 4.0,
        workers: int = 2,
        rates: ErrorRates | None = None,
        images: DeviceImages | None = None,
    ) -> None:
        self._rates = rates
        self._people, self._skeleton, self._model = people, skeleton, model
        self._augmentation, self._batch_size = augmentation, batch_size
        self._images = images or Images(people.paths, cache_gb, people.codes)
        self._seed, self._rank, self._workers = seed, rank, max(workers, 1)

    def batch(self, step: int) -> Batch:
        """The batch of one step: the same in every run, whatever was asked for before."""
        return fill_batch(self._plan(step), self._people, self._images, self._model)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the steps start … stop − 1, in order."""
        with pool_of_generator(self._workers) as pool, pool_of_generator(1) as painter:

            def submit(step: int) -> Future[Batch]:
                if not isinstance(self._images, DeviceImages):
                    return pool.submit(self.batch, step)
                plan = pool.submit(self._plan, step)
                return painter.submit(lambda: fill_batch(plan.result(), self._people, self._images, self._model))

            waiting = [submit(step) for step in range(start, min(start + 2 * self._workers, stop))]
            for step in range(start, stop):
                done = waiting.pop(0).result()
                ahead = step + 2 * self._workers
                if ahead < stop:
                    waiting.append(submit(ahead))
                if isinstance(done.crops, Tensor) and done.crops.is_cuda:
                    # Made on another stream, whose next crops must not take this memory before it was read.
                    done.crops.record_stream(torch.cuda.current_stream(done.crops.device))
                yield done

    def _plan(self, step: int) -> Plan:
        rng = np.random.default_rng([self._seed, step, self._rank])
        return plan_batch(
            self._people, self._skeleton, self._model, self._augmentation, self._batch_size, rng, self._rates
        )
