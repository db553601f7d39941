"""Images of the people whose keypoints moved most, before | after."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from posefix.drawing.draw import cut_out, draw_comparison, write_image
from posefix.exceptions import ImageError, InputError
from posefix.geometry import Bools, Doubles
from posefix.io.coco import Annotations, Entry, image_name
from posefix.io.images import load_image
from posefix.io.json import PathLike
from posefix.keypoints.skeleton import Skeleton

logger = logging.getLogger(__name__)

#: Nobody counts as smaller than this, px: a person of a single keypoint has no size.
_SMALLEST = 20.0
#: File systems end names at 255 bytes.
_LONGEST_NAME = 60


def movements(before: Sequence[Entry], after: Sequence[Entry], skeleton: Skeleton) -> Doubles:
    """How far each person moved, in units of the person's size.

    Args:
        before: N entries as in COCO results; who is no pose of the skeleton did not move.
        after: the same people in the same order, refined.
        skeleton: their keypoint set.

    Returns:
        (N,) the mean distance of the keypoints that were there before, over the longer side of their extent
        afterwards (before, a single stray keypoint makes a person large).

    Raises:
        InputError: not as many people after as before.
    """
    if len(after) != len(before):
        raise InputError(f"after: expected the {len(before)} people of 'before' in the same order, got {len(after)}")
    moved = np.zeros(len(before))
    for index, pair in enumerate(zip(before, after, strict=True)):
        old, new = (_pose(entry, skeleton) for entry in pair)
        if old is None or new is None:
            continue
        there = _there(old) & _there(new)
        if there.any():
            size = max(float(np.ptp(new[there, :2], axis=0).max()), _SMALLEST)
            moved[index] = float(np.linalg.norm(new[there, :2] - old[there, :2], axis=-1).mean()) / size
    return moved


def write_most_moved(
    before: Sequence[Entry],
    after: Sequence[Entry],
    images: PathLike,
    folder: PathLike,
    *,
    skeleton: Skeleton,
    annotations: Annotations | None = None,
    most: int = 20,
) -> list[Path]:
    """Write a before | after image of each of the people who moved most.

    Args:
        before: entries as in COCO results.
        after: the same people in the same order, refined.
        images: folder of the images.
        folder: where to write; made if it is not there and somebody moved. ``001_NAME_4.png`` is the person who
            moved most, entry 4 of the results, in the image NAME.
        skeleton: the entries' keypoint set.
        annotations: names of the images, as for ``refine_entries``.
        most: how many people.

    Returns:
        the files, none where nothing moved. Images that cannot be read are passed over, with a warning in the log.

    Raises:
        InputError: a folder or file cannot be written.
    """
    moved = movements(before, after, skeleton)
    ranked = [int(i) for i in np.argsort(-moved, kind="stable") if moved[i] > 0]
    written: list[Path] = []
    for index in ranked:
        if len(written) >= most:
            break
        name = image_name(before[index], annotations)
        try:
            # As for refinement: COCO's coordinates ignore the EXIF orientation.
            image = load_image(Path(images) / name, ignore_orientation=True)
        except ImageError as error:
            logger.warning("%s", error)
            continue
        poses = [p for p in (_pose(e[index], skeleton) for e in (before, after)) if p is not None]
        everything = np.concatenate(poses)
        crop, scale, corner = cut_out(image, everything[_there(everything)])
        old, new = (np.concatenate([(p[:, :2] - corner) * scale, p[:, 2:]], axis=-1)[None] for p in poses)
        path = Path(folder) / f"{len(written) + 1:03d}_{_spelled(name)}_{index}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{os.fspath(folder)}: the folder cannot be made: {error.strerror}") from None
        write_image(path, draw_comparison(crop, old, new, skeleton=skeleton))
        written.append(path)
    return written


def _pose(entry: Entry, skeleton: Skeleton) -> Doubles | None:
    """(K, 3) of an entry; None for what is no pose of the skeleton."""
    values: Any = entry.get("keypoints")
    if not isinstance(values, list) or len(values) != 3 * len(skeleton):
        return None
    try:
        return np.array(values, np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        return None


def _there(pose: Doubles) -> Bools:
    return np.asarray(np.isfinite(pose).all(-1) & (pose[:, 2] > 0))


def _spelled(name: str) -> str:
    """An image's name without ending and folders' separators: images of PoseTrack differ by folder only."""
    path = PurePath(name).with_suffix("")
    return "_".join(p for p in path.parts if p not in (path.anchor, "..", "."))[-_LONGEST_NAME:]
