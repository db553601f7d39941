from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checks import StandIn, assert_same, image, needs, poses


def key_points(people: int = 2, **fields: Any) -> Any:
    """Built by the package from transformers' structure."""
    sv = needs("supervision")
    data = torch.tensor(poses(people), dtype=torch.float32)
    result = sv.KeyPoints.from_transformers([{"keypoints": p[:, :2], "scores": p[:, 2]} for p in data])
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def variants() -> dict[str, Any]:
    full = key_points()
    full["tracker"] = np.array([4, 7])
    full.detection_confidence = np.array([0.5, 0.6], np.float32)
    full.visible = full.keypoint_confidence > 0.3
    half = key_points()
    half.xy = half.xy.astype(np.float16)
    missing = key_points()
    missing.xy[0, 3] = 0
    unsure = key_points(keypoint_confidence=None)
    unsure.xy[0, 3] = 0
    return {
        "full": full,
        "float16": half,
        "missing": missing,
        "no confidence": unsure,
        "empty": needs("supervision").KeyPoints.empty(),
        "from ultralytics": from_ultralytics(),
    }


def from_ultralytics() -> Any:
    results = needs("ultralytics.engine.results")
    data = torch.tensor(poses(), dtype=torch.float32)
    boxes = torch.tensor([[1, 2, 30, 40, 0.9, 0], [1, 2, 30, 40, 0.8, 0]])
    return needs("supervision").KeyPoints.from_ultralytics(
        results.Results(image(), path="", names={0: "person"}, boxes=boxes, keypoints=data)
    )


@pytest.mark.parametrize("name", ["full", "float16", "missing", "no confidence", "empty", "from ultralytics"])
def test_round_trip(name: str, identity: StandIn) -> None:
    output = variants()[name]
    untouched = copy.deepcopy(output)
    result = identity(image(), output)
    assert_same(vars(result), vars(untouched))
    assert_same(vars(output), vars(untouched))
    assert result == untouched
    assert result is not output


@pytest.mark.parametrize("name", ["full", "missing", "no confidence", "from ultralytics"])
def test_pixels(name: str, shift: StandIn) -> None:
    output = variants()[name]
    untouched = copy.deepcopy(output)
    result = shift(image(), output)
    there = (output.xy != 0).any(-1)
    np.testing.assert_allclose(result.xy[there], output.xy[there] + 1, rtol=1e-6)
    np.testing.assert_array_equal(result.xy[~there], 0)
    if output.keypoint_confidence is None:
        assert result.keypoint_confidence is None
    else:
        assert (result.keypoint_confidence[there] == 0.75).all()
        np.testing.assert_array_equal(result.keypoint_confidence[~there], output.keypoint_confidence[~there])
    assert_same(vars(output), vars(untouched))
    result.data["new"] = [1, 2]
    assert "new" not in output.data


def test_filled(fill: StandIn) -> None:
    result = fill(image(), variants()["missing"])
    assert result.xy[0, 3].tolist() == [12, 34]
    assert result.keypoint_confidence[0, 3] == 0.5


def test_from_mediapipe(shift: StandIn) -> None:
    """33 landmarks have no names here and are no set that is told by its size."""
    from posefix.exceptions import SkeletonError

    with pytest.raises(SkeletonError, match="got 33"):
        shift(image(), key_points(xy=np.ones((2, 33, 2), np.float32), keypoint_confidence=None))
