"""Labelled people of all training sets as arrays, and their images."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import TrainingError
from posefix.geometry import box_area, box_iou, boxes_xywh_to_xyxy
from posefix.io.coco import image_name, read_annotations, read_results
from posefix.io.image_names import image_path
from posefix.keypoints.skeleton import Skeleton
from posefix.training.config import SetConfig
from posefix.training.data.shards import Labels, read_shards

#: Other instances kept per person, nearest first.
MAX_NEIGHBOURS = 4
#: Box overlap from which another person counts as another instance (as in the paper's code).
NEIGHBOUR_IOU = 0.1


@dataclass(frozen=True)
class People(Labels):
    """All people to train on; N of them.

    Attributes:
        image: (N,) index into ``paths``; with shards each person has their own.
        paths: image files.
        share: (N,) probability of being drawn; sums to 1.
        codes: encoded image by index, of those that come from shards; the others are files.
    """

    image: npt.NDArray[np.int64]
    paths: tuple[str, ...]
    share: npt.NDArray[np.float64]
    codes: Mapping[int, npt.NDArray[np.uint8]] = field(default_factory=dict)


def read_people(sets: Sequence[SetConfig], skeleton: Skeleton) -> People:
    """Read all sets.

    Raises:
        TrainingError: a file cannot be read, does not fit the skeleton, or has no person to train on.
    """
    parts = [_read_packed(s, skeleton) if s.shards else _read_set(s, skeleton) for s in sets]
    total = sum(s.weight for s in sets)
    slots = max(p.estimates.shape[1] for p in parts)
    offset, joined = 0, []
    codes: dict[int, npt.NDArray[np.uint8]] = {}
    for part in parts:
        pad = ((0, 0), (0, slots - part.estimates.shape[1]), (0, 0), (0, 0))
        joined.append((part, np.pad(part.estimates, pad, constant_values=np.nan), part.image + offset))
        codes |= {offset + i: code for i, code in part.codes.items()}
        offset += len(part.paths)
    return People(
        ground_truth=np.concatenate([p.ground_truth for p in parts]),
        estimates=np.concatenate([e for _, e, _ in joined]),
        boxes_xyxy=np.concatenate([p.boxes_xyxy for p in parts]),
        area=np.concatenate([p.area for p in parts]),
        others=np.concatenate([p.others for p in parts]),
        overlap=np.concatenate([p.overlap for p in parts]),
        image=np.concatenate([i for _, _, i in joined]),
        paths=tuple(path for p in parts for path in p.paths),
        share=np.concatenate([p.share * s.weight / total for p, s in zip(parts, sets, strict=True)]),
        codes=codes,
    )


def _read_set(config: SetConfig, skeleton: Skeleton) -> People:
    data = read_annotations(config.annotations, skeleton)
    if not Path(config.images).is_dir():
        raise TrainingError(f"sets: no such folder of images {config.images}")
    ground_truth, boxes = data.ground_truth.astype(np.float32), data.boxes_xyxy.astype(np.float32)
    order = {image_id: i for i, image_id in enumerate(data.images)}
    image_ids = data.image_ids.tolist()
    others, overlap = _find_others(ground_truth, boxes, image_ids, ~data.iscrowd)
    enough = (ground_truth[..., 2] > 0).sum(-1) >= config.min_keypoints
    usable = enough & ~data.iscrowd & (box_area(boxes) > 0) & (data.area > 0)
    if not usable.any():
        raise TrainingError(f"{config.annotations}: no person has {config.min_keypoints} labelled keypoints")
    estimates = [_match_estimates(path, skeleton, data.ids, boxes, image_ids) for path in config.estimates]
    stacked = np.stack(estimates, 1) if estimates else np.zeros((len(data), 0, len(skeleton), 3), np.float32)
    names = [image_name({"image_id": image_id}, data) for image_id in data.images]
    return People(
        ground_truth=ground_truth[usable],
        estimates=stacked[usable],
        boxes_xyxy=boxes[usable],
        area=data.area[usable].astype(np.float32),
        others=others[usable],
        overlap=overlap[usable],
        image=np.array([order[i] for i in image_ids], np.int64)[usable],
        paths=tuple(image_path(config.images, name) for name in names),
        share=np.full(int(usable.sum()), 1.0 / usable.sum()),
    )


def _read_packed(config: SetConfig, skeleton: Skeleton) -> People:
    shards = read_shards(config.shards, skeleton)
    rows = np.flatnonzero((shards.ground_truth[..., 2] > 0).sum(-1) >= config.min_keypoints)
    if not len(rows):
        raise TrainingError(f"{config.shards}: no person has {config.min_keypoints} labelled keypoints")
    return People(
        ground_truth=shards.ground_truth[rows],
        estimates=shards.estimates[rows],
        boxes_xyxy=shards.boxes_xyxy[rows],
        area=shards.area[rows],
        others=shards.others[rows],
        overlap=shards.overlap[rows],
        image=np.arange(len(rows)),
        paths=tuple(f"person {i} of {config.shards}" for i in rows),
        share=np.full(len(rows), 1.0 / len(rows)),
        codes={i: shards.codes[row] for i, row in enumerate(rows)},
    )


def _find_others(
    ground_truth: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.floating],
    image_ids: list[Any],
    people: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    near = np.zeros((len(ground_truth), MAX_NEIGHBOURS, *ground_truth.shape[1:]), np.float32)
    overlap = np.zeros(len(ground_truth), np.int64)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in np.flatnonzero(people).tolist():
        groups[image_ids[i]].append(i)
    for members in groups.values():
        iou = box_iou(boxes[members], boxes[members])
        np.fill_diagonal(iou, 0.0)
        for row, i in enumerate(members):
            close = np.flatnonzero(iou[row] >= NEIGHBOUR_IOU)
            overlap[i] = len(close)
            nearest = close[np.argsort(-iou[row, close])][:MAX_NEIGHBOURS]
            near[i, : len(nearest)] = ground_truth[[members[j] for j in nearest]]
    return near, overlap


def _match_estimates(
    path: str, skeleton: Skeleton, ids: tuple[Any, ...], boxes: npt.NDArray[np.floating], image_ids: list[Any]
) -> npt.NDArray[np.float32]:
    """(N, K, 3) estimates: by annotation id where the results carry it, else the best box overlap ≥ 0.5."""
    results = read_results(path)
    keypoints = results.keypoints(skeleton).astype(np.float32)
    found = np.full((len(ids), len(skeleton), 3), np.nan, np.float32)
    by_id = {e["annotation_id"]: i for i, e in enumerate(results.entries) if "annotation_id" in e}
    by_image: dict[Any, list[int]] = defaultdict(list)
    for i, entry in enumerate(results.entries):
        if "bbox" in entry:
            by_image[entry["image_id"]].append(i)
    for row, (annotation_id, image_id) in enumerate(zip(ids, image_ids, strict=True)):
        rivals = by_image.get(image_id, [])
        match = by_id.get(annotation_id)
        if match is None and not by_id and rivals:
            candidates = np.array([results.entries[i]["bbox"] for i in rivals], np.float64)
            iou = box_iou(boxes[row][None], boxes_xywh_to_xyxy(candidates))[0]
            match = rivals[int(iou.argmax())] if iou.max() >= 0.5 else None
        if match is not None:
            found[row] = keypoints[match]
    return found


class Images:
    """Images by index, decoded once and kept while they fit into the memory given."""

    def __init__(
        self, paths: Sequence[str], cache_gb: float, codes: Mapping[int, npt.NDArray[np.uint8]] | None = None
    ) -> None:
        self._paths, self._codes = paths, codes or {}
        self._budget = int(cache_gb * 2**30)
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; EXIF orientation is ignored, as COCO's coordinates do.

        Raises:
            TrainingError: the image cannot be read.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = self.decode(index)
        with self._lock:
            if index not in self._kept and self._budget >= image.nbytes:
                self._budget -= image.nbytes
                self._kept[index] = image
        return image

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """The same without keeping it."""
        path, code = self._paths[index], self._codes.get(index)
        mode = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        bgr = cv2.imread(path, mode) if code is None else cv2.imdecode(code, mode)
        if bgr is None:
            raise TrainingError(f"cannot read the training image {path}")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
