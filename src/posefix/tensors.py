"""Arrays and tensors that users hand over, as plain ones; torch itself only where it is needed."""

from __future__ import annotations

import sys
from numbers import Real
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError, MissingDependencyError
from posefix.messages import shown

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; torch is not imported to tell."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def require_torch(what: str) -> ModuleType:
    """The module ``torch``.

    Args:
        what: needs it, at the beginning of the message.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs torch: pip install torch; without it posefix refines with a model from 'posefix export'"
        ) from error
    return torch


def real_array(values: Any, what: str, hint: str = "") -> npt.NDArray[Any]:
    """Anything array-like as an array of real numbers, in its own type; masked values become NaN.

    >>> real_array([[1, 2], [3, 4]], "points").shape
    (2, 2)

    Args:
        values: an array, a tensor of any device and layout, or nested lists.
        what: named in messages.
        hint: what to do where rows differ in length, for messages.

    Raises:
        InputError: rows of different lengths, or values that are no real numbers.
    """
    values = [_readable(v, what) for v in values] if isinstance(values, list | tuple) else _readable(values, what)
    try:
        array = np.asarray(values)
        # None, and integers beyond 64 bits.
        if array.dtype.kind == "O" and array.ndim and all(v is None or isinstance(v, Real) for v in array.flat):
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        reason = str(error).partition(". The requested")[0]
        raise InputError(
            f"{what}: expected rows of equally many numbers, got {shown(values)}: {reason}{hint}"
        ) from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what}: expected numbers, got {shown(values)} ({array.dtype})")
    return array


def _readable(values: Any, what: str) -> Any:
    """What numpy reads as it is meant."""
    if is_tensor(values):
        values = plain_tensor(values, what)
        return values.float() if str(values.dtype) == "torch.bfloat16" else values
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "biuf":
        return np.ma.filled(values.astype(np.result_type(values.dtype, np.float32)), np.nan)
    return values


def plain_tensor(tensor: Tensor, what: str) -> Tensor:
    """A dense tensor of real numbers on the CPU; sparse and quantised ones are unpacked.

    Args:
        tensor: of any device, layout and dtype.
        what: named in messages.

    Raises:
        InputError: it has no values (the device ``meta``), or complex or nested ones.
    """
    import torch

    if tensor.is_meta:
        raise InputError(f"{what}: expected values, got a tensor on the device 'meta', which has none")
    if tensor.is_complex():
        raise InputError(f"{what}: expected real numbers, got a tensor of {tensor.dtype}")
    if tensor.is_nested:
        raise InputError(f"{what}: expected one shape, got a nested tensor; pad it or pass a list")
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.cpu().resolve_neg()
