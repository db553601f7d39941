"""Videos with exact ground truth: labelled people of photographs, moved smoothly, with an estimator's errors.

The whole photograph moves by a smooth path of shifts, turns and scales, and each arm and leg by a smooth displacement
of its own that fades out around it. So the place of every keypoint in every frame is known exactly. The estimator's
errors are the library's own (``pose_errors.synthesize``), each held for some frames, with noise on top. Left and right
are exchanged for single frames, stretches or the whole track, and stretches are missing.

    python benchmarks/moving_people.py ../shared/data/coco/val.json ../shared/data/coco/val
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from multiview import median_savgol

from posefix import Refiner
from posefix.keypoints.oks import keypoint_std
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.synthesis import PoseError, synthesize
from posefix.video.left_right import side_groups

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

#: Keypoints whose left and right are exchanged together.
GROUPS = {
    name: np.array([k for k, part in enumerate(COCO.parts) if part in parts])
    for name, parts in {
        "arms": ("shoulder", "elbow", "wrist"),
        "legs": ("hip", "knee", "ankle"),
        "face": ("eye", "ear"),
    }.items()
}
#: How far each part moves by itself, in shares of the person's size.
_REACH = {"wrist": 0.12, "elbow": 0.06, "ankle": 0.08, "knee": 0.04}


@dataclass(frozen=True)
class Motion:
    """How a photograph moves.

    Attributes:
        affine: (T, 2, 3) photograph → frame, without the displacements of arms and legs.
        anchors: (A, 2) px of the photograph around which it is displaced.
        shifts: (T, A, 2) px of the photograph, displacement at each anchor.
        spread: px, how far around an anchor.
        size_wh: of the frames.
    """

    affine: Floats
    anchors: Floats
    shifts: Floats
    spread: float
    size_wh: tuple[int, int]

    def __len__(self) -> int:
        return len(self.affine)

    def points(self, points: Floats) -> Floats:
        """(K, 2) px of the photograph → (T, K, 2) px of each frame."""
        # A frame shows at y what the photograph has at y − displacement(y): solve for y.
        moved = np.repeat(points[None].astype(np.float64), len(self), 0)
        for _ in range(60):
            moved = points + self._displacement(moved)
        shown: Floats = np.einsum("tij,tkj->tki", self.affine[..., :2], moved) + self.affine[:, None, :, 2]
        return shown

    def _displacement(self, points: Floats) -> Floats:
        away = points[:, :, None] - self.anchors
        near = np.exp(-0.5 * np.square(away / self.spread).sum(-1))
        total: Floats = np.einsum("tka,tad->tkd", near, self.shifts)
        return total

    def frames(self, photograph: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
        """(H, W, 3) frames."""
        width, height = self.size_wh
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(np.float64)
        for matrix, shifts in zip(self.affine, self.shifts, strict=True):
            inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
            source = grid @ inverse[:, :2].T + inverse[:, 2]
            near = np.exp(-0.5 * np.square((source[:, None] - self.anchors) / self.spread).sum(-1))
            maps = (source - near @ shifts).reshape(height, width, 2).astype(np.float32)
            yield np.asarray(cv2.remap(photograph, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def make_motion(pose: Floats, frames: int, rng: np.random.Generator, *, side: int = 480, pace: float = 1.0) -> Motion:
    """A path for the person with this pose.

    Args:
        pose: (17, 3) labelled; v = 0 is unknown.
        frames: T.
        rng: source of randomness.
        side: px, width and height of the frames; the person fills about half of them.
        pace: 0 is a still person, 1 usual, more is faster.
    """
    known = pose[:, 2] > 0
    low, high = pose[known, :2].min(0), pose[known, :2].max(0)
    size = float(max(high - low)) or 1.0
    scale = 0.5 * side / size
    time = np.arange(frames) / 30.0

    def wander(amplitude: float, count: int) -> Floats:
        """(T, count) smooth paths: three waves of up to two and a half turns a second, the slow ones wider."""
        frequency = rng.uniform(0.1, 2.5, (3, count))
        phase = rng.uniform(0, 2 * np.pi, (3, count))
        height = rng.rayleigh(amplitude, (3, count)) / (0.7 + frequency)
        waves: Floats = (height * np.sin(2 * np.pi * pace * frequency * time[:, None, None] + phase)).sum(1)
        return waves

    angle, zoom = wander(0.06, 1)[:, 0], np.exp(wander(0.04, 1)[:, 0]) * scale
    shift = wander(0.06 * side, 2)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    linear = turn * zoom[:, None, None]
    middle = (low + high) / 2
    offset = np.array([side / 2, side / 2]) + shift - linear @ middle
    moving = [k for k in range(len(COCO)) if known[k] and COCO.parts[k] in _REACH]
    reach = np.array([_REACH[COCO.parts[k]] for k in moving])
    spread = 0.12 * size
    shifts = np.stack([wander(1.0, 2) for _ in moving], 1) if moving else np.zeros((frames, 0, 2))
    shifts = shifts * reach[:, None] * size
    # Displacements steeper than this would fold the photograph.
    steep = np.abs(shifts).sum((1, 2)).max(initial=0.0) / (0.8 * spread * np.exp(0.5))
    shifts = shifts / max(1.0, steep / 1.5)
    anchors = pose[moving, :2].astype(np.float64)
    return Motion(np.concatenate([linear, offset[..., None]], -1), anchors, shifts, spread, (side, side))


def estimate(
    truth: Floats, area: Floats, rng: np.random.Generator, *, hold: float = 6.0, noise: float = 0.12
) -> tuple[Floats, npt.NDArray[np.int8]]:
    """What an estimator might say: each error is held for some frames.

    Args:
        truth: (T, 17, 3) px and v.
        area: (T,) px² of the person.
        rng: source of randomness.
        hold: frames that an error lasts, on average.
        noise: length scales of keypoint similarity, from frame to frame.

    Returns:
        (T, 17, 3) px and score, and (T, 17) ``PoseError``.
    """
    frames, count = truth.shape[:2]
    known = truth[..., 2] > 0
    drawn, kinds = synthesize(truth[..., :2], known, COCO, area, rng)
    fresh = rng.random((frames, count)) < 1 / hold
    fresh[0] = True
    start = np.maximum.accumulate(np.where(fresh, np.arange(frames)[:, None], 0), axis=0)
    column = np.arange(count)
    kind = kinds[start, column]
    anchor = np.where(kind == PoseError.INVERSION, COCO.flip_indices, column)
    std = keypoint_std(area, COCO.sigmas)[..., None]
    offset = (drawn[start, column] - truth[start, anchor, :2]) / std[start, column]
    points = truth[np.arange(frames)[:, None], anchor, :2] + std * (offset + noise * rng.standard_normal(offset.shape))
    good = np.isin(kind, (PoseError.GOOD, PoseError.JITTER))
    score = np.clip(rng.normal(np.where(good, 0.7, 0.45), 0.15), 0.05, 1.0)
    score = np.where(np.isfinite(points).all(-1), score, 0.0)
    return np.concatenate([np.nan_to_num(points), score[..., None]], -1), kind


def exchange(tracks: Floats, group: str, rows: npt.ArrayLike) -> Floats:
    """A copy of (T, 17, 3) with left and right of a group exchanged in some frames."""
    changed = np.array(tracks)
    members = GROUPS[group]
    rows = np.asarray(rows)[:, None]
    changed[rows, members] = tracks[rows, COCO.flip_indices[members]]
    return changed


def people(annotations: Any, least: int = 15, smallest: float = 150.0) -> list[tuple[int, Floats, float]]:
    """Image id, (17, 3) pose and area of labelled people that show nearly everything and are large enough."""
    chosen = []
    for entry in annotations["annotations"]:
        pose = np.array(entry["keypoints"], np.float64).reshape(-1, 3)
        box = entry["bbox"]
        if (pose[:, 2] > 0).sum() >= least and max(box[2:]) >= smallest and not entry.get("iscrowd"):
            chosen.append((entry["image_id"], pose, float(entry["area"])))
    return chosen


@dataclass(frozen=True)
class Scene:
    """One person's video and estimates.

    Attributes:
        frames: T frames, BGR.
        truth: (T, 17, 3) px and v.
        area: (T,) px².
        estimates: (T, 17, 3) px and score.
        pace: of the motion; 0 is a still person.
    """

    frames: list[npt.NDArray[np.uint8]]
    truth: Floats
    area: Floats
    estimates: Floats
    pace: float


def make_scenes(annotations: Path, images: Path, frames: int, every: int) -> Iterator[Scene]:
    """Every so-manieth person, with paces of 0.3, 1, 0.6 and 0 in turn."""
    data = json.loads(annotations.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for number, (image_id, pose, area) in enumerate(people(data)[::every]):
        rng = np.random.default_rng(number)
        pace = (0.3, 1.0, 0.6, 0.0)[number % 4]
        motion = make_motion(pose, frames, rng, pace=pace)
        points = motion.points(pose[:, :2])
        areas = area * np.linalg.det(motion.affine[:, :, :2])
        truth = np.concatenate([points, np.repeat(pose[None, :, 2:], frames, 0)], -1)
        photograph = cv2.imread(str(images / names[image_id]))
        estimates, _ = estimate(truth, areas, rng)
        yield Scene(list(motion.frames(photograph)), truth, areas, estimates, pace)


def errors(scene: Scene, track: Floats) -> tuple[Floats, Floats, Floats]:
    """Of labelled keypoints: error, true speed and error of the acceleration, in length scales of similarity."""
    std = keypoint_std(scene.area, COCO.sigmas)
    known = scene.truth[..., 2] > 0
    error = np.linalg.norm(track[..., :2] - scene.truth[..., :2], axis=-1) / std
    speed = np.linalg.norm(np.gradient(scene.truth[..., :2], axis=0), axis=-1) / std
    bend = np.diff(track[..., :2] - scene.truth[..., :2], 2, axis=0)
    return error[known], speed[known], (np.linalg.norm(bend, axis=-1) / std[1:-1])[known[1:-1]]


def summary(name: str, scenes: list[Scene], tracks: list[Floats]) -> str:
    """A line of the table."""
    error, speed, bend = (np.concatenate(x) for x in zip(*map(errors, scenes, tracks), strict=True))
    fast = error[speed >= np.percentile(speed, 95)]
    still = [np.concatenate([errors(s, t)[2] for s, t in zip(scenes, tracks, strict=True) if s.pace == 0])]
    return (
        f"| {name} | {np.median(error):.3f} / {error.mean():.3f} / {np.percentile(error, 90):.3f} "
        f"| {100 * (error > 1).mean():.1f} % | {fast.mean():.3f} "
        f"| {np.median(bend):.3f} / {np.percentile(bend, 90):.3f} | {np.median(still):.4f} |"
    )


def repaired(refiner: Refiner, scenes: list[Scene], kind: str) -> str:
    """Exchanges of one kind in one group of each track: how many are repaired, and how many right frames changed."""
    found = wanted = wrong = right = 0
    for number, scene in enumerate(scenes):
        rng, frames = np.random.default_rng(number), len(scene.frames)
        group = number % 2
        name = ("arms", "legs")[group]
        rows = {
            "single frames": np.sort(rng.choice(np.arange(1, frames - 1), 3, replace=False)),
            "stretches": np.arange(12) + rng.integers(0, max(frames - 12, 1)),
            "whole tracks": np.arange(frames),
        }[kind]
        given = exchange(scene.estimates, name, rows)
        if (scene.truth[0, side_groups(COCO)[group], 2] > 0).sum() < 2:
            continue
        parts = list(refiner.refine_tracks(scene.frames, given[:, None], color="bgr"))
        exchanged = np.concatenate([p.exchanged for p in parts])[:, 0]
        was = np.zeros_like(exchanged)
        was[rows, group] = True
        found, wanted = found + int((exchanged & was).sum()), wanted + int(was.sum())
        wrong, right = wrong + int((exchanged & ~was).sum()), right + int((~was).sum())
    return (
        f"| {kind} | {found} of {wanted} ({100 * found / wanted:.1f} %) "
        f"| {wrong} of {right} ({100 * wrong / max(right, 1):.2f} %) |"
    )


@click.command()
@click.argument("annotations", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--frames", default=40, show_default=True)
@click.option("--every", default=1, show_default=True, help="Only every so-manieth person.")
@click.option("--sides/--no-sides", default=True, help="Also exchange left and right.")
def main(annotations: Path, images: Path, frames: int, every: int, sides: bool) -> None:
    """Print tables for the labelled people of ANNOTATIONS in IMAGES, moved."""
    scenes = list(make_scenes(annotations, images, frames, every))
    refiner = Refiner.from_pretrained()
    raw = [s.estimates for s in scenes]
    weight = refiner.measure_reliability(
        [f for s in scenes for f in s.frames[::8]], [e[None] for s in scenes for e in s.estimates[::8]], color="bgr"
    )
    single = [
        np.stack(refiner.refine_batch(s.frames, list(s.estimates[:, None]), color="bgr", prior_weight=weight))[:, 0]
        for s in scenes
    ]
    joint, online = (
        [refiner.refine_video(s.frames, s.estimates[:, None], color="bgr", online=way)[:, 0] for s in scenes]
        for way in (False, True)
    )
    click.echo(
        f"{len(scenes)} people, {frames} frames each\n\n"
        "| | error: median / mean / p90 | > 1 | error of the fastest twentieth "
        "| error of the acceleration: median / p90 | of still people |\n|---|---|---|---|---|---|"
    )
    filtered = {
        "estimates": raw,
        "estimates + median 5 + SavGol (7, 2)": [median_savgol(t[None])[0] for t in raw],
        "posefix frame by frame": single,
        "posefix, then median 5 + SavGol (7, 2)": [median_savgol(t[None])[0] for t in single],
        "refine_video": joint,
        "refine_video online": online,
    }
    for name, tracks in filtered.items():
        click.echo(summary(name, scenes, tracks))
    if sides:
        click.echo("\n| exchanged | repaired | right ones changed |\n|---|---|---|")
        for kind in ("single frames", "stretches", "whole tracks"):
            click.echo(repaired(refiner, scenes, kind))


if __name__ == "__main__":
    main()
