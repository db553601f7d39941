"""Drawn tracks: a video of before | after with trails, and curves of x and y over time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.drawing.draw import draw_comparison
from posefix.exceptions import ImageError, InputError, MissingDependencyError
from posefix.io.atomic import new_file, write_file
from posefix.io.images import Image
from posefix.io.json import PathLike
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.messages import printable

Floats = npt.NDArray[np.floating]

#: Frames of a trail, and its colour.
TRAIL = 15
_TRAIL_COLOUR = (240, 228, 66)
_BEFORE, _AFTER = "#999999", "#0072B2"
#: What is plotted where nothing is chosen.
_PLOTTED = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")


def compare_frames(
    frames: Iterable[Image], before: Floats, after: Floats, *, skeleton: Skeleton = COCO, height: int = 720
) -> Iterator[Image]:
    """Each frame with the poses before and after side by side, trails of every keypoint, moved ones marked.

    Args:
        frames: T images (H, W, 3) RGB.
        before: (T, N, K, 3) px.
        after: the same people.
        skeleton: names and edges.
        height: px to which larger frames are reduced.

    Yields:
        (h, w, 3) RGB with even sides, as video codecs need them.
    """
    for t, frame in enumerate(frames):
        if t >= len(before):
            return
        scale = min(height / frame.shape[0], 1.0)
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        first = max(t - TRAIL, 0)
        old, new = (_scaled(poses[first : t + 1], scale) for poses in (before, after))
        canvas = draw_comparison(small, old[-1], new[-1], skeleton=skeleton)
        _draw_trails(canvas[:, : size[0]], old)
        _draw_trails(canvas[:, -size[0] :], new)
        yield np.ascontiguousarray(canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2])


def _scaled(poses: Floats, scale: float) -> Floats:
    moved = np.array(poses, np.float64)
    moved[..., :2] = (moved[..., :2] + 0.5) * scale - 0.5
    return moved


def _draw_trails(panel: Image, poses: Floats) -> None:
    """Where each keypoint of (F, N, K, 3) has been, onto one panel."""
    there = present(poses.reshape(-1, *poses.shape[2:])).reshape(poses.shape[:3])
    canvas = np.ascontiguousarray(panel)
    for person, keypoint in zip(*np.nonzero(there[-1]), strict=True):
        seen = there[:, person, keypoint]
        # Only back to where it was last missing.
        start = len(seen) - int(np.argmin(seen[::-1])) if not seen.all() else 0
        line = np.rint(np.clip(poses[start:, person, keypoint, :2], -1e5, 1e5) * 16).astype(np.int32)
        if len(line) > 1:
            cv2.polylines(canvas, [line.reshape(-1, 1, 2)], False, _TRAIL_COLOUR, 1, cv2.LINE_AA, 4)
    panel[:] = canvas


def write_video(path: PathLike, frames: Iterable[Image], rate: float) -> int:
    """Write an MP4, whole or not at all.

    Args:
        path: where.
        frames: (H, W, 3) RGB, all of one size.
        rate: frames per second.

    Returns:
        how many frames.

    Raises:
        ImageError: OpenCV cannot write it, or not all of it.
        InputError: there is no frame.
    """
    writer, size, count = None, (0, 0), 0
    with new_file(path, keep_suffix=True) as part:
        try:
            for frame in frames:
                if writer is None:
                    size = (frame.shape[1], frame.shape[0])
                    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                    if not writer.isOpened():
                        raise ImageError(f"{path}: OpenCV cannot write this video here")
                # OpenCV leaves out frames of another size without a word.
                same = frame if (frame.shape[1], frame.shape[0]) == size else cv2.resize(frame, size)
                writer.write(cv2.cvtColor(same, cv2.COLOR_RGB2BGR))
                count += 1
            if writer is None:
                raise InputError(f"{path}: expected at least one frame to write, got none")
        finally:
            if writer is not None:
                writer.release()
        # OpenCV does not say that a frame could not be written.
        capture = cv2.VideoCapture(str(part))
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if there < count:
            raise ImageError(f"{path}: only {max(there, 0)} of {count} frames could be written; is the disk full?")
    return count


def require_matplotlib() -> Any:
    """``matplotlib.figure``, which plots need and nothing else does.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib, which is not installed: pip install 'posefix[plot]'"
        ) from error
    return matplotlib.figure


def plot_tracks(
    path: PathLike,
    before: Floats,
    after: Floats,
    *,
    skeleton: Skeleton = COCO,
    person: int = 0,
    keypoints: Sequence[str] = (),
    filled: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Curves of x and y over time, before and after.

    Args:
        path: PNG, PDF or SVG.
        before: (T, N, K, 3) px.
        after: the same people.
        skeleton: names.
        person: which column of N.
        keypoints: names; default wrists and ankles, or all where there are none.
        filled: (T, N, K) keypoints that were filled, drawn as dots.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        SkeletonError: no such keypoint.
        InputError: no such person.
    """
    figure_module = require_matplotlib()
    if not 0 <= person < before.shape[1]:
        raise InputError(f"person: expected one of the {before.shape[1]} tracks, 0 the first, got {person}")
    names = tuple(keypoints) or tuple(n for n in _PLOTTED if n in skeleton.keypoints) or skeleton.keypoints
    figure = figure_module.Figure(figsize=(12, 1.8 * len(names) + 0.8), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, sharex=True)
    time = np.arange(len(before))
    for row, name in enumerate(names):
        k = skeleton.index(name)
        for column, axis in enumerate("xy"):
            plot = axes[row][column]
            for poses, colour, width, label in ((before, _BEFORE, 0.9, "before"), (after, _AFTER, 1.4, "after")):
                values = np.where(present(poses[:, person])[:, k], poses[:, person, k, column], np.nan)
                plot.plot(time, values, color=colour, linewidth=width, label=label)
            if filled is not None and filled[:, person, k].any():
                rows = filled[:, person, k]
                plot.plot(time[rows], after[rows, person, k, column], ".", color="#D55E00", label="filled")
            label = printable(name.replace("_", " "))
            plot.set_ylabel(f"{label} {axis}, px", fontsize=8, parse_math=False)
    axes[0][0].legend(fontsize=8, loc="best")
    for plot in axes[-1]:
        plot.set_xlabel("frame")
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(path).suffix.lstrip(".") or "png", dpi=110)
    write_file(path, stream.getvalue())
