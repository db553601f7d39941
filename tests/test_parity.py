"""This is PoseFix: the same numbers as the official implementation, from weights to refined poses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

import golden_rule
from posefix.convert import variables_to_state
from posefix.geometry import (
    box_area,
    boxes_around_points,
    boxes_xyxy_to_xywh,
    crop_affine,
    crop_rectangles,
    flip_points,
    invert_affine,
    transform_points,
    warp_crop,
)
from posefix.heatmaps import expected_position, mirror_maps, soft_argmax
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.refinement import RefinementNetwork
from posefix.similarity import oks_nms
from posefix.skeleton import COCO

Array = npt.NDArray[Any]
HW = (256, 192)


def build(golden: Path, depth: int, input_hw: tuple[int, int]) -> RefinementNetwork:
    config = ModelConfig.paper(depth, input_hw)
    network = RefinementNetwork(config).eval()
    network.load_state_dict(variables_to_state(golden_rule.variables(golden, config.backbone), config))
    return network


@pytest.fixture(scope="module")
def resnet50(golden: Path) -> RefinementNetwork:
    return build(golden, 50, HW)


@torch.inference_mode()
def logits(network: RefinementNetwork, crops_rgb: Array, crop_points: Array, valid: Array) -> torch.Tensor:
    crops = torch.from_numpy(np.ascontiguousarray(crops_rgb))
    points = torch.from_numpy(np.ascontiguousarray(crop_points)).float()
    return network(crops, points, torch.from_numpy(np.ascontiguousarray(valid)), torch.ones(points.shape[:2]))


# ---------------------------------------------------------------- network


@pytest.mark.parametrize(
    ("depth", "input_hw", "point_tolerance"),
    # ResNet-152's logits are large, its soft-argmax therefore nearly a hard one.
    [(50, HW, 0.005), (152, (384, 288), 0.05)],
)
def test_network(depth: int, input_hw: tuple[int, int], point_tolerance: float, golden: Path, request: Any) -> None:
    network = request.getfixturevalue("resnet50") if depth == 50 else build(golden, depth, input_hw)
    with np.load(golden / f"reference_network_resnet{depth}_{input_hw[0]}x{input_hw[1]}.npz") as archive:
        expected = torch.from_numpy(archive["logits"]).permute(0, 3, 1, 2)
        refined = torch.from_numpy(archive["refined_points"])
        assert not archive["valid"].all()
        ours = logits(network, archive["image_bgr"][..., ::-1], archive["points"], archive["valid"])
    assert float((ours - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(soft_argmax(ours) * STRIDE, refined, atol=point_tolerance, rtol=0)


# ---------------------------------------------------------------- pipeline


@dataclass
class People:
    """The pipeline's input through our own geometry, people in order of score."""

    points: Array
    valid: Array
    scores: Array
    boxes: Array
    rectangles: Array
    affine: Array
    crops: Array


@pytest.fixture(scope="module")
def people(golden: Path) -> People:
    results = sorted(json.loads((golden / "pipeline_input.json").read_text()), key=lambda r: -r["score"])
    keypoints = np.array([r["keypoints"] for r in results]).reshape(-1, 17, 3)
    picture = cv2.imread(str(golden / "pipeline_image.png"))
    assert picture is not None
    image = np.ascontiguousarray(picture[..., ::-1], np.uint8)
    points, valid = keypoints[..., :2], keypoints[..., 2] > 0
    boxes = boxes_around_points(points, valid)
    rectangles = crop_rectangles(boxes, HW)
    affine = crop_affine(rectangles, HW)
    crops = np.stack([warp_crop(image, one, HW) for one in affine])
    return People(points, valid, np.array([r["score"] for r in results]), boxes, rectangles, affine, crops)


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, Array]:
    with np.load(golden / "reference_pipeline_resnet50_256x192.npz") as archive:
        return dict(archive)


def refine(network: RefinementNetwork, people: People, crops_rgb: Array, *, flip: bool) -> Array:
    """The reference's test path (REFERENCE §6): both answers in crop pixels averaged, then back to the image."""
    crop_points = transform_points(people.affine, people.points)
    answer = soft_argmax(logits(network, crops_rgb, crop_points, people.valid)).double().numpy() * STRIDE
    if flip:
        mirrored = flip_points(crop_points, HW[1], COCO.flip)
        turned = logits(network, crops_rgb[:, :, ::-1], mirrored, people.valid[:, COCO.flip])
        back = flip_points(soft_argmax(turned).double().numpy() * STRIDE, HW[1], COCO.flip)
        answer = (answer + back) / 2
    return transform_points(invert_affine(people.affine), answer)


def test_boxes_and_crops(people: People, reference: dict[str, Array]) -> None:
    np.testing.assert_array_equal(people.scores, reference["scores"])
    np.testing.assert_allclose(boxes_xyxy_to_xywh(people.boxes), reference["boxes_xywh"], atol=1e-6, rtol=0)
    # The reference computes from here on in float32.
    np.testing.assert_allclose(people.rectangles, reference["crop_xyxy"], atol=1e-4, rtol=0)
    crop_points = transform_points(people.affine, people.points)
    np.testing.assert_allclose(crop_points, reference["crop_points"], atol=1e-4, rtol=0)
    difference = np.abs(people.crops.astype(int) - reference["crops_bgr"][..., ::-1])
    assert (difference <= 1).mean() > 0.995
    assert (difference == 0).mean() > 0.995, "crops are the reference's to the bit, whatever OpenCV's version"


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("own_crops", "tolerance"), [(True, 0.3), (False, 0.01)])
def test_refined_points(
    flip: bool,
    own_crops: bool,
    tolerance: float,
    people: People,
    reference: dict[str, Array],
    resnet50: RefinementNetwork,
) -> None:
    crops = people.crops if own_crops else reference["crops_bgr"][..., ::-1]
    refined = refine(resnet50, people, crops, flip=flip)
    expected = reference["refined_flip" if flip else "refined_plain"]
    assert np.abs(expected - people.points).max() > 1, "the refinement moves something"
    np.testing.assert_allclose(refined, expected, atol=tolerance, rtol=0)


def test_flip_test_by_mean_maps_is_the_references(
    people: People, reference: dict[str, Array], resnet50: RefinementNetwork
) -> None:
    """Averaging maps, shifted by ¾ of a cell, instead of points gives the same, up to mass at the border."""
    crop_points = transform_points(people.affine, people.points)
    plain = torch.softmax(logits(resnet50, people.crops, crop_points, people.valid).flatten(2), -1)
    mirrored = flip_points(crop_points, HW[1], COCO.flip)
    turned = logits(resnet50, people.crops[:, :, ::-1], mirrored, people.valid[:, COCO.flip])
    turned = torch.softmax(turned.flatten(2), -1).unflatten(2, (64, 48))
    mean = (plain.unflatten(2, (64, 48)) + mirror_maps(turned, torch.from_numpy(COCO.flip), 0.75)) / 2
    ours = transform_points(invert_affine(people.affine), expected_position(mean).double().numpy() * STRIDE)
    scale = (people.rectangles[:, 2] - people.rectangles[:, 0]) / HW[1]
    apart = np.abs(ours - reference["refined_flip"]) / scale[:, None, None]
    assert apart.max() < 1.5
    assert np.median(apart) < 0.05


def test_nms_keeps_the_same_people(people: People, reference: dict[str, Array], resnet50: RefinementNetwork) -> None:
    area = box_area(people.rectangles)
    np.testing.assert_allclose(area, reference["nms_areas"], rtol=1e-6)
    refined = refine(resnet50, people, people.crops, flip=True)
    kept = oks_nms(refined, people.scores, area, COCO.sigmas, threshold=0.9)
    np.testing.assert_array_equal(kept, reference["nms_keep_refined"])
    kept = oks_nms(people.points, people.scores, area, COCO.sigmas, threshold=0.9)
    np.testing.assert_array_equal(kept, reference["nms_keep_input"])
    assert 0 < len(kept) < len(people.scores)
