"""Judge tracks of a labelled video: error, PCK and error of the acceleration, before and after.

    python benchmarks/labelled_video.py VIDEO LABELS POSES --online

LABELS is a file of annotations, of PoseTrack 2018 or in its or COCO's form with ``track_id``, or, as POSES, any track
file that ``posefix refine-video`` reads. Frames of annotations are counted by the numbers in their images' names. Not
every frame needs labels, as in PoseTrack. Each labelled person is compared with the
track that is most like them; people without a track count as missing.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from multiview import median_savgol
from scipy.optimize import linear_sum_assignment

from posefix import Refiner
from posefix.adapters.track_files import read_track_file
from posefix.exceptions import FileFormatError
from posefix.geometry import box_area, boxes_around_points
from posefix.io.posetrack import read_posetrack
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_std
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import COCO
from posefix.video.frames import read_frames

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Shares of the larger side of the person's box within which a keypoint counts as found.
_PCK = (0.05, 0.1)


def only_present(tracks: Floats) -> Floats:
    """(T, N, K, 2) points, NaN where there is none."""
    return np.where(present(tracks)[..., None], tracks[..., :2], np.nan)


def read_labels(path: str, first_frame: int | None) -> Floats:
    """(T, N, 17, 2) px of the labelled people, NaN where nothing is labelled."""
    try:
        annotations = read_posetrack(path, None)
    except FileFormatError:
        annotations = None
    if annotations is None or not annotations.is_labelled:
        return only_present(read_track_file(path, COCO, first_frame=first_frame).tracks.astype(np.float64))
    numbers = {i["id"]: int(re.findall(r"\d+", Path(i["file_name"]).stem)[-1]) for i in annotations.images}
    first = min(numbers.values())
    columns = [annotations.names.index(k) if k in annotations.names else -1 for k in COCO.keypoints]
    track = {name: n for n, name in enumerate(sorted({p["track_id"] for p in annotations.people}))}
    labels = np.full((max(numbers.values()) - first + 1, len(track), len(COCO), 3), np.nan)
    for person in annotations.people:
        known = np.append(np.reshape(person["keypoints"], (-1, 3)).astype(np.float64), [[0.0, 0.0, 0.0]], axis=0)
        labels[numbers[person["image_id"]] - first, track[person["track_id"]]] = known[columns]
    return only_present(labels)


def match_tracks(truth: Floats, points: Floats, size: Floats) -> npt.NDArray[np.int64]:
    """(N,) the track of each labelled person, −1 for none: together most like all of them, in frames that have both.

    Args:
        truth: (T, N, K, 2) px, NaN where nothing is labelled.
        points: (T, M, K, 2) px, NaN where there is nothing.
        size: (T, N) px of the people.
    """
    distance = np.linalg.norm(points[:, None] - truth[:, :, None], axis=-1) / size[:, :, None, None]
    near = np.nan_to_num(np.exp(-np.square(distance / 0.1))).sum((0, 3))
    people, tracks = linear_sum_assignment(-near)
    matched = np.full(truth.shape[1], -1)
    some = near[people, tracks] > 0
    matched[people[some]] = tracks[some]
    return matched


def filtered(tracks: Floats) -> Floats:
    """Median 5, then Savitzky and Golay's filter; gaps are bridged for it and stay gaps."""
    points, t = only_present(tracks), np.arange(len(tracks))
    bridged = points.reshape(len(points), -1).copy()
    for series in bridged.T:
        known = np.isfinite(series)
        if known.any():
            series[:] = np.interp(t, t[known], series[known])
    result = tracks.copy()
    calm = median_savgol(np.nan_to_num(bridged.reshape(points.shape)).swapaxes(0, 1)).swapaxes(0, 1)
    result[..., :2] = np.where(np.isfinite(points), calm, tracks[..., :2])
    return result


def summary(name: str, truth: Floats, tracks: Floats, size: Floats, std: Floats) -> str:
    """A line of the table.

    Args:
        name: of the method.
        truth: (T, N, K, 2) px, NaN where nothing is labelled.
        tracks: (T, N, K, 3) of the same people; NaN where there is nothing.
        size: (T, N) px, larger side of each box.
        std: (T, N, K) px, length scale of keypoint similarity.
    """
    error = np.linalg.norm(only_present(tracks) - truth, axis=-1)
    labelled = np.isfinite(truth).all(-1)
    found = [100 * np.nan_to_num((error <= share * size[..., None])[labelled]).mean() for share in _PCK]
    bend = np.linalg.norm(np.diff(only_present(tracks) - truth, 2, axis=0), axis=-1)
    pixels, scaled = error[np.isfinite(error)], (error / std)[np.isfinite(error)]
    bend = bend[np.isfinite(bend)]
    calm = f"{np.median(bend):.2f} / {np.percentile(bend, 90):.2f}" if len(bend) else "–"
    return (
        f"| {name} | {np.median(pixels):.2f} / {pixels.mean():.2f} / {np.percentile(pixels, 90):.2f} "
        f"| {scaled.mean():.3f} | {found[0]:.1f} / {found[1]:.1f} % | {calm} |"
    )


HEADER = (
    "| | error px: median / mean / p90 | in length scales | PCK at 0.05 / 0.1 of the box "
    "| error of the acceleration px/frame²: median / p90 |\n|---|---|---|---|---|"
)


@click.command()
@click.argument("video", type=click.Path(exists=True))
@click.argument("labels", type=click.Path(exists=True))
@click.argument("poses", type=click.Path(exists=True))
@click.option("--first-frame", type=int, help="Number that track files give the video's first frame.")
@click.option("--online", is_flag=True, help="Also refine online.")
def main(video: str, labels: str, poses: str, first_frame: int | None, online: bool) -> None:
    """Print the table for POSES of VIDEO against LABELS."""
    truth = read_labels(labels, first_frame)
    given = read_track_file(poses, COCO, first_frame=first_frame).tracks.astype(np.float64)
    frames = max(len(truth), len(given))

    def as_long(tracks: Floats) -> Floats:
        return np.concatenate([tracks, np.full((frames - len(tracks), *tracks.shape[1:]), np.nan)])

    truth, given = as_long(truth), as_long(given)
    boxes = boxes_around_points(truth.reshape(-1, len(COCO), 2), np.isfinite(truth).all(-1).reshape(-1, len(COCO)))
    size = np.nan_to_num((boxes[:, 2:] - boxes[:, :2]).max(-1), nan=1.0)
    std = keypoint_std(AREA_PER_BOX * np.nan_to_num(box_area(boxes), nan=1.0), COCO.sigmas)
    size, std = size.reshape(truth.shape[:2]), std.reshape(truth.shape[:3])
    matched = match_tracks(truth, only_present(given), size)

    refiner = Refiner.from_pretrained()
    single = np.stack([refiner.refine(f, p) for f, p in zip(read_frames(video), given, strict=False)])
    ways = {
        "estimates": given,
        "estimates + median 5 + SavGol (7, 2)": filtered(given),
        "posefix frame by frame": single,
        "posefix, then median 5 + SavGol (7, 2)": filtered(single),
        "refine_video": refiner.refine_video(video, given),
    }
    if online:
        ways["refine_video online"] = refiner.refine_video(video, given, online=True)
    click.echo(f"{frames} frames, {(matched >= 0).sum()} of {len(matched)} labelled people have a track\n\n{HEADER}")
    for name, tracks in ways.items():
        own = np.where((matched >= 0)[:, None, None], tracks[:, matched], np.nan)
        click.echo(summary(name, truth, own, size, std))


if __name__ == "__main__":
    main()
