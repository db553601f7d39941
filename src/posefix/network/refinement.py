"""The refinement network: crops and input poses in, logits over cells out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posefix.heatmaps import draw_gaussians
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.mobilenet import FEATURES as PYRAMID_FEATURES
from posefix.network.mobilenet import Head, MobileNetFpn, SecondOpinion
from posefix.network.prior import PosePrior
from posefix.network.resnet import FEATURES as RESNET_FEATURES
from posefix.network.resnet import ResNetUp


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
            self.pose_entry: nn.Module | None = None
            if config.pose_entry == "stride4":
                self.pose_entry = nn.Conv2d(keypoints, PYRAMID_FEATURES, 3, padding=1, bias=False)
                # Zero: the network starts as the one its trunk comes from.
                nn.init.zeros_(self.pose_entry.weight)
            self.head: nn.Module = Head(keypoints)
        else:
            self.trunk = ResNetUp(config.backbone, 3 + keypoints)
            self.pose_entry = None
            self.head = nn.Conv2d(RESNET_FEATURES, keypoints, 1)
            nn.init.normal_(self.head.weight, std=0.001)
        self.second: SecondOpinion | None = None
        if config.second_opinion:
            self.second = SecondOpinion(keypoints)
        self.prior = PosePrior(keypoints, adaptive=config.adaptive_prior) if config.pose_prior else None

    def forward(self, crops: Tensor, crop_points: Tensor, valid: Tensor, std: Tensor, *, trust: float = 1.0) -> Tensor:
        """Logits for each keypoint's place.

        Args:
            crops: (B, H, W, 3) uint8 or float RGB in 0…255.
            crop_points: (B, K, 2) input pose in crop pixels; ignored where not valid.
            valid: (B, K) bool.
            std: (B, K) length scale of keypoint similarity, sqrt(area) · 2σ, in crop pixels.
            trust: power of the pose prior.

        Returns:
            (B, K, H/4, W/4) logits; the soft-max over cells is the distribution of the keypoint's place.
        """
        logits = self.evidence(crops, crop_points, valid)
        if self.prior is not None:
            # Small differences of logarithms decide here: float32, also under autocast.
            with torch.autocast(logits.device.type, enabled=False):
                cell_points = (crop_points - self.config.cell_offset) / STRIDE
                logits = logits + trust * self.prior(logits, cell_points, valid, std / STRIDE)
        return logits

    def evidence(self, crops: Tensor, crop_points: Tensor, valid: Tensor) -> Tensor:
        """(B, K, H/4, W/4) float32 logits before the prior; arguments as for ``forward``."""
        config = self.config
        weight = next(self.parameters())
        images = crops.permute(0, 3, 1, 2).to(weight.dtype)
        if config.normalisation.channels == "bgr":
            images = images.flip(1)
        images = (images - self.mean) / self.std
        if isinstance(self.trunk, MobileNetFpn):
            fine = features = self.trunk.shared(images)
            if self.pose_entry is not None:
                cell_points = (crop_points - config.cell_offset) / STRIDE
                heat = draw_gaussians(cell_points, valid, config.map_hw, config.heatmap_std / STRIDE)
                features = fine + self.pose_entry((heat * config.heatmap_scale).to(images.dtype))
            logits: Tensor = self.head(self.trunk.pyramid(features)).float()
            if self.second is not None:
                share = config.second_opinion
                second: Tensor = self.second(fine)
                logits = (1 - share) * logits + share * second.float()
            return logits
        heat = draw_gaussians(crop_points, valid, config.input_hw, config.heatmap_std) * config.heatmap_scale
        out: Tensor = self.head(self.trunk(torch.cat([images, heat.to(images.dtype)], dim=1)))
        return out.float()
