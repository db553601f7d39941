"""The input pose as a prior over the output's heatmap pixels, and how much weight it gets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posefix.keypoints.heatmaps import expected_similarity, heatmap_probabilities, log_gaussians

#: Widths, in units of the similarity's, at which image logits and input pose are compared.
_SCALES = (0.5, 1.0, 2.0, 4.0)
#: Largest change of share logit and log spread by the adaptive prior.
_LIMIT = 3.0
#: Scores below this share of the person's best make no further difference to the prior.
_LEAST_SCORE = 0.03
#: Logarithm of nothing.
_NOTHING = -1e4


class PosePrior(nn.Module):
    """log(π · N(heatmap pixel; input point, s²) + (1 − π) / heatmap pixels) for each keypoint, s = std · exp(a).

    Added to the image logits, it makes the output the product of what the image shows and where the input pose is.
    π and a are learned per keypoint; a missing keypoint has π = 0. The adaptive prior corrects both for each person by
    how well the image logits agree with the whole input pose: where they contradict some keypoints of a person, the
    others get less weight too; keypoints of a precise estimator get more. Scored, it also sees the estimator's scores.
    """

    def __init__(self, num_keypoints: int, *, adaptive: bool, scored: bool = False, share: float = 0.9) -> None:
        super().__init__()
        self.share_logit = nn.Parameter(torch.full((num_keypoints,), math.log(share / (1 - share))))
        self.log_spread = nn.Parameter(torch.zeros(num_keypoints))
        self.adapt: nn.Sequential | None = None
        self.listen: nn.Sequential | None = None
        inputs = len(_SCALES) + 3 + scored
        if adaptive:
            self.adapt = _small_network(inputs * num_keypoints, 64, 2 * num_keypoints)
        if adaptive and scored:
            self.listen = _small_network(inputs, 16, 2)

    def forward(
        self, image_logits: Tensor, heatmap_points: Tensor, valid: Tensor, std: Tensor, scores: Tensor | None = None
    ) -> Tensor:
        """Log prior over heatmap pixels.

        Args:
            image_logits: (B, K, h, w).
            heatmap_points: (B, K, 2) input pose in heatmap pixels.
            valid: (B, K) bool.
            std: (B, K) length scale of keypoint similarity in heatmap pixels.
            scores: (B, K) estimator's score over that of the person's best keypoint; None is 1, nothing known.

        Returns:
            (B, K, h, w).
        """
        height, width = image_logits.shape[-2:]
        share_logit, log_spread = self.share_logit.expand_as(std), self.log_spread.expand_as(std)
        if self.adapt is not None:
            features = _match_features(image_logits.detach(), heatmap_points, valid, std)
            if self.listen is not None:
                log_scores = torch.zeros_like(std) if scores is None else torch.log(scores.clamp(_LEAST_SCORE, 1.0))
                features.append(log_scores * valid)
            change = self.adapt(torch.cat(features, dim=-1).to(self.share_logit.dtype)).view(*std.shape, 2)
            if self.listen is not None:
                # Each keypoint by its own features alone, with the same few weights for all.
                change = change + self.listen(torch.stack(features, dim=-1).to(self.share_logit.dtype))
            change = _LIMIT * torch.tanh(change / _LIMIT)
            share_logit, log_spread = share_logit + change[..., 0], log_spread + change[..., 1]
        # A person without area has no spread, and must not divide by it.
        spread = (std * torch.exp(log_spread)).clamp_min(1e-3)
        flat = torch.full_like(spread, -math.log(height * width))
        floor = torch.where(valid, F.logsigmoid(-share_logit) + flat, flat)
        peak = F.logsigmoid(share_logit) - torch.log(2 * math.pi * spread**2)
        peak = torch.where(valid, peak, torch.full_like(peak, _NOTHING))
        # The logarithm of a sum of two, as one soft-plus: compiled graphs have no fast logarithm.
        points = torch.where(valid.unsqueeze(-1), heatmap_points, torch.zeros_like(heatmap_points))
        above = (peak - floor)[..., None, None] + log_gaussians(points, (height, width), spread)
        return floor[..., None, None] + F.softplus(above)


def _match_features(image_logits: Tensor, heatmap_points: Tensor, valid: Tensor, std: Tensor) -> list[Tensor]:
    """(B, K) each: the heatmap's mass near the input points at several widths, how peaked it is, which are valid.

    A precise estimator differs from a coarse one where the heatmap is peaked.
    """
    probabilities = heatmap_probabilities(image_logits.float())
    points = torch.where(valid.unsqueeze(-1), heatmap_points, torch.zeros_like(heatmap_points))
    stds = torch.stack([std * scale for scale in _SCALES], -1)
    near = expected_similarity(probabilities, points.unsqueeze(2), stds).unbind(-1)
    peaked = [probabilities.amax((-1, -2)), probabilities.square().sum((-1, -2))]
    values = [torch.log(n + 1e-4) * valid for n in (*near, *peaked)]
    return [*values, valid.to(values[0].dtype)]


def _small_network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)
