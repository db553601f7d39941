"""The first part of docs/research-log.md, from the committed weights. What users read is image_models.py's.

    python benchmarks/accuracy.py ../shared/data/coco            # rewrites the generated part
    python benchmarks/accuracy.py DATA --weights FOLDER --print  # other weights, to standard output

DATA holds val.json, val/ and results/*.json in COCO format. About twenty minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from simulated import fewer_errors, shared_error, smaller_errors

from posefix.choices import RANKINGS
from posefix.evaluation.coco_ap import Row, compare, evaluate
from posefix.evaluation.matching import matchable, others_of
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.report import Report
from posefix.inference.rescoring import DUPLICATE_OKS, duplicates
from posefix.inference.results import refine_results
from posefix.io.coco import Annotations, Entry, Results, read_annotations, read_results
from posefix.keypoints.oks import ANNOTATORS_ERROR, keypoint_similarity
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.diagnosis import Comparison, diagnose_results
from posefix.pose_errors.synthesis import PoseError, synthesize
from posefix.training.calibration import calibration_error, observe, predict, reliability
from posefix.weights.weights import load_weights

Floats = npt.NDArray[np.floating]

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"
#: The paper's line: gain in AP points by the estimator's AP, fitted to the table of gains in the PoseFix paper.
PAPER = (22.6, -0.285)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


class Bench:
    """Data and refiner, and what was computed from them already."""

    def __init__(self, data: Path, weights: str | None, paired: int, more: Sequence[Path] = ()) -> None:
        self.refiner = Refiner.from_pretrained(weights)
        self._weights = weights
        self.annotations: Annotations = read_annotations(data / "val.json", COCO)
        self.images = data / "val"
        self.files = {p.stem: read_results(p) for p in [*sorted((data / "results").glob("*.json")), *more]}
        self.samples = paired

    def refine(self, entries: list[Entry], **options: Any) -> list[Entry]:
        """Refined entries."""
        return self.refine_and_report(entries, **options)[0]

    def refine_by_image(self, entries: list[Entry]) -> list[Entry]:
        """Each image by itself, as ``Refiner.refine`` sees it: reliability is measured on its people alone."""
        rows: dict[Any, list[int]] = {}
        for index, entry in enumerate(entries):
            rows.setdefault(entry["image_id"], []).append(index)
        found: dict[int, Entry] = {}
        for own in rows.values():
            found.update(zip(own, self.refine([entries[i] for i in own]), strict=True))
        return [found[i] for i in range(len(entries))]

    def refine_and_report(self, entries: list[Entry], **options: Any) -> tuple[list[Entry], Report]:
        """Refined entries and what happened."""
        extra = {k: options.pop(k) for k in ("ranking", "soft_nms", "use_boxes") if k in options}
        chosen = Options(**options)
        refiner = self.refiner if chosen.decoder is None else self.any_decoder
        return refine_results(refiner, entries, self.images, annotations=self.annotations, options=chosen, **extra)

    @cached_property
    def any_decoder(self) -> Refiner:
        """Graphs of the other backends have one decoder."""
        return Refiner.from_pretrained(self._weights, backend="torch")

    def change(self, entries: list[Entry], refined: list[Entry]) -> Row:
        """AP of the refined entries and its change."""
        return compare(self.annotations, [entries, refined], COCO, names=["before", "after"], samples=self.samples)[1]

    def ap(self, entries: list[Entry]) -> float:
        """AP alone."""
        return evaluate(self.annotations, entries, COCO).ap


def interval(row: Row) -> str:
    """Change of AP with its interval."""
    assert row.change is not None
    assert row.interval is not None
    return f"{row.change:+.3f} [{row.interval[0]:+.3f}, {row.interval[1]:+.3f}]"


def main_table(bench: Bench) -> Iterator[str]:
    """Estimator by estimator with the defaults."""
    rows = []
    for name, file in bench.files.items():
        before = evaluate(bench.annotations, file.entries, COCO)
        start = time.perf_counter()
        refined, report = bench.refine_and_report(file.entries)
        speed = len(file) / (time.perf_counter() - start)
        after = bench.change(file.entries, refined)
        metrics = after.metrics
        first = diagnose_results(bench.annotations, file, COCO)
        second = diagnose_results(bench.annotations, Results(name, refined), COCO, like=first)
        better, worse = better_and_worse(Comparison(first, second))
        line = (PAPER[0] + PAPER[1] * before.ap * 100) / 100
        rows.append(
            [
                name,
                f"{before.ap:.3f} → **{metrics.ap:.3f}**",
                interval(after),
                f"{line:+.3f}",
                f"{before.ap50:.3f} → {metrics.ap50:.3f}",
                f"{before.ap75:.3f} → {metrics.ap75:.3f}",
                f"{before.ar:.3f} → {metrics.ar:.3f}",
                f"{100 * better:.1f} % / {100 * worse:.1f} %",
                f"{report.prior_weight or 1:.2f}",
                f"{speed:.0f}",
            ]
        )
    yield "## Estimators\n"
    yield from table(
        [
            "estimator",
            "AP",
            "change [95 %]",
            "paper's line",
            "AP50",
            "AP75",
            "AR",
            "better / worse",
            "prior_weight",
            "people/s",
        ],
        rows,
    )
    yield "better / worse: share of labelled keypoints whose similarity changed by more than 0.1.\n"
    yield "people/s: with measuring the reliability, which sees up to 256 of a file's people once more.\n"


def better_and_worse(pair: Comparison) -> tuple[float, float]:
    """Shares of labelled keypoints of matched people that became better or worse by more than 0.1 similarity."""
    seen = pair.before.kinds != PoseError.NONE
    change = (pair.after.similarity - pair.before.similarity)[seen]
    return float((change > 0.1).mean()), float((change < -0.1).mean())


def kinds_table(bench: Bench) -> Iterator[str]:
    """Better and worse by kind of error, and kinds before and after."""
    rows = []
    for name, file in bench.files.items():
        first = diagnose_results(bench.annotations, file, COCO)
        refined = Results(name, bench.refine(file.entries))
        second = diagnose_results(bench.annotations, refined, COCO, like=first)
        change = second.similarity - first.similarity
        heatmap_points = [name]
        for kind in (PoseError.GOOD, PoseError.JITTER, PoseError.INVERSION, PoseError.SWAP, PoseError.MISS):
            mine = first.kinds == kind
            heatmap_points.append(
                f"{100 * mine.sum() / (first.kinds >= 0).sum():.1f} → "
                f"{100 * (second.kinds == kind).sum() / (second.kinds >= 0).sum():.1f} % "
                f"({100 * (change[mine] > 0.1).mean():.0f} / {100 * (change[mine] < -0.1).mean():.0f})"
            )
        rows.append(heatmap_points)
    yield "## By kind of error\n"
    yield "Share before → after refinement (of those before: made better / worse by more than 0.1, in %).\n"
    yield from table(["estimator", "good", "jitter", "inversion", "swap", "miss"], rows)


def lever_table(bench: Bench) -> Iterator[str]:
    """Each choice by itself against the default."""
    levers: list[tuple[str, dict[str, Any]]] = [
        ("default", {}),
        ("policy always", {"policy": "always"}),
        ("decoder soft_argmax, always", {"decoder": "soft_argmax", "policy": "always"}),
        ("flip test", {"flip_test": True}),
        *((f"prior_weight {t}, not measured", {"prior_weight": t}) for t in (0.4, 0.7, 1.0, 1.5, 2.0)),
        ("crop around the results' boxes", {"use_boxes": True}),
        ("no soft NMS", {"soft_nms": False}),
        *((f"ranking {r}", {"ranking": r}) for r in RANKINGS[1:]),
    ]
    rows = []
    for name, options in levers:
        changes = []
        for file in bench.files.values():
            changes.append(bench.change(file.entries, bench.refine(file.entries, **options)))
        mean = float(np.mean([c.change for c in changes]))
        rows.append([name, *(interval(c) for c in changes), f"{mean:+.3f}"])
    others = {
        "reliability measured on each image by itself": bench.refine_by_image,
        "soft NMS and no refinement": without_refinement,
    }
    for name, change in others.items():
        changes = [bench.change(f.entries, change(f.entries)) for f in bench.files.values()]
        rows.append([name, *map(interval, changes), f"{np.mean([c.change for c in changes]):+.3f}"])
    yield "## Levers\n"
    yield "Change of AP against the estimator alone.\n"
    yield from table(["setting", *bench.files, "mean"], rows)


def without_refinement(entries: list[Entry]) -> list[Entry]:
    """The estimator's poses, with duplicates' scores lowered as refinement lowers them."""
    keypoints = np.array([e["keypoints"] for e in entries], np.float64).reshape(-1, len(COCO), 3)
    scores = np.array([e["score"] for e in entries], np.float64)
    lowered = scores * (1 - duplicates(keypoints, scores, [e["image_id"] for e in entries], COCO.sigmas))
    return [{**e, "score": float(s)} for e, s in zip(entries, lowered, strict=True)]


def harm_table(bench: Bench) -> Iterator[str]:
    """Labelled poses and already refined ones as input."""
    yield "## No harm\n"
    people = np.flatnonzero(matchable(bench.annotations, COCO))
    ground_truth = bench.annotations.ground_truth[people]
    ids = bench.annotations.image_ids[people].tolist()
    entries: list[Entry] = [
        {"image_id": i, "category_id": 1, "keypoints": a.reshape(-1).tolist(), "score": 1.0}
        for i, a in zip(ids, ground_truth, strict=True)
    ]
    mask = ground_truth[..., 2] > 0
    rows = []
    for policy in ("safe", "always"):
        refined = np.array([e["keypoints"] for e in bench.refine(entries, policy=policy)]).reshape(-1, 17, 3)
        ks = keypoint_similarity(refined[..., :2], ground_truth[..., :2], bench.annotations.area[people], COCO.sigmas)[
            mask
        ]
        untouched = (refined[..., :2] == ground_truth[..., :2]).all(-1)[mask]
        second = []
        for file in bench.files.values():
            once = bench.refine(file.entries, policy=policy)
            second.append(bench.ap(bench.refine(once, policy=policy)) - bench.ap(once))
        rows.append(
            [
                policy,
                f"{ks.mean():.3f}",
                f"{100 * untouched.mean():.1f} %",
                f"{100 * (ks >= 0.9).mean():.1f} %",
                *(f"{s:+.4f}" for s in second),
            ]
        )
    head = ["policy", "ground truth in: mean similarity", "untouched", "similarity ≥ 0.9"]
    yield from table([*head, *(f"second pass, {n}" for n in bench.files)], rows)
    repeated = duplicates(ground_truth, np.arange(len(people), 0.0, -1.0), ids, COCO.sigmas)
    yield (
        f"Labelled people with an OKS of {DUPLICATE_OKS} or more with one before them, whose score soft NMS would "
        f"lower: {(repeated > 0).sum()} of {len(people)}.\n"
    )


def stronger_table(bench: Bench) -> Iterator[str]:
    """Does it harm estimators that are stronger than any of the files?"""
    name, file = max(bench.files.items(), key=lambda item: bench.ap(item[1].entries))
    settings: tuple[dict[str, Any], ...] = ({"prior_weight": 1.0}, {"policy": "always"}, {"soft_nms": False})
    cases = [(f"{share} of each error left", smaller_errors(bench.annotations, file, share)) for share in (0.5, 0.25)]
    cases += [
        (f"{share} of the keypoints right", fewer_errors(bench.annotations, file, share)) for share in (0.5, 0.8, 0.95)
    ]
    rows = []
    for case, entries in cases:
        refined, report = bench.refine_and_report(entries)
        default = bench.change(entries, refined)
        changes = [interval(bench.change(entries, bench.refine(entries, **options))) for options in settings]
        by_image = bench.change(entries, bench.refine_by_image(entries))
        before, after = evaluate(bench.annotations, entries, COCO), default.metrics
        rows.append(
            [
                case,
                f"{before.ap:.3f}",
                interval(default),
                f"{after.ap50 - before.ap50:+.3f}",
                f"{after.ar - before.ar:+.3f}",
                f"{report.prior_weight or 1:.2f}",
                *changes,
                interval(by_image),
            ]
        )
    shared = shared_error(bench.annotations, list(bench.files.values()))
    yield "## Stronger estimators, simulated\n"
    yield f"Results of {name} with smaller errors, or with fewer: change of AP.\n"
    yield (
        "What is put nearer to the annotation is as far from it as another annotator: "
        f"{ANNOTATORS_ERROR} length scales per axis. (Estimators share "
        f"{shared[0]:.2f} to {shared[1]:.2f} on body keypoints that both of a pair find.)\n"
    )
    head = [
        "estimator",
        "AP before",
        "default",
        "AP50",
        "AR",
        "prior_weight",
        "prior_weight 1",
        "policy always",
        "no soft NMS",
    ]
    yield from table([*head, "reliability by image"], rows)


def synthetic_table(bench: Bench) -> Iterator[str]:
    """The gain on synthetic errors and the gain on real ones, as mean keypoint similarity."""
    people = np.flatnonzero(matchable(bench.annotations, COCO))
    ground_truth, area = bench.annotations.ground_truth[people], bench.annotations.area[people]
    mask = ground_truth[..., 2] > 0
    near, overlap = others_of(bench.annotations, people, 0.1)
    rng = np.random.default_rng(0)
    points, _ = synthesize(ground_truth[..., :2], mask, COCO, area, rng, others=near, overlap=overlap)
    poses = np.concatenate([np.nan_to_num(points), mask[..., None]], -1)
    ids = bench.annotations.image_ids[people].tolist()
    entries: list[Entry] = [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 1.0}
        for i, p in zip(ids, poses, strict=True)
    ]
    refined = np.array([e["keypoints"] for e in bench.refine(entries)]).reshape(-1, 17, 3)
    similar = [
        keypoint_similarity(p[..., :2], ground_truth[..., :2], area, COCO.sigmas)[mask].mean() for p in (poses, refined)
    ]
    rows = [
        ["synthetic (reference's rates)", f"{similar[0]:.3f} → {similar[1]:.3f}", f"{similar[1] - similar[0]:+.3f}"]
    ]
    for name, file in bench.files.items():
        before = diagnose_results(bench.annotations, file, COCO)
        after = diagnose_results(bench.annotations, Results(name, bench.refine(file.entries)), COCO, like=before)
        seen = before.kinds != PoseError.NONE
        a, b = before.similarity[seen].mean(), after.similarity[seen].mean()
        rows.append([name, f"{a:.3f} → {b:.3f}", f"{b - a:+.3f}"])
    yield "## Synthetic and real errors\n"
    yield "Mean keypoint similarity of matched people.\n"
    yield from table(["errors", "similarity", "change"], rows)


def calibration_table(bench: Bench) -> Iterator[str]:
    """Reliability before and after the temperature."""
    weights = bench.refiner.weights
    plain = replace(weights, calibration=replace(weights.calibration, policy="always", temperature=()))
    seen = observe(plain, bench.annotations, bench.images, list(bench.files.values()))
    codec, mask = weights.config.codec, seen.ground_truth
    yield "## Confidence\n"
    rows = []
    heat = weights.calibration.temperature or (1.0,) * len(COCO)
    bins = []
    for name, temperature in (("before", (1.0,) * len(COCO)), ("after", heat)):
        confidence, similarity = predict(seen, codec, COCO.sigmas, temperature)
        rows.append([name, f"{calibration_error(confidence[mask], similarity[mask]):.3f}"])
        bins.append(reliability(confidence[mask], similarity[mask]))
    yield from table(["temperature", "expected calibration error"], rows)
    draw_reliability(bins)
    yield "![reliability before and after the temperature](images/reliability.png)\n"
    for name, rows_of in zip(("before", "after"), bins, strict=True):
        yield f"Reliability {name}:\n"
        yield from table(
            ["confidence", "similarity reached", "keypoints"], [[f"{c:.2f}", f"{s:.2f}", str(n)] for c, s, n in rows_of]
        )


def draw_reliability(bins: list[Any]) -> None:
    """docs/images/reliability.png: similarity reached over confidence; a point's size tells how many keypoints."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(bins), figsize=(8, 4), sharey=True)
    for axis, name, rows in zip(axes, ("before", "after"), bins, strict=True):
        said, reached, count = np.array(rows, float).T
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axis.scatter(said, reached, s=4 + 200 * count / count.max(), color="tab:blue")
        axis.set(xlabel="confidence", title=f"{name} calibration", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes[0].set_ylabel("keypoint similarity reached")
    figure.tight_layout()
    figure.savefig(DOCS / "images" / "reliability.png", dpi=80)
    plt.close(figure)


def main() -> None:
    """Write or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="more results files")
    parser.add_argument("--print", action="store_true")
    parser.add_argument(
        "--only", choices=sorted(SECTIONS), nargs="*", default=sorted(SECTIONS, key=list(SECTIONS).index)
    )
    options = parser.parse_args()
    bench = Bench(options.data, options.weights, options.samples, options.results)
    origin = load_weights(options.weights).origin
    intro = f"Weights: {origin}. Settings where not said: policy {bench.refiner.weights.calibration.policy}.\n"
    sections: dict[str, list[str]] = {}
    for name in options.only:
        sections[name] = []
        for line in SECTIONS[name](bench):
            sections[name].append(line)
            if options.print:
                print(line, flush=True)
    if options.print:
        return
    missing = sorted(set(SECTIONS) - set(sections))
    if missing:
        raise SystemExit(f"--only writes no page, which would lose {', '.join(missing)}; add --print")
    page = DOCS / "research-log.md"
    own = [line for name in SECTIONS for line in sections[name]]
    text = page.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(head + BEGIN + "\n".join([intro, *own]) + END + tail, encoding="utf-8")


SECTIONS = {
    "main": main_table,
    "kinds": kinds_table,
    "levers": lever_table,
    "harm": harm_table,
    "stronger": stronger_table,
    "synthetic": synthetic_table,
    "calibration": calibration_table,
}

if __name__ == "__main__":
    main()
