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
from factories import network_input
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
from posefix.keypoints.heatmaps import expected_position, mirror_maps, soft_argmax
from posefix.keypoints.oks import oks_nms
from posefix.keypoints.skeleton import COCO
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.tensorflow import variables_to_state

Array = npt.NDArray[Any]
HW = (256, 192)


def build(config: ModelConfig, variables: dict[str, Array]) -> RefinementNetwork:
    network = RefinementNetwork(config).eval()
    network.load_state_dict(variables_to_state(variables, config))
    return network


@pytest.fixture(scope="module")
def resnet50(resnet50_variables: dict[str, Array]) -> RefinementNetwork:
    return build(ModelConfig.paper(50, HW), resnet50_variables)


@torch.inference_mode()
def logits(network: RefinementNetwork, crops_rgb: Array, crop_points: Array, valid: Array) -> torch.Tensor:
    crops = torch.from_numpy(np.ascontiguousarray(crops_rgb))
    points = torch.from_numpy(np.ascontiguousarray(crop_points)).float()
    return network(network_input(crops, points, torch.from_numpy(np.ascontiguousarray(valid))))


# ---------------------------------------------------------------- network


def compare(network: RefinementNetwork, path: Path, point_tolerance: float) -> None:
    with np.load(path) as archive:
        expected = torch.from_numpy(archive["logits"]).permute(0, 3, 1, 2)
        refined = torch.from_numpy(archive["refined_points"])
        assert not archive["valid"].all()
        ours = logits(network, archive["image_bgr"][..., ::-1], archive["points"], archive["valid"])
    assert float((ours - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(soft_argmax(ours) * STRIDE, refined, atol=point_tolerance, rtol=0)


def test_resnet50(resnet50: RefinementNetwork, golden: Path) -> None:
    compare(resnet50, golden / "reference_network_resnet50_256x192.npz", 0.005)


def test_resnet152(golden: Path) -> None:
    network = build(ModelConfig.paper(152, (384, 288)), golden_rule.variables(golden, "resnet152"))
    # Its logits are large, its soft-argmax therefore nearly a hard one, which magnifies rounding.
    compare(network, golden / "reference_network_resnet152_384x288.npz", 0.05)


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
    bgr = cv2.imread(str(golden / "pipeline_image.png"))
    assert bgr is not None
    image = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
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


def refine(network: RefinementNetwork, people: People, crops_rgb: Array, *, flip_indices: bool) -> Array:
    """The test path of the paper's code: both answers in crop pixels averaged, then back to the image."""
    crop_points = transform_points(people.affine, people.points)
    answer = soft_argmax(logits(network, crops_rgb, crop_points, people.valid)).double().numpy() * STRIDE
    if flip_indices:
        mirrored = flip_points(crop_points, HW[1], COCO.flip_indices)
        turned = logits(network, crops_rgb[:, :, ::-1], mirrored, people.valid[:, COCO.flip_indices])
        back = flip_points(soft_argmax(turned).double().numpy() * STRIDE, HW[1], COCO.flip_indices)
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


@pytest.fixture(scope="module")
def refined_flip(people: People, resnet50: RefinementNetwork) -> Array:
    """The whole path through our own crops, with the flip test."""
    return refine(resnet50, people, people.crops, flip_indices=True)


def test_refined_points_from_golden_crops(
    people: People, reference: dict[str, Array], resnet50: RefinementNetwork
) -> None:
    crops = reference["crops_bgr"][..., ::-1]
    for flip_indices, name in ((False, "refined_plain"), (True, "refined_flip")):
        refined = refine(resnet50, people, crops, flip_indices=flip_indices)
        np.testing.assert_allclose(refined, reference[name], atol=0.01, rtol=0)


def test_refined_points_through_our_own_crops(
    people: People, reference: dict[str, Array], resnet50: RefinementNetwork, refined_flip: Array
) -> None:
    refined_plain = refine(resnet50, people, people.crops, flip_indices=False)
    assert np.abs(refined_plain - people.points).max() > 1, "the refinement moves something"
    np.testing.assert_allclose(refined_plain, reference["refined_plain"], atol=0.3, rtol=0)
    np.testing.assert_allclose(refined_flip, reference["refined_flip"], atol=0.3, rtol=0)


def test_flip_test_by_mean_maps_is_the_references(
    people: People, reference: dict[str, Array], resnet50: RefinementNetwork
) -> None:
    """Averaging maps, shifted by ¾ of a heatmap pixel, instead of points gives the same, up to mass at the border."""
    crop_points = transform_points(people.affine, people.points)
    plain = torch.softmax(logits(resnet50, people.crops, crop_points, people.valid).flatten(2), -1)
    mirrored = flip_points(crop_points, HW[1], COCO.flip_indices)
    turned = logits(resnet50, people.crops[:, :, ::-1], mirrored, people.valid[:, COCO.flip_indices])
    turned = torch.softmax(turned.flatten(2), -1).unflatten(2, (64, 48))
    mean = (plain.unflatten(2, (64, 48)) + mirror_maps(turned, torch.from_numpy(COCO.flip_indices), 0.75)) / 2
    ours = transform_points(invert_affine(people.affine), expected_position(mean).double().numpy() * STRIDE)
    scale = (people.rectangles[:, 2] - people.rectangles[:, 0]) / HW[1]
    apart = np.abs(ours - reference["refined_flip"]) / scale[:, None, None]
    assert apart.max() < 1.5
    assert np.median(apart) < 0.05


def test_nms_keeps_the_same_people(people: People, reference: dict[str, Array], refined_flip: Array) -> None:
    area = box_area(people.rectangles)
    np.testing.assert_allclose(area, reference["nms_areas"], rtol=1e-6)
    kept = oks_nms(refined_flip, people.scores, area, COCO.sigmas, threshold=0.9)
    np.testing.assert_array_equal(kept, reference["nms_keep_refined"])
    kept = oks_nms(people.points, people.scores, area, COCO.sigmas, threshold=0.9)
    np.testing.assert_array_equal(kept, reference["nms_keep_input"])
    assert 0 < len(kept) < len(people.scores)
