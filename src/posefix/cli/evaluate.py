"""``posefix evaluate``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from posefix.cli.options import JSON, check_inputs, check_output, report_errors, say, skeleton_named, skeleton_option
from posefix.exceptions import InputError
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton

#: ``--metric`` other than OKS → the keypoint set that it is defined for.
_METRICS = {"crowdpose": CROWDPOSE, "pckh": MPII, "poseval": POSETRACK18}


@click.command(short_help="AP of results files, and its change.")
@click.argument("annotations", type=click.Path())
@click.argument("results", type=click.Path(), nargs=-1, required=True)
@skeleton_option
@click.option(
    "--metric",
    type=click.Choice(["oks", *_METRICS]),
    default="oks",
    show_default=True,
    help="oks: COCO's AP with the skeleton's sigmas. crowdpose: AP by crowding. pckh: MPII. poseval: PoseTrack's AP, "
    "of folders with a file per sequence.",
)
@click.option("--head-boxes", type=click.Path(dir_okay=False), help="gt_valid.mat, where MPII's annotations are JSON.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the table as JSON.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=1000, show_default=True, help="Bootstrap samples of the images."
)
@report_errors
def evaluate(
    annotations: str,
    results: tuple[str, ...],
    skeleton_name: str,
    metric: str,
    head_boxes: str | None,
    json_path: str | None,
    samples: int,
) -> None:
    """AP of results files, and their change against the first one.

    The interval is a 95 % bootstrap over images: where it holds 0, the change may be chance.

    \b
    Examples:
      posefix evaluate val.json before.json after.json
      posefix evaluate posetrack/val/ before/ after/ --metric poseval
    """
    from posefix.evaluation.coco_ap import compare, format_table, to_json
    from posefix.io.json import write_json

    check_inputs(annotations, *results, head_boxes)
    if json_path:
        check_output(json_path, JSON, inputs=[annotations, *results])
    names, skeleton = _short_names(results), skeleton_named(skeleton_name)
    if metric == "oks":
        rows = compare(annotations, list(results), skeleton, names=names, samples=samples)
        text, data = format_table(rows), to_json(rows)
    else:
        figures = _measure(metric, annotations, results, skeleton, head_boxes)
        text = _table(names, figures)
        listed = [{"name": n, **{k: _plain(v) for k, v in f.items()}} for n, f in zip(names, figures, strict=True)]
        data = {"metric": metric, "results": listed}
    say(text)
    if json_path:
        write_json(json_path, data, indent=2)


def _measure(
    metric: str, annotations: str, results: tuple[str, ...], skeleton: Skeleton, head_boxes: str | None
) -> list[dict[str, float]]:
    """Figures of each results file by a data set's own measure."""
    if skeleton not in (COCO, _METRICS[metric]):  # COCO is the option's default
        name = _METRICS[metric].name
        raise InputError(f"--metric {metric} is defined for --skeleton {name}, got --skeleton {skeleton.name}")
    if metric == "crowdpose":
        from posefix.evaluation.crowdpose import evaluate_crowdpose

        found = [evaluate_crowdpose(annotations, path) for path in results]
        return [
            {"AP": f.overall.ap, "AP50": f.overall.ap50, "AP75": f.overall.ap75, "AR": f.overall.ar}
            | {"easy": f.easy, "medium": f.medium, "hard": f.hard}
            for f in found
        ]
    if metric == "pckh":
        from posefix.evaluation.pckh import evaluate_mpii, read_mpii

        people = read_mpii(annotations, head_boxes)
        shares = [evaluate_mpii(people, path) for path in results]
        return [{**s.groups(), "mean": s.mean} for s in shares]
    from posefix.evaluation.posetrack_ap import evaluate_posetrack
    from posefix.io.posetrack import read_posetrack

    truth = read_posetrack(annotations)
    aps = [evaluate_posetrack(truth, read_posetrack(path)) for path in results]
    return [{**a.groups(), "mean": a.mean} for a in aps]


def _table(names: list[str], figures: list[dict[str, float]]) -> str:
    """Figures × 100, one line per results file."""
    width = max(len("results"), *map(len, names))
    title = f"{'results':<{width}}" + "".join(f"{k:>10}" for k in figures[0])
    lines = [title, "─" * len(title)]
    for name, row in zip(names, figures, strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{_percent(v):>10}" for v in row.values()))
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short_names(paths: tuple[str, ...]) -> list[str]:
    """File names where they differ, else whole paths."""
    names = [Path(p).name for p in paths]
    return names if len(set(names)) == len(names) else list(paths)
