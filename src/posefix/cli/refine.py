"""``posefix refine``."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posefix.choices import EXIF_MODES, RANKINGS, RESULTS_FORMATS
from posefix.cli.options import (
    HTML,
    JSON,
    PACKED_JSON,
    RenamedOption,
    SectionedCommand,
    allow_outside_option,
    backend_option,
    check_inputs,
    check_output,
    device_option,
    load_refiner,
    report_errors,
    say,
    skeleton_named,
    split_revision,
    threads_option,
    weights_option,
)
from posefix.cli.refine_parts import PartOptions, everywhere, is_large, part_options, refine_in_parts
from posefix.cli.showing import report_option, report_people_option, show
from posefix.exceptions import ImageError, InputError
from posefix.keypoints.skeleton import SKELETONS

if TYPE_CHECKING:
    from posefix.inference.refiner import Refiner


class Ranking(click.Choice[str]):
    """``RANKINGS``, and "agreement", as the default was called before."""

    def __init__(self) -> None:
        super().__init__(RANKINGS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The ranking of that name."""
        if value == "agreement":
            say("warning: --ranking agreement is now called pose_consistency", err=True)
            value = "pose_consistency"
        return super().convert(value, param, ctx)


#: ``--help`` shows the first ones first.
_SECTIONS = {
    "Options": (
        *("images", "out", "annotations", "skeleton_name", "weights", "device"),
        *("report_path", "draw", "prior_weight", "strict"),
    ),
    "How to refine": ("policy", "fill_missing", "use_boxes", "ranking", "soft_nms", "flip_test", "offset"),
    "What is read and shown": ("file_format", "exif", "allow_outside", "draw_count", "report_people"),
    "Speed and large inputs": (
        *("backend", "threads", "batch_size", "workers", "shard", "resume", "engine", "part_size", "actors"),
        "actor_cpus",
    ),
}


@click.command(cls=SectionedCommand, sections=_SECTIONS)
@click.argument("results", type=click.Path())
@click.option(
    "--images",
    required=True,
    type=click.Path(),
    help="Folder of the images; also tar shards ('train-*.tar') or a URI (s3://bucket/images), see docs/scale.md.",
)
@click.option("--out", required=True, type=click.Path(), help="Where the refined results go.")
@click.option(
    "--annotations",
    type=click.Path(dir_okay=False),
    help="Annotation file that names the images; else file_name of a result, else its zero-padded id.",
)
@click.option(
    "--skeleton",
    "skeleton_name",
    metavar="NAME|FILE",
    help=f"Keypoint set of the results: {', '.join(sorted(SKELETONS))}, a JSON or YAML file, or a weights folder; "
    "default that of the weights. Of another set, the keypoints that both have by name are refined, the others stay.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", *RESULTS_FORMATS]),
    default="auto",
    show_default=True,
    help="Format of the results; the refined ones are written in the same.",
)
@weights_option
@device_option
@backend_option
@threads_option
@click.option("--batch-size", default=32, show_default=True, help="People per pass through the network.")
@click.option("--workers", default=2, show_default=True, help="Threads that read images meanwhile.")
@click.option(
    "--flip-test/--no-flip-test",
    cls=RenamedOption,
    old={"--flip": "--flip-test", "--no-flip": "--no-flip-test"},
    default=False,
    help="Also run the network on the mirrored image and average: twice the time.",
)
@click.option("--policy", type=click.Choice(["safe", "always"]), help="Default: what the weights recommend.")
@click.option(
    "--ranking",
    type=Ranking(),
    default="pose_consistency",
    show_default=True,
    help="What becomes each person's score: the estimator's times how consistent the image is with its pose; the "
    "estimator's as it was; that times the refiner's confidence; or this confidence alone.",
)
@click.option(
    "--soft-nms/--no-soft-nms",
    default=True,
    help="Lower the score of people whose refined pose repeats a better-scored one of the same image; no person is "
    "removed. Not with --ranking estimator, which leaves every score as it was.",
)
@click.option(
    "--fill-missing/--no-fill-missing",
    cls=RenamedOption,
    old={"--fill": "--fill-missing", "--no-fill": "--no-fill-missing"},
    default=True,
    help="Give missing keypoints the network's output.",
)
@click.option(
    "--prior-weight",
    cls=RenamedOption,
    old={"--trust": "--prior-weight"},
    type=click.FloatRange(min=0),
    default=None,
    show_default="measured on the file",
    help="Weight of the given pose against the image: about 0.5 suits weak estimators, 1 medium, 1.5 strong ones.",
)
@click.option(
    "--offset",
    type=float,
    nargs=2,
    metavar="X Y",
    default=None,
    show_default="measured on the file with the weight",
    help="Pixels of a person's crop by which all keypoints are moved first, for estimators that put them all to one "
    "side; 0 0 for none.",
)
@click.option(
    "--exif",
    type=click.Choice(EXIF_MODES),
    default="auto",
    show_default=True,
    help="Whether images are turned as their EXIF orientation says. auto: as the recorded width and height say, else "
    "as usual for the format: not for COCO, turned for OpenPose and AlphaPose.",
)
@click.option("--use-boxes", is_flag=True, help="Crop around each entry's bbox instead of its keypoints.")
@click.option(
    "--draw",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Also write before/after images of the people who most likely gained most: 001_IMAGE_ENTRY.png, …; where "
    "--annotations labels people, of the true gains and losses.",
)
@click.option("--draw-count", type=click.IntRange(min=1), default=20, show_default=True, help="How many, for --draw.")
@report_option
@report_people_option
@part_options
@allow_outside_option
@click.option("--strict", is_flag=True, help="Exit status 1 if a person could not be refined.")
@report_errors
def refine(
    results: str,
    images: str,
    out: str,
    annotations: str | None,
    skeleton_name: str | None,
    file_format: str,
    weights: str | None,
    device: str,
    backend: str,
    threads: int | None,
    batch_size: int,
    workers: int,
    flip_test: bool,
    policy: str | None,
    ranking: str,
    soft_nms: bool,
    fill_missing: bool,
    prior_weight: float | None,
    offset: tuple[float, float] | None,
    exif: str,
    use_boxes: bool,
    draw: str | None,
    draw_count: int,
    report_path: str | None,
    report_people: int,
    spread: PartOptions,
    strict: bool,
) -> None:
    """Refine a results file of any common format.

    Read are COCO results (also wrapped in an object, with nested keypoints, one person a line, .gz, .zip or - for
    standard input), AlphaPose's three forms and PoseFlow, PoseTrack 2018, and folders of OpenPose, OpenPifPaf or
    MMPose files. They are written back in the form in which they came.

    Same entries, order, ids and other fields out; the third value of each keypoint becomes the refiner's
    confidence. People whose image cannot be read pass through unchanged and are named at the end.

    \b
    Examples:
      posefix refine results.json --images val2017/ --out refined.json
      posefix refine results.json --images val2017/ --out refined.json --report report.html
      posefix refine results.json --images val2017/ --out refined.json --draw examples/
      posefix refine openpose_json/ --images frames/ --out refined_json/
      posefix refine crowdpose.json --skeleton crowdpose --images images/ --out refined.json
      posefix refine sequences/ --skeleton posetrack18 --images posetrack/ --out refined/
      posefix refine people.parquet --images images/ --out run/ --shard 3/40 --resume
      posefix refine people.parquet --images s3://bucket/images --out s3://bucket/run --engine ray
    """
    from posefix.adapters.files import is_alphapose, read_any
    from posefix.batch import BatchSettings
    from posefix.inference.options import make_options
    from posefix.inference.results import refine_results
    from posefix.io.coco import read_annotations
    from posefix.io.orientation import ExifRule
    from posefix.io.packed import STANDARD

    check_inputs(results, annotations, images)
    options = make_options(
        policy=policy,
        flip_test=flip_test,
        fill_missing=fill_missing,
        batch_size=batch_size,
        prior_weight=prior_weight,
        offset=offset,
    )

    def in_parts(refiner: Refiner, spread: PartOptions) -> None:
        where, revision = split_revision(weights) if weights else (None, None)
        settings = BatchSettings(
            images=everywhere(images),
            weights=everywhere(where) if where and Path(where).exists() else where,
            revision=revision,
            skeleton=skeleton_name,
            device=device,
            backend=backend,
            threads=threads,
            ranking=ranking,
            soft_nms=soft_nms,
            use_boxes=use_boxes,
            workers=workers,
            exif="apply" if exif == "auto" and is_alphapose(results) else exif,
            **asdict(options),
        )
        chosen = skeleton_named(skeleton_name) if skeleton_name else refiner.skeleton
        named = read_annotations(annotations, chosen) if annotations else None
        tally = refine_in_parts(
            results, out, settings, refiner, spread, annotations=named, progress=sys.stderr.isatty()
        )
        if strict and tally.refined < tally.people:
            raise click.ClickException(f"{tally.people - tally.refined} of {tally.people} people could not be refined")

    if spread.wanted(results, images):
        if draw or report_path or file_format not in ("auto", "coco", "alphapose"):
            raise InputError(
                "--draw, --report and formats other than COCO and AlphaPose do not go with --shard, --resume, "
                "--engine ray, Parquet files, or images in tar shards or object stores"
            )
        in_parts(load_refiner(weights, device, backend, threads), spread)
        return
    skeleton = skeleton_named(skeleton_name) if skeleton_name else None
    check_output(out, PACKED_JSON, folder=Path(results).is_dir(), inputs=[annotations])
    if draw:
        check_output(draw, folder=True)
    if report_path:
        check_output(report_path, HTML)
    refiner = load_refiner(weights, device, backend, threads)
    plain = not (draw or report_path) and file_format in ("auto", "coco") and skeleton_name in (None, *SKELETONS)
    if plain and is_large(results, out, skeleton or refiner.skeleton):
        in_parts(refiner, replace(spread, resume=True))
        return
    opened = read_any(
        results, skeleton or refiner.skeleton, format=file_format, images=images, own_keypoints=skeleton is None
    )
    if opened.format not in ("coco", "alphapose"):
        check_output(out, JSON, folder=Path(results).is_dir())
    named = read_annotations(annotations, opened.skeleton) if annotations else None
    exif_rule = ExifRule(exif, opened.upright)
    start = time.perf_counter()
    refined, report = refine_results(
        refiner,
        opened.entries,
        images,
        annotations=named,
        options=options,
        ranking=ranking,
        soft_nms=soft_nms,
        use_boxes=use_boxes,
        skeleton=opened.skeleton,
        exif=exif_rule,
        workers=workers,
        progress=sys.stderr.isatty(),
    )
    seconds = time.perf_counter() - start
    if report.unread and not report.refined:
        why = next(iter(report.unread.values()))
        raise ImageError(f"none of the {len(report.unread)} images can be read, nothing is written; the first: {why}")
    opened.write(out, refined)
    # Where the results themselves go to standard output, nothing else does.
    aside = out == STANDARD or (Path(out).exists() and not (Path(out).is_file() or Path(out).is_dir()))
    say(report.summary(), err=aside)
    say(f"{out} written: {seconds:.1f} s, {report.refined / max(seconds, 1e-9):.0f} people/s", err=aside)
    show(
        opened.entries,
        refined,
        images,
        skeleton=opened.skeleton,
        annotations=named,
        draw=draw,
        draw_count=draw_count,
        report_path=report_path,
        report_people=report_people,
        exif=exif_rule,
        title=f"{Path(results).name} refined",
        notes=report.summary().splitlines(),
    )
    if strict and not report.complete:
        raise click.ClickException(f"{report.people - report.refined} of {report.people} people could not be refined")
