"""Run MediaPipe's BlazePose on people that another estimator found: one that took no part in training.

    python -m venv blaze && blaze/bin/pip install mediapipe==0.10.14      # the last versions that bring the model along
    blaze/bin/python tools/estimate_blazepose.py ANNOTATIONS.json IMAGES_DIR RESULTS.json OUT.json
    python benchmarks/accuracy.py ../shared/data/coco --only main --print --results OUT.json

One square crop around each of RESULTS' people, pose_landmark_full; people without landmarks are left out. Writes COCO
results: the 17 of 33 landmarks that COCO has too, visibility as their score; mean visibility times RESULTS' score for
the person.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import cv2
import mediapipe
import numpy as np

#: COCO's keypoints among BlazePose's.
COCO_OF_33 = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
#: Pixels of a crop, and its size over the pose's.
SIDE, MARGIN = 384, 1.55


def main(annotations: str, images: str, results: str, out: str) -> None:
    """Estimate every person of the results."""
    names = {i["id"]: i["file_name"] for i in json.loads(Path(annotations).read_text())["images"]}
    estimator = mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1, min_detection_confidence=0.1)

    @cache
    def image(image_id: int) -> np.ndarray:
        mode = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imread(str(Path(images) / names[image_id]), mode)[..., ::-1]

    entries = []
    for person in json.loads(Path(results).read_text()):
        points = np.array(person["keypoints"], float).reshape(-1, 3)[:, :2]
        low, high = points.min(0), points.max(0)
        scale = SIDE / max(MARGIN * (high - low).max(), 16)
        shift = SIDE / 2 - scale * (low + high) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        crop = cv2.warpAffine(image(person["image_id"]), matrix, (SIDE, SIDE))
        found = estimator.process(np.ascontiguousarray(crop)).pose_landmarks
        if found is None:
            continue
        landmarks = np.array([(m.x * SIDE, m.y * SIDE, m.visibility) for m in found.landmark])[COCO_OF_33]
        landmarks[:, :2] = (landmarks[:, :2] - shift) / scale
        entries.append(
            {
                "image_id": person["image_id"],
                "category_id": 1,
                "keypoints": landmarks.round(4).reshape(-1).tolist(),
                "score": float(person["score"] * landmarks[:, 2].mean()),
            }
        )
    Path(out).write_text(json.dumps(entries))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
