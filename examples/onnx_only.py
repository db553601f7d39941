"""Refine one pose with numpy, OpenCV and ONNX Runtime alone: neither posefix nor torch is imported.

    pip install 'posefix[onnx]' && posefix export --out exported/     # once, on any machine
    python examples/onnx_only.py exported/ image.jpg pose.json        # pose.json: [[x, y, score], ...]

Prints the refined pose as JSON. ``docs/export.md`` describes what is computed here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def refine(folder: Path, image: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB and (K, 3) [x, y, score] → (K, 3) [x, y, confidence]."""
    config = json.loads((folder / "config.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    height, width = config["model"]["input_hw"]
    valid = np.isfinite(pose).all(-1) & (pose[:, 2] > 0)
    # The box around the pose, a fifth larger; then the crop's proportions, a quarter larger again.
    low, high = pose[valid, :2].min(0), pose[valid, :2].max(0)
    size = np.where(high - low > 0, high - low, 20.0) * 1.2
    rectangle = np.maximum(size, size[::-1] * [width / height, height / width]) * 1.25
    scale = np.array([width, height]) / rectangle
    shift = -((low + high) / 2 - rectangle / 2) * scale
    affine = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    crop = shrunk_warp(image, affine, (width, height)) if config["model"]["antialias"] else None
    if crop is None:
        crop = cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR)
    area = 0.53 * (size * scale).prod()
    std = np.sqrt(area) * 2 * np.array(config["skeleton"]["sigmas"])
    scores = np.where(valid, pose[:, 2] / pose[valid, 2].max(), 1.0)
    points = np.where(valid[:, None], pose[:, :2] * scale + shift, 0.0)
    feed = {
        "crops": crop[None],
        "crop_points": points[None].astype(np.float32),
        "valid": valid[None],
        "std": std[None].astype(np.float32),
        "scores": scores[None].astype(np.float32),
        "prior_weight": np.ones(1, np.float32),
    }
    names = ["points", "confidence", "input_confidence"]
    refined, confidence, own = (found[0] for found in session.run(names, feed))
    margin = np.array(config["calibration"]["margin"] or [0.0])
    stays = valid & (own >= confidence - margin)
    places = np.where(stays[:, None], pose[:, :2], (refined - shift) / scale)
    return np.column_stack([places, np.where(stays, own, confidence)])


def shrunk_warp(image: np.ndarray, affine: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The crop where it shrinks the image more than twofold, from averaged pixels; else None."""
    shrink = int(1 / np.sqrt(affine[0, 0] * affine[1, 1]))
    if shrink < 2:
        return None
    small = image.shape[1] // shrink, image.shape[0] // shrink
    ratio = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
    local = affine.copy()
    local[:, 2] += local[:, :2] @ (ratio / 2 - 0.5)
    local[:, :2] = local[:, :2] * ratio
    averaged = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(averaged, local, size, flags=cv2.INTER_LINEAR)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python onnx_only.py EXPORTED IMAGE POSE.json")
    pixels = cv2.imread(sys.argv[2])
    if pixels is None:
        sys.exit(f"cannot read {sys.argv[2]}")
    given = np.array(json.loads(Path(sys.argv[3]).read_text()), np.float64)
    print(json.dumps(refine(Path(sys.argv[1]), np.ascontiguousarray(pixels[..., ::-1]), given).round(3).tolist()))
