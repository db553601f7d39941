"""The refinement network: crops and input poses in, logits over heatmap pixels out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from posefix.keypoints.heatmaps import draw_gaussians
from posefix.network.config import ModelConfig
from posefix.network.correction import Correction
from posefix.network.image_model import ImageModel, fuse
from posefix.network.inputs import NetworkInput
from posefix.network.mobilenet import TRUNKS, Head, MobileNet
from posefix.network.prior import PosePrior
from posefix.network.resnet import FEATURES as RESNET_FEATURES
from posefix.network.resnet import ResNetUp


class RefinementNetwork(nn.Module):
    """Image crops and input poses → logits (PoseFix §3; the embedded network is this library's own)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        keypoints = config.num_keypoints
        self.register_buffer("mean", torch.tensor(config.normalisation.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.normalisation.std).view(3, 1, 1), persistent=False)
        if config.is_mobilenet:
            trunk = TRUNKS[config.pyramid](config.width, config.last_channels)
            features = trunk.features
            self.trunk: nn.Module = trunk
            self.head: nn.Module = Head(keypoints) if config.pyramid == "movenet" else nn.Conv2d(features, keypoints, 1)
        else:
            features = RESNET_FEATURES
            self.trunk = ResNetUp(config.backbone, 3 + keypoints)
            self.head = nn.Conv2d(features, keypoints, 1)
            nn.init.normal_(self.head.weight, std=0.001)
        self.correction = Correction(features, keypoints) if config.pose_entry == "correction" else None
        self.prior = (
            PosePrior(keypoints, adaptive=config.adaptive_prior, scored=config.uses_scores)
            if config.pose_prior
            else None
        )
        #: Another network that sees the crop too, and which of its keypoints each of ours is.
        self.image_model: ImageModel | None = None
        self.image_model_rows = torch.zeros(0, dtype=torch.long)
        #: Set by the trainer: trunk and head keep their weights and build no graph.
        self.frozen = False

    def forward(self, inputs: NetworkInput, *, prior_weight: float = 1.0) -> Tensor:
        """Logits for each keypoint's place.

        Args:
            inputs: tensors of B people; crops may also be float RGB in 0…255.
            prior_weight: weight of the pose prior.

        Returns:
            (B, K, H/4, W/4) logits; the soft-max over heatmap pixels is the distribution of the keypoint's place.
        """
        logits = self.image_logits(inputs)
        prior = self.log_prior(logits, inputs)
        return logits if prior is None else logits + prior_weight * prior

    def log_prior(self, image_logits: Tensor, inputs: NetworkInput) -> Tensor | None:
        """(B, K, H/4, W/4) log prior of each heatmap pixel given the input pose; None without a prior."""
        if self.prior is None:
            return None
        # Small differences of logarithms decide here: float32, also under autocast.
        with torch.autocast(image_logits.device.type, enabled=False):
            codec = self.config.codec
            points, std = codec.to_heatmap(inputs.crop_points), inputs.std / codec.stride
            scores = inputs.scores if self.config.uses_scores else None
            out: Tensor = self.prior(image_logits, points, inputs.valid, std, scores)
            return out

    def use_image_model(self, model: ImageModel, rows: npt.NDArray[np.int64]) -> None:
        """From now on add another network's heatmaps to the image logits.

        Args:
            model: of the same crop size.
            rows: (K,) from ``rows_in_skeleton``.
        """
        self.image_model, self.image_model_rows = model, torch.from_numpy(rows)

    @property
    def sees_by_itself(self) -> bool:
        """Whether this network's own logits are needed; an image model may count alone."""
        model = self.image_model
        return model is None or model.config.own_weight > 0 or bool((self.image_model_rows < 0).any())

    def image_logits(self, inputs: NetworkInput) -> Tensor:
        """(B, K, H/4, W/4) float32 logits before the prior: this network's, or with an image model both together."""
        return self.image_logits_and_peaks(inputs)[0]

    def image_logits_and_peaks(self, inputs: NetworkInput) -> tuple[Tensor, Tensor | None]:
        """Logits before the prior, and the peaks of what the image alone says.

        Returns:
            (B, K, H/4, W/4) float32, and (B, K) the greatest logit of each map before the correction: a logit of how
            likely the crop shows such a keypoint at all. None for networks whose logits have no such scale.
        """
        model = self.image_model
        if model is None:
            return self.own_logits_and_peaks(inputs)
        rows = self.image_model_rows.to(inputs.crops.device)
        own, peaks = self.own_logits_and_peaks(inputs) if self.sees_by_itself else (None, None)
        return fuse(own, model.log_maps(inputs.crops), model.config, rows), peaks

    def own_logits_and_peaks(self, inputs: NetworkInput) -> tuple[Tensor, Tensor | None]:
        """``image_logits_and_peaks`` of this network alone."""
        config = self.config
        weight = next(self.parameters())
        images = inputs.crops.permute(0, 3, 1, 2).to(weight.dtype)
        if config.normalisation.channels == "bgr":
            images = images.flip(1)
        images = (images - self.mean) / self.std
        if isinstance(self.trunk, MobileNet):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                features = self.trunk(images)
                logits = self.head(features)
            peaks = logits.float().flatten(2).amax(-1)
            if self.correction is not None:
                points = config.codec.to_heatmap(inputs.crop_points)
                scores = inputs.scores if config.uses_scores else None
                logits = self.correction(features, logits, points, inputs.valid, scores)
            return logits.float(), peaks
        heat = draw_gaussians(inputs.crop_points, inputs.valid, config.input_hw, config.heatmap_std)
        heat = (heat * config.heatmap_scale).to(images.dtype)
        out: Tensor = self.head(self.trunk(torch.cat([images, heat], dim=1)))
        return out.float(), None
