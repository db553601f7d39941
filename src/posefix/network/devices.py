"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from posefix.exceptions import InputError
from posefix.messages import shown


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"`` is CUDA, else Apple's MPS, else the CPU; anything else is taken as said, if torch can use it here.

    Raises:
        InputError: the device does not exist here.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        if not isinstance(device, str | torch.device):
            raise TypeError
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device: expected 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or another device of torch, got {shown(device)}"
        ) from None
    if not _is_here(chosen):
        raise InputError(f"device: {str(chosen)!r} is not here; use {' or '.join(map(repr, _devices()))}")
    return chosen


def _is_here(device: torch.device) -> bool:
    """Whether torch can put numbers there, and get them back."""
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return False  # without waking the other ones up
    try:
        return torch.zeros(1, device=device).cpu().item() == 0
    except (RuntimeError, AssertionError, ImportError):  # torch was built without it, or its driver is missing
        return False


def _devices() -> list[str]:
    """What would be accepted."""
    return [name for name in ("cuda", "mps", "xpu", "cpu") if _is_here(torch.device(name))]


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
