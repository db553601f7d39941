"""Your own keypoint set: define it, say which errors your estimator makes, train a small refiner, refine.

    python examples/custom_skeleton.py

No data needed: the images are drawn (a kite on a noisy ground, its left wing red, its right wing blue). About a
minute on a laptop's CPU. With your own data, ``SetConfig`` takes your COCO-format file and images instead.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from posefix import Refiner, Skeleton
from posefix.io.json import write_json
from posefix.network.config import ModelConfig
from posefix.pose_errors.synthesis import ErrorRates, PartRates, synthesize
from posefix.training.config import Augmentation, Optimisation, SetConfig, TrainingConfig
from posefix.training.trainer import train
from posefix.training.validation import finish

# 1. The keypoint set. Left and right are known by name; sigmas say how precisely each can be placed.
KITE = Skeleton(
    name="kite",
    keypoints=("nose", "left_wing", "right_wing", "tail"),
    sigmas=(0.05, 0.06, 0.06, 0.05),
    edges=(("nose", "tail"), ("left_wing", "right_wing")),
)

# 2. The errors of an estimator of kites, by part (both wings are "wing"): it often confuses the wings.
RATES = ErrorRates(
    {
        "nose": PartRates(jitter=(0.4, 0.4), miss=(0.1, 0.1, 0.1), inversion=0.0, swap=(0.0, 0.0)),
        "wing": PartRates(jitter=(0.3, 0.3), miss=(0.1, 0.1, 0.1), inversion=0.3, swap=(0.0, 0.0)),
        "tail": PartRates(jitter=(0.4, 0.4), miss=(0.2, 0.2, 0.2), inversion=0.0, swap=(0.0, 0.0)),
    }
)


def draw_kite(rng: np.random.Generator, side: int = 128) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """An image (side, side, 3) RGB and its kite (4, 2) px."""
    angle, size = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.2, 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = np.array([[0, -1.0], [-0.8, -0.2], [0.8, -0.2], [0, 1.3]]) * size
    points = shape @ turn.T + rng.uniform(0.45, 0.55, 2) * side
    image = np.clip(rng.normal(rng.uniform(90, 170, 3), 20, (side, side, 3)), 0, 255).astype(np.uint8)
    nose, left, right, tail = np.rint(points).astype(int)
    cv2.fillPoly(image, [np.array([nose, left, tail])], (200, 40, 40))
    cv2.fillPoly(image, [np.array([nose, right, tail])], (40, 60, 200))
    return image, points


def write_set(folder: Path, count: int, rng: np.random.Generator) -> SetConfig:
    """A drawn training set in COCO format."""
    images, annotations = [], []
    for i in range(count):
        image, points = draw_kite(rng)
        cv2.imwrite(str(folder / f"{i}.png"), image[..., ::-1])
        low, size = points.min(0), np.ptp(points, axis=0)
        pose = np.concatenate([points, np.full((len(points), 1), 2.0)], axis=1)
        images.append({"id": i, "file_name": f"{i}.png"})
        annotations.append(
            {"id": i, "image_id": i, "bbox": [*low, *size], "keypoints": pose.reshape(-1).tolist(), "iscrowd": 0}
        )
    write_json(folder / "kites.json", {"images": images, "annotations": annotations, "categories": []})
    return SetConfig(annotations=str(folder / "kites.json"), images=str(folder))


def main() -> None:
    """Train, then refine kites that were never seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = TrainingConfig(
            sets=(write_set(folder, 300, np.random.default_rng(0)),),
            out=str(folder / "run"),
            skeleton=KITE,
            rates=RATES,
            model=ModelConfig(input_hw=(64, 64), num_keypoints=len(KITE), pose_prior=False),
            augmentation=Augmentation(rotation=180.0, rotation_share=1.0, input_box=0.7, scale=0.2),
            optimisation=Optimisation(
                learning_rate=2e-3, batch_size=16, steps=steps, warmup=min(20, steps - 1), average=0.98
            ),
        )
        # 3. Train, and make a refiner of the result. ``save_weights`` would keep it for ``from_pretrained``.
        refiner = Refiner(finish(train(config, device="cpu"), config), device="cpu")

    # 4. An estimator's results on new images: the truth, corrupted at the same rates.
    rng = np.random.default_rng(1)
    images, truth = map(list, zip(*(draw_kite(rng) for _ in range(100)), strict=True))
    clean = np.stack(truth)
    area = 0.53 * np.ptp(clean, axis=1).prod(-1)
    corrupted, _ = synthesize(clean, np.ones(clean.shape[:2], bool), KITE, area, rng, rates=RATES)

    # 5. Refine.
    refined = np.concatenate(refiner.refine_batch(images, [pose[None] for pose in corrupted]))
    print("mean error in px   input  refined")
    for k, name in enumerate(KITE.keypoints):
        before, after = (np.linalg.norm(p[:, k] - clean[:, k], axis=-1).mean() for p in (corrupted, refined))
        print(f"{name:<16}{before:8.1f}{after:9.1f}")
    before, after = (np.linalg.norm(p - clean, axis=-1).mean() for p in (corrupted, refined))
    print(f"all keypoints: {before:.1f} px → {after:.1f} px")


if __name__ == "__main__":
    main()
