"""``posefix diagnose``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from posefix.cli.options import (
    HTML,
    JSON,
    PLOTS,
    RenamedOption,
    check_inputs,
    check_output,
    report_errors,
    say,
    skeleton_named,
    skeleton_option,
)
from posefix.cli.showing import report_option, report_people_option, write_report


@click.command(short_help="Which errors an estimator makes, and what they cost.")
@click.argument("annotations", type=click.Path(dir_okay=False))
@click.argument("results", type=click.Path(dir_okay=False))
@click.option("--after", type=click.Path(dir_okay=False), help="The same results, refined.")
@click.option(
    "--plot", type=click.Path(dir_okay=False), help="Also draw the shares by part (png, svg, pdf); needs posefix[plot]."
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write everything as JSON.")
@click.option(
    "--draw",
    cls=RenamedOption,
    old={"--pictures": "--draw"},
    type=click.Path(file_okay=False),
    help="Also draw the worst people into this folder: those whom refinement harmed most, or without --after "
    "those of the lowest OKS.",
)
@click.option("--images", type=click.Path(file_okay=False), help="Folder of the images, for --draw and --report.")
@click.option("--worst", type=click.IntRange(min=1), default=20, show_default=True, help="How many of them.")
@report_option
@report_people_option
@skeleton_option
@report_errors
def diagnose(
    annotations: str,
    results: str,
    after: str | None,
    plot: str | None,
    json_path: str | None,
    draw: str | None,
    images: str | None,
    worst: int,
    report_path: str | None,
    report_people: int,
    skeleton_name: str,
) -> None:
    """Which errors an estimator makes, what they cost, and what refinement did to them.

    Every labelled keypoint of a person who was found is good, jitter (a little off), inversion (at the other side's
    keypoint), swap (at another person's) or miss. AP lost to a kind is what would be won without it.

    \b
    Examples:
      posefix diagnose val.json results.json
      posefix diagnose val.json results.json --after refined.json --images val2017/ --report report.html
    """
    from posefix.evaluation.matching import open_annotations
    from posefix.io.json import write_json
    from posefix.pose_errors.report import format_report, make_report, to_json

    if draw and not images:
        raise click.UsageError("--draw needs --images, the folder of the images")
    check_inputs(annotations, results, after, images)
    if plot:
        from posefix.drawing.tracks import require_matplotlib
        from posefix.pose_errors.plots import plot_shares

        require_matplotlib()  # before the work, not after it
    for path, endings in ((plot, PLOTS), (json_path, JSON), (report_path, HTML)):
        if path:
            check_output(path, endings, inputs=[annotations, results, after])
    if draw:
        check_output(draw, folder=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    skeleton = skeleton_named(skeleton_name)
    truth = open_annotations(annotations, skeleton)
    report = make_report(truth, results, skeleton, refined=after)
    say(format_report(report))
    if json_path:
        write_json(json_path, to_json(report), indent=2)
    if plot:
        plot_shares(report.before, plot, report.after)
    if draw and images:
        from posefix.pose_errors.plots import write_worst_people

        written = write_worst_people(truth, report.before, images, draw, after=report.after, most=worst)
        say(f"\n{len(written)} images written to {draw}")
    if report_path:
        from posefix.html_report.people import Source

        after_entries = report.after.results.entries if report.after else None
        source = Source(report.before.results.entries, after_entries, skeleton, images, truth, report)
        write_report(report_path, source, f"{Path(results).name} diagnosed", (), report_people)
