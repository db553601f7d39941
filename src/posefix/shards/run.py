"""A run: a folder with ``run.json`` and a file per part, in which any number of processes work and may be killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from posefix.batch import BatchRefiner, BatchSettings, settings_from
from posefix.choices import PART_SIZE
from posefix.exceptions import FileFormatError, InputError
from posefix.inference.reliability import Reliability
from posefix.inference.results import MEASURED
from posefix.io.json import parse_small_json
from posefix.io.parquet import with_about
from posefix.io.parquet_files import PeopleFiles, table_bytes
from posefix.io.storage import Storage, require_pyarrow
from posefix.keypoints.skeleton import SKELETONS
from posefix.messages import shown
from posefix.shards.plan import Plan, part_name, plan_parts

#: People of the sample on which reliability is measured: of images with more than 8 each it has fewer images.
_SAMPLED = 32 * MEASURED
#: What the run is called in its folder.
RUN = "run.json"


@dataclass(frozen=True, eq=False)
class Run:
    """A run in its folder.

    Attributes:
        storage: the folder.
        source: the people, path or URI of Parquet files.
        settings: how they are refined; with the measured prior weight.
        reliability: what that was measured on.
        plan: how the input is cut.
        about: metadata of every part.
    """

    storage: Storage
    source: str
    settings: BatchSettings
    reliability: Reliability
    plan: Plan
    about: dict[str, Any]

    @cached_property
    def files(self) -> PeopleFiles:
        """The input."""
        return PeopleFiles(self.source)

    def missing(self, parts: Sequence[int] | None = None) -> list[int]:
        """Parts that are not there yet, of some or of all."""
        there = self.storage.names()
        return [p for p in (range(self.plan.parts) if parts is None else parts) if part_name(p) not in there]

    def read(self, part: int) -> Any:
        """The people of a part, not refined, with the column ``row``."""
        pa = require_pyarrow()
        rows = self.plan.rows(part)
        table = self.files.take(rows)
        column = pa.array(rows, pa.int64())
        if "row" in table.column_names:
            return table.set_column(table.column_names.index("row"), pa.field("row", pa.int64(), False), column)
        return table.add_column(0, pa.field("row", pa.int64(), False), column)

    def refine(self, part: int, worker: BatchRefiner) -> Any:
        """Refine a part and write it; returns its table."""
        table = with_about(worker(self.read(part)), self.about)
        if "image" in table.column_names:
            table = table.drop_columns(["image"])
        self.storage.write(part_name(part), table_bytes(table))
        return table


def open_run(
    source: str,
    out: str,
    settings: BatchSettings,
    worker: BatchRefiner,
    *,
    part_size: int = PART_SIZE,
    version: str = "",
) -> Run:
    """Begin a run, or join the one that is in the folder.

    The first process measures the estimator's reliability on a seeded sample of the whole input and writes it down;
    all others, and a resumed run, take it from there.

    Args:
        source: the people, Parquet: path or URI.
        out: folder of the run, path or URI.
        settings: how to refine; a ``prior_weight`` of None is measured.
        worker: of these settings.
        part_size: see ``plan_parts``.
        version: of the code; parts of several versions do not mix.

    Raises:
        InputError: the folder holds a run of another input or with other settings.
        FileFormatError: no such input, or a damaged ``run.json``.
        ImageError: none of the images can be read.
    """
    if part_size < 1:
        raise InputError(f"part_size: expected at least 1, got {part_size}")
    files = PeopleFiles(source)
    plan = plan_parts(files, part_size)
    storage = Storage(out)
    storage.create()
    skeleton = SKELETONS[settings.skeleton] if settings.skeleton else worker.refiner.skeleton
    wanted = {
        "posefix": version,
        "weights": weights_hash(worker),
        "skeleton": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "source": os.path.basename(source.partition("?")[0].rstrip("/")),
        "people": len(files),
        "images": len(plan.part_of_image),
        "fingerprint": plan.fingerprint,
        "part_size": part_size,
        "parts": plan.parts,
        "settings": _numeric(settings),
    }
    there = RUN in storage.names()
    content = dict(wanted)
    if not there:
        weight = 1.0 if settings.prior_weight is None else settings.prior_weight
        found = Reliability(weight, offset=settings.options.offset or (0.0, 0.0))
        sample = _sample(files, plan)
        worker.check_images(sample)
        if settings.prior_weight is None:
            found = worker.measure_reliability(sample)
        content |= {"reliability": asdict(found)}
        raw = storage.write_first(RUN, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    else:
        raw = storage.read(RUN)
    written = parse_run(raw, out)
    reliability = Reliability(**written.pop("reliability"))
    for name, value in wanted.items():
        if written.get(name) != value:
            raise InputError(
                f"{out}: holds another run: {_difference(name, written.get(name), value)}; take another folder, or "
                "the same input and options"
            )
    about = {k: wanted[k] for k in ("posefix", "weights", "skeleton", "keypoints", "fingerprint", "parts", "settings")}
    about |= {"reliability": asdict(reliability)}
    chosen = replace(settings, prior_weight=reliability.prior_weight, offset=reliability.offset)
    return Run(storage, source, chosen, reliability, plan, about)


def _numeric(settings: BatchSettings) -> dict[str, Any]:
    """Settings on which the numbers depend; where images lie, threads and devices do not belong to them."""
    left_out = ("images", "weights", "revision", "skeleton", "device", "backend", "threads", "workers")
    values = {k: v for k, v in asdict(settings).items() if k not in left_out}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}  # as JSON gives them back


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        name = next((k for k in here if there.get(k) != here[k]), name)
        there, here = there.get(name), here.get(name)
    return f"{name} was {shown(there)} and is {shown(here)}"


def parse_run(raw: bytes, out: str) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        FileFormatError: it is damaged.
    """
    try:
        content = parse_small_json(raw, source=RUN)
        settings_from(content["settings"])
        Reliability(**content["reliability"])
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{out}/{RUN}: damaged, or of another version of posefix: {error}") from None


def _sample(files: PeopleFiles, plan: Plan) -> Any:
    """Enough images in the seeded order in which reliability is measured."""
    images = len(plan.part_of_image)
    order = np.random.default_rng(0).permutation(images)
    chosen = order[: 4 * MEASURED]
    people = np.cumsum(np.bincount(plan.image_of_row, minlength=images)[chosen])
    chosen = chosen[: max(int(np.searchsorted(people, _SAMPLED, side="right")), 1)]
    rank = np.full(images, images, np.int64)
    rank[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(rank[plan.image_of_row] < images)
    return files.take(rows[np.argsort(rank[plan.image_of_row[rows]], kind="stable")])


def weights_hash(worker: BatchRefiner) -> str:
    """SHA-256 of the weights' tensors, names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(worker.refiner.weights.state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
