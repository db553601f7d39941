"""The refinement network: crops and input poses in, logits over cells out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from posefix.heatmaps import cell_probabilities, draw_gaussians, expected_similarity
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.mobilenet import FEATURES as PYRAMID_FEATURES
from posefix.network.mobilenet import Conv, MobileNetFpn
from posefix.network.resnet import FEATURES as RESNET_FEATURES
from posefix.network.resnet import ResNetUp


class PosePrior(nn.Module):
    """log(π · N(cell; input point, s²) + (1 − π) / cells) for each keypoint, s = std · exp(a).

    The network then starts as "picture evidence times input pose" and learns the evidence. π and a are learned
    per keypoint; a missing keypoint has π = 0. The adaptive prior corrects both for each person by how well the
    evidence agrees with the whole input pose: where a few keypoints of a person lie beside the evidence, the
    others deserve less trust too, and a precise estimator more.
    """

    def __init__(self, num_keypoints: int, *, adaptive: bool, share: float = 0.9) -> None:
        super().__init__()
        self.share_logit = nn.Parameter(torch.full((num_keypoints,), math.log(share / (1 - share))))
        self.log_spread = nn.Parameter(torch.zeros(num_keypoints))
        self.adapt: nn.Sequential | None = None
        if adaptive:
            inputs = (len(_AGREEMENT_SCALES) + 1) * num_keypoints
            last = nn.Linear(64, 2 * num_keypoints)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.adapt = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), last)

    def forward(self, evidence: Tensor, cell_points: Tensor, valid: Tensor, std: Tensor) -> Tensor:
        """Log prior over cells.

        Args:
            evidence: (B, K, h, w) the picture's logits.
            cell_points: (B, K, 2) input pose in cells.
            valid: (B, K) bool.
            std: (B, K) length scale of keypoint similarity in cells.

        Returns:
            (B, K, h, w).
        """
        height, width = evidence.shape[-2:]
        share_logit, log_spread = self.share_logit.expand_as(std), self.log_spread.expand_as(std)
        if self.adapt is not None:
            agreement = _agreement(evidence.detach(), cell_points, valid, std).to(self.share_logit.dtype)
            change = self.adapt(agreement).view(*std.shape, 2)
            change = _ADAPT_LIMIT * torch.tanh(change / _ADAPT_LIMIT)
            share_logit, log_spread = share_logit + change[..., 0], log_spread + change[..., 1]
        # A person without area has no spread, and must not divide by it.
        spread = (std * torch.exp(log_spread)).clamp_min(1e-3)
        density = draw_gaussians(cell_points, valid, (height, width), spread)
        share = (torch.sigmoid(share_logit) * valid)[..., None, None]
        density = density / (2 * math.pi * spread**2)[..., None, None]
        return torch.log(share * density + (1 - share) / (height * width))


#: Widths, in units of the similarity's, at which evidence and input pose are compared.
_AGREEMENT_SCALES = (0.5, 1.0, 2.0, 4.0)
#: Largest change of share logit and log spread by the adaptive prior.
_ADAPT_LIMIT = 3.0


def _agreement(evidence: Tensor, cell_points: Tensor, valid: Tensor, std: Tensor) -> Tensor:
    """(B, 5K) how much of the evidence lies near the input points, at several widths, and which are valid."""
    probabilities = cell_probabilities(evidence.float())
    points = torch.where(valid.unsqueeze(-1), cell_points, torch.zeros_like(cell_points))
    near = [expected_similarity(probabilities, points, std * scale) for scale in _AGREEMENT_SCALES]
    values = [torch.log(n + 1e-4) * valid for n in near]
    return torch.cat([*values, valid.to(values[0].dtype)], dim=-1)


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
            nn.init.zeros_(self.pose_entry.weight)
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
        self.prior = PosePrior(keypoints, adaptive=config.adaptive_prior) if config.pose_prior else None

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
            # Small differences of logarithms decide here: float32, also under autocast.
            with torch.autocast(logits.device.type, enabled=False):
                logits = logits + self.prior(logits, cell_points, valid, std / STRIDE)
        return logits
