"""mmpose: ``PoseDataSample``, its ``pred_instances``, predictions of ``MMPoseInferencer``; scores may exceed 1."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from posefix.adapters.base import (
    Extracted,
    Floats,
    Images,
    check_2d,
    is_a,
    is_array,
    put_back,
    put_back_numbers,
    to_numpy,
    with_scores,
)
from posefix.exceptions import InputError
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """A data sample, its instances, or the inferencer's list of people of one image."""
    if isinstance(output, list):
        return bool(output) and all(isinstance(p, dict) and {"keypoints", "keypoint_scores"} <= set(p) for p in output)
    return is_a(output, "mmpose", "PoseDataSample") or is_a(output, "mmengine", "InstanceData")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people.

    Raises:
        InputError: nothing was predicted, or in three dimensions.
    """
    if isinstance(output, list):
        return _from_dicts(output)
    instances = getattr(output, "pred_instances", None) if is_a(output, "mmpose", "PoseDataSample") else output
    if instances is None or "keypoints" not in instances:
        raise InputError("mmpose: expected pred_instances with keypoints, got none")
    points = check_2d(to_numpy(instances.keypoints), "mmpose keypoints")
    own_scores = getattr(instances, "keypoint_scores", None)
    before = with_scores(points, None if own_scores is None else to_numpy(own_scores).reshape(points.shape[:2]))

    def rebuild(refined: list[Floats]) -> Any:
        new = instances.clone()
        if len(before):
            new.keypoints = put_back(instances.keypoints, points, refined[0][..., :2])
            if own_scores is not None:
                new.keypoint_scores = put_back(own_scores, before[..., 2], refined[0][..., 2])
        if instances is output:
            return new
        sample = output.clone()
        sample.pred_instances = new
        return sample

    boxes = to_numpy(instances.bboxes).reshape(-1, 4) if "bboxes" in instances else None
    return Extracted([before], rebuild, boxes=[boxes])


def _from_dicts(people: list[dict[str, Any]]) -> Extracted:
    points = check_2d(np.array([to_numpy(p["keypoints"]) for p in people]), "mmpose keypoints")
    before = with_scores(points, np.array([to_numpy(p["keypoint_scores"]) for p in people]))

    def rebuild(refined: list[Floats]) -> Any:
        new = [copy.copy(p) for p in people]
        for person, old, after in zip(new, before, refined[0], strict=True):
            if is_array(person["keypoints"]):
                person["keypoints"] = put_back(person["keypoints"], old[:, :2], after[:, :2])
            else:
                flat = put_back_numbers(np.ravel(person["keypoints"]).tolist(), old[:, :2], after[:, :2])
                person["keypoints"] = [flat[i : i + 2] for i in range(0, len(flat), 2)]
            put = put_back if is_array(person["keypoint_scores"]) else put_back_numbers
            person["keypoint_scores"] = put(person["keypoint_scores"], old[:, 2], after[:, 2])
        return new

    return Extracted([before], rebuild, boxes=[np.array([_box(p) for p in people]).reshape(-1, 4)])


def _box(person: dict[str, Any]) -> list[float]:
    """The inferencer writes ``bbox`` as a tuple of one list."""
    box = np.ravel(person.get("bbox", ())).tolist()
    return box if len(box) == 4 else [np.nan] * 4
