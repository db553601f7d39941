"""mmpose's own data structures, codecs and ``split_instances``; its models need a compiled mmcv."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checks import StandIn, assert_same, image, needs, poses

from posefix.exceptions import InputError


def decoded() -> tuple[Any, Any]:
    """Keypoints and scores of mmpose's heatmap codec, from random heatmaps, moved to a box of the image."""
    codec = needs("mmpose.codecs").MSRAHeatmap(input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
    rng = np.random.default_rng(0)
    people = [codec.decode(rng.uniform(0, 1.2, (17, 64, 48)).astype(np.float32)) for _ in range(2)]
    return np.concatenate([k for k, _ in people]), np.concatenate([s for _, s in people])


def sample(kind: str = "numpy") -> Any:
    structures = needs("mmpose.structures")
    data = needs("mmengine.structures").InstanceData
    keypoints, scores = decoded()
    if kind == "tensor":
        keypoints, scores = torch.tensor(keypoints), torch.tensor(scores)
    if kind == "no people":
        keypoints, scores = keypoints[:0], scores[:0]
    boxes = np.array([[10.0, 20, 100, 200], [30, 40, 90, 80]], np.float32)[: len(keypoints)]
    result = structures.PoseDataSample(metainfo={"img_shape": (480, 640), "img_path": "a.jpg"})
    result.pred_instances = data(keypoints=keypoints, keypoint_scores=scores, bboxes=boxes)
    result.pred_instances.bbox_scores = np.ones(len(keypoints), np.float32)
    return result


def content(element: Any) -> dict[str, Any]:
    return {k: content(v) if hasattr(v, "all_items") else v for k, v in sorted(element.all_items())}


@pytest.mark.parametrize("kind", ["numpy", "tensor", "no people"])
def test_round_trip(kind: str, identity: StandIn) -> None:
    output = sample(kind)
    before = copy.deepcopy(content(output))
    result = identity(image(), output)
    assert_same(content(result), before)
    assert_same(content(output), before)
    assert type(result) is type(output)
    assert result is not output
    assert result.metainfo == output.metainfo


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
def test_pixels(kind: str, shift: StandIn) -> None:
    output = sample(kind)
    before = copy.deepcopy(content(output))
    result = shift([image()], [output])[0].pred_instances
    there = np.asarray(output.pred_instances.keypoint_scores) > 0
    np.testing.assert_allclose(
        np.asarray(result.keypoints)[there], np.asarray(output.pred_instances.keypoints)[there] + 1
    )
    assert (np.asarray(result.keypoint_scores)[there] == 0.75).all()
    assert_same(content(output), before)
    assert type(shift(image(), output.pred_instances)) is type(output.pred_instances)


def inferencer(kind: str = "numpy") -> dict[str, Any]:
    """What ``MMPoseInferencer`` yields for one image."""
    split = needs("mmpose.structures").split_instances
    return {"visualization": [], "predictions": [split(sample(kind).pred_instances)]}


@pytest.mark.parametrize("kind", ["numpy", "no people"])
def test_predictions_of_the_inferencer(kind: str, identity: StandIn) -> None:
    output = inferencer(kind)
    untouched = copy.deepcopy(output)
    assert_same(identity(image(), output), untouched)
    assert_same(identity(image(), output["predictions"]), untouched["predictions"])
    assert_same(output, untouched)


def test_pixels_of_the_inferencer(shift: StandIn) -> None:
    output = inferencer()
    person = output["predictions"][0][0]
    assert isinstance(person["bbox"], tuple)
    result = shift(image(), output, use_boxes=True)
    new = result["predictions"][0][0]
    np.testing.assert_allclose(new["keypoints"], np.array(person["keypoints"]) + 1)
    assert new["keypoint_scores"] == [0.75] * 17
    assert new["bbox"] is person["bbox"]
    assert shift.boxes[0][0].tolist() == [10, 20, 100, 200]


def test_documented_structure(shift: StandIn) -> None:
    """The inferencer's dicts as the documentation shows them; without the package."""
    data = poses(1)[0]
    people = [
        {
            "keypoints": data[:, :2].tolist(),
            "keypoint_scores": data[:, 2].tolist(),
            "bbox": ([1.0, 2.0, 30.0, 40.0],),
            "bbox_score": 0.9,
        }
    ]
    assert_same(StandIn()(image(), people), copy.deepcopy(people))
    np.testing.assert_allclose(shift(image(), people)[0]["keypoints"], data[:, :2] + 1)


def test_three_dimensions_are_refused(identity: StandIn) -> None:
    data = needs("mmengine.structures").InstanceData
    with pytest.raises(InputError, match=r"got \(1, 17, 3\)"):
        identity(image(), data(keypoints=poses(1), keypoint_scores=np.ones((1, 17))))
    with pytest.raises(InputError, match="expected pred_instances"):
        identity(image(), needs("mmpose.structures").PoseDataSample())
