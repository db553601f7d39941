"""A teacher's heatmaps for every labelled box: training targets that need no labels.

    python tools/teach.py ANNOTATIONS.json IMAGES_DIR TEACHER_DIR OUT.safetensors [--least 0.15] [--limit N]
    python tools/teach.py - IMAGES_DIR TEACHER_DIR OUT.safetensors --least 0.3

ANNOTATIONS is COCO's format; of the people only the boxes are used. With "-" every image of the folder and of those
below it is shown to the teacher whole, and the person whom it finds there, if any, gets a box around the keypoints.
TEACHER_DIR holds PP-TinyPose 256×192 as OpenVINO IR (model.xml, model.bin). OUT holds, for each person whose heatmaps
are on average at least ``--least`` high, a JPEG of the crop with a margin for augmentation, and the heatmaps as
compressed bytes. tools/distil.py trains on such files.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tqdm import tqdm

from posefix.geometry import (
    boxes_around_points,
    boxes_xywh_to_xyxy,
    crop_affine,
    crop_rectangles,
    invert_affine,
    transform_points,
    warp_crop,
)

#: Input of the teacher, (h, w).
INPUT_HW = (256, 192)
#: Size of its heatmaps, (h, w).
MAP_HW = (64, 48)
#: Pixels around the teacher's crop that are kept.
MARGIN = 40
#: Crop pixels per heatmap pixel (x, y), the first on the first: the teacher's own frame.
CROP_PER_HEATMAP = (191 / 47, 255 / 63)

_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_BATCH = 16
#: A keypoint is seen in a whole image where its heatmap is higher than this; a person has at least so many.
_SEEN, _ENOUGH = 0.3, 5

Maps = npt.NDArray[np.float32]


class Teacher:
    """PP-TinyPose on one thread."""

    def __init__(self, folder: Path) -> None:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(folder / "model.xml")
        model.reshape({"image": [_BATCH, 3, *INPUT_HW]})
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        self._model = core.compile_model(model, "CPU", settings)
        self._output = next(o for o in self._model.outputs if len(o.get_partial_shape()) == 4)

    def heatmaps(self, crops: npt.NDArray[np.uint8]) -> Maps:
        """(B, 256, 192, 3) RGB, B ≤ 16 → (B, K, 64, 48)."""
        images = ((crops.astype(np.float32) / 255 - _MEAN) / _STD).transpose(0, 3, 1, 2)
        padded = np.zeros((_BATCH, *images.shape[1:]), np.float32)
        padded[: len(images)] = images
        return np.array(self._model(padded)[self._output][: len(images)])


def cut(image: npt.NDArray[np.uint8], box_xyxy: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """(336, 272, 3): the teacher's crop and ``MARGIN`` pixels more on every side."""
    affine = crop_affine(crop_rectangles(box_xyxy[None], INPUT_HW), INPUT_HW)[0]
    affine[:, 2] += MARGIN
    return warp_crop(image, affine, (INPUT_HW[0] + 2 * MARGIN, INPUT_HW[1] + 2 * MARGIN), antialias=True)


def pack(blobs: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All bytes one after another, and where each begins (one more at the end)."""
    ends = np.cumsum([0, *(len(b) for b in blobs)]).astype(np.int64)
    return np.frombuffer(b"".join(blobs), np.uint8), ends


def read_people(path: Path, images: Path) -> list[tuple[Path, npt.NDArray[np.float64]]]:
    """(image, box xyxy) of every person that is no crowd, in file order."""
    data = json.loads(path.read_text())
    names = {i["id"]: i["file_name"] for i in data["images"]}
    boxes = [(images / names[a["image_id"]], a["bbox"]) for a in data["annotations"] if not a.get("iscrowd")]
    return [(p, boxes_xywh_to_xyxy(np.array(b, np.float64))) for p, b in boxes]


def find_people(folder: Path, teacher: Teacher, limit: int) -> list[tuple[Path, npt.NDArray[np.float64]]]:
    """(image, box xyxy) of the person whom the teacher finds in each image of a folder, ``limit`` images at most."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if 0 < limit < len(paths):
        paths = [paths[i] for i in np.sort(np.random.default_rng(0).permutation(len(paths))[:limit])]
    found = []
    for start in tqdm(range(0, len(paths), _BATCH), mininterval=20):
        images = [(p, cv2.imread(str(p), cv2.IMREAD_COLOR)) for p in paths[start : start + _BATCH]]
        images = [(p, np.ascontiguousarray(i[..., ::-1])) for p, i in images if i is not None]
        if not images:
            continue
        boxes = np.array([[0, 0, i.shape[1] - 1, i.shape[0] - 1] for _, i in images], np.float64)
        # The whole image is the crop: no margin but what the aspect ratio asks.
        affine = crop_affine(crop_rectangles(boxes, INPUT_HW, 1.0), INPUT_HW)
        crops = [warp_crop(i, a, INPUT_HW, antialias=True) for (_, i), a in zip(images, affine, strict=True)]
        heat = teacher.heatmaps(np.stack(crops))
        seen = heat.max((-1, -2)) > _SEEN
        rows, columns = np.divmod(heat.reshape(*heat.shape[:2], -1).argmax(-1), MAP_HW[1])
        points = transform_points(invert_affine(affine), np.stack([columns, rows], -1) * CROP_PER_HEATMAP)
        around = boxes_around_points(points, seen)
        found += [(p, b) for (p, _), b, s in zip(images, around, seen, strict=True) if s.sum() >= _ENOUGH]
    return found


def main() -> None:
    """Cut, ask the teacher, keep who is seen, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--least", type=float, default=0.15, help="mean height of a person's heatmaps")
    parser.add_argument("--smallest", type=float, default=32, help="shorter side of a person's box, pixels")
    parser.add_argument("--limit", type=int, default=0, help="people at most, drawn at random; 0 is all")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    teacher = Teacher(options.teacher)
    if str(options.annotations) == "-":
        people = find_people(options.images, teacher, options.limit)
    else:
        people = read_people(options.annotations, options.images)
    people = [p for p in people if (p[1][2:] - p[1][:2]).min() >= options.smallest]
    if 0 < options.limit < len(people):
        chosen = np.random.default_rng(0).permutation(len(people))[: options.limit]
        people = [people[i] for i in np.sort(chosen)]
    jpegs, maps, heights = [], [], []
    last: tuple[Path | None, Any] = (None, None)
    inner = slice(MARGIN, -MARGIN)
    for start in tqdm(range(0, len(people), _BATCH), mininterval=20):
        crops = []
        for path, box in people[start : start + _BATCH]:
            if path != last[0]:
                last = path, cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if last[1] is not None:
                crops.append(cut(np.ascontiguousarray(last[1][..., ::-1]), box))
        if not crops:
            continue
        for crop, heat in zip(crops, teacher.heatmaps(np.stack(crops)[:, inner, inner]), strict=True):
            height = float(heat.max((-1, -2)).mean())
            if height < options.least:
                continue
            heights.append(height)
            jpegs.append(cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
            maps.append(zlib.compress(np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8).tobytes(), 6))
    (crop_bytes, crop_ends), (map_bytes, map_ends) = pack(jpegs), pack(maps)
    tensors = {"crops": crop_bytes, "crop_ends": crop_ends, "maps": map_bytes, "map_ends": map_ends}
    temporary = options.out.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, options.out)
    print(f"{len(heights)} of {len(people)} people seen, mean height {np.mean(heights):.3f} → {options.out}")


if __name__ == "__main__":
    main()
