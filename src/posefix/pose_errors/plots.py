"""Plots of a diagnosis: bars of the error kinds by part, and images of the worst people."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posefix.drawing.draw import cut_out, draw_comparison, write_image
from posefix.drawing.tracks import require_matplotlib
from posefix.exceptions import ImageError, InputError
from posefix.io.atomic import write_file
from posefix.io.coco import Annotations, image_name, keypoints_of
from posefix.io.image_names import image_path
from posefix.io.images import Image, load_image
from posefix.io.json import PathLike
from posefix.keypoints.poses import scored
from posefix.messages import printable
from posefix.pose_errors.diagnosis import KINDS, Diagnosis

logger = logging.getLogger(__name__)

#: From Okabe and Ito's palette, apart in lightness too: good, jitter, inversion, swap, miss.
KIND_COLOURS = ("#009E73", "#F0E442", "#56B4E9", "#CC79A7", "#333333")


def plot_shares(before: Diagnosis, path: PathLike, after: Diagnosis | None = None) -> None:
    """Write stacked bars of the kinds' shares, one per part and one for all; with ``after`` pairs of them.

    Args:
        before: of the estimator.
        path: image file; its ending is the format (png, svg, pdf).
        after: of the same people refined.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: the file cannot be written, or not in that format.
    """
    figure_module = require_matplotlib()
    diagnoses = [before] if after is None else [before, after]
    parts = list(before.part_counts())
    tables = [np.array([*d.part_counts().values(), d.counts.sum(0)], np.float64) for d in diagnoses]
    names = [*(f"{part.replace('_', ' ')}" for part in parts), "all"]
    thick = 0.8 / len(diagnoses)
    figure = figure_module.Figure(figsize=(8.0, 1.2 + 0.24 * len(names) * len(diagnoses)), layout="constrained")
    axes = figure.add_subplot()
    for index, table in enumerate(tables):
        shares = 100 * table / np.maximum(table.sum(-1, keepdims=True), 1)
        left = np.cumsum(shares, axis=-1) - shares
        rows = np.arange(len(names)) + (index - (len(tables) - 1) / 2) * (thick + 0.02)
        for kind, colour in zip(KINDS, KIND_COLOURS, strict=True):
            label = kind.name.lower() if index == 0 else None
            axes.barh(rows, shares[:, kind], thick, left[:, kind], color=colour, label=label)
    # Keypoint names are a file's: matplotlib would read formulas between dollar signs.
    axes.set_yticks(np.arange(len(names)), [printable(n) for n in names], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    pairs = "" if after is None else "; upper bar before refinement, lower after"
    axes.set_xlabel(f"% of labelled keypoints{pairs}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(KINDS), frameon=False)
    content = io.BytesIO()
    try:
        figure.savefig(content, dpi=150, format=Path(path).suffix[1:] or "png")
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: the plot cannot be written: {error}") from error
    write_file(path, content.getvalue())


def worst_people(before: Diagnosis, after: Diagnosis | None = None, most: int = 20) -> list[int]:
    """Matched people in order of misfortune: OKS lost by refinement, greatest first; without ``after`` lowest OKS.

    Returns:
        at most ``most`` indices into the diagnosis; with ``after`` only people who lost.
    """
    if after is None:
        return [int(i) for i in np.argsort(before.oks, kind="stable")[:most]]
    change = after.oks - before.oks
    return [int(i) for i in np.argsort(change, kind="stable")[:most] if change[i] < 0]


def write_worst_people(
    annotations: Annotations,
    before: Diagnosis,
    images: PathLike,
    folder: PathLike,
    *,
    after: Diagnosis | None = None,
    most: int = 20,
) -> list[Path]:
    """Write images of the worst people: labelled | estimate, or labelled | before | after.

    Args:
        annotations: names of the images and the labelled people.
        before: of the estimator.
        images: folder of the images.
        folder: where to write; made if it is not there. Names sort by misfortune.
        after: of the same people refined.
        most: how many people.

    Returns:
        the files. An image that cannot be read is skipped, with a warning in the log.

    Raises:
        InputError: a folder or file cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{os.fspath(folder)}: the folder cannot be made: {error.strerror}") from None
    written = []
    for rank, index in enumerate(worst_people(before, after, most), 1):
        entry = before.results.entries[before.entries[index]]
        name = image_name(entry, annotations)
        try:
            image = load_image(image_path(images, name), ignore_orientation=True)
        except ImageError as error:
            logger.warning("%s", error)
            continue
        panels = _panels(image, index, [before] if after is None else [before, after])
        path = Path(folder) / f"{rank:03d}_{Path(name).stem}_{before.entries[index]}.png"
        write_image(path, panels)
        written.append(path)
    return written


def _panels(image: Image, index: int, diagnoses: Sequence[Diagnosis]) -> Image:
    """The person cut out, labelled | estimate (| refined), each with its OKS."""
    first = diagnoses[0]
    ground_truth = first.ground_truth[index]
    entries = [d.results.entries[d.entries[index]] for d in diagnoses]
    estimates = keypoints_of(entries, first.skeleton)
    # What is drawn is what exists, not what the estimator scores highly.
    poses = np.concatenate([estimates[..., :2], scored(estimates)[..., None]], axis=-1)
    crop, scale, corner = cut_out(image, np.concatenate([ground_truth, poses[0]]))
    moved = [np.concatenate([(p[:, :2] - corner) * scale, p[:, 2:]], axis=-1)[None] for p in (ground_truth, *poses)]
    words = ("estimate",) if len(diagnoses) == 1 else ("before", "after")
    labels = ["ground_truth", *(f"{w} {d.oks[index]:.2f}" for w, d in zip(words, diagnoses, strict=True))]
    both = draw_comparison(crop, *moved[-2:], skeleton=first.skeleton, labels=(labels[-2], labels[-1]))
    if len(diagnoses) == 1:
        return both
    # Compared with itself nothing has moved, and the left half is the labelled annotation.
    alone = draw_comparison(crop, moved[0], moved[0], skeleton=first.skeleton, labels=(labels[0], ""))
    panel = alone[:, : alone.shape[1] - crop.shape[1]]
    return np.concatenate([panel, both], axis=1)
