"""The refinement network: crops and input poses in, logits over cells out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from posefix.heatmaps import draw_gaussians
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.mobilenet import FEATURES as PYRAMID_FEATURES
from posefix.network.mobilenet import Conv, MobileNetFpn
from posefix.network.resnet import FEATURES as RESNET_FEATURES
from posefix.network.resnet import ResNetUp


class PosePrior(nn.Module):
    """log(π · N(cell; input point, s²) + (1 − π) / cells) for each keypoint, s = std · exp(a).

    The network then starts as "picture evidence times input pose" and learns the evidence. π and a are learned
    per keypoint; a missing keypoint has π = 0.
    """

    def __init__(self, num_keypoints: int, share: float = 0.9, spread: float = 0.0) -> None:
        super().__init__()
        self.share_logit = nn.Parameter(torch.full((num_keypoints,), math.log(share / (1 - share))))
        self.log_spread = nn.Parameter(torch.full((num_keypoints,), spread))

    def forward(self, cell_points: Tensor, valid: Tensor, std: Tensor, map_hw: tuple[int, int]) -> Tensor:
        """(B, K, 2) cells, (B, K) bool, (B, K) similarity length scale in cells → (B, K, h, w) log prior."""
        # Narrower than a quarter of a cell the sampled Gaussian is no density, and at 0 (no area) no number.
        spread = (std * torch.exp(self.log_spread)).clamp_min(0.25)
        density = draw_gaussians(cell_points, valid, map_hw, spread) / (2 * math.pi * spread**2)[..., None, None]
        share = (torch.sigmoid(self.share_logit) * valid)[..., None, None]
        return torch.log(share * density + (1 - share) / (map_hw[0] * map_hw[1]))


class RefinementNetwork(nn.Module):
    """Picture crops and input poses → logits (PoseFix §3; the embedded network is this library's own)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        keypoints = config.num_keypoints
        self.register_buffer("mean", torch.tensor(config.normalisation.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.normalisation.std).view(3, 1, 1), persistent=False)
        if config.backbone == "mobilenet_v2":
            self.trunk: nn.Module = MobileNetFpn()
            self.pose_entry: nn.Module | None = nn.Conv2d(keypoints, PYRAMID_FEATURES, 3, padding=1, bias=False)
            # Zero: the network starts as the one its trunk comes from.
            nn.init.zeros_(self.pose_entry.weight)  # type: ignore[arg-type]
            self.head: nn.Module = nn.Sequential(
                Conv(PYRAMID_FEATURES, PYRAMID_FEATURES, 3, groups=PYRAMID_FEATURES),
                Conv(PYRAMID_FEATURES, 96, act="relu"),
                Conv(96, keypoints),
            )
        else:
            self.trunk = ResNetUp(config.backbone, 3 + keypoints)
            self.pose_entry = None
            self.head = nn.Conv2d(RESNET_FEATURES, keypoints, 1)
            nn.init.normal_(self.head.weight, std=0.001)
        self.prior = PosePrior(keypoints) if config.pose_prior else None

    def forward(self, crops: Tensor, crop_points: Tensor, valid: Tensor, std: Tensor) -> Tensor:
        """Evidence for each keypoint's place.

        Args:
            crops: (B, H, W, 3) uint8 or float RGB in 0…255.
            crop_points: (B, K, 2) input pose in crop pixels; ignored where not valid.
            valid: (B, K) bool.
            std: (B, K) length scale of keypoint similarity, sqrt(area) · 2σ, in crop pixels.

        Returns:
            (B, K, H/4, W/4) logits; the soft-max over cells is the distribution of the keypoint's place.
        """
        config = self.config
        weight = next(self.parameters())
        images = crops.permute(0, 3, 1, 2).to(weight.dtype)
        if config.normalisation.channels == "bgr":
            images = images.flip(1)
        images = (images - self.mean) / self.std
        cell_points = (crop_points - config.cell_offset) / STRIDE
        if self.pose_entry is None:
            heat = draw_gaussians(crop_points, valid, config.input_hw, config.heatmap_std) * config.heatmap_scale
            features = self.trunk(torch.cat([images, heat.to(images.dtype)], dim=1))
        else:
            heat = draw_gaussians(cell_points, valid, config.map_hw, config.heatmap_std / STRIDE)
            features = self.trunk(images, self.pose_entry((heat * config.heatmap_scale).to(images.dtype)))
        logits: Tensor = self.head(features).float()
        if self.prior is not None:
            logits = logits + self.prior(cell_points, valid, std / STRIDE, config.map_hw).float()
        return logits
