"""ultralytics YOLO pose, refined.

    pip install posefix ultralytics
    python examples/ultralytics_pose.py photo.jpg --out refined.jpg

``--random-weights`` runs without network and image, on drawn images, with an untrained estimator.
"""

from __future__ import annotations

import argparse
from typing import Any

from ultralytics import YOLO

from posefix import Refiner


def main() -> None:
    """Estimate, refine, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--model", default="yolo11n-pose.pt")
    parser.add_argument("--out", help="where to save the image with the refined poses")
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args()
    if not (args.image or args.random_weights):
        parser.error("give an image, or --random-weights")

    options: dict[str, Any] = {"verbose": False}
    refiner, source = Refiner.from_pretrained(), args.image
    if args.random_weights:
        from offline import drawn_image  # next to this script; only here

        model, source = YOLO("yolo11n-pose.yaml"), args.image or drawn_image()[..., ::-1].copy()  # arrays are BGR
        options |= {"conf": 1e-12, "max_det": 2, "imgsz": 160}
    else:
        model = YOLO(args.model)

    results = model(source, **options)
    refined = refiner(None, results)  # results bring their image

    for before, after in zip(results, refined, strict=True):
        moved = (after.keypoints.xy - before.keypoints.xy).norm(dim=-1)
        print(f"{len(after)} people; moved by {moved.median():.1f} px in the median")
        if args.out:
            after.save(args.out)


if __name__ == "__main__":
    main()
