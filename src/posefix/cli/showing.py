"""What ``refine`` and ``diagnose`` show in addition to their files: images of people and the HTML report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from posefix.cli.options import say
from posefix.exceptions import FileFormatError

if TYPE_CHECKING:
    from posefix.geometry import Doubles
    from posefix.html_report.people import Source
    from posefix.io.coco import Annotations, Entry
    from posefix.io.orientation import ExifRule
    from posefix.keypoints.skeleton import Skeleton
    from posefix.pose_errors.report import Report

report_option = click.option(
    "--report",
    "report_path",
    type=click.Path(dir_okay=False),
    metavar="FILE.html",
    help="Also write a page with figures and before/after images of people; it needs no network.",
)
report_people_option = click.option(
    "--report-people",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="How many people the report shows: those who changed most. Its figures are of all.",
)


def diagnosis_of(
    annotations: Annotations | None, before: Sequence[Entry], after: Sequence[Entry], skeleton: Skeleton
) -> Report | None:
    """What refinement did to labelled people; None without labelled people, or if some of these images have none."""
    if annotations is None or not annotations.num_keypoints.any():
        return None
    from posefix.pose_errors.report import make_report

    try:
        return make_report(annotations, list(before), skeleton, refined=list(after))
    except FileFormatError:  # the results speak of images that the annotations do not have
        return None


def gains_of(report: Report | None, people: int) -> Doubles | None:
    """(N,) object keypoint similarity that each person of a results file gained, NaN for people without a label."""
    if report is None or report.after is None:
        return None
    import numpy as np

    gains = np.full(people, np.nan)
    gains[report.before.entries] = report.after.oks - report.before.oks
    return gains


def show(
    before: Sequence[Entry],
    after: Sequence[Entry],
    images: str,
    *,
    skeleton: Skeleton,
    annotations: Annotations | None,
    draw: str | None,
    draw_count: int,
    report_path: str | None,
    report_people: int,
    exif: ExifRule,
    title: str,
    notes: Sequence[str],
) -> None:
    """Write what ``posefix refine`` was asked to show, and tell it."""
    if not (draw or report_path):
        return
    report = diagnosis_of(annotations, before, after, skeleton)
    if draw:
        from posefix.drawing.examples import write_examples

        gains = gains_of(report, len(before))
        written = write_examples(
            before,
            after,
            images,
            draw,
            skeleton=skeleton,
            annotations=annotations,
            gains=gains,
            most=draw_count,
            exif=exif,
        )
        say(f"{len(written)} images written to {draw}" if written else "no image written: nothing moved")
    if report_path:
        from posefix.html_report.people import Source

        source = Source(before, after, skeleton, images, annotations, report, exif)
        write_report(report_path, source, title, notes, report_people)


def write_report(path: str, source: Source, title: str, notes: Sequence[str], most: int) -> None:
    """Write the HTML report and tell where it is."""
    from posefix.html_report.page import write_html_report

    shown = write_html_report(path, source, title=title, notes=notes, most=most)
    say(f"report: {os.path.abspath(path)} (people shown: {shown})")
