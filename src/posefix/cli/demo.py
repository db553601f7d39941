"""``posefix demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posefix.cli.options import (
    IMAGES,
    check_inputs,
    check_output,
    device_option,
    load_refiner,
    report_errors,
    say,
    weights_option,
)
from posefix.exceptions import InputError

if TYPE_CHECKING:
    from posefix.inference.refiner import Refiner


@click.command(short_help="Refine a pose that was corrupted on purpose; show both.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    default="posefix-demo.png",
    show_default=True,
    help="Where the before/after image goes.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="A folder with val.json, val/ and results/*.json in COCO format: refine and evaluate them too.",
)
@weights_option
@device_option
@report_errors
def demo(out: str, data: str | None, weights: str | None, device: str) -> None:
    """Refine a pose that was corrupted on purpose, and show what changed: an image, and a page to open in a browser.

    \b
    Examples:
      posefix demo
      posefix demo --out before-after.png --data coco/
    """
    import numpy as np

    from posefix.cli.demo_pose import demo_source, refine_demo, similarity_to_marked
    from posefix.cli.showing import write_report
    from posefix.drawing.draw import write_image
    from posefix.keypoints.poses import present

    check_inputs(data)
    results = sorted((Path(data) / "results").glob("*.json")) if data else []
    if data and not results:
        raise InputError(f"--data: expected results files {Path(data) / 'results'}/*.json, found none")
    check_output(out, IMAGES)
    refiner = load_refiner(weights, device)
    say(repr(refiner))
    scene, refined, image = refine_demo(refiner)
    moved = np.linalg.norm(refined[..., :2] - scene.corrupted[..., :2], axis=-1)[0]
    say("keypoint          moved by   confidence")
    for index in np.flatnonzero(scene.marked[0, :, 2] > 0):
        name = refiner.skeleton.keypoints[index]
        say(f"  {name:<15} {moved[index]:6.1f} px   {refined[0, index, 2]:.2f}")
    for index in np.flatnonzero(present(refined[0]) & ~present(scene.corrupted[0])):
        say(f"  {refiner.skeleton.keypoints[index]:<15}    filled   {refined[0, index, 2]:.2f}")
    before, after = (similarity_to_marked(scene, pose) for pose in (scene.corrupted, refined))
    say(f"mean keypoint similarity to the pose marked by hand: {before:.2f} before, {after:.2f} after")
    write_image(out, image)
    if data:
        _real_results(refiner, Path(data), results, Path(out))
    say(f"before/after image: {Path(out).resolve()} (pink: where a keypoint was; hollow: filled)")
    page = str(Path(out).with_suffix(".html"))
    with demo_source(scene, refined) as source:
        write_report(page, source, "posefix demo", [], 1)


def _real_results(refiner: Refiner, folder: Path, results: list[Path], out: Path) -> None:
    from posefix.cli.showing import write_report
    from posefix.evaluation.coco_ap import compare, format_table
    from posefix.html_report.people import Source
    from posefix.inference.results import refine_results
    from posefix.io.coco import read_annotations, read_results
    from posefix.pose_errors.report import make_report

    annotations = read_annotations(folder / "val.json", refiner.skeleton)
    for path in results:
        entries = read_results(path).entries
        refined, report = refine_results(refiner, entries, folder / "val", annotations=annotations)
        say(f"\n{path.name}: {report.summary().splitlines()[0]}")
        rows = compare(annotations, [entries, refined], refiner.skeleton, names=["before", "after"])
        say(format_table(rows))
        diagnosis = make_report(annotations, entries, refiner.skeleton, refined=refined)
        source = Source(entries, refined, refiner.skeleton, folder / "val", annotations, diagnosis)
        page = str(out.with_name(f"{out.stem}-{path.stem}.html"))
        write_report(page, source, f"{path.name} refined", report.summary().splitlines(), len(entries))
