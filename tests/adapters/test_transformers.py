from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from checks import StandIn, assert_same, image, needs, poses

BOXES = [[[10.0, 10.0, 50.0, 80.0], [60.0, 5.0, 60.0, 100.0]], [[20.0, 20.0, 60.0, 70.0]]]


def imitation(count: int = 17, keep: Any = slice(None)) -> list[dict[str, torch.Tensor]]:
    data = torch.tensor(poses(2, count), dtype=torch.float32)
    labels = torch.arange(count)[keep]
    return [
        {"keypoints": p[labels, :2], "scores": p[labels, 2], "labels": labels, "bbox": torch.tensor([1.0, 2, 3, 4])}
        for p in data
    ]


@pytest.fixture(scope="module")
def real() -> Any:
    """ViTPose and its image processor, randomly initialised: ``post_process(threshold)``."""
    vitpose = needs("transformers")
    torch.manual_seed(0)
    backbone = vitpose.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = vitpose.VitPoseForPoseEstimation(vitpose.VitPoseConfig(backbone_config=backbone, num_labels=17)).eval()
    processor = vitpose.VitPoseImageProcessor(size={"height": 64, "width": 48})
    inputs = processor([image(120, 160), image(100, 140)], boxes=BOXES, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    heatmaps = outputs.heatmaps

    def post_process(threshold: float | None = None) -> Any:
        outputs.heatmaps = heatmaps.clone()  # it is blurred in place
        return processor.post_process_pose_estimation(outputs, boxes=BOXES, threshold=threshold)

    return post_process


def test_what_transformers_writes(real: Any) -> None:
    output = real()
    assert [len(people) for people in output] == [2, 1]
    assert set(output[0][0]) == set(imitation()[0])


@pytest.mark.parametrize("share", [None, 0.5])
def test_round_trip_of_the_real_output(share: float | None, real: Any, identity: StandIn) -> None:
    threshold = None if share is None else float(torch.cat([p["scores"] for p in real()[0]]).quantile(share))
    output = real(threshold)
    assert (share is None) == (len(output[0][0]["labels"]) == 17)
    untouched = copy.deepcopy(output)
    result = identity([image(120, 160), image(100, 140)], output)
    assert_same(result, untouched)
    assert_same(output, untouched)


def test_pixels_of_the_real_output(real: Any, shift: StandIn) -> None:
    threshold = float(torch.cat([p["scores"] for p in real()[0]]).quantile(0.5))
    output = real(threshold)
    result = shift([image(120, 160), image(100, 140)], output)
    for new, old in zip(result[0], output[0], strict=True):
        there = old["scores"] > 0
        torch.testing.assert_close(new["keypoints"][there], old["keypoints"][there] + 1)
        assert (new["scores"][there] == 0.75).all()
        assert_same(new["labels"], old["labels"])
        assert_same(new["bbox"], old["bbox"])
        placed = shift.keypoints[0][[p is old for p in output[0]].index(True)]
        torch.testing.assert_close(torch.tensor(placed[old["labels"], :2]).float(), old["keypoints"])


@pytest.mark.parametrize(("count", "keep"), [(17, slice(None)), (17, [3, 5, 9]), (17, []), (133, slice(None))])
def test_round_trip(count: int, keep: Any, identity: StandIn) -> None:
    output = imitation(count, keep)
    untouched = copy.deepcopy(output)
    assert_same(identity(image(), output), untouched)
    assert_same(output, untouched)


def test_filled_keypoints_take_their_place(fill: StandIn) -> None:
    result = fill(image(), imitation(17, [3, 5, 9]))
    person = result[0]
    assert person["labels"].tolist() == list(range(17))
    assert person["keypoints"][4].tolist() == [12, 34]
    assert person["scores"][4] == 0.5
    assert_same(person["keypoints"][[3, 5, 9]], imitation(17, [3, 5, 9])[0]["keypoints"])


def test_the_box_is_not_cropped_from() -> None:
    stand_in = StandIn()
    stand_in(image(), imitation(), use_boxes=True)
    assert stand_in.boxes is None


def test_nobody(identity: StandIn) -> None:
    assert identity([image()] * 2, [[], imitation()])[0] == []
