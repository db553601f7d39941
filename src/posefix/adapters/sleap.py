"""SLEAP: ``sleap_io.Labels``, and its analysis tables (columns ``frame_idx``, ``nose.x``, ``nose.y``, ``nose.score``).

Nodes are matched by name, NaN is missing. In labels the predicted instances are refined, the user's own stay. The
arrays of ``labels.numpy()`` are plain arrays (frames, tracks, nodes, 2 or 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, is_a, unchanged
from posefix.keypoints.skeleton import Skeleton


def recognise(output: Any) -> bool:
    """``Labels``, or a data frame with one instance per row."""
    if is_a(output, "pandas", "DataFrame"):
        return output.columns.nlevels == 1 and "frame_idx" in output.columns and bool(_nodes(output))
    return is_a(output, "sleap_io", "Labels")


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One array of instances per frame; images in the order of the frames, or by frame number."""
    return _from_table(output) if is_a(output, "pandas", "DataFrame") else _from_labels(output)


def _nodes(table: Any) -> list[str]:
    return [c[:-2] for c in map(str, table.columns) if c.endswith(".x") and f"{c[:-2]}.y" in table.columns]


def _from_table(table: Any) -> Extracted:
    nodes = _nodes(table)
    fields = [[f"{n}.x", f"{n}.y", f"{n}.score"] for n in nodes]
    before = np.ones((len(table), len(nodes), 3))
    for k, axis in np.ndindex(len(nodes), 3):
        if fields[k][axis] in table.columns:
            before[:, k, axis] = table[fields[k][axis]].to_numpy(np.float64, na_value=np.nan)
    before[..., 2] = np.nan_to_num(before[..., 2]) * np.isfinite(before[..., :2]).all(-1)
    # Two videos have frames of the same number.
    videos = table["video"].astype(str).tolist() if "video" in table.columns else [""] * len(table)
    frames: dict[Any, list[int]] = {}
    for row, frame in enumerate(zip(videos, table["frame_idx"].tolist(), strict=True)):
        frames.setdefault(frame, []).append(row)

    def rebuild(refined: list[Floats]) -> Any:
        new, after = table.copy(), before.copy()
        for rows, poses in zip(frames.values(), refined, strict=True):
            after[rows] = poses
        changed = ~unchanged(before, after)
        for k, axis in np.ndindex(len(nodes), 3):
            name = fields[k][axis]
            if changed[:, k, axis].any() and name in table.columns:
                own = table[name].to_numpy(np.float64, na_value=np.nan)
                column = np.where(changed[:, k, axis], after[:, k, axis], own)
                new[name] = column.astype(table[name].dtype) if table[name].dtype.kind == "f" else column
        return new

    return Extracted(
        [before[r] for r in frames.values()], rebuild, names=tuple(nodes), ids=[frame for _, frame in frames]
    )


def predicted(labels: Any) -> list[list[Any]]:
    """The predicted instances of each labelled frame."""
    return [[i for i in f.instances if is_a(i, "sleap_io", "PredictedInstance")] for f in labels.labeled_frames]


def _from_labels(labels: Any) -> Extracted:
    names = tuple(node.name for node in labels.skeletons[0].nodes) if labels.skeletons else None
    count = len(names or ())
    before = []
    for frame in predicted(labels):
        rows = [np.column_stack([i.points["xy"], i.points["score"] * i.points["visible"]]) for i in frame]
        poses = np.array(rows, np.float64).reshape(len(rows), count, 3)
        poses[..., 2] = np.nan_to_num(poses[..., 2]) * np.isfinite(poses[..., :2]).all(-1)
        before.append(poses)

    def rebuild(refined: list[Floats]) -> Any:
        new = labels.copy()
        for frame, old, after in zip(predicted(new), before, refined, strict=True):
            for instance, was, pose in zip(frame, old, after, strict=True):
                changed = ~unchanged(was, pose)
                moved = changed[:, :2].any(-1)
                instance.points["xy"][moved] = pose[moved, :2]
                instance.points["score"][changed[:, 2]] = pose[changed[:, 2], 2]
                instance.points["visible"][moved | changed[:, 2]] = True
        return new

    images = [lambda frame=frame: frame.image for frame in labels.labeled_frames]
    ids = [frame.frame_idx for frame in labels.labeled_frames]
    return Extracted(before, rebuild, names=names, images=images, ids=ids)
