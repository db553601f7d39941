"""ViTPose of transformers after a person detector, refined.

    pip install posefix transformers torchvision
    python examples/transformers_vitpose.py photo.jpg

``--random-weights`` runs without network and image, on drawn images, with an untrained estimator.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    RTDetrForObjectDetection,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

from posefix import Refiner, load_image

DETECTOR = "PekingU/rtdetr_r50vd_coco_o365"
ESTIMATOR = "usyd-community/vitpose-base-simple"


def person_boxes(image: Any) -> list[list[float]]:
    """People of an image as [x, y, width, height]."""
    processor = AutoProcessor.from_pretrained(DETECTOR)
    detector = RTDetrForObjectDetection.from_pretrained(DETECTOR).eval()
    with torch.no_grad():
        found = detector(**processor(images=image, return_tensors="pt"))
    sizes = torch.tensor([image.shape[:2]])
    result = processor.post_process_object_detection(found, target_sizes=sizes, threshold=0.3)[0]
    boxes = result["boxes"][result["labels"] == 0]  # label 0 is a person
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.tolist()


def main() -> None:
    """Estimate, refine, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args()
    if not (args.image or args.random_weights):
        parser.error("give an image, or --random-weights")

    refiner = Refiner.from_pretrained()
    if args.random_weights:
        from offline import drawn_image  # next to this script; only here

        small = VitPoseBackboneConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=small, num_labels=17))
        processor, image = VitPoseImageProcessor(), drawn_image()
        boxes = [[60.0, 20.0, 90.0, 200.0], [170.0, 20.0, 90.0, 200.0]]
    else:
        processor = AutoProcessor.from_pretrained(ESTIMATOR)
        model = VitPoseForPoseEstimation.from_pretrained(ESTIMATOR)
        image = load_image(args.image)
        boxes = person_boxes(image)

    with torch.no_grad():
        outputs = model.eval()(**processor(image, boxes=[boxes], return_tensors="pt"))
    people = processor.post_process_pose_estimation(outputs, boxes=[boxes])
    refined = refiner([image], people)

    for before, after in zip(people[0], refined[0], strict=True):
        moved = (after["keypoints"] - before["keypoints"]).norm(dim=-1)
        print(f"moved by {moved.median():.1f} px in the median, mean confidence {after['scores'].mean():.2f}")


if __name__ == "__main__":
    main()
