"""torchvision Keypoint R-CNN: continuous coordinates (+0.5 at a pixel's centre), scores as raw logits.

The third column of its ``keypoints`` is always 1 and is ignored; ``keypoints_scores`` is the heatmap's logit. New
scores are written as logits too, so that ``sigmoid(keypoints_scores)`` is the refiner's confidence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, put_back, to_numpy
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton
from posefix.tensors import is_tensor


def recognise(output: Any) -> bool:
    """The dict of one image; lists of them are taken apart before."""
    return isinstance(output, dict) and {"boxes", "keypoints"} <= set(output) and is_tensor(output["keypoints"])


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people."""
    own, logits = output["keypoints"], output.get("keypoints_scores")
    before = to_numpy(own)
    # (0, 0) is missing in this frame, before half a pixel is taken off.
    before[..., :2] -= 0.5 * present(before[..., :2])[..., None]
    if logits is not None:
        # Every keypoint is an estimate: a sigmoid is never 0, which would mean missing.
        before[..., 2] = np.maximum(1 / (1 + np.exp(-np.clip(to_numpy(logits), -50, 50))), 1e-9)

    def rebuild(refined: list[Floats]) -> Any:
        after = refined[0]
        new = dict(output)
        column = to_numpy(own)[..., 2:]
        shifted = np.concatenate([after[..., :2] + 0.5, column], axis=-1)
        same_column = np.concatenate([after[..., :2], before[..., 2:]], axis=-1)
        new["keypoints"] = put_back(own, before, same_column, shifted)
        if logits is not None:
            chance = np.clip(after[..., 2], 1e-6, 1 - 1e-6)
            new["keypoints_scores"] = put_back(logits, before[..., 2], after[..., 2], np.log(chance / (1 - chance)))
        return new

    return Extracted([before], rebuild, boxes=[to_numpy(output["boxes"])])
