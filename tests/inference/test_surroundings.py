"""What the user's program has set up is neither changed by loading and refining nor does it change the results."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from factories import make_weights, random_poses
from posefix.inference.refiner import Refiner

IMAGE = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
POSES = random_poses(np.random.default_rng(1), 2)


def refined() -> npt.NDArray[np.floating]:
    return Refiner(make_weights(input_hw=(64, 64), width=0.35), device="cpu").refine(IMAGE, POSES, prior_weight=1.0)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_nothing_global_moves() -> None:
    weights = make_weights(input_hw=(64, 64), width=0.35)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    settings = torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype()
    Refiner(weights, device="cpu").refine(IMAGE, POSES)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[union-attr, index]
    assert (torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype()) == settings


@pytest.mark.parametrize("around", ["autocast", "float64", "meta", "no grad"])
def test_results_do_not_depend_on_what_is_around(around: str) -> None:
    expected = refined()
    weights = make_weights(input_hw=(64, 64), width=0.35)
    contexts: dict[str, Any] = {
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "float64": default_dtype(torch.float64),
        "meta": torch.device("meta"),
        "no grad": torch.no_grad(),
    }
    if around == "meta":
        with contexts[around]:
            refiner = Refiner(weights, device="cpu")
        found = refiner.refine(IMAGE, POSES, prior_weight=1.0)
    else:
        with contexts[around]:
            found = Refiner(weights, device="cpu").refine(IMAGE, POSES, prior_weight=1.0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


class Refining(Dataset[Any]):
    """A data set that refines its samples in the loader's workers."""

    def __init__(self) -> None:
        self.refiner = Refiner(make_weights(input_hw=(64, 64), width=0.35), device="cpu")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> npt.NDArray[np.floating]:
        return np.asarray(self.refiner.refine(IMAGE, POSES, prior_weight=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore")
def test_a_refiner_in_a_loaders_workers(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    loader = DataLoader(Refining(), num_workers=1, batch_size=None, multiprocessing_context=method)
    for sample in loader:
        np.testing.assert_array_equal(np.asarray(sample), refined())
