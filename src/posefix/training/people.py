"""Annotated people of all training sets as arrays, and their pictures."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import TrainingError
from posefix.geometry import box_area, box_iou, boxes_xywh_to_xyxy
from posefix.similarity import AREA_PER_BOX
from posefix.skeleton import Skeleton
from posefix.training.config import SetConfig

#: Neighbours kept per person, nearest first.
MAX_NEIGHBOURS = 4
#: Box overlap from which another person is a neighbour (REFERENCE §4).
NEIGHBOUR_IOU = 0.1


@dataclass(frozen=True)
class People:
    """All people to train on; N of them.

    Attributes:
        annotated: (N, K, 3) [x, y, v] px.
        estimates: (N, E, K, 3) real estimators' keypoints [x, y, score]; NaN where there is none.
        boxes_xyxy: (N, 4) annotated boxes.
        area: (N,) px² of the person.
        neighbours: (N, M, K, 3) [x, y, v] of other people near, zero-padded.
        overlap: (N,) how many there are.
        picture: (N,) index into ``paths``.
        paths: picture files.
        share: (N,) probability of being drawn; sums to 1.
    """

    annotated: npt.NDArray[np.float32]
    estimates: npt.NDArray[np.float32]
    boxes_xyxy: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]
    neighbours: npt.NDArray[np.float32]
    overlap: npt.NDArray[np.int64]
    picture: npt.NDArray[np.int64]
    paths: tuple[str, ...]
    share: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.annotated)


def read_people(sets: Sequence[SetConfig], skeleton: Skeleton) -> People:
    """Read all sets.

    Raises:
        TrainingError: a file cannot be read, does not fit the skeleton, or has nobody to train on.
    """
    parts = [_read_set(s, skeleton) for s in sets]
    total = sum(s.weight for s in sets)
    slots = max(p.estimates.shape[1] for p in parts)
    offset, joined = 0, []
    for part in parts:
        pad = ((0, 0), (0, slots - part.estimates.shape[1]), (0, 0), (0, 0))
        joined.append((part, np.pad(part.estimates, pad, constant_values=np.nan), part.picture + offset))
        offset += len(part.paths)
    return People(
        annotated=np.concatenate([p.annotated for p in parts]),
        estimates=np.concatenate([e for _, e, _ in joined]),
        boxes_xyxy=np.concatenate([p.boxes_xyxy for p in parts]),
        area=np.concatenate([p.area for p in parts]),
        neighbours=np.concatenate([p.neighbours for p in parts]),
        overlap=np.concatenate([p.overlap for p in parts]),
        picture=np.concatenate([i for _, _, i in joined]),
        paths=tuple(path for p in parts for path in p.paths),
        share=np.concatenate([p.share * s.weight / total for p, s in zip(parts, sets, strict=True)]),
    )


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error


def _read_set(config: SetConfig, skeleton: Skeleton) -> People:
    data, count = _read_json(config.annotations), len(skeleton)
    if not isinstance(data, dict) or not {"images", "annotations"} <= set(data):
        raise TrainingError(f"{config.annotations}: expected a COCO annotation file with images and annotations")
    entries = [a for a in data["annotations"] if not a.get("iscrowd") and "keypoints" in a]
    wrong = next((a for a in entries if len(a["keypoints"]) != 3 * count), None)
    if wrong is not None:
        raise TrainingError(
            f"{config.annotations}: annotation {wrong.get('id')} has {len(wrong['keypoints'])} keypoint values, "
            f"skeleton {skeleton.name!r} needs {3 * count}"
        )
    annotated = np.array([a["keypoints"] for a in entries], np.float32).reshape(-1, count, 3)
    boxes = boxes_xywh_to_xyxy(np.array([a["bbox"] for a in entries], np.float32).reshape(-1, 4))
    fallback = AREA_PER_BOX * box_area(boxes)
    area = np.array([a.get("area") or b for a, b in zip(entries, fallback, strict=True)], np.float32)
    image_ids = [a["image_id"] for a in entries]
    files = {i["id"]: i["file_name"] for i in data["images"]}
    order = {image_id: i for i, image_id in enumerate(files)}
    neighbours, overlap = _find_neighbours(annotated, boxes, image_ids)
    usable = ((annotated[..., 2] > 0).sum(-1) >= config.min_keypoints) & (box_area(boxes) > 0) & (area > 0)
    if not usable.any():
        raise TrainingError(f"{config.annotations}: nobody has {config.min_keypoints} annotated keypoints")
    estimates = [_match_estimates(path, entries, boxes, count) for path in config.estimates]
    stacked = np.stack(estimates, 1) if estimates else np.zeros((len(entries), 0, count, 3), np.float32)
    return People(
        annotated=annotated[usable],
        estimates=stacked[usable],
        boxes_xyxy=boxes[usable].astype(np.float32),
        area=area[usable],
        neighbours=neighbours[usable],
        overlap=overlap[usable],
        picture=np.array([order[i] for i in image_ids], np.int64)[usable],
        paths=tuple(str(Path(config.images) / name) for name in files.values()),
        share=np.full(int(usable.sum()), 1.0 / usable.sum()),
    )


def _find_neighbours(
    annotated: npt.NDArray[np.float32], boxes: npt.NDArray[np.floating], image_ids: list[Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    near = np.zeros((len(annotated), MAX_NEIGHBOURS, *annotated.shape[1:]), np.float32)
    overlap = np.zeros(len(annotated), np.int64)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, image_id in enumerate(image_ids):
        groups[image_id].append(i)
    for members in groups.values():
        iou = box_iou(boxes[members], boxes[members])
        np.fill_diagonal(iou, 0.0)
        for row, i in enumerate(members):
            close = np.flatnonzero(iou[row] >= NEIGHBOUR_IOU)
            overlap[i] = len(close)
            nearest = close[np.argsort(-iou[row, close])][:MAX_NEIGHBOURS]
            near[i, : len(nearest)] = annotated[[members[j] for j in nearest]]
    return near, overlap


def _match_estimates(
    path: str, entries: list[dict[str, Any]], boxes: npt.NDArray[np.floating], count: int
) -> npt.NDArray[np.float32]:
    """(N, K, 3) estimates: by annotation id where the results carry it, else the best box overlap ≥ 0.5."""
    results = _read_json(path)
    wrong = next((r for r in results if len(r.get("keypoints", ())) != 3 * count), None)
    if wrong is not None:
        raise TrainingError(f"{path}: an entry of image {wrong.get('image_id')} has no {3 * count} keypoint values")
    found = np.full((len(entries), count, 3), np.nan, np.float32)
    by_id = {r["annotation_id"]: r for r in results if "annotation_id" in r}
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for r in results:
        by_image[r["image_id"]].append(r)
    for i, entry in enumerate(entries):
        match = by_id.get(entry.get("id"))
        if match is None and not by_id:
            match = _best_overlap(boxes[i], by_image.get(entry["image_id"], []))
        if match is not None:
            found[i] = np.array(match["keypoints"], np.float32).reshape(count, 3)
    return found


def _best_overlap(box: npt.NDArray[np.floating], results: list[dict[str, Any]]) -> dict[str, Any] | None:
    boxed = [r for r in results if "bbox" in r]
    if not boxed:
        return None
    iou = box_iou(box[None], boxes_xywh_to_xyxy(np.array([r["bbox"] for r in boxed], np.float64)))[0]
    return boxed[int(iou.argmax())] if iou.max() >= 0.5 else None


class Pictures:
    """Pictures by index, decoded once and kept while they fit into the memory given."""

    def __init__(self, paths: Sequence[str], cache_gb: float) -> None:
        self._paths = paths
        self._budget = int(cache_gb * 2**30)
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; EXIF orientation is ignored, as COCO's coordinates do.

        Raises:
            TrainingError: the picture cannot be read.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        path = self._paths[index]
        bgr = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None:
            raise TrainingError(f"cannot read the training picture {path}")
        picture = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        with self._lock:
            if index not in self._kept and self._budget >= picture.nbytes:
                self._budget -= picture.nbytes
                self._kept[index] = picture
        return picture
