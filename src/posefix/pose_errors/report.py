"""A diagnosis for people to read: what each kind of error costs in AP, tables for a terminal, plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posefix.evaluation.coco_ap import evaluate
from posefix.evaluation.matching import AnnotationSource, Indices, ResultSource, open_annotations
from posefix.geometry import Bools
from posefix.io.coco import Annotations, replace_keypoints
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.pose_errors.diagnosis import CLEAR_CHANGE, KINDS, Comparison, Diagnosis, diagnose_results
from posefix.pose_errors.synthesis import PoseError

_NAMES = tuple(kind.name.lower() for kind in KINDS)


@dataclass(frozen=True)
class Losses:
    """What errors cost.

    Attributes:
        ap: as the results are, in [0, 1].
        lost: AP that would be won if the errors of this kind alone were none (their keypoints replaced by the
            annotation; scores and all else as they are).
        lost_to_all: the same for all kinds at once, the inaccuracy of good keypoints included. What is left to 1 is
            lost to people that were not found, to false detections and to bad ranking.
    """

    ap: float
    lost: dict[PoseError, float]
    lost_to_all: float


@dataclass(frozen=True, eq=False)
class Report:
    """Diagnosis and losses of a results file and, where given, of its refined version."""

    before: Diagnosis
    losses: Losses
    after: Diagnosis | None = None
    losses_after: Losses | None = None

    @property
    def comparison(self) -> Comparison | None:
        """Before and after; None without the refined version."""
        return None if self.after is None else Comparison(self.before, self.after)


def make_report(
    annotations: AnnotationSource,
    results: ResultSource,
    skeleton: Skeleton = COCO,
    *,
    refined: ResultSource | None = None,
) -> Report:
    """Diagnose a results file, and its refined version if there is one.

    Args:
        annotations: as for ``diagnose_results``.
        results: the estimator's.
        skeleton: the keypoint set.
        refined: the same people refined.

    Raises:
        FileFormatError, InputError, SkeletonError: as ``diagnose_results`` and ``evaluate``.
    """
    truth = open_annotations(annotations, skeleton)
    before = diagnose_results(truth, results, skeleton)
    if refined is None:
        return Report(before, ap_lost(truth, before))
    after = diagnose_results(truth, refined, skeleton, like=before)
    return Report(before, ap_lost(truth, before), after, ap_lost(truth, after))


def ap_lost(annotations: Annotations, diagnosis: Diagnosis) -> Losses:
    """AP lost to each kind of error: correct that kind alone and evaluate again (Ronchi & Perona, §4)."""
    ap = evaluate(annotations, diagnosis.results, diagnosis.skeleton).ap
    errors = [kind for kind in KINDS if kind is not PoseError.GOOD]
    lost: dict[PoseError, float] = {
        kind: _corrected_ap(annotations, diagnosis, diagnosis.kinds == kind) - ap for kind in errors
    }
    return Losses(ap, lost, _corrected_ap(annotations, diagnosis, diagnosis.kinds != PoseError.NONE) - ap)


def _corrected_ap(annotations: Annotations, diagnosis: Diagnosis, wrong: Bools) -> float:
    keypoints = diagnosis.results.keypoints(diagnosis.skeleton)
    matched = keypoints[diagnosis.entries]
    matched[..., :2] = np.where(wrong[..., None], diagnosis.ground_truth[..., :2], matched[..., :2])
    keypoints[diagnosis.entries] = matched
    return evaluate(annotations, replace_keypoints(diagnosis.results.entries, keypoints), diagnosis.skeleton).ap


def format_report(report: Report) -> str:
    """The report as text: shares of the kinds by keypoint, AP lost, and what became of each kind."""
    before, comparison = report.before, report.comparison
    total = int(before.counts.sum())
    title = (
        f"{before.results.source}\n{len(before)} of {len(before.results)} detections matched with "
        f"{before.people_count} people, {total} labelled keypoints"
    )
    parts = [title, _share_table(report)]
    if comparison is not None:
        parts += [_transition_table(comparison), _moved_table(comparison)]
    return "\n\n".join(parts)


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data; shares and AP in [0, 1]."""
    data: dict[str, Any] = {"kinds": list(_NAMES), "before": _plain(report.before, report.losses)}
    if report.after is not None and report.losses_after is not None:
        comparison = Comparison(report.before, report.after)
        rose, fell = comparison.moved()
        data["after"] = _plain(report.after, report.losses_after)
        data["transitions"] = comparison.transitions.tolist()
        data["moved"] = {"margin": CLEAR_CHANGE, "better": _moved(report, rose), "worse": _moved(report, fell)}
    return data


def _moved(report: Report, counts: Indices) -> dict[str, Any]:
    totals = report.before.counts.sum(0)
    by_kind = {name: _share(n, total) for name, n, total in zip(_NAMES, counts, totals, strict=True)}
    return {"all": _share(counts.sum(), totals.sum()), "by_kind": by_kind}


def _plain(diagnosis: Diagnosis, losses: Losses) -> dict[str, Any]:
    def shares(counts: Indices) -> dict[str, Any]:
        listed = {name: _share(n, counts.sum()) for name, n in zip(_NAMES, counts, strict=True)}
        return listed | {"keypoints": int(counts.sum())}

    named = zip(diagnosis.skeleton.keypoints, diagnosis.counts, strict=True)
    return {
        "results": diagnosis.results.source,
        "detections": len(diagnosis.results),
        "matched": len(diagnosis),
        "people": diagnosis.people_count,
        "all": shares(diagnosis.counts.sum(0)),
        "by_part": {part: shares(counts) for part, counts in diagnosis.part_counts().items()},
        "by_keypoint": {name: shares(counts) for name, counts in named},
        "ap": _finite(losses.ap),
        "ap_lost": {kind.name.lower(): _finite(lost) for kind, lost in losses.lost.items()},
        "ap_lost_to_all": _finite(losses.lost_to_all),
    }


def _share(count: int | np.integer[Any], total: int | np.integer[Any]) -> float | None:
    return float(count / total) if total else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _share_table(report: Report) -> str:
    """Kinds by keypoint and in all, in %; "before → after" where there is an after."""
    diagnoses = [d for d in (report.before, report.after) if d is not None]
    losses = [loss for loss in (report.losses, report.losses_after) if loss is not None]
    names = [*report.before.skeleton.keypoints, "all"]
    tables = [np.concatenate([d.counts, d.counts.sum(0, keepdims=True)]) for d in diagnoses]
    rows = []
    for index, name in enumerate(names):
        total = int(tables[0][index].sum())
        cells = [" → ".join(f"{_percent(t[index, kind], total):>5}" for t in tables) for kind in range(len(KINDS))]
        rows.append([name, *cells, str(total)])
    lost = [[*[f"{loss.lost[k]:.3f}" if k in loss.lost else "" for k in KINDS]] for loss in losses]
    cells = [" → ".join(f"{v:>5}" for v in values) if any(values) else "" for values in zip(*lost, strict=True)]
    rows.append(["AP lost to it", *cells, ""])
    sums = []
    for label, values in (
        ("AP", [loss.ap for loss in losses]),
        ("AP if these keypoints were right", [loss.ap + loss.lost_to_all for loss in losses]),
    ):
        sums.append(f"{label}: " + " → ".join(f"{v:.3f}" for v in values))
    return (
        _table(["% of keypoints", *_NAMES, "keypoints"], rows, rules=(len(names) - 1, len(names)))
        + "\n"
        + "; ".join(sums)
    )


def _transition_table(comparison: Comparison) -> str:
    counts = comparison.transitions
    rows = []
    for name, row in zip(_NAMES, counts, strict=True):
        rows.append([name, *(_percent(n, row.sum()) for n in row), str(row.sum())])
    return _table(["% of each became", *_NAMES, "keypoints"], rows)


def _moved_table(comparison: Comparison) -> str:
    totals = comparison.before.counts.sum(0)
    rose, fell = comparison.moved()
    columns = [
        [_percent(n, t) for n, t in zip([*c, c.sum()], [*totals, totals.sum()], strict=True)] for c in (rose, fell)
    ]
    cells = [[better, worse] for better, worse in zip(*columns, strict=True)]
    rows = [[name, *cell] for name, cell in zip([*_NAMES, "all"], cells, strict=True)]
    head = [f"% by more than {CLEAR_CHANGE} similarity", "made better", "made worse"]
    return _table(head, rows, rules=(len(KINDS),))


def _percent(count: int | np.integer[Any], total: int | np.integer[Any]) -> str:
    return f"{100 * count / total:.1f}" if total else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[int] = ()) -> str:
    """Columns of text, the first to the left and the others to the right, with lines before the rows ``rules``."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    line = "─" * (sum(widths) + 2 * (len(widths) - 1))
    text = []
    for index, row in enumerate([head, *rows]):
        if index == 1 or index - 1 in rules:
            text.append(line)
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        text.append("  ".join([first, *others]).rstrip())
    return "\n".join(text)
