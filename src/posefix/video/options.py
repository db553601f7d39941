"""How to refine a video."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from posefix.exceptions import InputError
from posefix.messages import shown
from posefix.typed import check_fields, check_ranges
from posefix.weights.calibration import MOST_PRIOR_WEIGHT

#: Frames, people and threads: more is a slip of the pen.
_MOST = 10**6


@dataclass(frozen=True)
class VideoOptions:
    """How to refine tracks.

    Attributes:
        online: use no frame after the one that is refined but ``delay``; else the whole track counts.
        delay: frames by which results come late when online.
        max_gap: longest stretch of frames in which a missing keypoint is filled; longer ones stay as they are.
        repair_sides: put left and right right where an estimator exchanged them.
        fill_missing: give keypoints that are missing for longer than ``max_gap`` the network's output where the image
            supports it, as in ``Options``, in frames in which others of the person are there.
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
        check_fields(self, "", InputError)
        check_ranges(
            self, "", InputError, delay=(0, _MOST), max_gap=(0, _MOST), batch_size=(1, _MOST), workers=(1, 1024)
        )
        if self.prior_weight is not None:
            check_ranges(self, "", InputError, prior_weight=(0, MOST_PRIOR_WEIGHT))


def make_video_options(**options: Any) -> VideoOptions:
    """``VideoOptions`` from keyword arguments.

    Raises:
        InputError: an unknown name or value.
    """
    unknown = sorted(set(options) - {f.name for f in fields(VideoOptions)})
    if unknown:
        known = ", ".join(f.name for f in fields(VideoOptions))
        raise InputError(f"unknown option {shown(unknown[0])}; known are {known}")
    return VideoOptions(**options)
