"""What a student of tools/distil.py gains when the refiner sees with it too.

    python tools/evaluate_student.py STUDENT.safetensors ANNOTATIONS.json IMAGES_DIR RESULTS.json …

STUDENT is what tools/distil.py writes, or its checkpoint (then the averaged weights). For each results file prints AP
alone, refined with the package's weights, and refined with package and student, each with its change and 95 % interval;
places alone: scores and ranking stay the estimator's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from student import Student
from torch import Tensor

from posefix.evaluation.coco_ap import compare
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import read_annotations, read_results
from posefix.keypoints.skeleton import COCO
from posefix.network.image_model import ImageModel, ImageModelConfig
from posefix.weights.weights import load_weights, with_image_model


def load_student(path: Path) -> Callable[[Tensor], Tensor]:
    """(B, h, w, 3) uint8 crops → (B, K, h / 4, w / 4) log-probabilities."""
    state = load_file(path)
    averaged = {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")}
    config = load_weights(None).config
    student = Student(config.width, config.last_channels).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    student.load_state_dict({k: v.float() for k, v in (averaged or state).items()})

    def run(crops: Tensor) -> Tensor:
        parts = []
        for part in torch.split(crops, 8):
            with torch.autocast("cpu", torch.bfloat16):
                logits = student(part)
            parts.append(torch.log_softmax(logits.float().flatten(2), dim=-1).view_as(logits))
        return torch.cat(parts)

    return run


def main() -> None:
    """Refine each file twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--sharpness", type=float, default=2.0, help="multiplies the student's log-probabilities")
    parser.add_argument("--own-weight", type=float, default=1.0, help="multiplies the package's logits")
    parser.add_argument("--prior-weight", type=float, help="default is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = load_weights(None)
    config = ImageModelConfig(
        family="student",
        output="logits",
        alignment="half_pixel",
        sharpness=options.sharpness,
        own_weight=options.own_weight,
    )
    model = ImageModel(load_student(options.student), config)
    both = with_image_model(weights, model, weights.calibration)
    refiners = {"package": Refiner(weights), "package and student": Refiner(both)}
    truth = read_annotations(options.annotations, COCO)
    how = Options(prior_weight=options.prior_weight)
    for path in options.results:
        entries = read_results(path).entries
        refined = [
            refine_results(
                refiner, entries, options.images, annotations=truth, options=how, ranking="estimator", soft_nms=False
            )[0]
            for refiner in refiners.values()
        ]
        rows = compare(truth, [entries, *refined], names=[path.stem, *refiners])
        gains = [f"{r.name} {r.change:+.4f} [{r.interval[0]:+.4f}, {r.interval[1]:+.4f}]" for r in rows[1:]]
        between = compare(truth, refined, names=list(refiners))[1]
        assert between.interval is not None
        step = f"difference {between.change:+.4f} [{between.interval[0]:+.4f}, {between.interval[1]:+.4f}]"
        print(f"{path.stem} {rows[0].metrics.ap:.4f}: {'; '.join(gains)}; {step}", flush=True)


if __name__ == "__main__":
    main()
