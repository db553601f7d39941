"""Check and complete the labels of LSP extended with two estimators' views.

    python tools/prepare_lspet.py ANNOTATIONS.json TINYPOSE.json MOVENET.json OUT.json

The labels are crowd-sourced: left and right are exchanged on some images, some points are far off, the face is
never labelled. Both views are independent networks that never saw these labels. For each person:

- arms (shoulders, elbows, wrists) and legs (hips, knees, ankles) are exchanged left to right where both views
  say so: each view's mean keypoint similarity is higher after the exchange, by 0.3 on average;
- a body label is dropped (v = 0) where both views agree with each other (similarity > 0.6) and not with it (< 0.05);
- a face keypoint becomes a label (v = 2, the mean of both views) where both views agree (similarity > 0.5) and
  TinyPose's score is above 0.4.

Prints how many of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import COCO

ARMS, LEGS, FACE = np.arange(5, 11), np.arange(11, 17), np.arange(5)


def main(annotations: str, tinypose: str, movenet: str, out: str) -> None:
    """Write the repaired annotations."""
    data = json.loads(Path(annotations).read_text())
    people = data["annotations"]
    labels = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
    area = np.array([a["area"] for a in people])
    first = np.array([e["keypoints"] for e in json.loads(Path(tinypose).read_text())], float).reshape(-1, 17, 3)
    entries = {e["annotation_id"]: e["keypoints"] for e in json.loads(Path(movenet).read_text())}
    second = np.array([entries.get(a["id"], [np.nan] * 51) for a in people], float).reshape(-1, 17, 3)

    exchanged = {}
    for name, group in (("arms", ARMS), ("legs", LEGS)):
        flipped = labels[:, COCO.flip_indices]
        gains = []
        for view in (first, second):
            as_is, mirrored = (similarity(view, which, area, group) for which in (labels, flipped))
            gains.append(mirrored - as_is)
        swap = (np.minimum(*gains) > 0) & (np.mean(gains, axis=0) > 0.3)
        rows = np.flatnonzero(swap)
        labels[np.ix_(rows, group)] = flipped[np.ix_(rows, group)]
        exchanged[name] = len(rows)

    agree = keypoint_similarity(first[..., :2], second[..., :2], area, COCO.sigmas)
    near = np.maximum(*(keypoint_similarity(v[..., :2], labels[..., :2], area, COCO.sigmas) for v in (first, second)))
    bad = (labels[..., 2] > 0) & (agree > 0.6) & (near < 0.05)
    total = int((labels[..., 2] > 0).sum())
    labels[bad] = 0.0

    face = np.zeros_like(bad)
    face[:, FACE] = (agree > 0.5)[:, FACE] & (first[:, FACE, 2] > 0.4)
    labels[face] = np.concatenate([(first + second)[face][:, :2] / 2, np.full((face.sum(), 1), 2.0)], axis=1)

    for person, label in zip(people, labels, strict=True):
        person["keypoints"] = [round(float(v), 2) for v in label.reshape(-1)]
        person["num_keypoints"] = int((label[:, 2] > 0).sum())
    Path(out).write_text(json.dumps(data))
    print(f"{len(people)} people: arms exchanged on {exchanged['arms']}, legs on {exchanged['legs']}")
    print(f"body labels dropped: {bad.sum()} of {total}; face labels added: {face.sum()} of {5 * len(people)}")


def similarity(view: np.ndarray, labels: np.ndarray, area: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(N,) mean keypoint similarity of a group's labelled keypoints; 0 where none is labelled."""
    ks = keypoint_similarity(view[..., :2], labels[..., :2], area, COCO.sigmas)[:, group]
    mask = labels[:, group, 2] > 0
    return np.asarray((ks * mask).sum(-1) / np.maximum(mask.sum(-1), 1))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
