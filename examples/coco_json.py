"""A COCO results file, refined: what ``posefix refine`` does, from Python.

    pip install posefix
    python examples/coco_json.py results.json val2017/ refined.json

``--random-weights`` runs without network and files, with a drawn image.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from posefix import Refiner
from posefix.adapters.files import read_any
from posefix.inference.results import refine_results
from posefix.io.json import write_json
from posefix.io.orientation import ExifRule


def drawn_files(folder: Path) -> tuple[Path, Path]:
    """Two images and a results file of three people."""
    from offline import drawn_image  # next to this script; only here

    rng = np.random.default_rng(0)
    for image_id in (1, 2):
        cv2.imwrite(str(folder / f"{image_id:012d}.jpg"), drawn_image(seed=image_id))
    people = np.concatenate([rng.uniform(60, 200, (3, 17, 2)), rng.uniform(0.2, 1, (3, 17, 1))], -1)
    entries = [
        {"image_id": i, "category_id": 1, "keypoints": p.ravel().tolist(), "score": 0.9}
        for i, p in zip((1, 2, 2), people, strict=True)
    ]
    write_json(folder / "results.json", entries)
    return folder / "results.json", folder


def main() -> None:
    """Estimate, refine, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="COCO, AlphaPose or PoseTrack JSON, or OpenPose's folder")
    parser.add_argument("images", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args()
    if not (args.out or args.random_weights):
        parser.error("give results, images and where to write, or --random-weights")

    refiner = Refiner.from_pretrained()
    results, images, out = args.results, args.images, args.out
    if results is None:
        results, images = drawn_files(Path(tempfile.mkdtemp()))
        out = images / "refined.json"

    opened = read_any(results, refiner.skeleton, images=images)
    exif = ExifRule(upright=opened.upright)
    refined, report = refine_results(refiner, opened.entries, images, skeleton=opened.skeleton, exif=exif)
    opened.write(out, refined)
    print(report.summary())
    print(f"written to {out} as {opened.format}")


if __name__ == "__main__":
    main()
