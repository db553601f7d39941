"""Tensors that numpy cannot read as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posefix.exceptions import InputError
from posefix.tensors import plain_tensor, real_array

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


def test_arrays_of_any_kind() -> None:
    with pytest.raises(InputError, match="expected numbers"):
        real_array(np.ma.masked_array(np.zeros((2, 4), "M8[s]")), "x")
    masked = np.ma.masked_array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]])
    np.testing.assert_array_equal(real_array(masked, "x"), [[1, np.nan], [3, 4]])  # not the 2 behind the mask
    np.testing.assert_array_equal(real_array([VALUES[0], VALUES[1].requires_grad_()], "x"), VALUES)
    np.testing.assert_array_equal(real_array([[1, None], [2**70, 3]], "x"), [[1, np.nan], [2.0**70, 3]])
    assert real_array(VALUES.double(), "x").dtype == np.float64
    assert real_array(VALUES.bfloat16(), "x").tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    "values",
    ["abc", [["1", "2"]], [[1], [1, 2]], [10**400], {"a": 1}, (x for x in ()), np.zeros(3, complex), [True, False],
     np.array(["1", 2], object), VALUES.to_sparse().to("meta"), np.zeros(2, "M8[s]"), [VALUES, VALUES[0]]],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_are_no_numbers(values: object) -> None:
    with pytest.raises(InputError, match=r"^what: expected [^\n]*$"):
        real_array(values, "what")
