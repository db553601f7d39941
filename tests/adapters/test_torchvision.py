from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from checks import StandIn, assert_same, image, needs, poses


def imitation(people: int = 2, device: str = "cpu") -> dict[str, torch.Tensor]:
    """As ``RoIHeads`` writes it."""
    keypoints = torch.tensor(poses(people), dtype=torch.float32, device=device)
    keypoints[..., 2] = 1
    return {
        "boxes": torch.rand(people, 4) * 100,
        "labels": torch.ones(people, dtype=torch.int64),
        "scores": torch.rand(people),
        "keypoints": keypoints,
        "keypoints_scores": torch.randn(people, 17) * 8,
    }


@pytest.fixture(scope="module")
def real() -> list[dict[str, torch.Tensor]]:
    """The model's own post-processing of a random initialisation, of two images."""
    models = needs("torchvision.models.detection")
    torch.manual_seed(0)
    model = models.keypointrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=96,
        max_size=128,
        box_score_thresh=0.0,
        box_detections_per_img=3,
        rpn_post_nms_top_n_test=8,
    ).eval()
    with torch.no_grad():
        return list(model([torch.rand(3, 96, 128), torch.rand(3, 80, 100)]))


def test_what_torchvision_writes(real: Any) -> None:
    assert set(imitation()) == set(real[0])
    assert (real[0]["keypoints"][..., 2] == 1).all()
    assert real[0]["keypoints_scores"].abs().max() > 1  # logits


def test_round_trip_of_the_real_output(real: Any, identity: StandIn) -> None:
    untouched = copy.deepcopy(real)
    result = identity([image(96, 128), image(80, 100)], real)
    assert_same(result, untouched)
    assert_same(real, untouched)
    assert_same(identity(image(96, 128), real[0]), untouched[0])


def test_frame_of_the_real_output(real: Any, shift: StandIn) -> None:
    result = shift([image(96, 128), image(80, 100)], real)
    torch.testing.assert_close(result[0]["keypoints"][..., :2], real[0]["keypoints"][..., :2] + 1)
    sent = torch.tensor(shift.keypoints[0][..., :2])
    torch.testing.assert_close(sent, real[0]["keypoints"][..., :2].double() - 0.5)


@pytest.mark.parametrize("people", [0, 2])
def test_round_trip(people: int, identity: StandIn) -> None:
    torch.manual_seed(0)
    output = imitation(people)
    untouched = copy.deepcopy(output)
    result = identity(image(), output)
    assert_same(result, untouched)
    assert result is not output


def test_scores_are_logits(shift: StandIn) -> None:
    output = imitation()
    result = shift(image(), output)
    torch.testing.assert_close(result["keypoints_scores"].sigmoid(), torch.full((2, 17), 0.75))
    assert (result["keypoints"][..., 2] == 1).all()
    assert (shift.keypoints[0][..., 2] > 0).all()
    torch.testing.assert_close(torch.tensor(shift.keypoints[0][..., 2]).float(), output["keypoints_scores"].sigmoid())


def test_boxes() -> None:
    stand_in, output = StandIn(), imitation()
    stand_in(image(), output, use_boxes=True)
    torch.testing.assert_close(torch.tensor(stand_in.boxes[0]).float(), output["boxes"])
