"""A small training project to start from: drawn images, an own keypoint set, results with errors, a configuration."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError
from posefix.geometry import Doubles
from posefix.io.atomic import write_file
from posefix.io.json import PathLike, write_json
from posefix.keypoints.skeleton import Skeleton
from posefix.pose_errors.synthesis import synthesize
from posefix.training.config import TrainingConfig, read_config

#: Name of the configuration.
CONFIG_NAME = "kite.yaml"
_IMAGES = {"train": 300, "val": 100}
#: A kite pointing upwards, in half-lengths, in the order of the configuration's keypoints.
_SHAPE = np.array([[0.0, -1.0], [-0.8, -0.2], [0.8, -0.2], [0.0, -0.2], [0.0, 1.3]])
_SIDE = 128


def write_example(folder: PathLike) -> Path:
    """Write the project.

    >>> write_example("kites")  # doctest: +SKIP
    PosixPath('kites/kite.yaml')

    Args:
        folder: a new or empty folder.

    Returns:
        the configuration, for ``posefix train``.

    Raises:
        InputError: the folder holds something, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: expected a new or empty folder, got one with content")
    try:
        for name in _IMAGES:
            (target / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: the folder cannot be made: {error.strerror}") from None
    for name in (CONFIG_NAME, "README.md"):
        text = (resources.files("posefix.training") / "example_files" / name).read_text(encoding="utf-8")
        write_file(target / name, text)
    config = read_config(target / CONFIG_NAME)
    rng = np.random.default_rng(0)
    for name, count in _IMAGES.items():
        poses = np.stack([_write_kite(target / name / f"{i:03d}.png", rng) for i in range(count)])
        write_json(target / f"{name}.json", _annotations(poses, config.skeleton))
        if name == "val":
            write_json(target / "results.json", _results(poses, config, rng))
    return target / CONFIG_NAME


def draw_kite(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Doubles]:
    """An image (128, 128, 3) RGB of a kite on a noisy ground, and its keypoints (5, 2) px.

    The left wing is red, the right one blue: without looking, they cannot be told apart.
    """
    angle, size = rng.uniform(0, 2 * np.pi), _SIDE * rng.uniform(0.2, 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = size * _SHAPE @ turn.T + rng.uniform(0.45, 0.55, 2) * _SIDE
    ground = rng.normal(rng.uniform(90, 170, 3), 20, (_SIDE, _SIDE, 3))
    image = np.clip(ground, 0, 255).astype(np.uint8)
    nose, left, right, _, tail = np.rint(points).astype(int)
    cv2.fillPoly(image, [np.array([nose, left, tail])], (200, 40, 40))
    cv2.fillPoly(image, [np.array([nose, right, tail])], (40, 60, 200))
    return image, points


def _write_kite(path: Path, rng: np.random.Generator) -> Doubles:
    image, points = draw_kite(rng)
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done, "OpenCV writes PNG"
    write_file(path, data.tobytes())
    return points


def _annotations(poses: Doubles, skeleton: Skeleton) -> dict[str, Any]:
    """A COCO annotation file of one kite per image."""
    corner, size = poses.min(1), np.ptp(poses, axis=1)
    labelled = np.concatenate([np.round(poses, 2), np.full((*poses.shape[:2], 1), 2)], -1)
    return {
        "images": [{"id": i, "file_name": f"{i:03d}.png", "width": _SIDE, "height": _SIDE} for i in range(len(poses))],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [*low.round(2).tolist(), *extent.round(2).tolist()],
                "area": round(0.5 * float(extent.prod()), 2),
                "num_keypoints": len(skeleton),
                "keypoints": pose.reshape(-1).tolist(),
            }
            for i, (low, extent, pose) in enumerate(zip(corner, size, labelled, strict=True))
        ],
        "categories": [{"id": 1, "name": "kite", "keypoints": list(skeleton.keypoints)}],
    }


def _results(poses: Doubles, config: TrainingConfig, rng: np.random.Generator) -> list[dict[str, Any]]:
    """What an estimator with the configuration's error rates would say of the images."""
    area = 0.5 * np.ptp(poses, axis=1).prod(-1)
    valid = np.ones(poses.shape[:2], np.bool_)
    points, _ = synthesize(poses, valid, config.skeleton, area, rng, rates=config.rates)
    scored = np.concatenate([np.round(points, 2), np.ones((*points.shape[:2], 1))], -1)
    return [
        {
            "image_id": i,
            "file_name": f"{i:03d}.png",
            "category_id": 1,
            "score": 1.0,
            "keypoints": p.reshape(-1).tolist(),
        }
        for i, p in enumerate(scored)
    ]
