"""AlphaPose is not on PyPI: structures as its ``pPose_nms.write_json`` and docs/output.md write them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from checks import StandIn, assert_same, image, poses

from posefix.adapters import alphapose


def output(count: int = 17) -> list[dict[str, Any]]:
    return [
        {
            "image_id": name,
            "category_id": 1,
            "keypoints": pose.reshape(-1).tolist(),
            "score": 2.9,
            "box": [10.0, 20.0, 30.0, 40.0],
            "idx": [0.0],
        }
        for name, pose in zip(("a.jpg", "b.jpg", "a.jpg"), poses(3, count), strict=True)
    ]


@pytest.mark.parametrize("count", [17, 26, 136])
def test_round_trip(count: int, identity: StandIn) -> None:
    people, untouched = output(count), output(count)
    assert alphapose.recognise(people)
    assert_same(identity({"a.jpg": image(), "b.jpg": image()}, people), untouched)
    assert_same(people, untouched)


@pytest.mark.parametrize("count", [17, 26, 136])
def test_pixels_and_rest(count: int, shift: StandIn) -> None:
    people = output(count)
    result = shift([image(), image()], copy.deepcopy(people))
    before = np.reshape(people[1]["keypoints"], (-1, 3))
    after = np.reshape(result[1]["keypoints"], (-1, 3))
    np.testing.assert_allclose(after[:17, :2], before[:17, :2] + 1, atol=1e-3)
    np.testing.assert_array_equal(after[17:], before[17:])
    assert result[1]["score"] == 2.9


def test_box() -> None:
    stand_in = StandIn()
    stand_in([image(), image()], output(), use_boxes=True)
    assert stand_in.boxes[1].tolist() == [[10, 20, 40, 60]]
