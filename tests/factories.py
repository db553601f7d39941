"""What several test files build or look for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights


def shared_dir() -> Path:
    """``../shared`` next to the checkout; the test skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not part of the project")
    return folder


def load_tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parents[1] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_weights(calibration: Calibration | None = None, **model: Any) -> Weights:
    """Weights of an untrained network; ``model`` are fields of ``ModelConfig``."""
    torch.manual_seed(3)
    config = ModelConfig(**model)
    network = RefinementNetwork(config)
    return Weights(config, COCO, calibration or Calibration(policy="always"), network.state_dict(), {}, "test")


def network_input(crops: Any, crop_points: Any, valid: Any, std: Any = None, scores: Any = None) -> NetworkInput:
    """Tensors for a network; length scale and scores are 1 where they are not given."""
    ones = torch.ones(crop_points.shape[:2])
    return NetworkInput(crops, crop_points, valid, ones if std is None else std, ones if scores is None else scores)


#: A small keypoint set with both sides and a middle.
FOUR = Skeleton(
    "four",
    ("head", "left_hand", "right_hand", "tail"),
    (0.05, 0.06, 0.06, 0.1),
    (("head", "tail"), ("head", "left_hand"), ("head", "right_hand")),
)


def random_poses(rng: np.random.Generator, people: int, skeleton: Skeleton = COCO) -> npt.NDArray[np.float64]:
    """(N, K, 3) poses about 100 px wide in a 640 × 480 image, scores in (0, 1)."""
    corner = rng.uniform([0.0, 0.0], [500.0, 340.0], (people, 1, 2))
    points = corner + rng.uniform(0.0, 140.0, (people, len(skeleton), 2))
    scores = rng.uniform(0.05, 1.0, (people, len(skeleton), 1))
    return np.round(np.concatenate([points, scores], axis=-1), 3)


def annotation_file(
    rng: np.random.Generator, images: int = 4, people: int = 3, skeleton: Skeleton = COCO
) -> dict[str, Any]:
    """The content of a COCO annotation file: ``people`` in each of ``images`` images."""
    data: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i:03d}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.keypoints)}],
    }
    for image in data["images"]:
        for pose in random_poses(rng, people, skeleton):
            pose[:, 2] = rng.choice([0, 1, 2], len(pose), p=[0.2, 0.2, 0.6])
            pose[0, 2] = 2
            pose[pose[:, 2] == 0] = 0
            seen = pose[pose[:, 2] > 0, :2]
            left_top, size = seen.min(0), np.ptp(seen, axis=0) + 1
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "keypoints": pose.reshape(-1).tolist(),
                    "num_keypoints": int((pose[:, 2] > 0).sum()),
                    "bbox": [*left_top.tolist(), *size.tolist()],
                    "area": float(0.5 * size[0] * size[1]),
                    "iscrowd": 0,
                }
            )
    return data


def results_of(data: dict[str, Any], rng: np.random.Generator, noise: float = 3.0) -> list[dict[str, Any]]:
    """COCO results: the labelled people of ``data`` with Gaussian noise of ``noise`` px."""
    entries = []
    for person in data["annotations"]:
        pose = np.reshape(np.array(person["keypoints"], np.float64), (-1, 3))
        pose[:, :2] += rng.normal(0.0, noise, (len(pose), 2))
        pose[:, 2] = rng.uniform(0.1, 1.0, len(pose))
        score = float(np.round(rng.uniform(0.1, 1.0), 4))
        entry = {"image_id": person["image_id"], "category_id": 1, "score": score}
        entries.append(entry | {"keypoints": np.round(pose, 3).reshape(-1).tolist()})
    return entries


def draw_dots(data: Path) -> None:
    """Overwrite the images of ``data/train.json``: white dots at the labelled keypoints on black."""
    content = json.loads((data / "train.json").read_text())
    for image in content["images"]:
        canvas = np.zeros((480, 640, 3), np.uint8)
        for person in content["annotations"]:
            if person["image_id"] == image["id"]:
                for x, y, v in np.array(person["keypoints"]).reshape(-1, 3):
                    if v:
                        cv2.circle(canvas, (round(x), round(y)), 4, (255, 255, 255), -1)
        cv2.imwrite(str(data / image["file_name"]), canvas)
