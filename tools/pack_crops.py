"""Cut the people of a COCO-format file out of their images: what tools/distil.py and tools/student.py read.

    python tools/pack_crops.py ANNOTATIONS.json IMAGES_DIR OUT.npz [--labels] [--all] [--limit N]

Boxes are enough; ``--labels`` takes only people with labelled keypoints, and keeps the labels. OUT holds, for each
person, a WebP image of the student's crop and ``MARGIN`` pixels more on every side, for augmentation; the labels in
pixels of the student's crop and its area there; the person's id, and the map from the image to the crop.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from posefix.geometry import boxes_xywh_to_xyxy, crop_affine, crop_rectangles, transform_points, warp_crop
from posefix.io.atomic import write_file
from posefix.keypoints.oks import AREA_PER_BOX

#: The student's crop, (h, w).
INPUT_HW = (320, 224)
#: Pixels around it that are kept.
MARGIN = 40
#: What is kept, (h, w).
KEPT_HW = (INPUT_HW[0] + 2 * MARGIN, INPUT_HW[1] + 2 * MARGIN)


def choose(people: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The people to keep, by image."""
    least, narrow = (0, 1) if options.all else (options.least, options.narrow)
    chosen = [
        p
        for p in people
        if not p.get("iscrowd")
        and max(p["bbox"][2:]) >= least
        and min(p["bbox"][2:]) >= narrow
        and (not options.labels or any(v > 0 for v in p.get("keypoints", ())[2::3]))
    ]
    if 0 < options.limit < len(chosen):
        rows = np.sort(np.random.default_rng(options.seed).permutation(len(chosen))[: options.limit])
        chosen = [chosen[i] for i in rows]
    return sorted(chosen, key=lambda p: (str(type(p["image_id"])), p["image_id"]))


def pack(people: list[dict[str, Any]], files: dict[Any, Path], *, labels: bool, quality: int) -> dict[str, Any]:
    """The arrays of OUT; people whose image cannot be read are left out."""
    blobs, rows, last, image = [], [], None, None
    for person in people:
        if person["image_id"] != last:
            last = person["image_id"]
            image = cv2.imread(str(files[last]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            continue
        box = boxes_xywh_to_xyxy(np.array(person["bbox"], float)[None])
        affine = crop_affine(crop_rectangles(box, INPUT_HW), INPUT_HW)
        keypoints = np.array(person["keypoints"] if labels else [0] * 51, float).reshape(17, 3)
        points = transform_points(affine, keypoints[None, :, :2])[0]
        area = person.get("area", AREA_PER_BOX * person["bbox"][2] * person["bbox"][3]) * affine[0, 0, 0] ** 2
        rows.append((np.concatenate([points, keypoints[:, 2:]], 1), area, person.get("id") or 0, affine[0]))
        kept = affine[0] + [[0, 0, MARGIN], [0, 0, MARGIN]]
        crop = warp_crop(np.asarray(image, np.uint8), kept, KEPT_HW, antialias=True)
        blobs.append(cv2.imencode(".webp", crop, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].ravel())
    if not blobs:
        raise SystemExit("no person to pack")
    points, areas, ids, affines = zip(*rows, strict=True)
    return {
        "blob": np.concatenate(blobs),
        "ends": np.cumsum([0, *map(len, blobs)]),
        "labels": np.array(points, np.float32),
        "areas": np.array(areas, np.float32),
        "ids": np.array(ids, np.int64),
        "mats": np.array(affines),
    }


def main() -> None:
    """Choose, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", action="store_true", help="only people with labelled keypoints, with the labels")
    parser.add_argument("--all", action="store_true", help="also small people")
    parser.add_argument("--least", type=float, default=60, help="longer side of a person's box, pixels")
    parser.add_argument("--narrow", type=float, default=24, help="shorter side of a person's box, pixels")
    parser.add_argument("--limit", type=int, default=0, help="people at most, drawn at random; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--quality", type=int, default=72, help="of the WebP images")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    data = json.loads(options.annotations.read_text())
    files = {i["id"]: options.images / i["file_name"] for i in data["images"]}
    people = choose(data["annotations"], options)
    arrays = pack(people, files, labels=options.labels, quality=options.quality)
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_file(options.out, content.getvalue())
    print(f"{len(arrays['ids'])} of {len(people)} people, {len(arrays['blob']) / 1e6:.1f} MB → {options.out}")


if __name__ == "__main__":
    main()
