"""torchvision's Keypoint R-CNN, refined.

    pip install posefix torchvision
    python examples/torchvision_keypoint_rcnn.py photo.jpg

``--random-weights`` runs without network and image, on drawn images, with an untrained estimator.
"""

from __future__ import annotations

import argparse

import torch
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, keypointrcnn_resnet50_fpn

from posefix import Refiner, load_image


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

        model = keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=2, min_size=128
        )
        image = drawn_image()
    else:
        model = keypointrcnn_resnet50_fpn(weights=KeypointRCNN_ResNet50_FPN_Weights.DEFAULT, box_score_thresh=0.5)
        image = load_image(args.image)

    with torch.no_grad():
        output = model.eval()([torch.from_numpy(image).permute(2, 0, 1) / 255])
    refined = refiner(image, output)

    for before, after in zip(output, refined, strict=True):
        moved = (after["keypoints"] - before["keypoints"]).abs().max() if len(after["keypoints"]) else 0.0
        print(f"{len(after['keypoints'])} people; moved by at most {float(moved):.1f} px")
        print("confidence:", after["keypoints_scores"].sigmoid()[:1])


if __name__ == "__main__":
    main()
