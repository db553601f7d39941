"""Every table that users read: README.md, docs/accuracy.md, docs/image-models.md and the model card's results.

    python benchmarks/image_models.py DATA --image-model tinypose_256/model.xml --results A --results-more B --checks \\
        --keep FOLDER --write

DATA holds val.json, val/, results/*.json, more_val.json, more_val/ and more_results/*.json in COCO format. A and B are
folders with results of more estimators on the two sets, made with tools/estimate_*.py. An estimator with results on
both is also shown on both together. Without --image-model, the package alone; without --write, to standard output.

What was refined is kept in FOLDER, and a run that was stopped goes on from there. Give another folder when weights or
code change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from simulated import fewer_errors, smaller_errors

from accuracy import PAPER, better_and_worse, interval, table
from posefix.evaluation.coco_ap import Row, compare, evaluate
from posefix.evaluation.matching import matchable
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import Annotations, Entry, Results, annotations_of, read_results
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.diagnosis import Comparison, diagnose_results

ROOT = Path(__file__).resolve().parents[1]
#: The refiner without another network.
ALONE = "the package alone"
#: Estimators by the name of their file; the others go by that name.
NAMES = {
    "posenet": "PoseNet MobileNet 0.75",
    "movenet": "MoveNet Lightning int8",
    "movenet_boxes": "MoveNet Lightning in labelled boxes",
    "simplepose": "Ultralight-SimplePose",
    "tinypose_256": "PP-TinyPose 256×192",
    "tinypose_256_boxes": "PP-TinyPose in labelled boxes",
    "blazepose": "MediaPipe BlazePose full",
    "multipose": "MoveNet MultiPose",
}
#: The estimator of which stronger ones are simulated.
STRONG = "tinypose_256"


@dataclass(frozen=True)
class Images:
    """One labelled set of images."""

    content: dict[str, Any]
    annotations: Annotations
    folder: Path


@dataclass
class Case:
    """Some results on a set of images, and what each refiner makes of them.

    Attributes:
        name: of the estimator.
        images: "val", "more_val" or "both".
        annotations: of these images.
        entries: the results.
        refined: by the refiner's name.
        weight: of the prior, as measured, likewise.
    """

    name: str
    images: str
    annotations: Annotations
    entries: list[Entry]
    refined: dict[str, list[Entry]] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)

    def changes(self, samples: int, *, places_alone: bool = False) -> tuple[Row, dict[str, Row]]:
        """Before, and after by each refiner; with the scores of before where only places are to count."""
        after = self.refined
        if places_alone:
            scored = {k: list(zip(self.entries, v, strict=True)) for k, v in after.items()}
            after = {k: [{**new, "score": old["score"]} for old, new in pairs] for k, pairs in scored.items()}
        names = ["before", *after]
        before, *rest = compare(self.annotations, [self.entries, *after.values()], COCO, names=names, samples=samples)
        return before, dict(zip(after, rest, strict=True))


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


class Bench:
    """Images, estimators and refiners, and what was refined already."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.makers: dict[str, Callable[[], Refiner]] = {ALONE: lambda: Refiner.from_pretrained(options.weights)}
        if options.image_model:
            family = options.family
            self.makers[f"with {options.image_model.parent.name}"] = lambda: Refiner.from_pretrained(
                options.image_model, family=family
            )
        if options.refiner is not None:
            self.makers = dict([list(self.makers.items())[options.refiner]])
        self.sets = {name: read_images(options.data, name) for name in ("val", "more_val")}
        folders = {
            "val": (options.data / "results", options.results),
            "more_val": (options.data / "more_results", options.results_more),
        }
        self.cases = [
            Case(p.stem, name, self.sets[name].annotations, read_results(p).entries)
            for name in self.sets
            for folder in folders[name]
            if folder
            for p in sorted(folder.glob("*.json"))
            if not options.only or p.stem in options.only
        ]
        self._keep: Path | None = options.keep
        self._made: dict[str, Refiner] = {}

    def refine(self, case: Case, what: str = "") -> Case:
        """The case with every refiner's answer; ``what`` tells it from others of the same name."""
        for name, make in self.makers.items():
            path = self._keep / f"{name} {case.images} {case.name} {what}".strip() if self._keep else None
            path = path and path.with_name(path.name.replace(" ", "_") + ".json")
            if path and path.is_file():
                kept = json.loads(path.read_text())
            else:
                refiner = self._made.setdefault(name, make())
                folder = self.sets[case.images].folder
                entries, report = refine_results(refiner, case.entries, folder, annotations=case.annotations)
                kept = {"entries": entries, "weight": report.prior_weight}
                if path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(kept))
                print(f"{case.images} {case.name} {what}: {name}, {len(entries)} people", flush=True)
            case.refined[name], case.weight[name] = kept["entries"], kept["weight"]
        return case

    def measure(self) -> list[Case]:
        """All estimators on each set, and on both together where there are results on both."""
        found = [self.refine(case) for case in self.cases]
        both = together(*self.sets.values())
        for first in [c for c in found if c.images == "val"]:
            for second in [c for c in found if (c.name, c.images) == (first.name, "more_val")]:
                refined = {k: first.refined[k] + second.refined[k] for k in self.makers}
                found.append(Case(first.name, "both", both, first.entries + second.entries, refined))
        return found

    def stronger(self) -> list[Case]:
        """Simulated estimators that are stronger than any at hand."""
        (strong,) = [c for c in self.cases if (c.name, c.images) == (STRONG, "val")]
        truth, file = strong.annotations, Results(STRONG, strong.entries)
        cases = [
            Case(f"{share} of each error left", "val", truth, smaller_errors(truth, file, share))
            for share in (0.5, 0.25)
        ]
        cases += [
            Case(f"{share} of the keypoints right", "val", truth, fewer_errors(truth, file, share))
            for share in (0.5, 0.8, 0.95)
        ]
        return [self.refine(case) for case in cases]

    def second_pass(self, case: Case) -> dict[str, float]:
        """Change of AP by refining a case's answers once more, by refiner."""
        found = {}
        for name, once in case.refined.items():
            again = Bench.refine(_One(self, name), Case(case.name, case.images, case.annotations, once), "again")
            ap = [evaluate(case.annotations, e, COCO).ap for e in (once, again.refined[name])]
            found[name] = ap[1] - ap[0]
        return found

    def harm(self) -> dict[str, float]:
        """Mean similarity of labelled poses as input to what comes out, by refiner."""
        annotations = self.sets["val"].annotations
        people = np.flatnonzero(matchable(annotations, COCO))
        truth = annotations.ground_truth[people]
        entries: list[Entry] = [
            {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 1.0}
            for i, p in zip(annotations.image_ids[people].tolist(), truth, strict=True)
        ]
        case = self.refine(Case("labelled poses", "val", annotations, entries))
        seen, found = truth[..., 2] > 0, {}
        for name, refined in case.refined.items():
            points = np.array([e["keypoints"] for e in refined]).reshape(-1, 17, 3)[..., :2]
            similarity = keypoint_similarity(points, truth[..., :2], annotations.area[people], COCO.sigmas)
            found[name] = float(similarity[seen].mean())
        return found


class _One(Bench):
    """The same bench with one of its refiners."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.__dict__.update(bench.__dict__)
        self.makers = {name: bench.makers[name]}


def title(case: Case) -> str:
    """Estimator as users know it."""
    return NAMES.get(case.name, case.name)


def count(case: Case) -> str:
    """Number of images."""
    return str(len(case.annotations.images))


def by_refiner(cases: Sequence[Case], samples: int) -> Iterator[str]:
    """Change of AP of each estimator by each refiner."""
    names = list(cases[0].refined)
    rows = []
    for case in cases:
        before, after = case.changes(samples)
        rows.append([title(case), count(case), f"{before.metrics.ap:.3f}", *(interval(after[n]) for n in names)])
    yield from table(["estimator", "images", "AP", *names], rows)


def checks_table(bench: Bench, cases: Sequence[Case]) -> Iterator[str]:
    """Second pass and labelled poses."""
    harm = bench.harm()
    rows = [["labelled poses: mean similarity afterwards", *(f"{harm[n]:.3f}" for n in bench.makers)]]
    for case in cases:
        if case.images == "val":
            again = bench.second_pass(case)
            rows.append([f"second pass, {title(case)}", *(f"{again[n]:+.4f}" for n in bench.makers)])
    yield from table(["", *bench.makers], rows)


def detail_table(cases: Sequence[Case], samples: int) -> Iterator[str]:
    """The package alone, with all measures."""
    rows = []
    for case in cases:
        before, after = case.changes(samples)
        places = case.changes(samples, places_alone=True)[1]
        a, b = before.metrics, after[ALONE].metrics
        pair = diagnose_results(case.annotations, Results(case.name, case.entries), COCO)
        later = diagnose_results(case.annotations, Results(case.name, case.refined[ALONE]), COCO, like=pair)
        better, worse = better_and_worse(Comparison(pair, later))
        rows.append(
            [
                title(case),
                count(case),
                f"{a.ap:.3f} → **{b.ap:.3f}**",
                interval(after[ALONE]),
                interval(places[ALONE]),
                f"{(PAPER[0] + PAPER[1] * a.ap * 100) / 100:+.3f}",
                f"{a.ap50:.3f} → {b.ap50:.3f}",
                f"{a.ap75:.3f} → {b.ap75:.3f}",
                f"{a.ar:.3f} → {b.ar:.3f}",
                f"{100 * better:.1f} % / {100 * worse:.1f} %",
                f"{case.weight[ALONE]:.2f}" if ALONE in case.weight else "",
            ]
        )
    head = ["estimator", "images", "AP", "change [95 %]", "by the poses alone", "paper's line", "AP50", "AP75", "AR"]
    yield from table([*head, "better / worse", "prior_weight"], rows)
    yield "better / worse: share of labelled keypoints whose similarity changed by more than 0.1.\n"


def widest(cases: Sequence[Case]) -> list[Case]:
    """Each estimator once, on as many images as it has, the weakest first."""
    best: dict[str, Case] = {}
    for case in cases:
        if case.name not in best or len(case.annotations.images) > len(best[case.name].annotations.images):
            best[case.name] = case
    return sorted(best.values(), key=lambda c: evaluate(c.annotations, c.entries, COCO).ap)


def readme_table(cases: Sequence[Case], samples: int) -> Iterator[str]:
    """README's: each estimator once."""
    rows = []
    for case in widest(cases):
        before, after = case.changes(samples)
        places = case.changes(samples, places_alone=True)[1]
        rows.append(
            [title(case), count(case), f"{before.metrics.ap:.3f}", interval(places[ALONE]), interval(after[ALONE])]
        )
    yield from table(
        ["estimator", "images", "AP", "change by the poses alone", "with person scores (the command)"], rows
    )


def card_rows(cases: Sequence[Case], samples: int) -> Iterator[str]:
    """The results of tools/embedded_card.yaml."""
    for case in widest(cases):
        before, after = case.changes(samples)
        places = case.changes(samples, places_alone=True)[1]
        facts = {
            "estimator": title(case),
            "images": len(case.annotations.images),
            "AP before": f"{before.metrics.ap:.3f}",
            "AP after": f"{after[ALONE].metrics.ap:.3f}",
            "change [95 %]": interval(after[ALONE]),
            "by the poses alone": interval(places[ALONE]),
        }
        yield "  - " + json.dumps(facts, ensure_ascii=False)


def put(page: Path, lines: Sequence[str], begin: str, end: str) -> None:
    """Replace what stands between two marks."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    page.write_text(head + begin + "\n".join(lines).rstrip("\n") + "\n" + end + tail, encoding="utf-8")


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-model", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--family")
    parser.add_argument("--results", type=Path, help="folder of more results on val")
    parser.add_argument("--results-more", type=Path, help="folder of more results on more_val")
    parser.add_argument("--only", nargs="*", help="names of estimators")
    parser.add_argument("--refiner", type=int, choices=(0, 1), help="only the package alone (0) or the image model (1)")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder for what was refined")
    parser.add_argument("--write", action="store_true", help="into README.md, docs/ and tools/embedded_card.yaml")
    parser.add_argument(
        "--checks", action="store_true", help="also simulated stronger estimators, labels and second pass"
    )
    options = parser.parse_args()
    bench, samples = Bench(options), options.samples
    if options.write and (options.only or options.refiner is not None or not options.checks or len(bench.makers) < 2):
        parser.error("--write needs all estimators, --image-model and --checks")
    cases = bench.measure()
    parts = {"estimators": list(by_refiner(cases, samples))}
    if options.checks:
        parts["stronger"] = list(by_refiner(bench.stronger(), samples))
        parts["checks"] = list(checks_table(bench, cases))
    if ALONE in bench.makers:
        parts["detail"] = list(detail_table(cases, samples))
    print("\n".join(line for lines in parts.values() for line in lines))
    if not options.write:
        return
    begin, end = "<!-- image_models: begin -->\n", "<!-- image_models: end -->\n"
    stronger = ["Simulated estimators, made of PP-TinyPose's results ([how](accuracy.md#stronger-estimators)):\n"]
    shown = [*parts["estimators"], *stronger, *parts["stronger"], *parts["checks"]]
    put(ROOT / "docs" / "image-models.md", shown, begin, end)
    put(ROOT / "docs" / "accuracy.md", parts["detail"], begin, end)
    put(ROOT / "README.md", list(readme_table(cases, samples)), begin, end)
    put(ROOT / "tools" / "embedded_card.yaml", list(card_rows(cases, samples)), "results:\n", "limits:\n")


if __name__ == "__main__":
    main()
