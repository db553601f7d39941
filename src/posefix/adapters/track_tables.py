"""Tables of tracks, one row per frame: DeepLabCut (csv, h5), SLEAP (slp, analysis h5), TRC of Sports2D and Pose2Sim.

Each reader gives ``Tracked`` whose ``rebuild`` makes a function that writes the refined file. Missing is NaN or empty.
No pickle is read: the labels that pandas pickles into DeepLabCut's h5 are taken apart as plain text.
"""

from __future__ import annotations

import csv
import io
import os
import pickletools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.adapters import sleap
from posefix.adapters.base import Doubles, Floats
from posefix.adapters.tracked import Tracked
from posefix.exceptions import FileFormatError, MissingDependencyError
from posefix.io.atomic import new_file, write_file
from posefix.io.json import PathLike
from posefix.keypoints.layouts import columns
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton

Writer = Callable[[PathLike], None]

_AXES = ("x", "y", "likelihood")


def open_h5(path: Path, mode: str = "r") -> Any:
    """An HDF5 file.

    Raises:
        MissingDependencyError: h5py is not installed.
        FileFormatError: no HDF5 file.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("HDF5 files need h5py: pip install posefix[tracks]") from error
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise FileFormatError(f"{path}: no HDF5 file ({error})") from error


def replace_file(target: PathLike, fill: Callable[[Path], None]) -> None:
    """Write a file whole or not at all: ``fill`` writes a temporary file, which then replaces it."""
    with new_file(target, keep_suffix=True) as part:
        fill(part)


def _tracked(cells: Doubles, names: Sequence[str], ids: list[Any], skeleton: Skeleton, write: Any) -> Tracked:
    """``cells`` (T, N, J, 3) of a file's own J keypoints; ``write`` takes refined ones and a path."""
    index = columns(tuple(names), len(names), skeleton)
    there = np.isfinite(cells[..., :2]).all(-1)
    own = cells.copy()
    own[..., 2] = np.where(there, np.nan_to_num(own[..., 2], nan=1.0), 0.0)
    tracks = np.where((index >= 0)[:, None], own[:, :, index], 0.0)
    tracks = np.where(present(tracks)[..., None], tracks, [np.nan, np.nan, 0.0])

    def rebuild(refined: Floats) -> Writer:
        after = cells.copy()
        new, kept = refined[:, :, index >= 0], own[:, :, index[index >= 0]]
        changed = (new != kept) & np.isfinite(new) & present(new)[..., None]
        after[:, :, index[index >= 0]] = np.where(changed, new, cells[:, :, index[index >= 0]])
        return lambda target: write(after, target)

    return Tracked(tracks, ids, rebuild)


def _dlc_layout(labels: Sequence[Sequence[Any]], path: Path) -> tuple[list[str], list[Any], npt.NDArray[np.int64]]:
    """Body parts, individuals and (N, J, 3) columns of x, y, likelihood (−1: none) from (scorer, …, coord) labels."""
    parts = list(dict.fromkeys(str(label[-2]) for label in labels))
    people = list(dict.fromkeys(label[-3] if len(label) == 4 else "individual" for label in labels))
    places = np.full((len(people), len(parts), 3), -1)
    for place, label in enumerate(labels):
        if label[-1] in _AXES:
            person = people.index(label[-3] if len(label) == 4 else "individual")
            places[person, parts.index(str(label[-2])), _AXES.index(label[-1])] = place
    if not (places[..., :2] >= 0).any():
        raise FileFormatError(f"{path}: expected DeepLabCut's columns x, y and likelihood of body parts, got none")
    return parts, people, places


def _dlc(table: Doubles, labels: Sequence[Sequence[Any]], path: Path, skeleton: Skeleton, write: Any) -> Tracked:
    parts, people, places = _dlc_layout(labels, path)
    cells = np.where(places >= 0, table[:, places], np.nan)

    def write_cells(after: Doubles, target: PathLike) -> None:
        new = table.copy()
        new[:, places[places >= 0]] = after[:, places >= 0]
        write(new, target)

    return _tracked(cells, parts, people, skeleton, write_cells)


def read_dlc_csv(path: Path, skeleton: Skeleton) -> Tracked:
    """DeepLabCut's csv: header rows scorer, [individuals,] bodyparts, coords; then a row per frame."""
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    heads = [i for i, row in enumerate(rows[:6]) if row and row[0] in ("scorer", "individuals", "bodyparts", "coords")]
    if not {"bodyparts", "coords"} <= {rows[i][0] for i in heads}:
        raise FileFormatError(f"{path}: expected DeepLabCut's header (scorer, bodyparts, coords), got {rows[:1]}")
    body, top = rows[len(heads) :], [rows[i] for i in heads]
    # The first columns are the frame's number, or the parts of its image's path.
    first = next(i for i, cell in enumerate(top[-1]) if cell in _AXES)
    labels = list(zip(*(row[first:] for row in top), strict=True))
    try:
        table = np.array([[float(c) if c.strip() else np.nan for c in row[first:]] for row in body], np.float64)
    except ValueError as error:
        raise FileFormatError(f"{path}: a cell is no number ({error})") from error
    table = table.reshape(len(body), len(labels))

    def write(new: Doubles, target: PathLike) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(rows[: len(heads)])
        for row, old, after in zip(body, table, new, strict=True):
            same = (old == after) | (np.isnan(old) & np.isnan(after))
            cells = [c if s else repr(float(v)) for c, s, v in zip(row[first:], same, after, strict=True)]
            writer.writerow([*row[:first], *cells])
        write_file(target, text.getvalue())

    return _dlc(table, labels, path, skeleton, write)


def read_dlc_h5(path: Path, skeleton: Skeleton) -> Tracked:
    """DeepLabCut's h5, pandas' table format: rows (index, numbers) and the columns' labels as attributes."""
    with open_h5(path) as file:
        tables = [group for group in file.values() if "table" in group and "non_index_axes" in group.attrs]
        if len(tables) != 1 or "values_block_0" not in (tables[0]["table"].dtype.names or ()):
            raise FileFormatError(f"{path}: expected DeepLabCut's table (df_with_missing), got {', '.join(file)}")
        name, dataset = tables[0].name, tables[0]["table"]
        axes = plain_pickle(bytes(tables[0].attrs["non_index_axes"]), path)
        labels = axes[0][1]
        table = np.array(dataset["values_block_0"], np.float64)
    if table.ndim != 2 or table.shape[1] != len(labels):
        raise FileFormatError(f"{path}: expected {len(labels)} numbers a row, got {table.shape[1:]}")

    def write(new: Doubles, target: PathLike) -> None:
        def fill(part: Path) -> None:
            shutil.copyfile(path, part)
            with open_h5(part, "r+") as file:
                records = file[f"{name}/table"][:]
                records["values_block_0"] = new
                file[f"{name}/table"][:] = records

        replace_file(target, fill)

    return _dlc(table, labels, path, skeleton, write)


def plain_pickle(data: bytes, path: Path) -> Any:
    """Lists, tuples, numbers and text out of a pickle, without running it: anything else in it is refused.

    Raises:
        FileFormatError: it holds something else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack[-1]
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("EMPTY_LIST", "EMPTY_TUPLE"):
                stack.append([] if name == "EMPTY_LIST" else ())
            elif name in ("LIST", "TUPLE"):
                stack.append(since_mark() if name == "LIST" else tuple(since_mark()))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            elif name in ("APPEND", "APPENDS"):
                items = [stack.pop()] if name == "APPEND" else since_mark()
                stack[-1].extend(items)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[int(str(argument))])
            elif name == "NONE":
                stack.append(None)
            elif isinstance(argument, (str, int, float)) and ("UNICODE" in name or "INT" in name or "LONG" in name):
                stack.append(argument)
            else:
                raise FileFormatError(f"{path}: the columns' labels hold more than text ({name}); nothing is executed")
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path}: the columns' labels cannot be read ({error})") from error
    raise FileFormatError(f"{path}: the columns' labels end early")


def read_analysis_h5(path: Path, skeleton: Skeleton) -> Tracked:
    """SLEAP's analysis file: ``tracks`` (N, 2, nodes, T), ``point_scores`` (N, nodes, T), names of nodes and tracks."""
    with open_h5(path) as file:
        missing = [n for n in ("tracks", "node_names") if n not in file]
        if missing:
            raise FileFormatError(f"{path}: expected SLEAP's analysis file, got none of {', '.join(missing)}")
        points = np.array(file["tracks"], np.float64)
        scores = np.array(file["point_scores"], np.float64) if "point_scores" in file else None
        nodes = [n.decode() if isinstance(n, bytes) else str(n) for n in file["node_names"][:]]
        own = (
            [n.decode() if isinstance(n, bytes) else str(n) for n in file["track_names"][:]]
            if "track_names" in file
            else []
        )
    if points.ndim != 4 or points.shape[1] != 2 or points.shape[2] != len(nodes):
        raise FileFormatError(f"{path}: expected tracks (N, 2, {len(nodes)}, T), got {points.shape}")
    cells = np.full((points.shape[3], points.shape[0], len(nodes), 3), np.nan)
    cells[..., :2] = points.transpose(3, 0, 2, 1)
    if scores is not None and scores.shape == (points.shape[0], len(nodes), points.shape[3]):
        cells[..., 2] = scores.transpose(2, 0, 1)
    else:
        scores = None
    ids = own if len(own) == points.shape[0] else list(range(points.shape[0]))

    def write(after: Doubles, target: PathLike) -> None:
        def fill(part: Path) -> None:
            shutil.copyfile(path, part)
            with open_h5(part, "r+") as file:
                file["tracks"][...] = after[..., :2].transpose(1, 3, 2, 0)
                if scores is not None:
                    file["point_scores"][...] = after[..., 2].transpose(1, 2, 0)

        replace_file(target, fill)

    return _tracked(cells, nodes, ids, skeleton, write)


def read_slp(path: Path, skeleton: Skeleton) -> Tracked:
    """SLEAP's project or predictions: predicted instances, with their tracks, of every labelled frame."""
    try:
        import sleap_io
    except ImportError as error:
        raise MissingDependencyError("SLEAP's files need sleap-io: pip install posefix[tracks]") from error
    labels = sleap_io.load_slp(os.fspath(path), open_videos=False)
    found = sleap.extract(labels, None, skeleton)
    frames = [frame.frame_idx for frame in labels.labeled_frames]
    people = sleap.predicted(labels)
    order: dict[Any, int] = {}
    place = [
        (t, order.setdefault(i.track.name if i.track is not None else f"instance {n}", len(order)), f, n)
        for f, (t, instances) in enumerate(zip(frames, people, strict=True))
        for n, i in enumerate(instances)
    ]
    nodes = found.names or ()
    cells = np.full((max(frames, default=-1) + 1, len(order), len(nodes), 3), np.nan)
    for t, column, f, n in place:
        cells[t, column] = found.keypoints[f][n]

    def write(after: Doubles, target: PathLike) -> None:
        new = [k.copy() for k in found.keypoints]
        for t, column, f, n in place:
            new[f][n] = after[t, column]
        refined = found.rebuild(list(new))
        replace_file(target, lambda part: sleap_io.save_slp(refined, os.fspath(part)))

    return _tracked(cells, nodes, list(order), skeleton, write)


def read_trc(path: Path, skeleton: Skeleton) -> Tracked:
    """TRC in pixels, as Sports2D writes it for one person: x and y (and z, which stays) of each marker."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    head = next((i for i, line in enumerate(lines[:6]) if line.startswith("Frame#")), None)
    if head is None or len(lines) < head + 2:
        raise FileFormatError(f"{path}: expected a TRC header with the line Frame#, Time, markers")
    unit = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=False)).get("Units", "px")
    if unit.lower() in ("m", "mm", "cm"):
        raise FileFormatError(f"{path}: coordinates are in {unit}, expected pixels (Sports2D writes both)")
    names = [name for name in lines[head].split("\t")[2:] if name.strip()]
    start = next((i for i in range(head + 2, len(lines)) if lines[i].strip()), len(lines))
    body = [line.split("\t") for line in lines[start:] if line.strip()]
    width = 3 * len(names)
    try:
        table = np.array(
            [[float(c) if c.strip() else np.nan for c in (row + [""] * width)[2 : 2 + width]] for row in body]
        ).reshape(len(body), len(names), 3)
    except ValueError as error:
        raise FileFormatError(f"{path}: a cell is no number ({error})") from error
    table[(table[..., :2] == 0).all(-1)] = np.nan
    first = int(float(body[0][0])) if body else 0
    numbers = [int(float(row[0])) - min(first, 1) for row in body]
    cells = np.full((max(numbers, default=-1) + 1, 1, len(names), 3), np.nan)
    cells[numbers, 0, :, :2] = table[..., :2]

    def write(after: Doubles, target: PathLike) -> None:
        new = list(lines[:start])
        for row, t, old in zip(body, numbers, table, strict=True):
            cells_of_row = list(row) + [""] * (2 + 3 * len(names) - len(row))
            for k in np.flatnonzero((after[t, 0, :, :2] != old[:, :2]).any(-1) & np.isfinite(after[t, 0, :, 0])):
                cells_of_row[2 + 3 * k : 4 + 3 * k] = [f"{v:.6f}" for v in after[t, 0, k, :2]]
            new.append("\t".join(cells_of_row))
        write_file(target, "\n".join(new) + "\n")

    return _tracked(cells, names, [path.stem], skeleton, write)
