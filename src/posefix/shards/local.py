"""The parts of a run, refined by this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from posefix.batch import BatchRefiner
from posefix.exceptions import FileFormatError
from posefix.io.coco import Annotations, with_image
from posefix.io.parquet import about_of
from posefix.io.parquet_files import PeopleFiles, json_to_parquet
from posefix.io.storage import Storage, child
from posefix.keypoints.skeleton import Skeleton
from posefix.shards.plan import part_name
from posefix.shards.run import Run
from posefix.shards.tally import Tally, tally_of

#: JSON input as a table, in the folder of the run.
PEOPLE = "people.parquet"


def run_parts(run: Run, worker: BatchRefiner, parts: Sequence[int], advance: Callable[[int], object]) -> Tally:
    """Refine those of some parts that are not there yet.

    Args:
        run: from ``open_run``.
        worker: of its settings.
        parts: their numbers.
        advance: called with the number of people done.

    Returns:
        the counts of all these parts, also of those that were there.
    """
    missing = set(run.missing(parts))
    total = Tally()
    for part in parts:
        start = time.perf_counter()
        table = run.refine(part, worker) if part in missing else read_part(run.storage, part)
        total += tally_of(table, time.perf_counter() - start if part in missing else 0.0)
        advance(table.num_rows)
    return total


def read_part(storage: Storage, part: int) -> Any:
    """The refined people of a part.

    Raises:
        FileFormatError: it is damaged.
    """
    files = PeopleFiles(child(storage.where, part_name(part)))
    return files.take(np.arange(len(files)))


def table_of_json(source: str, storage: Storage, skeleton: Skeleton, annotations: Annotations | None = None) -> str:
    """JSON results as a Parquet file in the folder of a run, converted once.

    Args:
        source: COCO or AlphaPose results.
        storage: a folder of this machine.
        skeleton: of the people.
        annotations: names of the images.

    Returns:
        where the table is.

    Raises:
        FileFormatError: no such list, or no entry in it has a pose of this skeleton.
    """
    storage.create()
    target = str(Path(storage.where) / PEOPLE)
    try:
        info = os.stat(source)
    except OSError as error:
        raise FileFormatError(f"{source}: cannot be read: {error.strerror}") from None
    about: dict[str, Any] = {
        "skeleton": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "source": os.path.basename(source),
    }
    about |= {"bytes": info.st_size, "modified": info.st_mtime_ns, "named": annotations is not None}
    if os.path.exists(target) and about_of(PeopleFiles(target).schema) == about:
        return target
    change = partial(with_image, annotations=annotations) if annotations is not None else None
    json_to_parquet(source, target, about=about, count=len(skeleton), change=change)
    return target
