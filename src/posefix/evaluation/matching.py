"""Which detection belongs to which labelled person, and the other people of its image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError, InputError
from posefix.geometry import Bools, Doubles, box_iou
from posefix.io.coco import (
    Annotations,
    Entry,
    Results,
    annotations_of,
    check_entries,
    read_annotations,
    read_results,
    scores_of,
)
from posefix.io.json import PathLike
from posefix.keypoints.oks import oks
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

Indices = npt.NDArray[np.int64]
AnnotationSource = Annotations | Mapping[str, Any] | PathLike
ResultSource = Results | Sequence[Entry] | PathLike

#: OKS from which a detection counts as an attempt at a person (Ronchi & Perona).
MATCH_OKS = 0.1
#: Detections per image that COCO's evaluation uses, best scores first.
MAX_DETECTIONS = 20


def match_people(annotations: Annotations, results: Results, skeleton: Skeleton) -> tuple[Indices, Indices]:
    """Match as COCOeval does, at OKS 0.1: by score, at most 20 per image, each with the best person left.

    Returns:
        (D,) entries and (D,) labelled people that belong together, in order of the entries.

    Raises:
        FileFormatError: an entry has no score, or an image that the annotations do not have.
    """
    points = results.keypoints(skeleton)[..., :2]
    scores = scores_of(results.entries, source=results.source)
    usable, sigmas = matchable(annotations, skeleton), np.array(skeleton.sigmas)
    truth = _by_image(annotations.image_ids.tolist())
    found = _by_image([_image(annotations, results, i) for i in range(len(results))])
    categories = np.array([e.get("category_id", 1) for e in results.entries])
    pairs: list[tuple[int, int]] = []
    for image_id, entries in found.items():
        people = np.array([p for p in truth.get(image_id, ()) if usable[p]], np.int64)
        ranked = np.array(entries)[np.argsort(-scores[entries], kind="stable")][:MAX_DETECTIONS]
        ground_truth = annotations.ground_truth[people]
        visible = (ground_truth[..., 2] > 0) & (sigmas > 0)
        similarity = oks(points[ranked], ground_truth[..., :2], visible, annotations.area[people], sigmas)
        similarity *= categories[ranked, None] == annotations.category_ids[people]
        for row, entry in zip(similarity, ranked.tolist(), strict=True):
            if len(people) and row.max() >= MATCH_OKS:
                person = int(row.argmax())
                pairs.append((entry, int(people[person])))
                similarity[:, person] = 0.0  # taken
    matched = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def others_of(annotations: Annotations, people: Indices, min_iou: float = 0.0) -> tuple[Doubles, Indices]:
    """Other labelled people in the same image; crowd regions do not count.

    Args:
        annotations: all labelled people.
        people: (N,) indices of the people whose other instances are wanted.
        min_iou: overlap of the boxes from which a person counts as another instance.

    Returns:
        (N, M, K, 3) [x, y, v], zero rows as padding, and (N,) how many there are.
    """
    groups = _by_image(annotations.image_ids.tolist())
    rows: list[list[int]] = []
    for person in people.tolist():
        image = groups[annotations.image_ids[person]]
        near = np.array([p for p in image if p != person and not annotations.iscrowd[p]], np.int64)
        overlap = box_iou(annotations.boxes_xyxy[[person]], annotations.boxes_xyxy[near])[0]
        rows.append(near[overlap >= min_iou].tolist())
    found = np.zeros((len(rows), max(map(len, rows), default=0), *annotations.ground_truth.shape[1:]))
    for index, row in enumerate(rows):
        found[index, : len(row)] = annotations.ground_truth[row]
    return found, np.array([len(r) for r in rows], np.int64)


def open_annotations(source: AnnotationSource, skeleton: Skeleton) -> Annotations:
    """Annotations from whatever they are given as."""
    if isinstance(source, Annotations):
        return source
    return annotations_of(source, skeleton) if isinstance(source, Mapping) else read_annotations(source, skeleton)


def open_results(source: ResultSource) -> Results:
    """Results from whatever they are given as."""
    if isinstance(source, Results):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_results(source)
    return Results("results", check_entries(source if isinstance(source, Mapping) else list(source)))


def matchable(annotations: Annotations, skeleton: Skeleton) -> Bools:
    """(N,) people that can be matched: those with a labelled keypoint, without crowd regions."""
    seen = (annotations.ground_truth[..., 2] > 0) & (np.array(skeleton.sigmas) > 0)
    return np.asarray(seen.any(-1) & ~annotations.iscrowd & (annotations.num_keypoints > 0))


def _by_image(image_ids: list[Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, image_id in enumerate(image_ids):
        groups.setdefault(image_id, []).append(index)
    return groups


def _image(annotations: Annotations, results: Results, index: int) -> Any:
    image_id = results.entries[index]["image_id"]
    info = annotations.find(image_id)
    if info is None:
        raise FileFormatError(
            f"{results.source}: entry {index}: image_id {shown(image_id)} is not among the {len(annotations.images)} "
            f"images of {annotations.source}; diagnose against the annotations that belong to these results"
        )
    return info.id


def in_order_of(before: Results, after: Results) -> Results:
    """``after`` in the order of ``before``: by ``id`` where all have one, else they must be in it already.

    Raises:
        InputError: they are not the same people.
    """
    if len(after) != len(before):
        raise InputError(
            f"{after.source}: expected the {len(before)} people of {before.source}, refined, got {len(after)}"
        )
    old, new = ([e.get("id") for e in r.entries] for r in (before, after))
    if None not in old and None not in new and len(set(map(str, old))) == len(old):
        place = {str(key): index for index, key in enumerate(new)}
        missing = next((key for key in old if str(key) not in place), None)
        if missing is not None:
            raise InputError(
                f"{after.source}: expected the people of {before.source}, id {shown(missing)} is not there"
            )
        after = Results(after.source, [after.entries[place[str(key)]] for key in old])
    for index, (one, other) in enumerate(zip(before.entries, after.entries, strict=True)):
        if str(one["image_id"]) != str(other["image_id"]):
            raise InputError(
                f"{after.source}: expected the people of {before.source} in the same order, but person {index} is in "
                f"image {shown(other['image_id'])}, not {shown(one['image_id'])}"
            )
    return after
