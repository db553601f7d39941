"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from posefix.exceptions import InputError


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"`` is CUDA, else Apple's MPS, else the CPU; anything else is taken as said.

    Raises:
        InputError: the device does not exist here.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device: expected 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', got {device!r}") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {device!r} is not here ({torch.cuda.device_count()} CUDA devices); use 'cpu'")
    return chosen


def autocast_dtype(device: torch.device, choice: str = "auto") -> torch.dtype | None:
    """The reduced precision that a device computes fast: bfloat16 or None (float32).

    Args:
        device: where.
        choice: ``"auto"`` where the hardware has it, ``"on"``, ``"off"``.
    """
    if choice == "off":
        return None
    if choice == "on":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        fast = any(
            getattr(torch.cpu, name, lambda: False)()
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        return torch.bfloat16 if fast else None
    return None
