"""torchvision's non-maximum suppression in pure torch, where the built operators cannot be loaded.

PyPI's torchvision is built against a CUDA torch: with a CPU-only torch its library does not load, and the package
does not even import (``operator torchvision::nms does not exist``). ``register()`` defines the operators that the
import asks for and must come before the first import of torchvision. For RoI align torchvision has a version of its
own in torch, which it would compile; without a compiler it runs as it stands. Only for tests and demonstrations.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

_LIBRARY: torch.library.Library | None = None


def register() -> None:
    """Define the operators, once, if torchvision is installed and its own cannot be loaded."""
    global _LIBRARY
    spec = importlib.util.find_spec("torchvision")
    if _LIBRARY is not None or spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(Path(spec.origin).parent / "_C.so")
    except OSError:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        _LIBRARY = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):  # qnms is only named at import
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.impl("nms", _nms, "CompositeExplicitAutograd")
        import torchvision.extension

        torchvision.extension._has_ops = lambda: True  # what ``nms`` asks before it runs


def _nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    order, keep = scores.argsort(descending=True), []
    area = (dets[:, 2:] - dets[:, :2]).clamp(min=0).prod(1)
    while order.numel():
        first, rest = order[0], order[1:]
        keep.append(first)
        low, high = torch.maximum(dets[first, :2], dets[rest, :2]), torch.minimum(dets[first, 2:], dets[rest, 2:])
        inner = (high - low).clamp(min=0).prod(1)
        order = rest[inner <= iou_threshold * (area[first] + area[rest] - inner)]
    return torch.stack(keep) if keep else order
