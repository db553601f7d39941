"""CrowdPose: AP with its sigmas, its area and its split by crowding (Li et al., CVPR 2019).

What its evaluation (github.com/Jeff-sjtu/CrowdPose, crowdposetools) does differently from COCO's: sigmas of 14
keypoints; a person's area is 0.53 × its box, whatever the file says; and AP once more on the images of low, middle
and high crowd index.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from posefix.evaluation.coco_ap import Metrics, evaluate
from posefix.exceptions import FileFormatError, InputError
from posefix.geometry import box_area
from posefix.io.coco import Annotations, Entry, ImageId, Results, annotations_of, check_entries, read_results
from posefix.io.json import PathLike, is_number, read_json
from posefix.keypoints.oks import AREA_PER_BOX
from posefix.keypoints.skeleton import CROWDPOSE

#: Crowd index from which an image is medium, and hard. crowdposetools, whose numbers are published, splits
#: here; the paper's text says 0.1 instead of 0.2.
SPLIT = (0.2, 0.8)
PAPER_SPLIT = (0.1, 0.8)


@dataclass(frozen=True)
class CrowdPoseMetrics:
    """CrowdPose's figures in [0, 1]; NaN where no person is labelled.

    Attributes:
        overall: AP and AR on all images.
        easy: AP on images of a crowd index below the first bound.
        medium: AP between both.
        hard: AP from the second bound on.
    """

    overall: Metrics
    easy: float
    medium: float
    hard: float


def evaluate_crowdpose(
    annotations: Mapping[str, Any] | PathLike,
    results: Results | Sequence[Entry] | PathLike,
    *,
    split: tuple[float, float] = SPLIT,
) -> CrowdPoseMetrics:
    """AP of results as crowdposetools computes it.

    Args:
        annotations: CrowdPose's annotation file or its content, with a ``crowdIndex`` for every image.
        results: COCO results of CrowdPose's 14 keypoints, or their file.
        split: crowd index from which an image is medium, and hard.

    Raises:
        FileFormatError: a file is not what it should be, or an image has no crowd index.
        SkeletonError: the annotations are of another keypoint set.
        InputError: bounds out of order.
    """
    if not 0 <= split[0] <= split[1]:
        raise InputError(f"split: expected two bounds in order, got {split}")
    source = "annotations" if isinstance(annotations, Mapping) else os.fspath(annotations)
    data = annotations if isinstance(annotations, Mapping) else read_json(annotations)
    truth = annotations_of(data, CROWDPOSE, source=source)
    truth = replace(truth, area=np.asarray(AREA_PER_BOX * box_area(truth.boxes_xyxy), np.float64))
    index = {}
    for number, image in enumerate(data["images"]):
        if not is_number(image.get("crowdIndex")):
            raise FileFormatError(f"{source}: image {number}: expected a number as 'crowdIndex', as CrowdPose has it")
        index[image["id"]] = float(image["crowdIndex"])
    if isinstance(results, (str, os.PathLike)):
        results = read_results(results)
    name, listed = (results.source, results.entries) if isinstance(results, Results) else ("results", results)
    entries = check_entries(list(listed), source=name)
    overall = evaluate(truth, Results(name, entries), CROWDPOSE)
    bounds = (-np.inf, *split, np.inf)
    parts = []
    for low, high in pairwise(bounds):
        chosen = {i for i, value in index.items() if low <= value < high}
        parts.append(evaluate(_only(truth, chosen), Results(name, _entries_of(entries, truth, chosen)), CROWDPOSE).ap)
    return CrowdPoseMetrics(overall, *parts)


def _only(truth: Annotations, chosen: set[ImageId]) -> Annotations:
    rows = np.array([i in chosen for i in truth.image_ids.tolist()], bool)
    return Annotations(
        source=truth.source,
        images={i: info for i, info in truth.images.items() if i in chosen},
        image_ids=truth.image_ids[rows],
        category_ids=truth.category_ids[rows],
        ground_truth=truth.ground_truth[rows],
        boxes_xyxy=truth.boxes_xyxy[rows],
        area=truth.area[rows],
        iscrowd=truth.iscrowd[rows],
        num_keypoints=truth.num_keypoints[rows],
    )


def _entries_of(entries: Sequence[Entry], truth: Annotations, chosen: set[ImageId]) -> list[Entry]:
    found = [truth.find(e["image_id"]) for e in entries]
    return [e for e, info in zip(entries, found, strict=True) if info is not None and info.id in chosen]
