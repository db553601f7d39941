"""Corrects the image logits by the whole input pose: a small network on top of a larger one.

The trunk sees all people in the crop. Whose keypoints are meant, and which of two hypotheses fits the rest of the
pose, is decided here, at half the trunk's resolution and from its output. So the trunk can stay as it was trained, on
far more images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posefix.keypoints.heatmaps import draw_gaussians

#: Channels, and the dilation of each block's filter: together they see 37 heatmap pixels of stride 8, the whole crop.
_CHANNELS = 64
_DILATIONS = (1, 2, 2, 1)
#: Standard deviations, in heatmap pixels of stride 8, at which the input pose is drawn.
_STDS = (1.0, 3.0)
#: Image logits this far below the best heatmap pixel's, in nats, count as nothing.
_DEPTH = 8.0


class _Block(nn.Module):
    """A wide depthwise filter, then two layers over channels, with a shortcut."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(_CHANNELS, _CHANNELS, 7, padding=3 * dilation, dilation=dilation, groups=_CHANNELS)
        self.expand = nn.Conv2d(_CHANNELS, 2 * _CHANNELS, 1)
        self.project = nn.Conv2d(2 * _CHANNELS, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.project(F.relu(self.expand(self.depthwise(x)), inplace=True))
        return out


class Correction(nn.Module):
    """Features, image logits and input pose → corrected image logits; untrained it changes nothing."""

    def __init__(self, features: int, num_keypoints: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(features + (1 + len(_STDS)) * num_keypoints, _CHANNELS, 1)
        self.blocks = nn.Sequential(*(_Block(d) for d in _DILATIONS))
        self.out = nn.Conv2d(_CHANNELS, num_keypoints, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        #: Weight of the image logits, per keypoint (log).
        self.log_gain = nn.Parameter(torch.zeros(num_keypoints))

    def forward(
        self,
        features: Tensor,
        image_logits: Tensor,
        heatmap_points: Tensor,
        valid: Tensor,
        scores: Tensor | None = None,
    ) -> Tensor:
        """Corrected image logits.

        Args:
            features: (B, C, h, w) of the trunk.
            image_logits: (B, K, h, w) of the trunk.
            heatmap_points: (B, K, 2) input pose in their heatmap pixels.
            valid: (B, K) bool.
            scores: (B, K) height at which each point is drawn; None is 1.

        Returns:
            (B, K, h, w) float32 logits.
        """
        image_logits = image_logits.float()
        relative = (image_logits - image_logits.amax((-1, -2), keepdim=True)).clamp_min(-_DEPTH) / _DEPTH + 1
        coarse = torch.cat([F.avg_pool2d(features, 2), F.max_pool2d(relative.to(features.dtype), 2)], dim=1)
        points = (heatmap_points - 0.5) / 2
        size = (coarse.shape[-2], coarse.shape[-1])
        pose = [draw_gaussians(points, valid, size, std) for std in _STDS]
        if scores is not None:
            pose = [p * scores[..., None, None] for p in pose]
        change = self.out(
            self.blocks(F.relu(self.mix(torch.cat([coarse, *(p.to(coarse.dtype) for p in pose)], dim=1))))
        )
        change = F.interpolate(change.float(), scale_factor=2, mode="bilinear", align_corners=False)
        return image_logits * torch.exp(self.log_gain.float())[:, None, None] + change
