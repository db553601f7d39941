"""DeepLabCut writes pandas tables; these are built as its documentation shows them, with the real pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import StandIn, image, needs, poses

from posefix.exceptions import SkeletonError
from posefix.keypoints.layouts import plain_name
from posefix.keypoints.skeleton import COCO


def table(names: Any = COCO.keypoints, individuals: int = 0, dtype: Any = np.float64, likelihood: bool = True) -> Any:
    pandas = needs("pandas")
    coords = ["x", "y", "likelihood"] if likelihood else ["x", "y"]
    levels = [["DLC_resnet50"], *([[f"mouse{i}" for i in range(individuals)]] if individuals else [])]
    levels += [[*names, "tail"], coords]
    labels = ["scorer", *(["individuals"] if individuals else []), "bodyparts", "coords"]
    columns = pandas.MultiIndex.from_product(levels, names=labels)
    values = poses(4 * max(individuals, 1), len(names) + 1)[..., : len(coords)].reshape(4, -1).astype(dtype)
    values[0, :2] = np.nan
    return pandas.DataFrame(values, columns=columns, index=[10, 11, 12, 13])


@pytest.mark.parametrize("individuals", [0, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("likelihood", [True, False])
def test_round_trip(individuals: int, dtype: Any, likelihood: bool, identity: StandIn) -> None:
    output = table(individuals=individuals, dtype=dtype, likelihood=likelihood)
    untouched = output.copy()
    result = identity([image()] * 4, output)
    needs("pandas").testing.assert_frame_equal(result, untouched, check_exact=True)
    needs("pandas").testing.assert_frame_equal(output, untouched, check_exact=True)
    assert result is not output


def test_pixels(shift: StandIn) -> None:
    output = table(names=COCO.keypoints[::-1], individuals=2)
    untouched = output.copy()
    result = shift([image()] * 4, output)
    scorer = result["DLC_resnet50"]
    before = output["DLC_resnet50"]
    assert np.isnan(scorer["mouse0", "right_ankle", "x"].iloc[0])
    for name in COCO.keypoints:
        if name != "right_ankle":
            np.testing.assert_allclose(scorer["mouse1", name, "x"], before["mouse1", name, "x"] + 1)
            np.testing.assert_array_equal(scorer["mouse1", name, "likelihood"], 0.75)
    for coord in ("x", "y", "likelihood"):
        np.testing.assert_array_equal(scorer["mouse1", "tail", coord], before["mouse1", "tail", coord])
    np.testing.assert_allclose(shift.keypoints[2][1, 0, 0], before["mouse1", "nose", "x"].iloc[2])
    needs("pandas").testing.assert_frame_equal(output, untouched)


def test_filled(fill: StandIn) -> None:
    result = fill({i: image() for i in (10, 11, 12, 13)}, table())
    assert result.iloc[0, :3].tolist()[:2] == [12, 34]


def test_other_spellings(identity: StandIn) -> None:
    spelled = ["".join(w.capitalize() for w in name.split("_")) for name in COCO.keypoints]
    identity([image()] * 4, table(names=spelled))
    with pytest.raises(SkeletonError, match="got snout, paw_0"):
        identity([image()] * 4, table(names=["snout", *(f"paw_{i}" for i in range(16))]))


@pytest.mark.parametrize(
    ("given", "name"),
    [("LeftEye", "left_eye"), ("left-eye", "left_eye"), ("L_eye", "left_eye"), ("eye left", "left_eye")],
)
def test_plain_name(given: str, name: str) -> None:
    assert plain_name(given) == name
