"""What tools/distil.py trained: its AP alone, and a start for ``posefix train``.

    python tools/student.py configs/distil/student.yaml STUDENT.safetensors --ap CROPS.npz ANNOTATIONS.json
    python tools/student.py configs/distil/student.yaml STUDENT.safetensors --weights FOLDER

CROPS is what tools/pack_crops.py makes of ANNOTATIONS with ``--labels --all``: the student is measured in labelled
boxes. FOLDER holds the whole network then, whose correction and prior are still random; ``start: {weights: [FOLDER]}``
and ``freeze_trunk`` train these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from distil import image_network, read_config, read_crops
from pack_crops import MARGIN
from safetensors.torch import load_file

from posefix.evaluation.coco_ap import evaluate
from posefix.geometry import invert_affine, transform_points
from posefix.io.coco import read_annotations
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities
from posefix.keypoints.oks import keypoint_std
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, save_weights


def whole_network(student: str, model: ModelConfig, seed: int) -> RefinementNetwork:
    """Trunk and head of a file; what else there is depends on the seed."""
    torch.manual_seed(seed)
    network = RefinementNetwork(model).eval()
    image_network(network).load_state_dict({k: v.float() for k, v in load_file(student).items()})
    return network


@torch.inference_mode()
def measure(network: RefinementNetwork, crops_path: str, annotations: str) -> float:
    """AP in the boxes of a file of crops, decoded by expected similarity, without flip test."""
    crops, people = read_crops(crops_path)
    inner = crops[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    model = image_network(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    std = torch.from_numpy(keypoint_std(people["areas"].astype(float), COCO.sigmas)).float() / 4
    parts = []
    for images, scale in zip(torch.split(inner, 16), torch.split(std, 16), strict=True):
        logits = model((images / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        parts.append(expected_similarity_argmax(heatmap_probabilities(logits), scale))
    points, scores = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    poses = transform_points(invert_affine(people["mats"]), points * 4 + 1.5)
    truth = read_annotations(annotations, COCO)
    image_of = dict(zip(truth.ids, truth.image_ids.tolist(), strict=True))
    entries = [
        {
            "image_id": image_of[person],
            "category_id": 1,
            "keypoints": np.concatenate([pose, score[:, None]], axis=-1).reshape(-1).tolist(),
            "score": float(score.mean()),
        }
        for person, pose, score in zip(people["ids"].tolist(), poses, scores, strict=True)
    ]
    return evaluate(truth, entries).ap


def main() -> None:
    """Measure, write, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("student")
    parser.add_argument("--ap", nargs=2, metavar=("CROPS", "ANNOTATIONS"))
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    config = read_config(options.config)
    network = whole_network(options.student, config.model, config.seed)
    if options.ap:
        print(f"AP {measure(network, *options.ap):.4f} ({options.ap[0]})")
    if options.weights:
        weights = Weights(config.model, COCO, Calibration(policy="always"), network.state_dict(), {}, "start")
        save_weights(options.weights, weights)


if __name__ == "__main__":
    main()
