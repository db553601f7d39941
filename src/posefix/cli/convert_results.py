"""``posefix convert-results``."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from posefix.cli.options import check_inputs, check_output, report_errors, say, skeleton_named
from posefix.exceptions import FileFormatError, InputError
from posefix.keypoints.skeleton import COCO, SKELETONS, Skeleton
from posefix.messages import shown


@click.command("convert-results", short_help="Convert results between JSON and Parquet.")
@click.argument("results", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="A .parquet or a .json file.")
@click.option(
    "--skeleton",
    "skeleton_name",
    type=click.Choice(sorted(SKELETONS)),
    help="Keypoint set, whose names the Parquet file remembers. Default: the one with as many keypoints.",
)
@click.option(
    "--annotations",
    type=click.Path(dir_okay=False),
    help="Annotation file: its names of the images become the column file_name.",
)
@click.option("--refined", is_flag=True, help="To JSON: refined keypoints and scores in the place of the estimator's.")
@report_errors
def convert_results(results: str, out: str, skeleton_name: str | None, annotations: str | None, refined: bool) -> None:
    """Convert results between JSON (COCO, AlphaPose) and Parquet, without loss and with flat memory.

    One row per person. Fields without a column of their own are kept as JSON in the column extra. Needs
    posefix[parquet].

    \b
    Examples:
      posefix convert-results results.json --out people.parquet
      posefix convert-results refined.parquet --refined --out refined.json
    """
    from posefix.io.coco import read_annotations, with_image
    from posefix.io.parquet_files import is_parquet, json_to_parquet, parquet_to_json

    check_inputs(results, annotations)
    to_parquet = out.lower().endswith((".parquet", ".pq"))
    if not to_parquet and not out.lower().endswith(".json"):
        raise InputError(f"--out: expected a name that ends in .parquet or .json, got {shown(out)}")
    if is_parquet(results) == to_parquet:
        raise InputError(f"expected one JSON and one Parquet file, got {shown(results)} and {shown(out)}")
    check_output(out, (".json", ".parquet", ".pq"))
    if not to_parquet:
        if skeleton_name or annotations:
            raise InputError("--skeleton and --annotations are for the way to Parquet; JSON results hold no names")
        count = parquet_to_json(results, out, refined=refined)
    else:
        if refined:
            raise InputError("--refined is for the way to JSON")
        skeleton = skeleton_of(results, skeleton_named(skeleton_name) if skeleton_name else None)
        named = read_annotations(annotations, skeleton) if annotations else None
        about: dict[str, Any] = {}
        if skeleton is not None:
            about = {"skeleton": skeleton.name, "keypoints": list(skeleton.keypoints)}
        change = partial(with_image, annotations=named) if named else None
        size = len(skeleton) if skeleton else None
        count = json_to_parquet(results, out, about=about, count=size, change=change)
    say(f"{out} written: {count} people")


def skeleton_of(results: str, given: Skeleton | None) -> Skeleton | None:
    """The keypoint set of a JSON file: the one given, else one with as many keypoints as entry 0; COCO's comes first.

    Raises:
        FileFormatError: the first person has another number of keypoints than the set that was given.
    """
    from posefix.io.json_stream import iterate_entries

    keypoints = next(iter(iterate_entries(results)), {}).get("keypoints")
    count = len(keypoints) // 3 if isinstance(keypoints, list) else 0
    if given is not None:
        if count not in (0, len(given)):
            raise FileFormatError(f"{results}: entry 0 has {count} keypoints, skeleton {given.name!r} {len(given)}")
        return given
    return COCO if count == len(COCO) else next((s for s in SKELETONS.values() if len(s) == count), None)
