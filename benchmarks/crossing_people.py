"""Two people who cover each other, with exact ground truth: cut out of photographs and moved past one another.

One person walks in front of the other over a third photograph, each arm and leg with a motion of its own. The
estimator's errors are the library's own, held for some frames; while a keypoint is covered, its estimate often lies on
the person in front, and in every second video the whole estimate of the person behind does so for a stretch.

    python benchmarks/crossing_people.py ../shared/data/coco/val.json ../shared/data/coco/val
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from moving_people import Motion, estimate, make_motion, people
from multiview import median_savgol

from posefix import Refiner
from posefix.keypoints.oks import keypoint_std
from posefix.keypoints.skeleton import COCO

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]

_SIDE = 480
#: How far from the middle each begins and ends, in shares of the frame's side.
_REACH = 0.26
#: Share of covered keypoints whose estimate is on the person in front, and of these on the mirror keypoint there.
_TAKEN, _MIRRORED = 0.4, 0.3


@dataclass(frozen=True)
class Crossing:
    """A video of two people.

    Attributes:
        frames: T frames, BGR.
        truth: (T, 2, 17, 3) px and v; the first person is in front.
        area: (T, 2) px².
        covered: (T, 2, 17) labelled keypoints that lie behind the other person.
        estimates: (T, 2, 17, 3) px and score.
    """

    frames: list[Image]
    truth: Floats
    area: Floats
    covered: Bools
    estimates: Floats

    @property
    def std(self) -> Floats:
        """(T, 2, 17) length scale of keypoint similarity."""
        return keypoint_std(self.area.ravel(), COCO.sigmas).reshape(self.truth.shape[:3])

    @property
    def meeting(self) -> Bools:
        """(T,) frames in which something is covered."""
        return np.asarray(self.covered.any((1, 2)))


def cut_out(photograph: Image, polygons: list[list[float]]) -> Image:
    """(H, W, 4) with what is outside of the polygons transparent, and the margin too."""
    mask = np.zeros(photograph.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(np.reshape(p, (-1, 2))).astype(np.int32) for p in polygons], 255)
    mask[[0, -1]] = 0
    mask[:, [0, -1]] = 0
    return np.dstack([photograph, cv2.GaussianBlur(mask, (3, 3), 0)])


def without_people(photograph: Image, boxes: list[list[float]]) -> Image:
    """A square frame of the photograph with people's boxes painted over from around."""
    mask = np.zeros(photograph.shape[:2], np.uint8)
    for x, y, width, height in boxes:
        cv2.rectangle(mask, (int(x), int(y)), (int(x + width), int(y + height)), 255, -1)
    small = (_SIDE, _SIDE)
    return np.asarray(cv2.inpaint(cv2.resize(photograph, small), cv2.resize(mask, small), 3, cv2.INPAINT_TELEA))


def paste(background: Image, layers: list[Image]) -> Image:
    """Layers with an alpha channel over a background, the last on top."""
    frame = background.astype(np.float32)
    for layer in layers:
        share = layer[..., 3:].astype(np.float32) / 255
        frame = frame * (1 - share) + layer[..., :3] * share
    return np.rint(frame).astype(np.uint8)


def make_crossing(
    persons: list[tuple[Image, Floats, float]], background: Image, frames: int, rng: np.random.Generator
) -> Crossing:
    """One video.

    Args:
        persons: front and back: cut-out photograph, (17, 3) labelled pose and area.
        background: a frame.
        frames: T.
        rng: source of randomness.
    """
    way = -np.cos(np.pi * np.arange(frames) / max(frames - 1, 1)) * _REACH * _SIDE
    motions: list[Motion] = []
    for (_, pose, _), sign in zip(persons, (1.0, -1.0), strict=True):
        motion = make_motion(pose, frames, rng, side=_SIDE, pace=0.6)
        affine = motion.affine.copy()
        affine[:, 0, 2] += sign * way
        motions.append(replace(motion, affine=affine))
    points = np.stack([m.points(p[:, :2]) for m, (_, p, _) in zip(motions, persons, strict=True)], 1)
    seen = np.stack([p[:, 2] for _, p, _ in persons])
    truth = np.concatenate([points, np.broadcast_to(seen[..., None], (frames, 2, 17, 1))], -1)
    area = np.stack([a * np.linalg.det(m.affine[..., :2]) for m, (_, _, a) in zip(motions, persons, strict=True)], 1)
    shown, covered = [], np.zeros((frames, 2, 17), bool)
    layers = zip(*(m.frames(image) for m, (image, _, _) in zip(motions, persons, strict=True)), strict=True)
    for t, (front, back) in enumerate(layers):
        shown.append(paste(background, [back, front]))
        x, y = np.clip(np.rint(points[t, 1]), 0, _SIDE - 1).astype(np.int64).T
        covered[t, 1] = (front[y, x, 3] > 127) & (seen[1] > 0)
    estimates = np.stack([estimate(truth[:, n], area[:, n], rng)[0] for n in range(2)], 1)
    crossing = Crossing(shown, truth, area, covered, estimates)
    return replace(crossing, estimates=mistake_for_front(crossing, rng, whole=bool(rng.integers(2))))


def mistake_for_front(crossing: Crossing, rng: np.random.Generator, *, whole: bool, hold: float = 6.0) -> Floats:
    """(T, 2, 17, 3) estimates in which some of the covered keypoints are those of the person in front.

    Args:
        crossing: two people.
        rng: source of randomness.
        whole: whether for a third of the frames in which most is covered all keypoints are.
        hold: frames that a mistake lasts, on average.
    """
    frames = len(crossing.truth)
    fresh = rng.random((frames, 17)) < 1 / hold
    fresh[0] = True
    start = np.maximum.accumulate(np.where(fresh, np.arange(frames)[:, None], 0), axis=0)
    column = np.arange(17)
    taken = (rng.random((frames, 17)) < _TAKEN)[start, column] & crossing.covered[:, 1]
    mirrored = (rng.random((frames, 17)) < _MIRRORED)[start, column]
    if whole:
        most = np.argsort(-crossing.covered[:, 1].sum(-1), kind="stable")[: max(int(crossing.meeting.sum()) // 3, 1)]
        taken[most], mirrored[most] = True, False
    source = np.where(mirrored, COCO.flip_indices, column)
    front = np.take_along_axis(crossing.truth[:, 0], source[..., None], 1)
    taken &= front[..., 2] > 0
    noise = 0.3 * crossing.std[:, 0][..., None] * rng.standard_normal((frames, 17, 2))
    estimates = crossing.estimates.copy()
    estimates[:, 1, :, :2] = np.where(taken[..., None], front[..., :2] + noise, estimates[:, 1, :, :2])
    return estimates


def make_crossings(annotations: Path, images: Path, frames: int, every: int) -> Iterator[Crossing]:
    """Successive entries of the list of people, each once in front and once behind, over the next one's photograph."""
    data: Any = json.loads(annotations.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if isinstance(a.get("segmentation"), list)]
    found = people(data)
    polygons = {(a["image_id"], tuple(a["keypoints"])): a["segmentation"] for a in data["annotations"]}

    def load(place: int) -> Image:
        return np.asarray(cv2.imread(str(images / names[found[place % len(found)][0]])), np.uint8)

    for number in range(0, len(found), every):
        chosen = [number, (number + 1) % len(found)]
        persons = [
            (
                cut_out(load(i), polygons[found[i][0], tuple(found[i][1].ravel().astype(int).tolist())]),
                found[i][1],
                found[i][2],
            )
            for i in chosen
        ]
        behind = found[(number + 2) % len(found)][0]
        boxes = [a["bbox"] for a in data["annotations"] if a["image_id"] == behind]
        yield make_crossing(persons, without_people(load(number + 2), boxes), frames, np.random.default_rng(number))


def on_the_other(crossing: Crossing, tracks: Floats) -> Bools:
    """(T, 2, 17) points on the other person's same or mirrored keypoint, and not on the own."""
    std, truth = crossing.std, crossing.truth
    own = np.linalg.norm(tracks[..., :2] - truth[..., :2], axis=-1) / std
    other = truth[:, ::-1]
    same, mirror = (
        np.where(t[..., 2] > 0, np.linalg.norm(tracks[..., :2] - t[..., :2], axis=-1), np.inf) / std[:, ::-1]
        for t in (other, other[:, :, COCO.flip_indices])
    )
    nearest = np.minimum(same, mirror)
    return np.asarray((nearest < 1) & (own > 1) & (nearest < own))


def summary(name: str, crossings: list[Crossing], tracks: list[Floats]) -> str:
    """A line of the table."""
    cells = []
    error, other, covered, meeting = [], [], [], []
    for crossing, track in zip(crossings, tracks, strict=True):
        known = crossing.truth[..., 2] > 0
        distance = np.linalg.norm(track[..., :2] - crossing.truth[..., :2], axis=-1) / crossing.std
        frames = np.broadcast_to(crossing.meeting[:, None, None], known.shape)
        error.append(distance[known])
        other.append(on_the_other(crossing, track)[known])
        covered.append(crossing.covered[known])
        meeting.append(frames[known])
    e, o, c, m = (np.concatenate(x) for x in (error, other, covered, meeting))
    for rows in (c, m & ~c, ~m):
        cells.append(
            f"{np.median(e[rows]):.3f} / {e[rows].mean():.3f} / {100 * (e[rows] > 1).mean():.1f} % "
            f"/ {100 * o[rows].mean():.1f} %"
        )
    return f"| {name} | {' | '.join(cells)} |"


HEADER = (
    "| error: median / mean / > 1 / on the other person | covered keypoints | others while people meet "
    "| frames before and after |\n|---|---|---|---|"
)


@click.command()
@click.argument("annotations", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--frames", default=48, show_default=True)
@click.option("--every", default=1, show_default=True, help="Only every so-manieth pair.")
def main(annotations: Path, images: Path, frames: int, every: int) -> None:
    """Print a table for pairs of the labelled people of ANNOTATIONS in IMAGES."""
    crossings = list(make_crossings(annotations, images, frames, every))
    refiner = Refiner.from_pretrained()
    raw = [c.estimates for c in crossings]
    single = [np.stack(refiner.refine_batch(c.frames, list(c.estimates), color="bgr")) for c in crossings]
    ways = {
        "estimates": raw,
        "estimates + median 5 + SavGol (7, 2)": [median_savgol(np.moveaxis(t, 1, 0)).swapaxes(0, 1) for t in raw],
        "posefix frame by frame": single,
        "posefix, then median 5 + SavGol (7, 2)": [median_savgol(t.swapaxes(0, 1)).swapaxes(0, 1) for t in single],
        "refine_video": [refiner.refine_video(c.frames, c.estimates, color="bgr") for c in crossings],
        "refine_video online": [
            refiner.refine_video(c.frames, c.estimates, color="bgr", online=True) for c in crossings
        ],
    }
    click.echo(f"{len(crossings)} pairs, {frames} frames each\n\n{HEADER}")
    for name, tracks in ways.items():
        click.echo(summary(name, crossings, tracks))


if __name__ == "__main__":
    main()
