"""Counts of the taxonomy's own authors' tool (coco-analyze) on the same files, and why ours differ from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from factories import shared_dir
from posefix.evaluation.matching import match_people, others_of
from posefix.io.coco import Results, check_entries, read_annotations
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.diagnosis import KINDS, diagnose
from posefix.pose_errors.synthesis import PoseError

#: People matched and good, jitter, inversion, swap, miss: coco-analyze (commit 9eb8a0a, NumPy's old names replaced),
#: then ``posefix diagnose``.
COUNTS = {
    "movenet": (195, (1046, 506, 88, 88, 461), (1046, 508, 88, 82, 465)),
    "posenet": (210, (1128, 526, 153, 70, 485), (1127, 521, 150, 84, 480)),
    "simplepose": (213, (1406, 529, 102, 57, 246), (1407, 531, 102, 48, 252)),
    "tinypose_256": (215, (1721, 369, 50, 37, 167), (1720, 372, 49, 34, 169)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_size_of_the_others_is_the_whole_difference(name: str) -> None:
    data = shared_dir() / "data" / "coco"
    truth = read_annotations(data / "val.json", COCO)
    found = Results(name, check_entries(json.loads((data / "results" / f"{name}.json").read_text())))
    entries, people = match_people(truth, found, COCO)
    points, own = found.keypoints(COCO)[entries][..., :2], truth.ground_truth[people]
    near, _ = others_of(truth, people)
    kinds = diagnose(points, np.ones(points.shape[:2], bool), own, truth.area[people], near, COCO)
    count, theirs, ours = COUNTS[name]
    assert len(people) == count
    assert tuple(int((kinds == kind).sum()) for kind in KINDS) == ours

    # The authors measure the distance to another person's keypoint by that person's size.
    places = {tuple(p.reshape(-1).tolist()): a for p, a in zip(truth.ground_truth, truth.area, strict=True)}
    sizes = np.array([[places.get(tuple(p.reshape(-1).tolist()), 0.0) for p in row] for row in near])
    sigmas, flip = np.array(COCO.sigmas), COCO.flip_indices
    sided = flip != np.arange(len(COCO))
    seen, near_seen = own[..., 2] > 0, near[..., 2] > 0
    here = keypoint_similarity(points, own[..., :2], truth.area[people], sigmas) * seen
    mirror = keypoint_similarity(points, own[:, flip, :2], truth.area[people], sigmas) * (seen[:, flip] & sided)
    same = keypoint_similarity(points[:, None], near[..., :2], sizes, sigmas) * near_seen
    crossed = keypoint_similarity(points[:, None], near[:, :, flip, :2], sizes, sigmas) * near_seen[:, :, flip]
    other = np.maximum(same, crossed).max(1, initial=0.0)
    best = np.maximum(here, np.maximum(mirror, other))
    nearest = np.where(here >= best, 0, np.where(other > mirror, PoseError.SWAP, PoseError.INVERSION))
    kinds = np.where(nearest == 0, np.where(here > 0.85, PoseError.GOOD, PoseError.JITTER), nearest)
    kinds = np.where(seen, np.where(best < 0.5, PoseError.MISS, kinds), PoseError.NONE)
    assert tuple(int((kinds == kind).sum()) for kind in KINDS) == theirs
