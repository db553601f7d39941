"""Before | after images of the people that show best what refinement does."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from posefix.drawing.draw import cut_out, draw_comparison, write_image
from posefix.drawing.legend import add_legend
from posefix.drawing.ranking import likely_gains, pose_of
from posefix.exceptions import ImageError, InputError
from posefix.geometry import Doubles
from posefix.io.coco import Annotations, Entry, image_name
from posefix.io.image_names import find_images, image_path
from posefix.io.images import Image
from posefix.io.json import PathLike
from posefix.io.orientation import AUTO, ExifRule
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton

logger = logging.getLogger(__name__)

#: File systems end names at 255 bytes.
_LONGEST_NAME = 60
#: Of the people whose true gain is known, the share of images that show losses.
_LOSSES = 0.25


def write_examples(
    before: Sequence[Entry],
    after: Sequence[Entry],
    images: PathLike,
    folder: PathLike,
    *,
    skeleton: Skeleton,
    annotations: Annotations | None = None,
    gains: npt.ArrayLike | None = None,
    most: int = 20,
    exif: ExifRule = AUTO,
) -> list[Path]:
    """Write a before | after image of each of the people that show best what refinement did.

    Args:
        before: entries as in COCO results.
        after: the same people in the same order, refined.
        images: folder of the images.
        folder: where to write; made if it is not there and a person moved. ``001_NAME_4.png`` is the person who
            most likely gained most (``likely_gains``), entry 4 of the results, in the image NAME. Where ``gains``
            are given, the names begin with ``gain_001`` and, for a quarter of the images, ``loss_001``.
        skeleton: the entries' keypoint set.
        annotations: names of the images, as for ``refine_results``.
        gains: (N,) the true gain of each person, e.g. of object keypoint similarity; NaN where it is not known.
        most: how many people.
        exif: how images are read, as for refinement.

    Returns:
        the files, none where nothing moved. Images that cannot be read are passed over, with a warning in the log.

    Raises:
        InputError: a folder or file cannot be written, or not as many people after as before.
    """
    written: list[Path] = []
    lists = _ranked(before, after, skeleton, gains, most)
    files = find_images(images, (image_name(before[i], annotations) for _, ranked, _ in lists for i in ranked))
    for prefix, ranked, room in lists:
        done = 0
        for index in ranked:
            if done >= room:
                break
            name = image_name(before[index], annotations)
            try:
                image, _ = exif.load_for(image_path(images, files[name]), before[index], annotations)
            except ImageError as error:
                logger.warning("%s", error)
                continue
            gain = None if gains is None else float(np.asarray(gains, np.float64)[index])
            panels = _panels(image, before[index], after[index], skeleton, gain)
            if panels is None:
                continue
            done += 1
            path = Path(folder) / f"{prefix}{done:03d}_{_spelled(name)}_{index}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{os.fspath(folder)}: the folder cannot be made: {error.strerror}") from None
            write_image(path, panels)
            written.append(path)
    return written


def _ranked(
    before: Sequence[Entry], after: Sequence[Entry], skeleton: Skeleton, gains: npt.ArrayLike | None, most: int
) -> list[tuple[str, list[int], int]]:
    """Beginning of the file names, people in order and how many of them: of one list, or of gains and losses."""
    likely = likely_gains(before, after, skeleton)
    if gains is None:
        return [("", [int(i) for i in np.argsort(-likely, kind="stable") if likely[i] > 0], most)]
    true = np.nan_to_num(np.asarray(gains, np.float64))
    better = [int(i) for i in np.argsort(-true, kind="stable") if true[i] > 0]
    worse = [int(i) for i in np.argsort(true, kind="stable") if true[i] < 0]
    losses = min(len(worse), max(round(_LOSSES * most), most - len(better)))
    return [("gain_", better, most - losses), ("loss_", worse, losses)]


def _panels(image: Image, before: Entry, after: Entry, skeleton: Skeleton, gain: float | None) -> Image | None:
    """The person cut out, before | after, with scores and a legend; None for what is no pose."""
    old, new = pose_of(before, skeleton), pose_of(after, skeleton)
    if old is None or new is None:
        return None
    everything = np.concatenate([old, new])
    crop, scale, corner = cut_out(image, everything[present(everything)])
    shown = [np.concatenate([(p[:, :2] - corner) * scale, p[:, 2:]], axis=-1)[None] for p in (old, new)]
    both = draw_comparison(crop, shown[0], shown[1], skeleton=skeleton, labels=("before", "after"))
    return add_legend(both, _facts(before, after, new, gain))


def _facts(before: Entry, after: Entry, pose: Doubles, gain: float | None) -> list[str]:
    """Score, confidence and gain of a person in words."""
    facts = []
    scores = [entry.get("score") for entry in (before, after)]
    if all(isinstance(s, int | float) and not isinstance(s, bool) for s in scores):
        facts.append(f"score {scores[0]:.2f} -> {scores[1]:.2f}")
    if present(pose).any():
        facts.append(f"confidence {pose[present(pose), 2].mean():.2f}")
    if gain is not None and np.isfinite(gain):
        facts.append(f"OKS {gain:+.2f}")
    return facts


def _spelled(name: str) -> str:
    """An image's name without ending and folders' separators: images of PoseTrack differ by folder only."""
    path = PurePath(name).with_suffix("")
    return "_".join(p for p in path.parts if p not in (path.anchor, "..", "."))[-_LONGEST_NAME:]
