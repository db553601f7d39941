"""Change of AP with a whole file, with single images and with single people, real and simulated estimators.

    python benchmarks/single_images.py DATA --results A --results-more B

DATA, A and B are those of benchmarks/image_models.py. Scores of people stay as they are, so only moved keypoints count.
Prints the table of docs/accuracy.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from image_models import NAMES, Images, read_images
from simulated import fewer_errors, smaller_errors

from accuracy import interval, table
from posefix.evaluation.coco_ap import compare
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import Entry, Results, image_name, read_results
from posefix.io.image_names import image_path
from posefix.io.images import load_image
from posefix.keypoints.skeleton import COCO

#: Simulated estimators by the one that they are made from: shares of each error left, shares of the keypoints right.
SIMULATED = {
    "simplepose": ((), (0.3,)),
    "tinypose_256": ((0.5, 0.25), (0.5, 0.8, 0.95)),
    "tinypose_256_boxes": ((0.5, 0.25), (0.5, 0.8, 0.95)),
}


def cases(data: Path, more: dict[str, Path | None]) -> Iterator[tuple[str, Images, list[Entry]]]:
    """Name, images and entries of each estimator."""
    for name, folder in (("val", data / "results"), ("more_val", data / "more_results")):
        images = read_images(data, name)
        files = [p for f in (folder, more[name]) if f is not None for p in sorted(f.glob("*.json"))]
        for path in files:
            own = read_results(path)
            title = NAMES.get(path.stem, path.stem)
            yield title, images, own.entries
            smaller, fewer = SIMULATED.get(path.stem, ((), ()))
            results = Results(path.stem, own.entries)
            for share in smaller:
                left = smaller_errors(images.annotations, results, share)
                yield f"{title}, {share:g} of each error left", images, left
            for share in fewer:
                right = fewer_errors(images.annotations, results, share)
                yield f"{title}, {share:g} of the keypoints right", images, right


def in_groups(refiner: Refiner, images: Images, entries: list[Entry], key: Callable[[int], object]) -> list[Entry]:
    """Refined by one call of ``Refiner.refine`` for the people who have a key in common."""
    groups: dict[object, list[int]] = {}
    for index in range(len(entries)):
        groups.setdefault(key(index), []).append(index)
    refined = [dict(e) for e in entries]
    for rows in groups.values():
        path = image_path(images.folder, image_name(entries[rows[0]], images.annotations))
        poses = np.array([entries[i]["keypoints"] for i in rows], float).reshape(len(rows), -1, 3)
        for i, pose in zip(rows, refiner.refine(load_image(path, ignore_orientation=True), poses), strict=True):
            refined[i]["keypoints"] = pose.reshape(-1).tolist()
    return refined


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--results-more", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", default="", help="part of the names that are wanted")
    options = parser.parse_args()
    refiner = Refiner.from_pretrained()
    rows = []
    for name, images, entries in cases(options.data, {"val": options.results, "more_val": options.results_more}):
        if options.only not in name:
            continue
        whole, report = refine_results(
            refiner, entries, images.folder, annotations=images.annotations, ranking="estimator", soft_nms=False
        )
        by_image = in_groups(refiner, images, entries, lambda i, e=entries: e[i]["image_id"])  # type: ignore[misc]
        by_person = in_groups(refiner, images, entries, lambda i: i)
        before, *after = compare(
            images.annotations, [entries, whole, by_image, by_person], COCO, names=list("0123"), samples=options.samples
        )
        count = str(len(images.annotations.images))
        weight = f"{report.prior_weight:.2f}"
        rows.append([name, count, f"{before.metrics.ap:.3f}", *map(interval, after), weight])
        print(" | ".join(rows[-1]), flush=True)
    head = ["estimator", "images", "AP", "whole file", "single images", "single people", "prior_weight of the file"]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
