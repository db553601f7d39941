"""AP of results files by pycocotools with the skeleton's sigmas, and the interval of a change of AP.

Detections are ranked and matched by COCOeval itself; the bootstrap over images reuses its per-image matches.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools import coco as pycoco
from pycocotools.cocoeval import COCOeval

from posefix.evaluation.bootstrap import image_draws, resampled_ap
from posefix.exceptions import FileFormatError, InputError
from posefix.geometry import Doubles, boxes_xyxy_to_xywh
from posefix.io.coco import (
    Annotations,
    Entry,
    Results,
    annotations_of,
    check_entries,
    keypoints_of,
    read_annotations,
    read_results,
    scores_of,
)
from posefix.io.json import PathLike
from posefix.keypoints.skeleton import COCO, Skeleton
from posefix.messages import printable, shown

logger = logging.getLogger(__name__)

AnnotationSource = Annotations | Mapping[str, Any] | PathLike
ResultSource = Results | Sequence[Entry] | PathLike


@dataclass(frozen=True)
class Metrics:
    """Average precision and recall of the COCO keypoint evaluation, in [0, 1]; NaN where no person is labelled."""

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class Row:
    """One results file of a comparison: its metrics, and its change of AP against the first file.

    ``change`` and its 95 % ``interval`` are None for the first.
    """

    name: str
    metrics: Metrics
    change: float | None = None
    interval: tuple[float, float] | None = None


def evaluate(annotations: AnnotationSource, results: ResultSource, skeleton: Skeleton = COCO) -> Metrics:
    """Metrics of one results file.

    Args:
        annotations: a COCO annotation file, its content, or ``Annotations``.
        results: a COCO results file, its entries, or ``Results``. Boxes in it are ignored: with them COCOeval
            takes a detection's area from the box. No people is legal and scores 0.
        skeleton: whose sigmas count.

    Raises:
        FileFormatError: a file is not what it should be, or the results hold images that the annotations do not.
        SkeletonError: the annotations are of another keypoint set.

    Examples:
        >>> ap = evaluate("val.json", "results.json").ap
        >>> 0 < ap < 1
        True
    """
    return _metrics(_run(_annotations(annotations, skeleton), results, skeleton))


def compare(
    annotations: AnnotationSource,
    results: Sequence[ResultSource],
    skeleton: Skeleton = COCO,
    *,
    names: Sequence[str] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Metrics of several results files, and each one's change of AP against the first.

    Args:
        annotations: as for ``evaluate``.
        results: files, entries or ``Results``; at least one.
        skeleton: whose sigmas count.
        names: what the rows are called; None takes the files' names.
        samples: draws of the paired bootstrap over images.
        seed: of those draws.

    Raises:
        InputError: no results, or names that do not match them.
        FileFormatError: as ``evaluate``.
    """
    if isinstance(results, (str, os.PathLike)) or not len(results):
        raise InputError(f"results: expected a list of at least one results file, got {shown(results)}")
    labels = _labels(results) if names is None else list(names)
    if len(labels) != len(results):
        raise InputError(f"names: expected {len(results)}, one per results file, got {len(labels)}")
    if samples < 1:
        raise InputError(f"samples: expected at least 1, got {samples}")
    truth = _annotations(annotations, skeleton)
    runs = [_run(truth, result, skeleton) for result in results]
    metrics = [_metrics(run) for run in runs]
    rows = [Row(labels[0], metrics[0])]
    if len(runs) == 1:
        return rows
    # The same draws for every file make the comparison a paired one.
    weights = image_draws(len(truth.images), samples, np.random.default_rng(seed))
    drawn = [resampled_ap(run, weights) for run in runs]
    for label, metric, ap in zip(labels[1:], metrics[1:], drawn[1:], strict=True):
        difference = (ap - drawn[0])[np.isfinite(ap - drawn[0])]
        low, high = np.percentile(difference, [2.5, 97.5]).tolist() if len(difference) else (np.nan, np.nan)
        rows.append(Row(label, metric, metric.ap - metrics[0].ap, (low, high)))
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """A comparison as text: metrics in [0, 1], then the change of AP with its interval."""
    columns = ("AP", "AP50", "AP75", "APM", "APL", "AR")
    keys = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar")
    width = max([len("results"), *(len(row.name) for row in rows)])
    with_change = any(row.change is not None for row in rows)
    title = f"{'results':<{width}}" + "".join(f"{c:>7}" for c in columns)
    lines = [title + (f"{'ΔAP':>8}  95 % interval" if with_change else "")]
    lines.append("─" * len(lines[0]))
    for row in rows:
        line = f"{row.name:<{width}}" + "".join(f"{_figure(getattr(row.metrics, k)):>7}" for k in keys)
        if row.change is not None and row.interval is not None:
            low, high = (_figure(v, sign=True) for v in row.interval)
            line += f"{_figure(row.change, sign=True):>8}  [{low}, {high}]"
        lines.append(line)
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """A comparison as plain data; NaN becomes None."""

    def plain(value: float | None) -> float | None:
        return None if value is None or not np.isfinite(value) else float(value)

    listed = [
        {
            "name": row.name,
            **{key: plain(value) for key, value in asdict(row.metrics).items()},
            "change": plain(row.change),
            "interval": None if row.interval is None else [plain(v) for v in row.interval],
        }
        for row in rows
    ]
    return {"results": listed}


def _figure(value: float, sign: bool = False) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def _labels(results: Sequence[ResultSource]) -> list[str]:
    """The files' names; with their folders where two are the same."""
    sources = [
        r.source if isinstance(r, Results) else os.fspath(r) if isinstance(r, (str, os.PathLike)) else f"results {i}"
        for i, r in enumerate(results, 1)
    ]
    short = [os.path.basename(s) for s in sources]
    return [s if short.count(b) > 1 else b for s, b in zip(sources, short, strict=True)]


def _annotations(source: AnnotationSource, skeleton: Skeleton) -> Annotations:
    if isinstance(source, Annotations):
        return source
    return annotations_of(source, skeleton) if isinstance(source, Mapping) else read_annotations(source, skeleton)


def _run(truth: Annotations, results: ResultSource, skeleton: Skeleton) -> COCOeval:
    """COCOeval, evaluated. Everything it gets is made here, so that what the user gave stays as it was."""
    if isinstance(results, (str, os.PathLike)):
        results = read_results(results)
    name, data = (results.source, results.entries) if isinstance(results, Results) else ("results", results)
    entries = check_entries(data if isinstance(data, Mapping) else list(data), source=name)
    keypoints = keypoints_of(entries, skeleton, source=name)
    scores = scores_of(entries, source=name)
    # Images are numbered in the order in which COCOeval would sort them; it could not sort mixed ids.
    order = sorted(truth.images, key=lambda i: (isinstance(i, str), i))
    number = {image_id: index for index, image_id in enumerate(order, 1)}
    detections = []
    for index, (entry, pose, score) in enumerate(
        zip(entries, keypoints.reshape(len(entries), 3 * len(skeleton)), scores, strict=True)
    ):
        info = truth.find(entry["image_id"])
        if info is None:
            raise FileFormatError(
                f"{name}: entry {index}: image_id {shown(entry['image_id'])} is not among the {len(order)} images of "
                f"{truth.source}; evaluate against the annotations that belong to these results"
            )
        person = {"image_id": number[info.id], "category_id": entry.get("category_id", 1), "score": float(score)}
        detections.append(person | {"keypoints": pose})
    categories = sorted({int(c) for c in truth.category_ids} or {1})
    if detections and not any(d["category_id"] in categories for d in detections):
        raise FileFormatError(
            f"{name}: expected the annotations' category_id {' or '.join(map(str, categories))}, "
            f"got {shown(detections[0]['category_id'])}"
        )
    shown_in = {number[i] for i in truth.image_ids[truth.num_keypoints > 0].tolist()}
    there = len(shown_in & {d["image_id"] for d in detections})
    if 0 < there < len(shown_in) / 2:
        logger.warning(
            "%s: has people in %d of the %d images with labelled people; in the others all count as missed",
            printable(name),
            there,
            len(shown_in),
        )
    dataset = {"images": [{"id": i} for i in number.values()], "categories": [{"id": c} for c in categories]}
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
        ground = _coco_data(dataset | {"annotations": _ground_truth(truth, skeleton, number)})
        # loadRes cannot read an empty list.
        found = ground.loadRes(detections) if detections else _coco_data(dataset | {"annotations": []})
        run = COCOeval(ground, found, "keypoints")
        run.params.kpt_oks_sigmas = _positive_sigmas(skeleton)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def _ground_truth(truth: Annotations, skeleton: Skeleton, number: Mapping[Any, int]) -> list[dict[str, Any]]:
    ground_truth = truth.ground_truth.copy()
    ground_truth[:, np.array(skeleton.sigmas) <= 0, 2] = 0
    boxes_xywh = boxes_xyxy_to_xywh(truth.boxes_xyxy)
    return [
        {
            "id": index + 1,  # COCOeval takes 0 for "no match"
            "image_id": number[truth.image_ids[index]],
            "category_id": int(truth.category_ids[index]),
            "keypoints": ground_truth[index].reshape(-1),
            "num_keypoints": int(truth.num_keypoints[index]),
            "bbox": boxes_xywh[index],
            "area": float(truth.area[index]),
            "iscrowd": int(truth.iscrowd[index]),
        }
        for index in range(len(truth))
    ]


def _positive_sigmas(skeleton: Skeleton) -> Doubles:
    """Sigmas without zeros, by which COCOeval would divide; keypoints that have one are never visible."""
    sigmas = np.array(skeleton.sigmas, np.float64)
    return np.where(sigmas > 0, sigmas, sigmas[sigmas > 0].mean())


def _coco_data(dataset: dict[str, Any]) -> pycoco.COCO:
    data = pycoco.COCO()
    data.dataset = dataset
    data.createIndex()
    return data


def _metrics(run: COCOeval) -> Metrics:
    return Metrics(
        *(float(s) if s >= 0 else float("nan") for s in run.stats)
    )  # COCOeval says −1 where no person is labelled
