"""Plain arrays and tensors: (N, K, 2 or 3), nested lists of them, and (frames, N, K, 2 or 3) as SLEAP exports."""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Doubles, Extracted, Floats, Images, is_array, like, put_back, to_numpy, with_scores
from posefix.exceptions import InputError
from posefix.keypoints.poses import NORMALISED, normalised
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """An array or tensor, lists of lists of [x, y] or [x, y, score], or a list of (K, 2 or 3) arrays, a person each."""
    if is_array(output) or _is_people(output):
        return True
    levels = output
    for _ in range(3):
        if not isinstance(levels, (list, tuple)) or not levels:
            return False
        levels = levels[0]
    return isinstance(levels, (int, float, np.number))


def _is_people(output: Any) -> bool:
    return (
        isinstance(output, (list, tuple))
        and len(output) > 0
        and all(is_array(p) and p.ndim == 2 and p.shape[1] in (2, 3) for p in output)
    )


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """Pixels, scores in the third column; NaN, score ≤ 0 and, without scores, (0, 0) are missing.

    Raises:
        InputError: another shape.
    """
    if _is_people(output):
        return _from_people(output, images, skeleton)
    try:
        own = output if is_array(output) else np.array(output, np.float64)
    except ValueError as error:
        raise InputError(f"keypoints: people have different numbers of keypoints ({error})") from error
    values = to_numpy(own)
    if values.size == 0 and values.ndim < 3 and not values.shape[0]:
        values = values.reshape(0, 0, 3)
    if values.ndim not in (3, 4) or values.shape[-1] not in (2, 3):
        hint = "; for one person pass keypoints[None]" if values.ndim == 2 else ""
        raise InputError(
            f"keypoints: expected (N, K, 2 or 3), or (frames, N, K, 2 or 3), got {tuple(values.shape)}{hint}"
        )
    people, count = values.shape[-3:-1]
    if people and not count:
        raise InputError(f"keypoints: expected at least one keypoint per person, got {tuple(values.shape)}")
    frames = [with_scores(f[..., :2], f[..., 2] if f.shape[-1] == 3 else None) for f in _frames(values)]
    if normalised(frames):
        raise InputError(f"keypoints: {NORMALISED}")

    def rebuild(refined: list[Floats]) -> Any:
        if not values.size:
            return like(to_numpy(own), own)
        after = np.stack([r[..., : values.shape[-1]] for r in refined]).reshape(values.shape)
        new = put_back(own, values, after)
        return new if is_array(output) else new.tolist()

    return Extracted(frames, rebuild)


def _frames(values: Doubles) -> list[Doubles]:
    return list(values) if values.ndim == 4 else [values]


def _from_people(people: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people, each an array or tensor of its own."""
    counts = sorted({len(p) for p in people})
    if len(counts) > 1:
        raise InputError(f"keypoints: people have different numbers of keypoints ({', '.join(map(str, counts))})")
    own = [to_numpy(p) for p in people]
    found = extract(np.array(own), images, skeleton)

    def rebuild(refined: list[Floats]) -> Any:
        new = zip(people, own, refined[0], strict=True)
        return type(people)(put_back(p, old, after[:, : old.shape[1]]) for p, old, after in new)

    return Extracted(found.keypoints, rebuild)
