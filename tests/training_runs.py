"""A tiny training run, which several test files vary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from factories import annotation_file
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.training.config import Augmentation, Optimisation, SetConfig, TrainingConfig
from posefix.training.data.batches import BatchStream
from posefix.training.data.people import read_people

EVERYTHING = Augmentation(
    shift=0.1,
    colour=0.3,
    degrade=0.5,
    occlude=0.5,
    copy_paste=0.5,
    keypoint_dropout=0.5,
    input_box=0.5,
    real_pose_prob=0.5,
    real_noise=0.2,
    severity=1.0,
    low_jitter_prob=0.5,
    error_shrink_prob=0.5,
    error_fix_prob=0.5,
    score_prob=0.5,
    self_input_prob=0.5,
)


def write_data(folder: Path) -> Path:
    """A tiny COCO set with images and one estimator's results."""
    rng = np.random.default_rng(0)
    content = annotation_file(rng)
    for image in content["images"]:
        texture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        cv2.imwrite(str(folder / image["file_name"]), texture)
    estimates = []
    for person in content["annotations"]:
        pose = np.array(person["keypoints"], float).reshape(-1, 3)
        pose[:, :2] += rng.normal(0, 5, (17, 2))
        pose[:, 2] = rng.uniform(0.2, 1.0, 17)
        box = {"bbox": person["bbox"], "image_id": person["image_id"], "category_id": 1, "score": 1.0}
        estimates.append(box | {"keypoints": pose.reshape(-1).tolist()})
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "estimates.json").write_text(json.dumps(estimates))
    return folder


def make_config(data: Path, out: str = "run", **optimisation: Any) -> TrainingConfig:
    options: dict[str, Any] = {"batch_size": 2, "steps": 6, "warmup": 2, "bfloat16": "off", "learning_rate": 1e-4}
    return TrainingConfig(
        sets=(SetConfig(str(data / "train.json"), str(data), estimates=(str(data / "estimates.json"),)),),
        out=str(data / out),
        model=ModelConfig(input_hw=(64, 64)),
        augmentation=EVERYTHING,
        optimisation=Optimisation(**(options | optimisation)),
        checkpoint_minutes=0.0,
        workers=1,
    )


def stream_of(config: TrainingConfig, seed: int = 3) -> BatchStream:
    people = read_people(config.sets, COCO)
    return BatchStream(people, COCO, config.model, config.augmentation, batch_size=8, seed=seed, workers=2)
