"""Tensors that numpy cannot read as they are."""

from __future__ import annotations

import pytest
import torch

from posefix.exceptions import InputError
from posefix.tensors import plain_tensor

VALUES = torch.tensor([[0.0, 1.5], [2.0, 0.0]])


@pytest.mark.parametrize(
    "tensor",
    [
        VALUES.clone().requires_grad_(),
        VALUES.to_sparse(),
        torch.complex(VALUES, -VALUES).conj().imag,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_values_survive(tensor: torch.Tensor) -> None:
    assert plain_tensor(tensor, "x").numpy().tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (VALUES.to("meta"), "x: expected values, got a tensor on the device 'meta'"),
        (VALUES.to(torch.complex64), "x: expected real numbers"),
    ],
)
def test_tensors_without_usable_values(tensor: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        plain_tensor(tensor, "x")
