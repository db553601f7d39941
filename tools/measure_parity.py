"""The differences from the reference that docs/parity.md lists, measured: radii, mirrors, boxes.

    python tools/measure_parity.py ../shared/data/coco

Needs COCO's annotations (train.json, val.json) and results of real estimators on val (results/*.json) in that folder,
and the golden numbers in tests/golden.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from posefix.evaluation.coco_ap import evaluate
from posefix.geometry import box_area, boxes_around_points, crop_rectangles
from posefix.io.coco import read_results
from posefix.keypoints.oks import AREA_PER_BOX, keypoint_similarity, keypoint_std, oks_nms, similarity_radius
from posefix.keypoints.skeleton import COCO, MPII, POSETRACK18
from posefix.pose_errors.synthesis import REFERENCE_RATES

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
CASES = ("full_alone", "full_near1", "ten_near1", "five_alone", "fifteen_near3")
INPUT_HW = (384, 288)


def measure_radii(coco: Path) -> None:
    """Radius by the box's area per radius by the person's."""
    people = json.loads((coco / "train.json").read_text())["annotations"]
    people = [p for p in people if not p.get("iscrowd") and p.get("num_keypoints", 0) > 0]
    factor = np.sqrt([p["bbox"][2] * p["bbox"][3] / p["area"] for p in people])
    low, high = np.percentile(factor, [5, 95])
    print(f"radii: {len(people)} people; box / segment: median {np.median(factor):.2f}, 5–95 % {low:.2f}–{high:.2f}")
    radius = similarity_radius(0.85, np.ones(1), COCO.sigmas)[0]
    real = [
        keypoint_similarity(np.array([[f * radius[0], 0.0]]), np.zeros((1, 2)), 1.0, COCO.sigmas[:1]) for f in factor
    ]
    print(f"  a keypoint that the reference calls 0.85 similar is {np.median(real):.2f} similar in the median")
    share = np.sqrt(1 / AREA_PER_BOX)
    print(f"  box / (0.53 · box), where no segment is labelled: {share:.2f}")


def measure_mirrors() -> None:
    """Distance of inversions from the clean mirror keypoint, left (drawn first) and right (drawn after)."""
    with np.load(GOLDEN / "reference_synthesis.npz") as archive:
        data = dict(archive)
    # Inversions far from all else: points nearer to the clean mirror than to anything else, within similarity 0.5.
    rows: dict[str, list[float]] = {"left_": [], "right_": []}
    for name in CASES[::3]:  # alone, so that there are no other instances
        joints, estimates, poses = data[f"{name}_joints"], data[f"{name}_est"], data[name] / 64.0
        ground_truth = joints[:, 2] > 0
        clean = np.where(ground_truth[:, None], joints, estimates)[:, :2]
        std = keypoint_std(float(data["area"]), COCO.sigmas)
        mirror = np.linalg.norm(poses - clean[COCO.flip_indices], axis=-1) / std
        own = np.linalg.norm(poses - clean, axis=-1) / std
        for side, found in rows.items():
            use = [k for k, n in enumerate(COCO.keypoints) if n.startswith(side) and ground_truth[COCO.flip_indices[k]]]
            found += mirror[:, use][
                (mirror < own)[:, use] & (mirror[:, use] < similarity_radius(0.5, 1.0, [0.5])[0])
            ].tolist()
    left, right = (np.array(rows[s]) for s in ("left_", "right_"))
    print(
        f"mirrors: inversions lie {left.mean():.2f} (left) and {right.mean():.2f} (right) similarity lengths from the "
        f"clean mirror; within 0.85: {(left < 0.57).mean():.0%} and {(right < 0.57).mean():.0%}"
    )


def measure_boxes(coco: Path) -> None:
    """Side of the crop with undetected keypoints at (0, 0) in the box, per its side without them."""
    for path in sorted((coco / "results").glob("*.json")):
        keypoints = read_results(path).keypoints(COCO)
        missing = keypoints[..., 2] < 0.1
        some = missing.any(-1) & ((~missing).sum(-1) >= 3)
        points = np.where(missing[..., None], 0.0, keypoints[..., :2])[some]
        sides = []
        for valid in (np.ones_like(missing[some]), ~missing[some]):
            rectangles = crop_rectangles(boxes_around_points(points, valid), INPUT_HW)
            sides.append(rectangles[:, 2] - rectangles[:, 0])
        factor = sides[0] / sides[1]
        low, high = np.percentile(factor, [5, 95])
        print(
            f"boxes: {path.stem}, scores below 0.1 as (0, 0): {some.mean():.0%} of people, crop side × "
            f"{np.median(factor):.1f} in the median, 5–95 % {low:.1f}–{high:.1f}"
        )


def measure_nms(coco: Path) -> None:
    """People whom the reference's OKS-NMS at 0.9 would drop from results, and what that does to their AP."""
    for path in sorted((coco / "results").glob("*.json")):
        results = read_results(path)
        keypoints, ids = results.keypoints(COCO), np.array([e["image_id"] for e in results.entries])
        scores = np.array([e["score"] for e in results.entries])
        area = box_area(crop_rectangles(boxes_around_points(keypoints[..., :2], keypoints[..., 2] > 0), INPUT_HW))
        kept: list[int] = []
        for image_id in np.unique(ids):
            rows = np.flatnonzero(ids == image_id)
            kept += rows[oks_nms(keypoints[rows, :, :2], scores[rows], area[rows], COCO.sigmas)].tolist()
        ap = [
            evaluate(coco / "val.json", entries).ap for entries in (results.entries, [results.entries[i] for i in kept])
        ]
        print(f"nms: {path.stem}, {len(ids) - len(kept)} of {len(ids)} people dropped, AP {ap[0]:.4f} → {ap[1]:.4f}")


def count_rates() -> None:
    """Keypoints that get another part's rates when COCO's index decides."""
    for skeleton in (MPII, POSETRACK18):
        other = sum(
            REFERENCE_RATES.get(own) != REFERENCE_RATES[coco]
            for own, coco in zip(skeleton.parts, COCO.parts, strict=False)
        )
        print(f"rates: {other} of {len(skeleton)} keypoints of {skeleton.name} would get another part's")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/coco")
    measure_radii(folder)
    measure_mirrors()
    measure_boxes(folder)
    measure_nms(folder)
    count_rates()
