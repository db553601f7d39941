"""What the adapters' tests share: stand-in refiners, comparison of anything with anything."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from posefix.adapters import adapt
from posefix.io.images import load_image
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import COCO, Skeleton


class StandIn:
    """A refiner's interface: moves every keypoint that is there, fills those that are not, or does neither."""

    def __init__(self, move: float = 0.0, score: float | None = None, fill: bool = False, skeleton: Skeleton = COCO):
        self.move, self.score, self.fill, self.skeleton = move, score, fill, skeleton
        self.images: list[Any] = []
        self.keypoints: list[Any] = []
        self.boxes: Any = None

    def _refine(self, poses: Any) -> Any:
        assert poses.dtype == np.float64
        assert poses.shape[1:] == (len(self.skeleton), 3)
        new = np.array(poses)
        there = present(new)
        new[there, :2] += self.move
        if self.score is not None:
            new[there, 2] = self.score
        people = there.any(-1)
        if self.fill:
            new[people[:, None] & ~there] = (12.0, 34.0, 0.5)
        return new

    def __call__(
        self, image: Any, output: Any, *, color: str = "rgb", use_boxes: bool = False, adapter: Any = None
    ) -> Any:
        """Taken apart, moved, put together, as by a refiner."""
        found = adapt(output, self.skeleton, image, adapter)
        busy = [i for i, poses in enumerate(found.keypoints) if len(poses)]
        given = [(found.images or [])[i] for i in busy]
        self.images += [load_image(i() if callable(i) else i, color="rgb" if image is None else color) for i in given]
        self.keypoints += [found.keypoints[i] for i in busy]
        self.boxes = [found.boxes[i] for i in busy] if use_boxes and found.boxes is not None else None
        refined = list(found.keypoints)
        for i in busy:
            refined[i] = self._refine(found.keypoints[i])
        return found.rebuild(refined)


def image(height: int = 480, width: int = 640) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def poses(people: int = 2, count: int = 17, seed: int = 0) -> np.ndarray[Any, Any]:
    """(N, K, 3) float64, coordinates that no float16 holds."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(5, 400, (people, count, 2)), rng.uniform(0.05, 1, (people, count, 1))], -1)


def assert_same(first: Any, second: Any, where: str = "output") -> None:
    """Same types, dtypes, devices and values to the bit, however deep."""
    assert type(first) is type(second), f"{where}: {type(first)} and {type(second)}"
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert first.device == second.device, where
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{where}: {m}")
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype, where
        np.testing.assert_array_equal(first, second, err_msg=where)
    elif isinstance(first, Mapping):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(first, float) and first != first:
        assert second != second, where
    elif dataclasses.is_dataclass(first) or not hasattr(type(first), "__eq__") or hasattr(first, "__dict__"):
        assert_same(vars(first), vars(second), where)
    else:
        assert first == second, where


def needs(module: str) -> Any:
    """The module, or a skip that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{module} cannot be imported ({error}); `make test-adapters` runs this test")
