"""People through the network, batch by batch: image logits and the log prior of the input pose, not yet added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.inference.decoding import count_outliers
from posefix.keypoints.codec import HeatmapCodec
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork


@dataclass(frozen=True)
class ForwardOutput:
    """The network's output for B people.

    Attributes:
        image_logits: (B, K, h, w) float32, before the pose prior.
        peaks: (B, K) see ``RefinementNetwork.image_logits_and_peaks``; None without.
        log_prior: (B, K, h, w), None without a pose prior.
        crop_points: (B, K, 2) the input pose in crop pixels.
        valid: (B, K) bool.
        std: (B, K) length scale of keypoint similarity in crop pixels.
        others: (B, M, K, 2) see ``NetworkInput``.
    """

    image_logits: Tensor
    peaks: Tensor | None
    log_prior: Tensor | None
    crop_points: Tensor
    valid: Tensor
    std: Tensor
    others: Tensor | None = None

    def __len__(self) -> int:
        return len(self.valid)

    def logits(self, prior_weight: Tensor) -> Tensor:
        """(B, K, h, w) image logits plus the weighted prior; ``prior_weight`` is (B,)."""
        if self.log_prior is None:
            return self.image_logits
        return self.image_logits + prior_weight[:, None, None, None] * self.log_prior


@torch.inference_mode()
def forward(network: RefinementNetwork, inputs: NetworkInput) -> ForwardOutput:
    """One batch of tensors through the network."""
    image_logits, peaks = network.image_logits_and_peaks(inputs)
    log_prior = network.log_prior(image_logits, inputs)
    return ForwardOutput(image_logits, peaks, log_prior, inputs.crop_points, inputs.valid, inputs.std, inputs.others)


def forward_batches(network: RefinementNetwork, inputs: NetworkInput, batch_size: int) -> Iterator[ForwardOutput]:
    """Any number of people through the network, ``batch_size`` at a time.

    Args:
        network: in evaluation mode, on its device.
        inputs: arrays of B people.
        batch_size: people per pass.
    """
    for start in range(0, len(inputs), batch_size):
        yield forward(network, inputs.take(slice(start, start + batch_size)).to(network.mean.device))


def outlier_counts(output: ForwardOutput, codec: HeatmapCodec) -> npt.NDArray[np.int64]:
    """(3, B) see ``decoding.count_outliers``."""
    seen = NetworkInput(None, output.crop_points, output.valid, output.std, None, others=output.others)
    return np.asarray(count_outliers(output.image_logits, seen, codec).cpu().numpy(), np.int64)
