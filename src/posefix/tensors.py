"""Torch tensors of any kind as plain ones that numpy can read; torch itself only where it is needed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from posefix.exceptions import InputError, MissingDependencyError

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
