"""A device that is not here is one sentence, whatever torch raises for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from factories import make_weights
from posefix.exceptions import InputError
from posefix.inference.refiner import Refiner
from posefix.network.devices import pick_device

ABSENT = ("cuda:63", "xpu", "hpu", "mtia", "maia", "meta", "xla", "vulkan", "lazy", "privateuseone", "fpga")
ABSENT += () if torch.backends.mps.is_available() else ("mps", "mps:0")
ABSENT += () if torch.cuda.is_available() else ("cuda",)
NONSENSE = ("", "gpu", "AUTO", "cuda:-1", "\x1b[2J", None, 3, -1, [], object())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("device", [*ABSENT, torch.device("meta")], ids=str)
def test_absent_devices(device: Any) -> None:
    with pytest.raises(InputError, match=r"^device: '.*' is not here; use .*'cpu'$"):
        pick_device(device)


@pytest.mark.parametrize("device", NONSENSE)
def test_what_is_no_device(device: Any) -> None:
    with pytest.raises(InputError, match=r"^device: expected 'auto', 'cpu', .* got [^\n\x1b]*$"):
        pick_device(device)


@pytest.mark.filterwarnings("ignore")
def test_a_refiner_says_it_too() -> None:
    with pytest.raises(InputError, match="'xpu' is not here"):
        Refiner(make_weights(input_hw=(32, 32)), device="xpu", backend="torch")


def test_devices_that_are_here() -> None:
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    assert str(pick_device("auto")).partition(":")[0] in ("cpu", "cuda", "mps")
