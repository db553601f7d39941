"""The people of a report as plain data: their image cut out, and every keypoint before and after."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from posefix.drawing.ranking import likely_gains, pose_of, score_of
from posefix.exceptions import ImageError
from posefix.geometry import Doubles
from posefix.io.coco import Annotations, Entry, image_name
from posefix.io.image_names import find_images, image_path
from posefix.io.images import Image
from posefix.io.orientation import AUTO, ExifRule
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton
from posefix.pose_errors.report import Report

logger = logging.getLogger(__name__)

#: Longest side of a person's image in the report, px, and the quality it is stored with.
_SIDE, _QUALITY = 320, 75
#: Room around a person, as a share of the person's longer side.
_ROOM = 0.12


@dataclass(frozen=True, eq=False)
class Source:
    """What a report is made from.

    Attributes:
        before: N entries as in COCO results.
        after: the same people in the same order, refined; None shows the estimator alone.
        skeleton: the keypoint set.
        images: folder of the images; None shows poses without images.
        annotations: names of the images.
        diagnosis: what ``make_report`` found; None without ground truth.
        exif: how images are read, as for refinement.
    """

    before: Sequence[Entry]
    after: Sequence[Entry] | None
    skeleton: Skeleton
    images: str | os.PathLike[str] | None = None
    annotations: Annotations | None = None
    diagnosis: Report | None = None
    exif: ExifRule = AUTO


def ranked_people(source: Source, most: int) -> list[int]:
    """Indices of the people worth showing, at most ``most``.

    By the change of object keypoint similarity, gains and losses alike, times the person's score, where it is known;
    then by the likely gain.
    Without refined poses: the lowest similarity first.
    """
    count = len(source.before)
    first = np.zeros(count)
    if source.diagnosis is not None:
        found = source.diagnosis.before
        if source.diagnosis.after is None:
            change = 2.0 - found.oks
        else:
            scores = np.array([score_of(source.before[i]) for i in found.entries])
            change = np.abs(source.diagnosis.after.oks - found.oks) * scores
        first[found.entries] = change + 1e-6  # labelled people come before the others
    second = likely_gains(source.before, source.after, source.skeleton) if source.after is not None else np.zeros(count)
    order = np.lexsort((np.arange(count), -second, -first))
    return [int(i) for i in order if pose_of(source.before[i], source.skeleton) is not None][:most]


def people_of(source: Source, most: int) -> list[dict[str, Any]]:
    """The people of a report, most interesting first; each image is read once."""
    order = ranked_people(source, most)
    names = {i: image_name(source.before[i], source.annotations) for i in order}
    rows = _rows(source)
    files = {} if source.images is None else find_images(source.images, names.values())
    made: dict[int, dict[str, Any]] = {}
    for name, indices in _by_name(order, names):
        image = _load(source, files.get(name, name), source.before[indices[0]])
        for index in indices:
            made[index] = _person(source, index, name, image, rows.get(index))
    return [made[i] for i in order]


def _by_name(order: Sequence[int], names: dict[int, str]) -> Iterator[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(names[index], []).append(index)
    yield from groups.items()


def _rows(source: Source) -> dict[int, int]:
    """Entry → row of the diagnosis."""
    if source.diagnosis is None:
        return {}
    return {int(entry): row for row, entry in enumerate(source.diagnosis.before.entries)}


def _load(source: Source, name: str, entry: Entry) -> Image | None:
    if source.images is None:
        return None
    try:
        return source.exif.load_for(image_path(source.images, name), entry, source.annotations)[0]
    except ImageError as error:
        logger.warning("%s", error)
        return None


def _person(source: Source, index: int, name: str, image: Image | None, row: int | None) -> dict[str, Any]:
    skeleton = source.skeleton
    old = pose_of(source.before[index], skeleton)
    assert old is not None  # ranked_people leaves others out
    new = pose_of(source.after[index], skeleton) if source.after is not None else None
    truth = source.diagnosis.before.ground_truth[row] if source.diagnosis is not None and row is not None else None
    poses = [pose for pose in (old, new, truth) if pose is not None]
    everything = np.concatenate(poses)
    corner, scale, size = _frame(everything[present(everything), :2], image)
    data: dict[str, Any] = {
        "entry": index,
        "image": name,
        "id": source.before[index].get("id"),
        "size": size,
        "scale": round(scale, 5),
        "photo": None if image is None else _encoded(image, corner, scale, size),
        "before": _points(old, corner, scale),
        "after": None if new is None else _points(new, corner, scale),
        "truth": None if truth is None else _points(truth, corner, scale),
        "score": [_number(source.before[index].get("score")), None],
        "oks": None,
        "kinds": None,
    }
    if source.after is not None and new is not None:
        data["score"][1] = _number(source.after[index].get("score"))
        data["moved"] = np.round(np.linalg.norm(np.nan_to_num(new[:, :2] - old[:, :2]), axis=-1), 1).tolist()
        shown = present(new)
        data["confidence"] = round(float(new[shown, 2].mean()), 3) if shown.any() else None
    if source.diagnosis is not None and row is not None:
        both = [d for d in (source.diagnosis.before, source.diagnosis.after) if d is not None]
        data["oks"] = [round(float(d.oks[row]), 3) for d in both]
        data["kinds"] = [d.kinds[row].tolist() for d in both]
    return data


def _frame(points: Doubles, image: Image | None) -> tuple[Doubles, float, list[int]]:
    """Corner of the part of the image that is shown, px, its scale, and its [width, height] when scaled."""
    if not len(points):
        points = np.array([[0.0, 0.0], [32.0, 32.0]])
    low, high = points.min(0), points.max(0)
    if image is not None:
        limit = np.array([image.shape[1], image.shape[0]], np.float64) - 1
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    room = _ROOM * max(float((high - low).max()), 20.0)
    low, high = np.floor(low - room), np.ceil(high + room)
    if image is not None:
        low, high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
    extent = np.maximum(high - low, 1.0)
    scale = _SIDE / float(extent.max())
    return low, scale, [max(round(float(side) * scale), 1) for side in extent]


def _encoded(image: Image, corner: Doubles, scale: float, size: Sequence[int]) -> str:
    """Base64 of the image part as JPEG; enlarged parts are stored as they are, the browser enlarges them."""
    left, top = (int(v) for v in corner)
    width, height = (max(round(side / scale), 1) for side in size)
    part = np.ascontiguousarray(image[top : top + height, left : left + width, ::-1])
    if scale < 1:
        part = cv2.resize(part, (size[0], size[1]), interpolation=cv2.INTER_AREA).astype(np.uint8)
    done, data = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "OpenCV writes JPEG"
    return base64.b64encode(data.tobytes()).decode("ascii")


def _points(pose: Doubles, corner: Doubles, scale: float) -> list[list[float] | None]:
    """[x, y, score] in the shown image; None for a keypoint that is missing."""
    # Pixel centres are integers: the image's edge lies half a pixel before the first centre.
    moved = (pose[:, :2] - corner + 0.5) * scale
    valid = present(pose)
    return [
        [round(float(np.clip(x, -1e6, 1e6)), 1), round(float(np.clip(y, -1e6, 1e6)), 1), round(float(score), 3)]
        if use
        else None
        for (x, y), score, use in zip(moved, pose[:, 2], valid, strict=True)
    ]


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return round(float(value), 4) if usable else None
