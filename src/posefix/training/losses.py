"""The paper's losses (PoseFix §3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from posefix.keypoints.heatmaps import soft_argmax


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L_H: cross-entropy of the soft-max over heatmap pixels with the target distribution (PoseFix eq. 2).

    Args:
        logits: (B, K, h, w).
        target: (B, K, h, w) of ``HeatmapCodec.encode``. Empty maps add nothing but count in the mean, as in the
            reference.

    Returns:
        scalar.
    """
    log_probability = torch.log_softmax(logits.flatten(2), dim=-1)
    return -(target.flatten(2) * log_probability).sum(-1).mean()


def coordinate_loss(logits: Tensor, heatmap_points: Tensor, mask: Tensor) -> Tensor:
    """L_C: mean absolute distance of the soft-argmax from the target, in heatmap pixels (PoseFix eq. 5).

    Args:
        logits: (B, K, h, w).
        heatmap_points: (B, K, 2) targets in heatmap pixels.
        mask: (B, K) bool; others add nothing but count in the mean, as in the reference.

    Returns:
        scalar.
    """
    distance = (soft_argmax(logits) - heatmap_points).abs()
    return torch.where(mask.unsqueeze(-1), distance, torch.zeros_like(distance)).mean()
