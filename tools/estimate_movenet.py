"""Run MoveNet over labelled boxes: another estimator's view of a training set.

    python tools/estimate_movenet.py ANNOTATIONS.json IMAGES_DIR WEIGHTS.npz OUT.json [HEIGHT WIDTH]

WEIGHTS is shared/weights/movenet_lightning.npz, or what tools/import_movenet.py writes without --last. Crops of 256 ×
192 pixels, or HEIGHT × WIDTH: small ones make a weak estimator, whose errors are real ones all the same.
Writes COCO results, one entry per labelled person in file order. Used for the centres of keypoints that are
not labelled, for real errors as training input, and to check labels (tools/prepare_lspet.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from posefix.geometry import (
    boxes_xywh_to_xyxy,
    crop_affine,
    crop_rectangles,
    invert_affine,
    transform_points,
    warp_crop,
)
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.training.initial_weights import start_from_movenet


def main(annotations: str, images: str, weights: str, out: str, height: str = "256", width: str = "192") -> None:
    """Estimate every labelled person."""
    with np.load(weights) as arrays:
        multiplier = arrays["stem.bias"].size / 32
    config = ModelConfig(width=multiplier, input_hw=(int(height), int(width)), pose_entry="none")
    network = RefinementNetwork(config).eval()
    start_from_movenet(network, weights)
    data = json.loads(Path(annotations).read_text())
    names = {i["id"]: i["file_name"] for i in data["images"]}
    people = [a for a in data["annotations"] if a.get("num_keypoints", 0) > 0 and not a.get("iscrowd")]
    entries = []
    for start in tqdm(range(0, len(people), 16)):
        chunk = people[start : start + 16]
        boxes = boxes_xywh_to_xyxy(np.array([a["bbox"] for a in chunk]))
        affine = crop_affine(crop_rectangles(boxes, config.input_hw), config.input_hw)
        crops = []
        for person, matrix in zip(chunk, affine, strict=True):
            path = str(Path(images) / names[person["image_id"]])
            image = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
            crops.append(warp_crop(np.ascontiguousarray(image), matrix, config.input_hw, antialias=True))
        count = len(chunk)
        no_points, ones = torch.zeros(count, 17, 2), torch.ones(count, 17)
        inputs = NetworkInput(torch.from_numpy(np.stack(crops)), no_points, ones == 0, ones, ones)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits = network.image_logits(inputs)
            # MoveNet's own likelihood is a sigmoid per heatmap pixel; the best one is refined between pixels.
            points, _ = config.codec.decode(logits, ones * config.codec.stride)
            scores = torch.sigmoid(logits.flatten(2).amax(-1)).numpy()
        found = transform_points(invert_affine(affine), points.numpy())
        for person, pose, score in zip(chunk, found, scores, strict=True):
            keypoints = np.concatenate([pose.round(3), score[:, None].round(6)], axis=1)
            entries.append(
                {
                    "image_id": person["image_id"],
                    "annotation_id": person["id"],
                    "category_id": 1,
                    "keypoints": keypoints.reshape(-1).tolist(),
                    "score": float(score.mean().round(4)),
                }
            )
    Path(out).write_text(json.dumps(entries))


if __name__ == "__main__":
    if len(sys.argv) not in (5, 7):
        sys.exit(__doc__)
    main(*sys.argv[1:])
