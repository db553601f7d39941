"""rtmlib: a tuple (keypoints, scores) of arrays in pixels; a score ≤ 0 means missing, and people may be phantoms.

Where its detector finds no person, rtmlib takes the whole image for one person, and RTMO answers one person of zeros.
People whose mean score is below 0.3 are left alone: rtmlib itself draws keypoints from 0.5 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, put_back, to_numpy, with_scores
from posefix.keypoints.skeleton import Skeleton

#: Mean score from which on a person is taken for real.
REAL_PERSON = 0.3


def recognise(output: Any) -> bool:
    """Two arrays, (N, K, 2) and (N, K)."""
    if _is_empty(output):
        return True
    return (
        isinstance(output, (tuple, list))
        and len(output) == 2
        and all(isinstance(part, np.ndarray) for part in output)
        and output[0].ndim == 3
        and output[0].shape[2] == 2
        and output[1].shape == output[0].shape[:2]
    )


def _is_empty(output: Any) -> bool:
    """``([], [])``, which detectors hand on where they found no person; a list of two is two empty images."""
    return isinstance(output, tuple) and len(output) == 2 and all(isinstance(p, list) and not p for p in output)


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people."""
    if _is_empty(output):
        return Extracted([np.zeros((0, 0, 3))], lambda _: output)
    keypoints, own_scores = output
    before = with_scores(to_numpy(keypoints), to_numpy(own_scores))
    if before.size:
        before[before[..., 2].mean(1) < REAL_PERSON, :, 2] = 0.0

    def rebuild(refined: list[Floats]) -> Any:
        new = (
            put_back(keypoints, before[..., :2], refined[0][..., :2]),
            put_back(own_scores, before[..., 2], refined[0][..., 2]),
        )
        return new if isinstance(output, tuple) else list(new)

    return Extracted([before], rebuild)
