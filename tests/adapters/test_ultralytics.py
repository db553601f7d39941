from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checks import StandIn, assert_same, image, needs, poses

from posefix.exceptions import InputError


@pytest.fixture(scope="module")
def predicted() -> Any:
    """YOLO's own predictor on two images, randomly initialised."""
    torch.manual_seed(0)
    model = needs("ultralytics").YOLO("yolo11n-pose.yaml")
    return model.predict(
        [image(240, 320), image(120, 160)], conf=1e-12, max_det=3, imgsz=160, verbose=False, device="cpu"
    )


def results(data: torch.Tensor | np.ndarray[Any, Any]) -> Any:
    module = needs("ultralytics.engine.results")
    boxes = torch.tensor([[10.0, 20, 300, 400, 0.9, 0], [30, 40, 200, 300, 0.8, 0]])[: len(data)]
    return module.Results(image(), path="a.jpg", names={0: "person"}, boxes=boxes, keypoints=data)


def content(result: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(result).items() if k not in ("keypoints", "boxes")} | {
        "keypoints": result.keypoints.data,
        "boxes": result.boxes.data,
    }


def test_round_trip_of_predictions(predicted: Any, identity: StandIn) -> None:
    assert len(predicted[0].keypoints.data) == 3
    before = copy.deepcopy([content(r) for r in predicted])
    refined = identity(None, predicted)
    assert_same([content(r) for r in refined], before)
    assert_same([content(r) for r in predicted], before)
    assert type(refined[0]) is type(predicted[0])
    assert_same(content(identity(None, predicted[1])), before[1])


def test_pixels_of_predictions(predicted: Any, shift: StandIn) -> None:
    refined = shift(None, predicted)
    for new, old in zip(refined, predicted, strict=True):
        limit = torch.tensor([old.orig_shape[1], old.orig_shape[0]])
        there = (old.keypoints.xy != 0).any(-1)
        expected = torch.minimum(old.keypoints.xy + 1, limit)
        torch.testing.assert_close(new.keypoints.xy[there], expected[there])
        assert (new.keypoints.conf[there] == 0.75).all()
        assert new.boxes is old.boxes


def test_its_own_image_is_bgr(predicted: Any, identity: StandIn) -> None:
    identity(None, predicted[0])
    np.testing.assert_array_equal(identity.images[0], predicted[0].orig_img[..., ::-1])
    given = image(240, 320)
    identity(given, predicted[0])
    np.testing.assert_array_equal(identity.images[1], given)


@pytest.mark.parametrize(
    "data",
    [
        torch.tensor(poses(), dtype=torch.float16),
        torch.tensor(poses()),
        torch.tensor(poses()[..., :2], dtype=torch.float32),
        torch.zeros(0, 17, 3),
        poses().astype(np.float32),
    ],
)
def test_round_trip(data: Any, identity: StandIn) -> None:
    output = results(data)
    before = copy.deepcopy(content(output))
    assert_same(content(identity(None, output)), before)
    assert_same(content(output), before)


def test_clipped_and_missing() -> None:
    data = torch.tensor(poses(), dtype=torch.float32)
    data[0, 0, :2] = torch.tensor([640.0, 480.0])
    data[0, 3, :2] = 0  # how older versions write a low confidence
    refined = StandIn(move=5.0, score=0.5)(None, results(data))
    assert refined.keypoints.xy[0, 0].tolist() == [640, 480]
    assert_same(refined.keypoints.data[0, 3], data[0, 3])
    filled = StandIn(fill=True)(None, results(data))
    assert filled.keypoints.data[0, 3].tolist() == [12, 34, 0.5]


def test_boxes() -> None:
    stand_in = StandIn()
    stand_in(None, results(torch.tensor(poses())), use_boxes=True)
    assert stand_in.boxes[0][0].tolist() == [10, 20, 300, 400]


def test_a_detector_is_refused(identity: StandIn) -> None:
    module = needs("ultralytics.engine.results")
    with pytest.raises(InputError, match="use a pose model"):
        identity(None, module.Results(image(), path="", names={}, boxes=torch.zeros(0, 6)))
