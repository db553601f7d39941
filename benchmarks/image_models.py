"""The refiner with another image network added to the package's own: AP of every estimator at hand.

    python benchmarks/image_models.py ../shared/data/coco --image-model ../shared/weights/tinypose_256/model.xml
    python benchmarks/image_models.py DATA --results-more FOLDER   # estimators' results on more_val, made with tools/

DATA holds val.json, val/, results/*.json, more_val.json, more_val/ and more_results/*.json in COCO format; an estimator
with results on both is also shown on both together. Without --image-model, the package alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simulated import fewer_errors, smaller_errors

from posefix.evaluation.coco_ap import compare, evaluate
from posefix.evaluation.matching import matchable
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_entries
from posefix.io.coco import Annotations, Entry, Results, annotations_of, read_results
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import COCO


@dataclass(frozen=True)
class Images:
    """One labelled set of images."""

    content: dict[str, Any]
    annotations: Annotations
    folder: Path


def read_images(data: Path, name: str) -> Images:
    """A set by its name in DATA."""
    content = json.loads((data / f"{name}.json").read_text())
    return Images(content, annotations_of(content, COCO), data / name)


def together(first: Images, second: Images) -> Annotations:
    """Annotations of both sets; their images have different ids."""
    merged = dict(first.content)
    for key in ("images", "annotations"):
        merged[key] = first.content[key] + second.content[key]
    for number, person in enumerate(merged["annotations"], 1):
        person["id"] = number
    return annotations_of(merged, COCO)


def row(name: str, annotations: Annotations, entries: list[Entry], refined: list[list[Entry]], samples: int) -> str:
    """One estimator: its AP, and the change by each refiner with its interval."""
    rows = compare(
        annotations, [entries, *refined], COCO, names=list(map(str, range(len(refined) + 1))), samples=samples
    )
    cells = [f"{rows[0].metrics.ap:.3f}"]
    for each in rows[1:]:
        assert each.change is not None
        assert each.interval is not None
        cells.append(f"{each.change:+.3f} [{each.interval[0]:+.3f}, {each.interval[1]:+.3f}]")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-model", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--family")
    parser.add_argument("--results", type=Path, help="folder of more results on val")
    parser.add_argument("--results-more", type=Path, help="folder of more results on more_val")
    parser.add_argument("--only", nargs="*", help="names of estimators")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument(
        "--checks", action="store_true", help="also simulated stronger estimators, labels and second pass"
    )
    options = parser.parse_args()
    refiners = {"the package alone": Refiner.from_pretrained(options.weights)}
    if options.image_model:
        refiners[options.image_model.stem] = Refiner.from_pretrained(options.image_model, family=options.family)
    sets = {name: read_images(options.data, name) for name in ("val", "more_val")}
    files: dict[str, dict[str, Results]] = {}
    for name, folders in (
        ("val", (options.data / "results", options.results)),
        ("more_val", (options.data / "more_results", options.results_more)),
    ):
        paths = [p for folder in folders if folder for p in sorted(folder.glob("*.json"))]
        files[name] = {p.stem: read_results(p) for p in paths if not options.only or p.stem in options.only}

    def refine(refiner: Refiner, images: Images, entries: list[Entry]) -> list[Entry]:
        start = time.perf_counter()
        refined, report = refine_entries(refiner, entries, images.folder, annotations=images.annotations)
        seconds = time.perf_counter() - start
        notes.append(f"prior weight {report.prior_weight:.2f}, {len(entries) / seconds:.0f} people/s")
        return refined

    head = f"| estimator | AP | {' | '.join(refiners)} | notes |"
    print(head, "|" + "---|" * (len(refiners) + 3), sep="\n", flush=True)
    done: dict[tuple[str, str], list[list[Entry]]] = {}
    for name, images in sets.items():
        for estimator, file in files[name].items():
            notes: list[str] = []
            refined = [refine(r, images, file.entries) for r in refiners.values()]
            done[name, estimator] = refined
            line = row(f"{estimator}, {name}", images.annotations, file.entries, refined, options.samples)
            print(f"{line} {'; '.join(notes)} |", flush=True)
    both = together(*sets.values())
    for estimator in sorted(set(files["val"]) & set(files["more_val"])):
        entries = files["val"][estimator].entries + files["more_val"][estimator].entries
        merged = [a + b for a, b in zip(done["val", estimator], done["more_val", estimator], strict=True)]
        print(row(f"{estimator}, both", both, entries, merged, options.samples) + " |", flush=True)
    if options.checks:
        images, notes = sets["val"], []
        strong = read_results(options.data / "results" / "tinypose_256.json")
        cases = {f"{s} of each error left": smaller_errors(images.annotations, strong, s) for s in (0.5, 0.25)}
        cases |= {f"{s} of the keypoints right": fewer_errors(images.annotations, strong, s) for s in (0.5, 0.8, 0.95)}
        for case, entries in cases.items():
            refined = [refine(r, images, entries) for r in refiners.values()]
            print(row(case, images.annotations, entries, refined, options.samples), "; ".join(notes), "|", flush=True)
            notes.clear()
        for name, refiner in refiners.items():
            print(
                f"{name}: {harm(refiner, images)}; second pass: {second_pass(refiner, images, files['val'])}",
                flush=True,
            )


def harm(refiner: Refiner, images: Images) -> str:
    """Labelled poses as input: how similar they stay."""
    annotations = images.annotations
    people = np.flatnonzero(matchable(annotations, COCO))
    truth = annotations.ground_truth[people]
    entries: list[Entry] = [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 1.0}
        for i, p in zip(annotations.image_ids[people].tolist(), truth, strict=True)
    ]
    refined, _ = refine_entries(refiner, entries, images.folder, annotations=annotations)
    points = np.array([e["keypoints"] for e in refined]).reshape(-1, 17, 3)[..., :2]
    seen = truth[..., 2] > 0
    similarity = keypoint_similarity(points, truth[..., :2], annotations.area[people], COCO.sigmas)[seen]
    return f"labelled poses {similarity.mean():.3f} similar"


def second_pass(refiner: Refiner, images: Images, files: dict[str, Results]) -> str:
    """Change of AP by refining what has been refined."""
    found = []
    for name, file in files.items():
        once, _ = refine_entries(refiner, file.entries, images.folder, annotations=images.annotations)
        twice, _ = refine_entries(refiner, once, images.folder, annotations=images.annotations)
        ap = [evaluate(images.annotations, e, COCO).ap for e in (once, twice)]
        found.append(f"{name} {ap[1] - ap[0]:+.4f}")
    return ", ".join(found)


if __name__ == "__main__":
    main()
