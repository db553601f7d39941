"""The parts of a finished run, checked and joined."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from posefix.exceptions import FileFormatError, InputError
from posefix.io.coco import Entry
from posefix.io.json_stream import iterate_entries, write_json_list
from posefix.io.parquet import about_of, people_schema, pose_array, table_to_entries
from posefix.io.parquet_files import PeopleFiles, is_parquet, write_tables
from posefix.io.storage import Storage, child
from posefix.shards.plan import part_name
from posefix.shards.run import RUN, parse_run


def merge_parts(out: str, target: str) -> int:
    """Write the people of a finished run into one file, in the order of the input.

    Args:
        out: folder of the run, path or URI.
        target: ``.parquet``: all columns; else JSON results with the refined keypoints in the estimator's place.

    Returns:
        people.

    Raises:
        InputError: parts are missing, or the file cannot be written.
        FileFormatError: a part is damaged, or people are missing or doubled.
    """
    _, tables, schema = join_parts(out)
    if is_parquet(target):
        return write_tables(target, tables, schema)
    return write_json_list(target, (entry for t in tables for entry in table_to_entries(t, refined=True)))


def merge_into_json(out: str, source: str, target: str) -> int:
    """Write the JSON results that a run was made from again, with its refined people: as without parts, to the byte.

    Args:
        out: folder of the run, on this machine.
        source: COCO results.
        target: JSON file.

    Returns:
        people.

    Raises:
        InputError, FileFormatError: as ``merge_parts``.
    """
    run, tables, _ = join_parts(out)
    keypoints = len(run["keypoints"])

    def people() -> Iterator[Entry]:
        originals = iterate_entries(source)
        for table in tables:
            poses, done = pose_array(table["refined_keypoints"], keypoints)
            rows, scores = poses.reshape(len(poses), 3 * keypoints).tolist(), table["refined_score"].to_pylist()
            own = islice(originals, len(rows))
            for entry, row, is_done, score in zip(own, rows, done.tolist(), scores, strict=True):
                new = {"keypoints": _own_digits(entry["keypoints"], row)} if is_done else {}
                yield {**entry, **new, **({} if score is None else {"score": score})}

    return write_json_list(target, people())


def _own_digits(own: list[Any], new: list[float]) -> list[Any]:
    """New numbers of a pose; what did not change stays as it was written, 5 and not 5.0, null and not 0."""
    numbers: list[Any] = list(new)
    # As the table has them: a part of a keypoint may be null or NaN, and stays so with the others.
    there = np.nan_to_num(np.array(own, np.float64)).tolist()
    for k in range(0, len(own), 3):
        if there[k : k + 3] == new[k : k + 3] or new[k : k + 3] == [0, 0, 0]:
            numbers[k : k + 3] = own[k : k + 3]
        elif there[k : k + 2] == new[k : k + 2]:
            numbers[k : k + 2] = own[k : k + 2]
    return numbers


def join_parts(out: str) -> tuple[dict[str, Any], Iterator[Any], Any]:
    """The parts of a finished run, joined in the order of the input.

    Args:
        out: folder of the run.

    Returns:
        ``run.json``; tables in order; their schema. Memory is that of the parts that overlap: one where all people of
        an image stand together.

    Raises:
        InputError: no run, or parts are missing.
        FileFormatError: a part is damaged, of another run, or people are missing or doubled.
    """
    storage = Storage(out)
    names = storage.names()
    if RUN not in names:
        raise InputError(f"{out}: expected the folder of a run, there is no {RUN}")
    run = parse_run(storage.read(RUN), out)
    missing = [p for p in range(run["parts"]) if part_name(p) not in names]
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise InputError(
            f"{out}: {len(missing)} of {run['parts']} parts are missing ({listed}); run their shards with --resume"
        )
    schema = people_schema(len(run["keypoints"])) if not run["parts"] else _part(out, 0, run).schema
    return run, _joined(out, run), schema


def _part(out: str, part: int, run: dict[str, Any]) -> PeopleFiles:
    where = child(out, part_name(part))
    files = PeopleFiles(where)
    about = about_of(files.schema)
    if about.get("fingerprint") != run["fingerprint"] or about.get("weights") != run["weights"]:
        raise FileFormatError(f"{where}: belongs to another run; remove it and run its shard with --resume")
    return files


def _joined(out: str, run: dict[str, Any]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    # The first row of each part: parts are cut in the order in which images first appear, so these ascend.
    starts = [_first_row(_part(out, p, run)) for p in range(run["parts"])]
    waiting: list[Any] = []
    written = 0
    for part in range(run["parts"]):
        files = _part(out, part, run)
        waiting.append(files.take(np.arange(len(files))))
        bound = starts[part + 1] if part + 1 < run["parts"] else run["people"]
        table = pa.concat_tables(waiting).sort_by("row")
        ready = int(pc.sum(pc.less(table["row"], bound)).as_py() or 0)
        rows = table["row"].slice(0, ready).to_numpy()
        if len(rows) and not np.array_equal(rows, np.arange(written, written + ready)):
            raise FileFormatError(f"{out}: people are missing or doubled near row {written}, in {part_name(part)}")
        written += ready
        if ready:
            yield table.slice(0, ready)
        waiting = [table.slice(ready)] if ready < table.num_rows else []
    if written != run["people"]:
        raise FileFormatError(f"{out}: expected {run['people']} people, the parts hold {written}")


def _first_row(files: PeopleFiles) -> int:
    return int(next(files.tables(["row"]))["row"][0].as_py())
