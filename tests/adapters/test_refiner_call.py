"""The refiner itself, with a random network: one line after an output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import image, poses

from posefix.inference.refiner import Refiner
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    torch.manual_seed(0)
    config = ModelConfig(input_hw=(64, 64))
    state = RefinementNetwork(config).state_dict()
    return Refiner(Weights(config, COCO, Calibration(policy="always"), state), device="cpu", precision="float32")


def test_a_call_is_refine(refiner: Refiner) -> None:
    data = poses()
    np.testing.assert_array_equal(refiner(image(), data), refiner.refine(image(), data))
    np.testing.assert_allclose(
        refiner(image(), data.astype(np.float32)), refiner.refine(image(), data.astype(np.float32)), atol=1e-3
    )


def test_tensors_and_lists(refiner: Refiner) -> None:
    data = torch.tensor(poses(), dtype=torch.float32)
    result = refiner([image(), image()], [data, data[:0]])
    assert result[0].dtype == torch.float32
    assert result[1].shape == (0, 17, 3)
    np.testing.assert_allclose(result[0].numpy(), refiner.refine(image(), data.double()), atol=1e-3)


def test_options(refiner: Refiner) -> None:
    data = poses()
    data[0, 3] = 0
    kept = refiner.refine_output(image(), data, fill_missing=False)
    assert kept[0, 3].tolist() == [0, 0, 0]
    assert refiner(image(), data)[0, 3, 2] > 0
    with pytest.raises(TypeError, match="flip_indices"):
        refiner(image(), data, flip_indices=True)
    with pytest.raises(TypeError, match="flip_indices"):
        refiner(image(), data[:0], flip_indices=True)


def test_boxes(refiner: Refiner) -> None:
    people: list[dict[str, Any]] = [
        {"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist(), "bbox": ([5.0, 5.0, 300.0, 300.0],)}
        for p in poses()
    ]
    expected = refiner.refine(image(), poses(), boxes_xyxy=[[5.0, 5.0, 300.0, 300.0]] * 2)
    result = refiner(image(), people, use_boxes=True)
    np.testing.assert_allclose([p["keypoints"] for p in result], expected[..., :2])
    assert result != refiner(image(), people)


def test_phantoms_and_nobody(refiner: Refiner) -> None:
    data = poses()
    phantom = (data[..., :2], np.full((2, 17), 0.1))
    np.testing.assert_array_equal(refiner(image(), phantom)[0], phantom[0])
    assert refiner(image(), []) == []
