"""Refinement on Ray: any Ray Dataset of people, or the parts of a run.

    import ray
    from posefix.batch import BatchSettings
    from posefix.distributed import refine_dataset

    people = ray.data.read_parquet("s3://bucket/people/")
    refined = refine_dataset(people, BatchSettings(images="s3://bucket/images"))
    refined.write_parquet("s3://bucket/refined/")

Every actor loads the weights once. An actor or a machine that dies is replaced and its work done again; an image that
cannot be read is reported in its rows. See ``posefix.batch`` for the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from posefix.batch import BatchRefiner, BatchSettings
from posefix.exceptions import InputError, MissingDependencyError
from posefix.inference.reliability import Reliability
from posefix.inference.results import MEASURED
from posefix.io.json import parse_small_json
from posefix.io.storage import require_pyarrow
from posefix.shards.run import Run
from posefix.shards.tally import Tally

#: Rows of one image travel as one value, which no shuffle and no block boundary can split.
_PACKED = "people"


def require_ray() -> Any:
    """The module ``ray`` with ``ray.data``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("this needs Ray: pip install 'posefix[ray]'") from None
    return ray


def refine_dataset(
    dataset: Any,
    settings: BatchSettings,
    *,
    actors: int | tuple[int, int] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    images_per_batch: int = 64,
    group_by: str | None = None,
) -> Any:
    """Refine a Ray Dataset of people, one row per person.

    Args:
        dataset: rows as for ``BatchRefiner``: ``keypoints``, ``file_name`` or ``image_id``, maybe ``score``,
            ``bbox``, and ``image`` (encoded bytes).
        settings: how to refine; a ``prior_weight`` of None is measured first, on people of a seeded sample.
        actors: processes with the network; a pair is the least and the most of a pool that grows. None is one per
            GPU, on a cluster without any one per CPU but for one, which reads.
        num_cpus: of an actor. None is 1, or less where all actors and a reader would not fit, also after the loss of
            the largest machine.
        num_gpus: of an actor. None is 1 on a cluster with GPUs, else 0.
        images_per_batch: images that an actor takes at a time.
        group_by: column whose equal rows must stay together; None is the image. For video, the column that names it.

    Returns:
        a lazy Dataset with the same rows and the columns of refinement; the order of images may be another.

    Raises:
        MissingDependencyError: Ray or pyarrow is not installed.
        InputError: the rows name no image.
    """
    ray = require_ray()
    names = dataset.schema().names
    key = group_by or next((n for n in ("file_name", "image_id") if n in names), None)
    if key is None or key not in names:
        raise InputError(f"dataset: expected a column {group_by or 'file_name or image_id'}, got {', '.join(names)}")
    if settings.prior_weight is None:
        found = _measured(dataset, key, settings)
        settings = replace(settings, prior_weight=found.prior_weight, offset=found.offset)
    count, cpus, gpus = _resources(actors, num_cpus, num_gpus)
    packed = dataset.groupby(key).map_groups(_pack, batch_format="pyarrow")
    return packed.map_batches(
        _PackedRefiner,
        fn_constructor_args=(settings,),
        batch_format="pyarrow",
        batch_size=images_per_batch,
        compute=ray.data.ActorPoolStrategy(min_size=count[0], max_size=count[1]),
        num_cpus=cpus,
        num_gpus=gpus,
    )


def refine_parts_on_ray(
    run: Run,
    parts: Sequence[int],
    advance: Callable[[int], object],
    *,
    actors: int | None = None,
    actor_cpus: float | None = None,
    actor_gpus: float | None = None,
) -> Tally:
    """Refine those parts of a run that are not there yet; actors read the input and write the parts themselves.

    Args:
        run: whose source, images and folder every machine of the cluster reaches.
        parts: their numbers.
        advance: called with the number of people done.
        actors: processes with the network; None is one per GPU, else one per CPU.
        actor_cpus: of each; None is 1.
        actor_gpus: of each; None is 1 on a cluster with GPUs, else 0.

    Returns:
        the counts of all these parts, also of those that were there. The driver holds nothing but them.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    ray = require_ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="warning", log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    count, cpus, gpus = _resources(actors, actor_cpus, actor_gpus, readers=0)
    size = min(count[1], max(len(parts), 1))
    done = ray.data.from_items([{"part": p} for p in parts]).map_batches(
        _PartRefiner,
        fn_constructor_args=(run,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    total = Tally()
    for row in done.iter_rows():
        values = parse_small_json(row["tally"].encode(), source="a worker's tally")
        distances, errors = np.array(values["distances"], np.int64), tuple(values["errors"])
        tally = Tally(**{**values, "distances": distances, "errors": errors})
        total += tally
        advance(tally.people)
    return total


class _PartRefiner:
    """An actor: a part's number in, its counts out."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.worker = BatchRefiner(run.settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from posefix.shards.local import run_parts

        tallies = []
        for part in batch["part"].tolist():
            tally = run_parts(self.run, self.worker, [part], lambda people: None)
            tallies.append(json.dumps({**asdict(tally), "distances": tally.distances.tolist()}))
        return {"tally": np.array(tallies, object)}


class _PackedRefiner:
    """An actor: images with their people in, refined people out."""

    def __init__(self, settings: BatchSettings) -> None:
        self.worker = BatchRefiner(settings)

    def __call__(self, table: Any) -> Any:
        pa = require_pyarrow()
        return self.worker(pa.concat_tables(pa.ipc.open_stream(people.as_py()).read_all() for people in table[_PACKED]))


def _pack(table: Any) -> Any:
    """The rows of one image as one value."""
    pa = require_pyarrow()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return pa.table({_PACKED: pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})


def _measured(dataset: Any, key: str, settings: BatchSettings) -> Reliability:
    """From a seeded sample of the images: those whose names hash lowest, wherever they lie."""
    pa = require_pyarrow()
    worker = BatchRefiner(settings)
    if not worker.refiner.measures_reliability:
        return Reliability()
    images = dataset.select_columns([key]).groupby(key).count()
    hashed = images.map_batches(_hashed, batch_format="pyarrow", fn_kwargs={"key": key})
    lowest = hashed.sort("hash").limit(4 * MEASURED)
    chosen = [row["key"] for row in lowest.take_all()]
    kept = dataset.map_batches(_only, batch_format="pyarrow", fn_kwargs={"key": key, "chosen": chosen})
    tables = _tables(kept)
    sample = pa.concat_tables(tables, promote_options="permissive") if tables else None
    if sample is None or not sample.num_rows:
        return Reliability()
    place = {value: index for index, value in enumerate(chosen)}
    order = np.argsort([place[v] for v in sample[key].to_pylist()], kind="stable")
    return worker.measure_reliability(sample.take(pa.array(order)))


def _tables(dataset: Any) -> list[Any]:
    pa = require_pyarrow()
    blocks = dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    return [t for t in blocks if isinstance(t, pa.Table) and t.num_rows]


def _hashed(table: Any, key: str) -> Any:
    import hashlib

    pa = require_pyarrow()
    values = table[key].to_pylist()
    hashes = [hashlib.blake2b(repr(v).encode(), digest_size=8).hexdigest() for v in values]
    return pa.table({"key": table[key], "hash": pa.array(hashes, pa.string())})


def _only(table: Any, key: str, chosen: list[Any]) -> Any:
    import pyarrow.compute as pc

    pa = require_pyarrow()
    return table.filter(pc.is_in(table[key], pa.array(chosen, table.schema.field(key).type)))


def _resources(
    actors: int | tuple[int, int] | None, num_cpus: float | None, num_gpus: float | None, *, readers: float = 1
) -> tuple[tuple[int, int], float, float]:
    """Least and most actors, and CPUs and GPUs of each, such that ``readers`` CPUs are left for Ray Data's tasks.

    Two actors with a CPU each on a machine of two leave none to read the input, and Ray Data waits for ever. So it does
    after the loss of a machine that was counted. Without readers, actors that fit go on.
    """
    ray = require_ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="warning", log_to_driver=False)
    cluster = ray.cluster_resources()
    cpus, gpus = float(cluster.get("CPU", 1.0)), float(cluster.get("GPU", 0.0))
    per_gpu = num_gpus if num_gpus is not None else (1.0 if gpus else 0.0)
    if actors is None:
        most = int(gpus / per_gpu) if per_gpu else int(cpus - readers)
        actors = max(most, 1)
    pair = actors if isinstance(actors, tuple) else (actors, actors)
    if not 1 <= pair[0] <= pair[1]:
        raise InputError(f"actors: expected at least 1, the least before the most, got {actors}")
    if num_cpus is None:
        machines = [float(node["Resources"].get("CPU", 0.0)) for node in ray.nodes() if node["Alive"]]
        kept = cpus - max(machines) if readers and len(machines) > 1 else cpus
        room = max(kept - readers, kept / 2)
        num_cpus = min(1.0, int(100 * room / pair[1]) / 100)
    return pair, num_cpus, per_gpu
