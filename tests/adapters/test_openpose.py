"""OpenPose is not on PyPI: structures as its doc/02_output.md describes them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from checks import StandIn, assert_same, image, poses

from posefix.exceptions import InputError
from posefix.keypoints.layouts import BODY_25, OPENPOSE_18


def frame(count: int = 25, people: int = 2, seed: int = 0) -> dict[str, Any]:
    data = np.round(poses(people, count, seed), 3)
    data[:, 4] = 0
    return {
        "version": 1.3,
        "people": [
            {
                "person_id": [-1],
                "pose_keypoints_2d": [int(v) if v == 0 else v for v in pose.reshape(-1).tolist()],
                "face_keypoints_2d": [1.0, 2.0, 0.5],
                "hand_left_keypoints_2d": [],
            }
            for pose in data
        ],
    }


def normalised(scale: int) -> dict[str, Any]:
    """As ``--keypoint_scale`` 3 and 4 write (src/openpose/core/keypointScaler.cpp)."""
    result = frame()
    for person in result["people"]:
        values = np.reshape(person["pose_keypoints_2d"], (-1, 3)).astype(np.float64)
        unit = values[:, :2] / [639, 479]
        values[:, :2] = np.where(values[:, 2:] > 0, unit if scale == 3 else 2 * unit - 1, 0)
        person["pose_keypoints_2d"] = np.round(values, 6).reshape(-1).tolist()
    return result


@pytest.mark.parametrize("output", [frame(), frame(18), frame(people=0), normalised(3), normalised(4)])
def test_round_trip(output: dict[str, Any], identity: StandIn) -> None:
    untouched = copy.deepcopy(output)
    assert_same(identity(image(), output), untouched)
    assert_same(output, untouched)


@pytest.mark.parametrize(("count", "names"), [(25, BODY_25), (18, OPENPOSE_18)])
def test_by_name(count: int, names: tuple[str, ...], shift: StandIn) -> None:
    output = frame(count)
    result = shift(image(), output)
    before = np.reshape(output["people"][0]["pose_keypoints_2d"], (-1, 3))
    after = np.reshape(result["people"][0]["pose_keypoints_2d"], (-1, 3))
    for k, name in enumerate(names):
        if name in shift.skeleton.keypoints and before[k, 2] > 0:
            np.testing.assert_allclose(after[k], [*(before[k, :2] + 1), 0.75], atol=1e-3)
            sent = shift.keypoints[0][0, shift.skeleton.index(name)]
            np.testing.assert_array_equal(sent, before[k])
        else:
            np.testing.assert_array_equal(after[k], before[k])
    assert result["people"][0]["face_keypoints_2d"] == [1.0, 2.0, 0.5]
    assert result["version"] == 1.3


def test_missing_is_filled(fill: StandIn) -> None:
    assert fill(image(), frame())["people"][0]["pose_keypoints_2d"][12:15] == [12, 34, 0.5]


@pytest.mark.parametrize("scale", [3, 4])
def test_normalised(scale: int, shift: StandIn) -> None:
    output = normalised(scale)
    result = shift(image(480, 640), output)
    np.testing.assert_allclose(
        shift.keypoints[0][0, 0, :2], np.reshape(frame()["people"][0]["pose_keypoints_2d"], (-1, 3))[0, :2], atol=1e-3
    )
    moved = result["people"][0]["pose_keypoints_2d"][0] - output["people"][0]["pose_keypoints_2d"][0]
    assert moved == pytest.approx((1 if scale == 3 else 2) / 639, abs=2e-6)
    with pytest.raises(InputError, match="pass the one image"):
        shift(None, output)


def test_frames(shift: StandIn) -> None:
    output = [frame(seed=1), frame(people=0), frame(seed=2)]
    result = shift([image()] * 3, output)
    assert [len(f["people"]) for f in result] == [2, 0, 2]
    assert result[2]["people"][0]["pose_keypoints_2d"][0] == pytest.approx(
        output[2]["people"][0]["pose_keypoints_2d"][0] + 1, abs=1e-3
    )


def test_a_person_of_hands_alone(shift: StandIn) -> None:
    output = frame()
    output["people"].insert(0, {"pose_keypoints_2d": [], "hand_left_keypoints_2d": [1.0, 2.0, 0.5]})
    result = shift(image(), output)
    assert result["people"][0] == output["people"][0]
    assert result["people"][1] != output["people"][1]


def test_other_sets(identity: StandIn) -> None:
    with pytest.raises(InputError, match="got 45"):
        identity(image(), frame(15))
