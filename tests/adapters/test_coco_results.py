from __future__ import annotations

import copy
from typing import Any

import pytest
from checks import StandIn, assert_same, image, poses

from posefix.exceptions import InputError

IMAGES = {7: image(), 139: image()}


def entries(count: int = 17) -> list[dict[str, Any]]:
    data = poses(3, count)
    data[0, 2] = 0
    ids = [139, 7, 139]
    return [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.3 + n, "extra": {"a": [n]}}
        for n, (i, p) in enumerate(zip(ids, data, strict=True))
    ]


def test_round_trip(identity: StandIn) -> None:
    output = entries()
    output[1]["keypoints"][:3] = [3, 4, 2]  # integers stay integers
    untouched = copy.deepcopy(output)
    result = identity(IMAGES, output)
    assert_same(result, untouched)
    assert_same(output, untouched)
    assert result[0] is not output[0]


def test_pixels(shift: StandIn) -> None:
    output = entries()
    result = shift(IMAGES, output)
    assert result[2]["keypoints"][:3] == pytest.approx(
        [output[2]["keypoints"][0] + 1, output[2]["keypoints"][1] + 1, 0.75], abs=1e-3
    )
    assert result[0]["keypoints"][6:9] == [0, 0, 0]
    assert [r["score"] for r in result] == [e["score"] for e in output]
    assert [len(k) for k in shift.keypoints] == [2, 1]


def test_a_small_score_is_not_missing() -> None:
    result = StandIn(score=1e-6)(IMAGES, entries())
    assert result[0]["keypoints"][2] == 0.001


def test_filled(fill: StandIn) -> None:
    assert fill(IMAGES, entries())[0]["keypoints"][6:9] == [12, 34, 0.5]


def test_images(identity: StandIn) -> None:
    identity([image()] * 2, entries())  # in the order of first appearance
    identity(image(), [entries()[1]])
    with pytest.raises(InputError, match="no image for image 139"):
        identity({7: image()}, entries())
    with pytest.raises(InputError, match="dict by image id"):
        identity(image(), entries())


def test_images_by_ids_in_any_spelling(identity: StandIn) -> None:
    assert len(IMAGES) == 2
    identity({str(key): value for key, value in IMAGES.items()}, entries())
    identity(IMAGES, [{**e, "image_id": str(e["image_id"])} for e in entries()])


def test_boxes() -> None:
    output = entries()
    output[1]["bbox"] = [10, 20, 30, 40]
    stand_in = StandIn()
    stand_in(IMAGES, output, use_boxes=True)
    assert stand_in.boxes[1].tolist() == [[10, 20, 40, 60]]
    stand_in(IMAGES, output)
    assert stand_in.boxes is None


def test_nobody(identity: StandIn) -> None:
    assert identity(IMAGES, []) == []


def test_mixed_sizes(identity: StandIn) -> None:
    with pytest.raises(InputError, match="51, 78"):
        identity(IMAGES, [*entries()[:1], *entries(26)[:1]])
