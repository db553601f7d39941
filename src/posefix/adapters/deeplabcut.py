"""DeepLabCut tables: a pandas frame with columns (scorer, [individuals,] bodyparts, coords), one row per image.

Body parts are matched by name (``nose``, ``left_eye``, ``LeftEye``, …); others stay as they are. NaN is missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_a, unchanged
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """A data frame with the column levels ``bodyparts`` and ``coords``."""
    return is_a(output, "pandas", "DataFrame") and {"bodyparts", "coords"} <= set(output.columns.names)


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One array of individuals per row; images by position, or by the table's index."""
    names, places = _places(output.columns)
    table = output.to_numpy(np.float64, na_value=np.nan)
    cells = np.where(places >= 0, table[:, places], np.nan)  # (rows, N, K, 3)
    scored = places[..., 2] >= 0
    there = np.isfinite(cells[..., :2]).all(-1)
    cells[..., 2] = np.where(scored, np.nan_to_num(cells[..., 2]), 1.0) * there

    def rebuild(refined: list[Floats]) -> Any:
        new = output.copy()
        after = np.stack(refined) if refined else cells
        same = unchanged(cells, after)
        for person, part, axis in zip(*np.nonzero(places >= 0), strict=True):
            place = places[person, part, axis]
            changed = ~same[:, person, part, axis]
            if changed.any():
                column = np.where(changed, after[:, person, part, axis], table[:, place])
                # Columns of whole numbers, as of tables without scores, take the new ones as they are.
                kind = output.dtypes.iloc[place]
                new.isetitem(place, column.astype(kind) if kind.kind == "f" else column)
        return new

    return Extracted(list(cells), rebuild, names=names, ids=list(output.index))


def _places(columns: Any) -> tuple[tuple[str, ...], Any]:
    """Names of the body parts, and (N, K, 3) positions of the columns x, y and likelihood, −1 where there is none."""
    levels = list(columns.names)
    part, coord = levels.index("bodyparts"), levels.index("coords")
    who = levels.index("individuals") if "individuals" in levels else None
    names = list(dict.fromkeys(str(c[part]) for c in columns))
    people = list(dict.fromkeys(c[who] if who is not None else 0 for c in columns))
    places = np.full((len(people), len(names), 3), -1)
    axes = {"x": 0, "y": 1, "likelihood": 2}
    for place, column in enumerate(columns):
        if column[coord] in axes:
            person = people.index(column[who]) if who is not None else 0
            places[person, names.index(str(column[part])), axes[column[coord]]] = place
    return tuple(names), places
