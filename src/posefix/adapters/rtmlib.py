"""rtmlib: a tuple (keypoints, scores) of arrays in pixels; a score ≤ 0 means missing, and people may be phantoms.

Where its detector finds no person, rtmlib takes the whole image for one person, and RTMO answers one person of zeros.
People whose mean score is below 0.3 are left alone: rtmlib itself draws keypoints from 0.5 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_array, put_back, to_numpy, with_scores
from posefix.keypoints.skeleton import Skeleton

#: Mean score from which on a person is taken for real.
REAL_PERSON = 0.3


def recognise(output: Any) -> bool:
    """Two arrays or tensors, (N, K, 2) and (N, K) or (N, K, 1)."""
    if _is_empty(output):
        return True
    return (
        isinstance(output, (tuple, list))
        and len(output) == 2
        and all(is_array(part) for part in output)
        and output[0].ndim == 3
        and output[0].shape[2] == 2
        and tuple(output[1].shape) in (tuple(output[0].shape[:2]), (*output[0].shape[:2], 1))
    )


def _is_empty(output: Any) -> bool:
    """``([], [])`` or empty arrays, which detectors hand on where they found no person; a list is two empty images."""
    if not (isinstance(output, tuple) and len(output) == 2):
        return False
    return all((isinstance(p, list) and not p) or (is_array(p) and p.ndim == 1 and not len(p)) for p in output)


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people."""
    if _is_empty(output):
        return Extracted([np.zeros((0, 0, 3))], lambda _: output)
    keypoints, own_scores = output
    before = with_scores(to_numpy(keypoints), to_numpy(own_scores).reshape(tuple(keypoints.shape[:2])))
    if before.size:
        before[before[..., 2].mean(1) < REAL_PERSON, :, 2] = 0.0

    def rebuild(refined: list[Floats]) -> Any:
        new = (
            put_back(keypoints, before[..., :2], refined[0][..., :2]),
            put_back(own_scores, *(p[..., 2].reshape(tuple(own_scores.shape)) for p in (before, refined[0]))),
        )
        return new if isinstance(output, tuple) else list(new)

    return Extracted([before], rebuild)
