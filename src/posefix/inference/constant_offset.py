"""An estimator's constant offset: all of its keypoints lie by the same part of the crop to one side.

Decoders that take a heatmap's pixel for its corner, and crops that are placed half a pixel off, do that (Huang et al.
2020). It lasts, so no smoothing removes it. It is smaller than what the pose prior allows, so the image does not speak
against it. But all keypoints have the same, and errors of a pose differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Heatmap pixels around the offset within which a difference counts: larger ones are errors of the pose.
_NEAR = 1.5
#: Differences that a keypoint needs, and keypoints.
_LEAST_COUNT, _LEAST_KEYPOINTS = 3, 6
#: Standard errors from which an offset counts.
_SIGNIFICANT = 3.0
_ROUNDS = 3
#: People of whom so many keypoints are compared that a file's offset counts.
_LEAST_PEOPLE = 24


@dataclass(frozen=True)
class ConstantOffset:
    """What is known of it after some people.

    Attributes:
        total: (K, 2) sum of the differences, image minus pose, in heatmap pixels.
        count: (K,) how many.
    """

    total: Doubles
    count: Doubles

    @staticmethod
    def unknown(keypoints: int) -> ConstantOffset:
        """Before any people."""
        return ConstantOffset(np.zeros((keypoints, 2)), np.zeros(keypoints))

    def seen(self, differences: Floats, usable: Bools) -> ConstantOffset:
        """With more people.

        Args:
            differences: (B, K, 2) from the pose to where the image shows each keypoint, heatmap pixels.
            usable: (B, K) whether the image is confident of that, and the pose has it.
        """
        known = self
        for _ in range(_ROUNDS):
            near = usable & (np.linalg.norm(differences - known._mean()[0], axis=-1) < _NEAR)
            total = self.total + np.where(near[..., None], differences, 0.0).sum(0)
            known = ConstantOffset(total, self.count + near.sum(0))
        return known

    def _mean(self) -> tuple[Doubles, float]:
        """(2,) over the keypoints, and its squared standard error, by how much they differ."""
        some = self.count >= _LEAST_COUNT
        if some.sum() < _LEAST_KEYPOINTS:
            return np.zeros(2), np.inf
        each = self.total[some] / self.count[some, None]
        return each.mean(0), float(each.var(0, ddof=1).sum() / len(each))

    def value(self) -> Doubles:
        """(2,) heatmap pixels to add to the poses: 0 below ``_SIGNIFICANT``, whole from √2 times that on."""
        return self._mean()[0] * self.certainty()

    def certainty(self) -> float:
        """How much of the mean counts, 0 to 1."""
        mean, variance = self._mean()
        ratio = float(np.square(mean).sum()) / max(_SIGNIFICANT**2 * variance, 1e-12)
        return float(np.clip(ratio - 1, 0.0, 1.0))


def measured_offset(differences: Floats, usable: Bools) -> Doubles:
    """The offset of an estimator on whose people of many images all keypoints and all people agree.

    Args:
        differences: as for ``ConstantOffset.seen``.
        usable: likewise.

    Returns:
        (2,) heatmap pixels to add to the poses; 0 where people are few, or keypoints or people differ too much.
    """
    people, keypoints = usable.shape
    if (usable.sum(1) >= _LEAST_COUNT).sum() < _LEAST_PEOPLE:
        return np.zeros(2)
    by_keypoint = ConstantOffset.unknown(keypoints).seen(differences, usable)
    by_person = ConstantOffset.unknown(people).seen(differences.swapaxes(0, 1), usable.T)
    certainty = min(by_keypoint.certainty(), by_person.certainty())
    return by_keypoint.value() / max(by_keypoint.certainty(), 1e-12) * certainty
