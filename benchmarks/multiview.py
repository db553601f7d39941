"""Judge 2D tracks without labels: several calibrated cameras must agree on one point in space.

Every keypoint of every frame is triangulated over all cameras and projected back; the distance to the track's keypoint
is its error. Arms and legs must not change their length, and the motion of a person is smooth. A part of every error is
common to all methods (lens distortion, what an estimator calls a joint): compare methods, not absolute figures.

    python benchmarks/multiview.py ../shared/data/video/single_person
    python benchmarks/multiview.py FOLDER --results a.json --results b.json --online

A folder holds ``cameras.json`` (a list of ``camera`` and ``projection_mm_to_px``, 3 × 4), ``cam01.mp4`` … and results
files: a list of ``camera``, ``frame`` (from 0), ``person_id`` and ``keypoints`` [x, y, score] of COCO's 17.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter

from posefix import Refiner
from posefix.keypoints.skeleton import COCO
from posefix.video.frames import read_frames

Floats = npt.NDArray[np.floating]

#: The 12 keypoints of the body; no camera agrees with another on eyes and ears seen from behind.
BODY = np.arange(5, 17)
LENGTHS = {
    "forearm": (("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
    "thigh": (("left_hip", "left_knee"), ("right_hip", "right_knee")),
    "shank": (("left_knee", "left_ankle"), ("right_knee", "right_ankle")),
}
#: Pixels: an error that halves a view's weight; errors that count as large; sides far enough apart to be told apart.
HALF_WEIGHT, LARGE, APART = 10.0, 40.0, 40.0


@dataclass(frozen=True)
class Judgement:
    """What several cameras say of one method's tracks.

    Attributes:
        median, mean, p90: px, reprojection error.
        large: share of keypoints beyond ``LARGE``.
        forearm, thigh, shank: mm, standard deviation over time of the length in space, mean of both sides.
        acceleration, acceleration_p90: px / frame², second differences of the points in the image.
        exchanged: pairs of left and right that fit the reference at least twice as well exchanged.
        pairs: that were looked at.
    """

    median: float
    mean: float
    p90: float
    large: float
    forearm: float
    thigh: float
    shank: float
    acceleration: float
    acceleration_p90: float
    exchanged: int = 0
    pairs: int = 0


def triangulate(points: Floats, weights: Floats, cameras: Floats, *, unit_rows: bool = True, rounds: int = 6) -> Floats:
    """Points in space from their images: linear, weighted, anew with less weight for views that disagree.

    Args:
        points: (C, ..., 2) px; not finite where a view says nothing.
        weights: (C, ...).
        cameras: (C, 3, 4) space → homogeneous px.
        unit_rows: scale each equation to unit length; without, equations count by what they say in px, and one wrong
            view is outvoted more often.
        rounds: of reweighting.

    Returns:
        (..., 3); NaN where fewer than two views say something.
    """
    seen = np.isfinite(points).all(-1)
    points = np.where(seen[..., None], points, 0.0)
    weights = np.where(seen, weights, 0.0)
    trusted = weights
    shape = (len(cameras), *[1] * (points.ndim - 2))
    rows = points[..., None] * cameras[:, 2].reshape(*shape, 1, 4) - cameras[:, :2].reshape(*shape, 2, 4)
    if unit_rows:
        rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    found = np.zeros((*points.shape[1:-1], 3))
    for _ in range(rounds):
        system = np.moveaxis(rows * np.sqrt(trusted)[..., None, None], 0, -3)
        system = system.reshape(*system.shape[:-3], -1, 4)
        homogeneous = np.linalg.svd(system)[2][..., -1, :]
        found = homogeneous[..., :3] / homogeneous[..., 3:]
        error = np.linalg.norm(project(found, cameras) - points, axis=-1)
        trusted = weights / (1 + (error / HALF_WEIGHT) ** 2)
    return np.where((seen.sum(0) >= 2)[..., None], found, np.nan)


def project(space: Floats, cameras: Floats) -> Floats:
    """(..., 3) in space → (C, ..., 2) px."""
    homogeneous = np.concatenate([space, np.ones_like(space[..., :1])], -1)
    image = np.einsum("cij,...j->c...i", cameras, homogeneous)
    return image[..., :2] / image[..., 2:]


def robust_space(tracks: Floats, cameras: Floats, *, unit_rows: bool = True) -> Floats:
    """(T, K, 3) in space from (C, T, K, 3) tracks, weighted by their scores."""
    weights = np.clip(np.nan_to_num(tracks[..., 2]), 0.05, 1.0)
    return triangulate(tracks[..., :2], weights, cameras, unit_rows=unit_rows)


def camera_shifts(tables: Sequence[Floats], cameras: Floats, rounds: int = 20) -> Floats:
    """Shifts of the cameras' images with which the keypoints of all methods together agree in space.

    A camera that is calibrated a little off shifts all keypoints of its image, whatever the method. That can be more
    than the methods' own errors, and hides them.

    Args:
        tables: (C, T, K, 3) tracks of each method.
        cameras: (C, 3, 4).
        rounds: of triangulating and shifting.

    Returns:
        (C, 2) px, for ``shift_cameras``.
    """
    everything, shifts = np.concatenate(tables), np.zeros((len(cameras), 2))
    for _ in range(rounds):
        shifted = shift_cameras(cameras, shifts)
        space = robust_space(everything, np.concatenate([shifted] * len(tables)), unit_rows=False)
        away = np.stack([t[..., :2] for t in tables]) - project(space, shifted)
        away = away[:, :, :, BODY].swapaxes(0, 1).reshape(len(cameras), -1, 2)
        seen = np.isfinite(away).all(-1)
        away = np.where(seen[..., None], away, 0.0)
        weight = seen / (1 + np.square(np.linalg.norm(away, axis=-1) / HALF_WEIGHT))
        shifts = shifts + (weight[..., None] * away).sum(1) / weight.sum(1)[:, None]
    return shifts


def shift_cameras(cameras: Floats, shifts: Floats) -> Floats:
    """(C, 3, 4) cameras whose images are shifted by (C, 2) px."""
    matrix = np.tile(np.eye(3), (len(cameras), 1, 1))
    matrix[:, :2, 2] = shifts
    shifted: Floats = matrix @ cameras
    return shifted


def judge(tracks: Floats, cameras: Floats, reference: Floats | None = None, *, unit_rows: bool = True) -> Judgement:
    """Judge one method.

    Args:
        tracks: (C, T, 17, 3) px and score of one person in C cameras' T frames.
        cameras: (C, 3, 4).
        reference: (T, 17, 3) in space, of the method that is trusted most; it tells left from right.
        unit_rows: as for ``triangulate``.
    """
    space = robust_space(tracks, cameras, unit_rows=unit_rows)
    error = np.linalg.norm(project(space, cameras) - tracks[..., :2], axis=-1)[:, :, BODY]
    error = error[np.isfinite(error)]
    lengths = {
        name: float(np.mean([np.nanstd(_length(space, *side)) for side in sides])) for name, sides in LENGTHS.items()
    }
    change = np.linalg.norm(np.diff(tracks[:, :, BODY, :2], 2, axis=1), axis=-1)
    exchanged, pairs = (0, 0) if reference is None else count_exchanged(tracks[..., :2], project(reference, cameras))
    return Judgement(
        float(np.median(error)),
        float(error.mean()),
        float(np.percentile(error, 90)),
        float((error > LARGE).mean()),
        **lengths,
        acceleration=float(np.nanmedian(change)),
        acceleration_p90=float(np.nanpercentile(change, 90)),
        exchanged=exchanged,
        pairs=pairs,
    )


def _length(space: Floats, start: str, end: str) -> Floats:
    length: Floats = np.linalg.norm(space[:, COCO.index(start)] - space[:, COCO.index(end)], axis=-1)
    return length


def count_exchanged(points: Floats, reference: Floats) -> tuple[int, int]:
    """Pairs at least twice as near to the reference when exchanged, of those that it has ``APART``."""
    left = np.array([k for k in BODY if COCO.keypoints[k].startswith("left_")])
    right = COCO.flip_indices[left]
    apart = np.linalg.norm(reference[..., left, :] - reference[..., right, :], axis=-1) >= APART

    def distance(first: Floats, second: Floats) -> Floats:
        to_left = np.linalg.norm(points[..., first, :] - reference[..., left, :], axis=-1)
        to_right = np.linalg.norm(points[..., second, :] - reference[..., right, :], axis=-1)
        total: Floats = to_left + to_right
        return total

    exchanged = apart & (2 * distance(right, left) <= distance(left, right))
    return int(exchanged.sum()), int(apart.sum())


def one_euro(tracks: Floats, cutoff: float = 0.04, beta: float = 0.7) -> Floats:
    """(C, T, K, 3) after a One-Euro filter (Casiez et al. 2012), units px and frames."""

    def share(frequency: Floats | float) -> Floats:
        tau = 1 / (2 * np.pi * np.asarray(frequency))
        return np.asarray(1 / (1 + tau))

    filtered = tracks.copy()
    speed = np.zeros_like(tracks[:, 0, :, :2])
    for t in range(1, tracks.shape[1]):
        before = filtered[:, t - 1, :, :2]
        speed += share(1.0) * (tracks[:, t, :, :2] - before - speed)
        weight = share(cutoff + beta * np.abs(speed))
        filtered[:, t, :, :2] = weight * tracks[:, t, :, :2] + (1 - weight) * before
    return filtered


def median_savgol(tracks: Floats, median: int = 5, window: int = 7, order: int = 2) -> Floats:
    """(C, T, K, 3) after a running median, then Savitzky and Golay's filter."""
    filtered = tracks.copy()
    calm = median_filter(tracks[..., :2], size=(1, median, 1, 1), mode="nearest")
    filtered[..., :2] = savgol_filter(calm, window, order, axis=1)
    return filtered


def read_results(path: Path, cameras: int, person: int) -> Floats:
    """(C, T, 17, 3) of one person; NaN where a camera does not see them."""
    entries = [e for e in json.loads(path.read_text(encoding="utf-8")) if e["person_id"] == person]
    tracks = np.full((cameras, 1 + max(e["frame"] for e in entries), len(COCO), 3), np.nan)
    for entry in entries:
        tracks[entry["camera"] - 1, entry["frame"]] = np.reshape(entry["keypoints"], (-1, 3))
    return tracks


def read_everyone(path: Path, cameras: int, person: int) -> Floats:
    """(C, T, N, 17, 3) of all people, this one first: who covers whom shows only where all are refined together."""
    others = {e["person_id"] for e in json.loads(path.read_text(encoding="utf-8"))} - {person}
    tracks = [read_results(path, cameras, p) for p in (person, *sorted(others))]
    everyone = np.full((cameras, max(t.shape[1] for t in tracks), len(tracks), len(COCO), 3), np.nan)
    for n, track in enumerate(tracks):
        everyone[:, : track.shape[1], n] = track
    return everyone


def _frame_by_frame(refiner: Refiner, video: Path, tracks: Floats) -> Floats:
    """One camera's (T, N, 17, 3), each frame by itself; reliability is measured on the whole recording."""
    frames = list(read_frames(video))[: len(tracks)]
    weight = refiner.measure_reliability(frames[::4], list(tracks[::4]))
    return np.stack(refiner.refine_batch(frames, list(tracks), prior_weight=weight))


HEADER = (
    "| | reprojection px: median / mean / p90 | > 40 px | forearm mm | acceleration px/frame²: median / p90 | "
    "exchanged |"
)


def row(name: str, found: Judgement) -> str:
    """A line of the table."""
    return (
        f"| {name} | {found.median:.1f} / {found.mean:.1f} / {found.p90:.1f} | {100 * found.large:.1f} % "
        f"| {found.forearm:.0f} | {found.acceleration:.2f} / {found.acceleration_p90:.1f} "
        f"| {found.exchanged} of {found.pairs} |"
    )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--results", multiple=True, help="Results files in the folder; default all but cameras.json.")
@click.option("--person", default=0, show_default=True, help="Which person_id.")
@click.option("--online", is_flag=True, help="Also refine online, with delays of 0, 5 and 8 frames.")
@click.option("--twice", is_flag=True, help="Also refine what was refined offline, and say what changes.")
def main(folder: Path, results: tuple[str, ...], person: int, online: bool, twice: bool) -> None:
    """Print the table for the recording in FOLDER."""
    views = json.loads((folder / "cameras.json").read_text(encoding="utf-8"))
    cameras = np.array([view["projection_mm_to_px"] for view in views])
    videos = [folder / f"cam{view['camera']:02d}.mp4" for view in views]
    names = results or tuple(sorted(p.name for p in folder.glob("*.json") if p.name != "cameras.json"))
    refiner = Refiner.from_pretrained()
    tables: dict[str, Floats] = {}
    for name in names:
        everyone = read_everyone(folder / name, len(cameras), person)
        label, tracks = Path(name).stem, everyone[:, :, 0]
        single = np.stack([_frame_by_frame(refiner, v, t) for v, t in zip(videos, everyone, strict=True)])[:, :, 0]
        tables |= {
            label: tracks,
            f"{label} + One-Euro (0.04, 0.7)": one_euro(tracks),
            f"{label} + median 5 + SavGol (7, 2)": median_savgol(tracks),
            f"{label}, posefix frame by frame": single,
            f"{label}, posefix, then median 5 + SavGol (7, 2)": median_savgol(single),
        }

        def refined(before: Floats, **options: Any) -> Floats:
            views = zip(videos, before, strict=True)
            return np.stack([refiner.refine_video(v, t, **options) for v, t in views])

        first = refined(everyone)
        tables[f"{label}, refine_video"] = first[:, :, 0]
        for delay in (8, 5, 0) if online else ():
            tables[f"{label}, refine_video online, delay {delay}"] = refined(everyone, online=True, delay=delay)[
                :, :, 0
            ]
        if twice:
            second = refined(first)
            tables[f"{label}, refine_video twice"] = second[:, :, 0]
            moved = np.linalg.norm((second - first)[..., :2], axis=-1)
            moved = moved[np.isfinite(moved)]
            click.echo(
                f"{label} refined twice: {100 * (moved == 0).mean():.1f} % of keypoints stay to the bit, "
                f"mean change {moved.mean():.2f} px, 99th percentile {np.percentile(moved, 99):.1f} px"
            )
    # The method that is trusted most tells left from right for all.
    reference = robust_space(tables[f"{Path(names[-1]).stem}, posefix frame by frame"], cameras)
    shifts = camera_shifts(list(tables.values()), cameras)
    listed = ", ".join(f"({x:.0f}, {y:.0f})" for x, y in shifts)
    for title, unit_rows, used in (
        ("equations of unit length", True, cameras),
        ("equations in px", False, cameras),
        (f"equations in px, images shifted by {listed} px", False, shift_cameras(cameras, shifts)),
    ):
        click.echo(f"\n{title}\n\n{HEADER}\n{'|---' * 6}|")
        for name, tracks in tables.items():
            click.echo(row(name, judge(tracks, used, reference, unit_rows=unit_rows)))


if __name__ == "__main__":
    main()
