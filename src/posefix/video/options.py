"""How to refine a video."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from posefix.exceptions import InputError


@dataclass(frozen=True)
class VideoOptions:
    """How to refine tracks.

    Attributes:
        online: use no frame after the one that is refined but ``delay``; else the whole track counts.
        delay: frames by which results come late when online.
        max_gap: longest stretch of frames in which a missing keypoint is filled; longer ones stay as they are.
        repair_sides: put left and right right where an estimator exchanged them.
        fill_missing: give keypoints that are missing for longer than ``max_gap`` the network's output, in frames in
            which others of the person are there.
        prior_weight: weight of the input poses, as in ``Options``; None measures it on the video.
        batch_size: people per pass through the network.
        workers: threads that cut crops while the network computes.
    """

    online: bool = False
    delay: int = 8
    max_gap: int = 15
    repair_sides: bool = True
    fill_missing: bool = True
    prior_weight: float | None = None
    batch_size: int = 32
    workers: int = 2

    def __post_init__(self) -> None:
        for name, least in (("delay", 0), ("max_gap", 0), ("batch_size", 1), ("workers", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        weight = self.prior_weight
        if weight is not None and (not isinstance(weight, int | float) or not 0 <= weight < float("inf")):
            raise InputError(f"prior_weight: expected a number of at least 0, or None to measure it, got {weight!r}")


def make_video_options(**options: Any) -> VideoOptions:
    """``VideoOptions`` from keyword arguments.

    Raises:
        InputError: an unknown name or value.
    """
    unknown = sorted(set(options) - {f.name for f in fields(VideoOptions)})
    if unknown:
        known = ", ".join(f.name for f in fields(VideoOptions))
        raise InputError(f"unknown option {unknown[0]!r}; known are {known}")
    return VideoOptions(**options)
