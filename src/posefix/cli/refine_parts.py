"""``posefix refine`` for large inputs: in parts, by shards, resumable, on Ray."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

import posefix
from posefix.choices import PART_SIZE
from posefix.cli.options import check_output, say
from posefix.exceptions import InputError
from posefix.keypoints.skeleton import SKELETONS
from posefix.messages import shown

if TYPE_CHECKING:
    from posefix.batch import BatchRefiner, BatchSettings
    from posefix.inference.refiner import Refiner
    from posefix.io.coco import Annotations
    from posefix.keypoints.skeleton import Skeleton
    from posefix.shards.run import Run
    from posefix.shards.tally import Tally


#: Bytes of a results file from which on it is refined in parts; some 400,000 people, who would take 3 GB of memory.
LARGE = 2**28


@dataclass(frozen=True)
class PartOptions:
    """How the work is spread.

    Attributes:
        shard: ``"3/40"``: only the third of forty shares.
        resume: parts that are there stay.
        engine: ``"local"`` or ``"ray"``.
        part_size: people of a part, about.
        actors: on Ray; None is one per GPU, else one per CPU.
        actor_cpus: CPUs of an actor; None is 1, or as much as lets all start.
    """

    shard: str | None = None
    resume: bool = False
    engine: str = "local"
    part_size: int = PART_SIZE
    actors: int | None = None
    actor_cpus: float | None = None

    def wanted(self, results: str, images: str) -> bool:
        """Whether the input or an option asks for a run in parts."""
        from posefix.io.image_store import is_folder
        from posefix.io.parquet_files import is_parquet

        asked = self.shard is not None or self.resume or self.engine != "local"
        return asked or is_parquet(results) or not is_folder(images)


def is_large(results: str, out: str, skeleton: Skeleton) -> bool:
    """Whether COCO results are so large that they are refined in parts unasked: flat memory, the same outcome.

    Args:
        results: path.
        out: where they go.
        skeleton: of the poses.
    """
    from posefix.adapters.files import is_coco

    if not os.path.isfile(results) or os.path.getsize(results) < LARGE or not out.lower().endswith(".json"):
        return False
    return importlib.util.find_spec("pyarrow") is not None and is_coco(results, len(skeleton))


def part_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of ``PartOptions``; the command gets them as ``spread``."""

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        spread = PartOptions(**{f.name: arguments.pop(f.name) for f in fields(PartOptions)})
        command(spread=spread, **arguments)

    options = [
        click.option("--shard", metavar="I/N", help="Refine in parts, here share I of N; --out is a folder for them."),
        click.option("--resume", is_flag=True, help="Refine in parts, and leave those that are there as they are."),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="ray refines in parts on a Ray cluster, or on all CPUs of this machine.",
        ),
        click.option("--part-size", default=PART_SIZE, show_default=True, help="People of a part, about."),
        click.option("--actors", type=click.IntRange(min=1), help="On Ray; default: one per GPU, else one per CPU."),
        click.option("--actor-cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs of an actor; default 1."),
    ]
    for option in reversed(options):
        wrapper = option(wrapper)
    return wrapper


def everywhere(where: str) -> str:
    """A place as processes elsewhere can write it: a path of this machine in full, a URI as it is."""
    from posefix.io.storage import is_uri

    return where if is_uri(where) else os.path.abspath(where)


def refine_in_parts(
    results: str,
    out: str,
    settings: BatchSettings,
    refiner: Refiner,
    options: PartOptions,
    *,
    annotations: Annotations | None = None,
    progress: bool = False,
) -> Tally:
    """Refine a large input; prints the summary.

    Args:
        results: COCO or AlphaPose JSON, or Parquet: a file, a folder or a URI.
        out: a ``.json`` or ``.parquet`` file, or a folder for the parts.
        settings: how to refine.
        refiner: of these settings.
        options: how the work is spread.
        annotations: names of the images, for JSON.
        progress: show a bar.

    Returns:
        the counts of the parts that were asked for.

    Raises:
        InputError: options that do not go together, or parts that are there without ``resume``.
    """
    from tqdm import tqdm

    from posefix.batch import BatchRefiner
    from posefix.inference.report import offset_line, reliability_line
    from posefix.io.parquet_files import is_parquet
    from posefix.io.storage import Storage, is_uri
    from posefix.shards.local import PEOPLE, table_of_json
    from posefix.shards.merge import merge_into_json, merge_parts
    from posefix.shards.plan import parse_shard, part_name, shard_parts
    from posefix.shards.run import RUN, open_run

    shard = parse_shard(options.shard) if options.shard else None
    single = out.lower().endswith((".json", ".parquet"))
    if single and shard is not None:
        raise InputError(
            f"--shard writes parts: expected a folder as --out, got {shown(out)}; merge-results joins them"
        )
    if single and is_uri(out):
        raise InputError(f"--out: expected a folder for the parts in an object store, got {shown(out)}")
    if not is_uri(out):
        check_output(out, (".json", ".parquet"), folder=not single)
    if annotations is not None and is_parquet(results):
        raise InputError("--annotations is for JSON; a Parquet file names its images in the column file_name")
    folder = everywhere(f"{out}.parts" if single else out)
    start = time.perf_counter()
    source = everywhere(results)
    if not is_parquet(results):
        if is_uri(folder):
            raise InputError("JSON results and an --out in an object store: convert-results to Parquet first")
        skeleton = SKELETONS[settings.skeleton] if settings.skeleton else refiner.skeleton
        source = table_of_json(results, Storage(folder), skeleton, annotations)
    worker = BatchRefiner(settings, refiner=refiner)
    run = open_run(source, folder, settings, worker, part_size=options.part_size, version=posefix.__version__)
    if run.plan.scattered:
        say(
            f"warning: the people of {run.plan.scattered} images do not stand together; sort the file by image, or "
            "every part reads much of it",
            err=True,
        )
    parts = shard_parts(run.plan.parts, shard) if shard else list(range(run.plan.parts))
    done = len(parts) - len(run.missing(parts))
    if done and not options.resume:
        raise InputError(f"{folder}: {done} of these {len(parts)} parts are there; --resume continues with the others")
    run.storage.remove_unfinished(map(part_name, parts))
    if shard is None:
        run.storage.remove_unfinished([PEOPLE, RUN])
    people = sum(len(run.plan.rows(p)) for p in parts)
    with tqdm(total=people, unit="person", disable=None if progress else True) as bar:
        tally = _refine(run, worker, parts, options, bar.update)
    seconds = time.perf_counter() - start
    say(tally.summary())
    if options.engine == "local" and tally.refined:
        say(f"computed by {refiner.computed_by}")
    if run.reliability.confident:
        r = run.reliability
        say(reliability_line(r.prior_weight, r.confident, r.outliers, r.alike))
    if any(run.reliability.offset):
        say(offset_line(run.reliability.offset))
    if single:
        from_json = out.lower().endswith(".json") and not is_parquet(results)
        count = merge_into_json(folder, results, out) if from_json else merge_parts(folder, out)
        shutil.rmtree(folder)
        say(f"{out} written: {count} people, {seconds:.1f} s, {tally.people / max(seconds, 1e-9):.0f} people/s")
    else:
        missing = len(run.missing())
        say(f"{len(parts)} parts in {folder}: {seconds:.1f} s; {missing} of {run.plan.parts} are still missing")
    return tally


def _refine(
    run: Run, worker: BatchRefiner, parts: list[int], options: PartOptions, advance: Callable[[int], object]
) -> Tally:
    if options.engine == "ray":
        from posefix.distributed import refine_parts_on_ray

        return refine_parts_on_ray(run, parts, advance, actors=options.actors, actor_cpus=options.actor_cpus)
    from posefix.shards.local import run_parts

    return run_parts(run, worker, parts, advance)
