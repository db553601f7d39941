"""Torch tensors of any kind as plain ones that numpy can read."""

from __future__ import annotations

import torch
from torch import Tensor

from posefix.exceptions import InputError


def plain_tensor(tensor: Tensor, what: str) -> Tensor:
    """A dense tensor of real numbers on the CPU; sparse and quantised ones are unpacked.

    Args:
        tensor: of any device, layout and dtype.
        what: named in messages.

    Raises:
        InputError: it has no values (the device ``meta``), or complex or nested ones.
    """
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
