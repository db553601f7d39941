"""rtmlib (RTMPose without mmpose), refined.

    pip install posefix rtmlib onnxruntime
    python examples/rtmlib_body.py photo.jpg

``--random-weights`` runs without network and image, with answers drawn at random.
"""

from __future__ import annotations

import argparse
from typing import Any

import cv2
import numpy as np
from rtmlib import Body, RTMPose

from posefix import Refiner


class RandomPose(RTMPose):
    """RTMPose's pre- and post-processing around random answers, in place of an ONNX file."""

    def __init__(self) -> None:
        self.model_input_size, self.to_openpose = (192, 256), False
        self.mean, self.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def inference(self, img: Any) -> list[Any]:
        """SimCC answers for one person."""
        rng = np.random.default_rng(0)
        return [rng.uniform(0.0, 0.9, (1, 17, 2 * side)).astype(np.float32) for side in self.model_input_size]


def main() -> None:
    """Estimate, refine, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args()
    if not (args.image or args.random_weights):
        parser.error("give an image, or --random-weights")

    if args.random_weights:
        from offline import drawn_image  # next to this script; only here

        image, refiner = drawn_image()[..., ::-1].copy(), Refiner.from_pretrained()
        output = RandomPose()(image, [[60, 20, 150, 220], [170, 20, 260, 220]])
    else:
        image, refiner = cv2.imread(args.image), Refiner.from_pretrained()
        output = Body(mode="balanced", backend="onnxruntime", device="cpu")(image)

    keypoints, scores = refiner(image, output, color="bgr")
    moved = np.linalg.norm(keypoints - output[0], axis=-1)
    print(f"{len(keypoints)} people; moved by {np.median(moved):.1f} px in the median, confidence {scores.mean():.2f}")


if __name__ == "__main__":
    main()
