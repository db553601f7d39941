"""``posefix refine-video``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posefix.choices import TRACK_FORMATS
from posefix.cli.options import (
    JSON,
    PACKED_JSON,
    PLOTS,
    VIDEO,
    backend_option,
    check_inputs,
    check_output,
    device_option,
    load_refiner,
    report_errors,
    say,
    threads_option,
    weights_option,
)
from posefix.exceptions import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from posefix.inference.track_refinement import RefinedFrames

#: Endings of what the formats write, but for COCO's and AlphaPose's JSON, which may be packed.
_ENDINGS = {
    **dict.fromkeys(("posetrack", "mmpose"), JSON),
    **dict.fromkeys(("deeplabcut-h5", "sleap-h5"), (".h5", ".hdf5")),
    "deeplabcut-csv": (".csv",),
    "sleap-slp": (".slp",),
    "trc": (".trc",),
}


@click.command("refine-video", short_help="Refine the tracks of a video.")
@click.argument("video", type=click.Path())
@click.argument("poses", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Where the refined poses go, in the same format.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", *TRACK_FORMATS]),
    default="auto",
    show_default=True,
    help="Format of POSES.",
)
@click.option(
    "--first-frame",
    type=int,
    help="Number that POSES gives the video's first frame; default 0 where it occurs, else 1.",
)
@click.option("--online", is_flag=True, help="Use no later frame but --delay; else the whole video counts.")
@click.option("--delay", default=8, show_default=True, help="Frames by which results come late when online.")
@click.option("--max-gap", default=15, show_default=True, help="Longest stretch of missing frames that is filled.")
@click.option("--repair-sides/--no-repair-sides", default=True, help="Put exchanged left and right right.")
@click.option("--fill-missing/--no-fill-missing", default=True, help="Give missing keypoints the network's output.")
@click.option(
    "--prior-weight",
    type=click.FloatRange(min=0),
    show_default="measured on the video",
    help="Weight of the given poses against the image: 0.5 suits weak estimators, 1 medium, 1.5 strong ones.",
)
@click.option("--video", "video_out", type=click.Path(dir_okay=False), help="MP4 of before and after with trails.")
@click.option(
    "--plot",
    "plot_out",
    type=click.Path(dir_okay=False),
    help="PNG, PDF or SVG: x and y over time; needs posefix[plot].",
)
@click.option("--plot-keypoints", default="", help="Their names with commas; default wrists and ankles.")
@click.option("--plot-person", default=0, show_default=True, help="Which person, 0 the first.")
@weights_option
@device_option
@backend_option
@threads_option
@click.option("--batch-size", default=32, show_default=True, help="People per pass through the network.")
@click.option("--workers", default=2, show_default=True, help="Threads that cut crops meanwhile.")
@report_errors
def refine_video(
    video: str,
    poses: str,
    out: str,
    file_format: str,
    first_frame: int | None,
    online: bool,
    delay: int,
    max_gap: int,
    repair_sides: bool,
    fill_missing: bool,
    prior_weight: float | None,
    video_out: str | None,
    plot_out: str | None,
    plot_keypoints: str,
    plot_person: int,
    weights: str | None,
    device: str,
    backend: str,
    threads: int | None,
    batch_size: int,
    workers: int,
) -> None:
    """Refine the tracks of a video: points are pulled to the right place and calmed at once.

    VIDEO is a file that OpenCV reads or a folder of images. POSES are COCO results, AlphaPose, PoseTrack or mmpose
    JSON, a folder of OpenPose's frames, DeepLabCut csv or h5, SLEAP slp or analysis h5, or TRC in pixels.

    \b
    Examples:
      posefix refine-video dance.mp4 results.json --out refined.json
      posefix refine-video dance.mp4 results.json --out refined.json --video compared.mp4 --plot wrists.png
      posefix refine-video cam1.mp4 pose/cam1_json --out pose/cam1_refined
      posefix refine-video mouse.avi mouseDLC.h5 --out refined.h5
    """
    import numpy as np

    from posefix.adapters.track_files import read_track_file
    from posefix.drawing.tracks import compare_frames, plot_tracks, require_matplotlib, write_video
    from posefix.keypoints.poses import present
    from posefix.video.frames import frame_rate, read_frames
    from posefix.video.options import VideoOptions

    options = VideoOptions(
        online=online,
        delay=delay,
        max_gap=max_gap,
        repair_sides=repair_sides,
        fill_missing=fill_missing,
        prior_weight=prior_weight,
        batch_size=batch_size,
        workers=workers,
    )
    check_inputs(video, poses)
    read_frames(video)  # something else than a video or a folder of images
    for path, endings in ((video_out, VIDEO), (plot_out, PLOTS)):
        if path:
            check_output(path, endings, inputs=[video])
    if plot_out:
        require_matplotlib()  # before the work, not after it
    refiner = load_refiner(weights, device, backend, threads)
    for name in filter(None, plot_keypoints.split(",")):
        refiner.skeleton.index(name.strip())
    opened = read_track_file(poses, refiner.skeleton, format=file_format, first_frame=first_frame)
    if plot_out and not 0 <= plot_person < len(opened.ids):
        raise InputError(f"--plot-person: expected one of the {len(opened.ids)} people, 0 the first, got {plot_person}")
    check_output(out, _ENDINGS.get(opened.format, PACKED_JSON), folder=opened.format == "openpose")
    start = time.perf_counter()
    parts = list(refiner.refine_tracks(video, opened.tracks, progress=sys.stderr.isatty(), **vars(options)))
    seconds = time.perf_counter() - start
    before = opened.tracks
    after = np.concatenate([p.keypoints for p in parts]) if parts else before
    opened.write(out, after)

    if opened.remark:
        say(opened.remark)
    if opened.linked:
        say(f"people had no ids: {len(opened.ids)} tracks are a tracker's")
    both = present(before.reshape(-1, *before.shape[2:])) & present(after.reshape(-1, *after.shape[2:]))
    moved = np.linalg.norm((after - before)[..., :2], axis=-1).reshape(both.shape)[both]
    who = "1 person" if len(opened.ids) == 1 else f"{len(opened.ids)} people"
    say(f"{len(before)} frames, {who} ({opened.format}); {both.sum()} keypoints")
    if len(moved):
        say(
            f"moved by {np.median(moved):.1f} px (median); change of speed from frame to frame "
            f"{_restlessness(before):.2f} → {_restlessness(after):.2f} px (median)"
        )
    exchanged = sum(int(p.exchanged.any(-1).sum()) for p in parts)
    filled = np.concatenate([p.filled for p in parts]) if parts else np.zeros(before.shape[:3], bool)
    written = filled if opened.rows is None else filled & opened.rows[..., None]
    line = f"left and right exchanged in {exchanged} poses, {written.sum()} keypoints in gaps filled"
    if written.sum() != filled.sum():
        line += f"; {filled.sum() - written.sum()} more are not written, for {Path(poses).name} has no people there"
    say(line)
    if moved_first := _offset_line(parts):
        say(moved_first)
    say(f"computed by {refiner.computed_by}")
    say(f"{out} written: {seconds:.1f} s, {len(before) / max(seconds, 1e-9):.1f} frames/s")
    if video_out:
        shown = compare_frames(read_frames(video), before, after, skeleton=refiner.skeleton)
        write_video(video_out, shown, frame_rate(video) or 25.0)
        say(f"{video_out} written")
    if plot_out:
        names = [n.strip() for n in plot_keypoints.split(",") if n.strip()]
        plot_tracks(
            plot_out, before, after, skeleton=refiner.skeleton, person=plot_person, keypoints=names, filled=filled
        )
        say(f"{plot_out} written")


def _offset_line(parts: Sequence[RefinedFrames]) -> str:
    """What was found of an offset of all keypoints; empty for none."""
    import numpy as np

    offsets = np.concatenate([p.offset.reshape(-1, 2) for p in parts]) if parts else np.zeros((0, 2))
    offsets = offsets[offsets.any(-1)]
    if not len(offsets):
        return ""
    x, y = -np.median(offsets, axis=0)
    return (
        f"all keypoints lay to one side of where the images show them, by ({x:.1f}, {y:.1f}) px (median); that was "
        "taken off. Decoders that are half a heatmap pixel off do so"
    )


def _restlessness(tracks: npt.NDArray[Any]) -> float:
    """Median size of the second difference, px per frame²."""
    import numpy as np

    from posefix.keypoints.poses import present

    points = np.where(present(tracks)[..., None], tracks[..., :2], np.nan)
    change = np.linalg.norm(np.diff(points, 2, axis=0), axis=-1)
    return float(np.median(change[np.isfinite(change)])) if np.isfinite(change).any() else 0.0
