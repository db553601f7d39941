"""The figures of a report as plain data: what all people of the file have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.drawing.ranking import pose_of
from posefix.geometry import Doubles
from posefix.html_report.people import Source
from posefix.keypoints.poses import present
from posefix.pose_errors.diagnosis import KINDS
from posefix.pose_errors.synthesis import PoseError

#: Bounds of the histogram of distances, in % of the person's size.
_DISTANCES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)


def figures_of(source: Source) -> dict[str, Any]:
    """Tiles and charts over all people of the file, not only those that are shown."""
    data: dict[str, Any] = {"people": len(source.before), "moves": _moves(source), "kinds": None}
    report = source.diagnosis
    if report is None:
        return data
    both = [d for d in (report.before, report.after) if d is not None]
    losses = [loss for loss in (report.losses, report.losses_after) if loss is not None]
    data["kinds"] = {
        "matched": len(report.before),
        "labelled": report.before.people_count,
        "all": [d.counts.sum(0).tolist() for d in both],
        "parts": {part: [d.part_counts()[part].tolist() for d in both] for part in report.before.part_counts()},
        "ap": [_finite(loss.ap) for loss in losses],
        "lost": {
            kind.name.lower(): [_finite(loss.lost[kind]) for loss in losses]
            for kind in KINDS
            if kind is not PoseError.GOOD
        },
    }
    comparison = report.comparison
    if comparison is not None:
        rose, fell = comparison.moved()
        total = max(int(report.before.counts.sum()), 1)
        data["kinds"]["better"], data["kinds"]["worse"] = int(rose.sum()) / total, int(fell.sum()) / total
    return data


def _moves(source: Source) -> dict[str, Any] | None:
    """How far keypoints moved and how many were filled; None without refined poses."""
    if source.after is None:
        return None
    pairs = zip(source.before, source.after, strict=True)
    poses = [(pose_of(old, source.skeleton), pose_of(new, source.skeleton)) for old, new in pairs]
    found = [(old, new) for old, new in poses if old is not None and new is not None]
    keypoints = len(source.skeleton)
    old = np.array([pair[0] for pair in found], np.float64).reshape(-1, keypoints, 3)
    new = np.array([pair[1] for pair in found], np.float64).reshape(-1, keypoints, 3)
    both, filled = present(old) & present(new), ~present(old) & present(new)
    distance = np.linalg.norm(np.where(both[..., None], new[..., :2] - old[..., :2], 0.0), axis=-1)
    share = 100 * distance / _sizes(new)[:, None]
    changed = both & (distance > 0)
    edges = np.array(_DISTANCES)
    place = np.digitize(share, edges, right=True)  # 0: did not move
    histogram = [int((both & (place == bin_)).sum()) for bin_ in range(len(edges) + 1)]
    named = zip(source.skeleton.keypoints, both.sum(0), changed.sum(0), filled.sum(0), strict=True)
    return {
        "keypoints": int(both.sum()),
        "moved": int(changed.sum()),
        "filled": int(filled.sum()),
        "median": round(float(np.median(distance[changed])), 1) if changed.any() else 0.0,
        "bounds": list(_DISTANCES),
        "histogram": histogram,
        "by_keypoint": [[name, int(total), int(moves), int(fills)] for name, total, moves, fills in named],
        "confidence": np.histogram(np.clip(new[present(new), 2], 0, 1), bins=10, range=(0, 1))[0].tolist(),
    }


def _sizes(poses: Doubles) -> Doubles:
    """(N,) px, the longer side of the extent of the keypoints that are there, at least 20."""
    valid = present(poses)[..., None]
    low = np.where(valid, poses[..., :2], np.inf).min(1, initial=np.inf)
    high = np.where(valid, poses[..., :2], -np.inf).max(1, initial=-np.inf)
    extent = np.where(valid.any(1), high - low, 0.0).max(-1, initial=0.0)
    return np.asarray(np.maximum(extent, 20.0))


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
