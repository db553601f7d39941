"""What a network sees of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posefix.geometry import flip_points

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class NetworkInput:
    """Crops and input poses of B people, in crop pixels; numpy arrays, or tensors after ``to``.

    Attributes:
        crops: (B, H, W, 3) uint8 RGB; None once only the pose is needed.
        crop_points: (B, K, 2) float32 input pose; any finite number where not valid.
        valid: (B, K) bool.
        std: (B, K) float32 length scale of keypoint similarity, sqrt(area) · 2σ.
        scores: (B, K) float32 estimator's score over that of the person's best keypoint; 1 where nothing is known.
        others: (B, M, K, 2) float32 keypoints of the image's other people, for ``decoding.count_outliers`` alone; None
            where not known.
    """

    crops: Any
    crop_points: Any
    valid: Any
    std: Any
    scores: Any
    others: Any = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, rows: slice | npt.NDArray[np.int64]) -> Self:
        """Some of the people."""
        return replace(self, **{name: value[rows] for name, value in self._present()})

    @staticmethod
    def join(parts: Sequence[NetworkInput]) -> NetworkInput:
        """People one after another; of arrays, at least one part, and a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        each = {f.name: [getattr(p, f.name) for p in parts] for f in fields(NetworkInput)}
        return NetworkInput(**{k: None if v[0] is None else np.concatenate(v) for k, v in each.items()})

    def to(self, device: Any) -> Self:
        """As tensors on a device."""
        import torch

        tensors = {name: torch.as_tensor(value) for name, value in self._present()}
        if torch.device(device).type == "cuda":  # only from pinned memory does a copy not wait for the GPU
            tensors = {name: value if value.is_cuda else value.pin_memory() for name, value in tensors.items()}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})

    def _present(self) -> list[tuple[str, Any]]:
        return [(f.name, v) for f in fields(self) if (v := getattr(self, f.name)) is not None]

    def without_crops(self) -> Self:
        """The input pose alone."""
        return replace(self, crops=None)

    def mirrored(self, flip_indices: npt.NDArray[np.int64]) -> NetworkInput:
        """Arrays of the mirrored crops: x → W − 1 − x, left and right keypoints exchanged.

        Args:
            flip_indices: (K,) permutation.
        """
        width = self.crops.shape[2]
        return NetworkInput(
            crops=np.ascontiguousarray(self.crops[:, :, ::-1]),
            crop_points=flip_points(self.crop_points, width, flip_indices),
            valid=self.valid[:, flip_indices],
            std=self.std[:, flip_indices],
            scores=self.scores[:, flip_indices],
            others=None if self.others is None else flip_points(self.others, width, flip_indices),
        )
