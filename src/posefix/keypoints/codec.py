"""From points in a crop to heatmaps and back: the only place that knows where a heatmap's pixels lie in the crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: How a point is read from a distribution.
DECODERS = ("expected_similarity", "soft_argmax")


@dataclass(frozen=True)
class HeatmapCodec:
    """Heatmap pixel c lies at crop pixel ``stride · c + offset``.

    >>> codec = HeatmapCodec(stride=4, offset=1.5)
    >>> codec.to_heatmap(codec.to_crop(3.0))
    3.0

    Attributes:
        stride: crop pixels per heatmap pixel.
        offset: crop pixel of the first heatmap pixel's centre.
    """

    stride: int
    offset: float

    def to_heatmap(self, crop_points: Any) -> Any:
        """Points in crop pixels → heatmap pixels; numbers, arrays or tensors."""
        return (crop_points - self.offset) / self.stride

    def to_crop(self, heatmap_points: Any) -> Any:
        """Points in heatmap pixels → crop pixels; numbers, arrays or tensors."""
        return heatmap_points * self.stride + self.offset

    @property
    def mirror_shift(self) -> float:
        """Heatmap pixels by which the map of a mirrored crop is shifted once it is mirrored back."""
        return (self.stride - 1 - 2 * self.offset) / self.stride

    def encode(self, crop_points: Tensor, valid: Tensor, map_hw: tuple[int, int]) -> Tensor:
        """Target distributions of points (PoseFix §3.4).

        Args:
            crop_points: (B, K, 2) crop pixels.
            valid: (B, K) bool; others give an empty map.
            map_hw: (h, w) of the heatmaps.

        Returns:
            (B, K, h, w); a valid point's map sums to 1.
        """
        from posefix.keypoints.heatmaps import one_hot_targets

        return one_hot_targets(self.to_heatmap(crop_points), valid, map_hw)

    def decode(self, logits: Tensor, std: Tensor, decoder: str = DECODERS[0]) -> tuple[Tensor, Tensor]:
        """The most likely points of heatmaps and their confidence; see ``decode_probabilities``.

        Args:
            logits: (B, K, h, w).
            std: (B, K) length scale of keypoint similarity in crop pixels.
            decoder: one of ``DECODERS``.
        """
        from posefix.keypoints.heatmaps import heatmap_probabilities

        return self.decode_probabilities(heatmap_probabilities(logits), std, decoder)

    def decode_probabilities(
        self, probabilities: Tensor, std: Tensor, decoder: str = DECODERS[0]
    ) -> tuple[Tensor, Tensor]:
        """Points and confidence of distributions over heatmap pixels.

        Args:
            probabilities: (B, K, h, w), each map sums to 1.
            std: (B, K) length scale of keypoint similarity in crop pixels.
            decoder: ``"expected_similarity"``, the point of greatest expected keypoint similarity, or
                ``"soft_argmax"``, the expectation (PoseFix eq. 4).

        Returns:
            (B, K, 2) crop pixels and (B, K) expected keypoint similarity in [0, 1].
        """
        from posefix.keypoints.heatmaps import expected_position, expected_similarity, expected_similarity_argmax

        if decoder == "soft_argmax":
            points = expected_position(probabilities)
            confidence = expected_similarity(probabilities, points, std / self.stride)
        else:
            points, confidence = expected_similarity_argmax(probabilities, std / self.stride)
        return self.to_crop(points), confidence

    def similarity(self, probabilities: Tensor, crop_points: Tensor, std: Tensor) -> Tensor:
        """Expected keypoint similarity of given points in crop pixels; shapes as for ``expected_similarity``."""
        from posefix.keypoints.heatmaps import expected_similarity

        return expected_similarity(probabilities, self.to_heatmap(crop_points), std / self.stride)
