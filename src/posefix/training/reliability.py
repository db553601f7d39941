"""How an estimator's weight follows from its outliers, fitted to labelled people; see ``inference/reliability.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from posefix.evaluation.matching import matchable
from posefix.inference.forward import ForwardOutput, forward_batches, outlier_counts
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import can_measure_reliability, measured_prior_weight
from posefix.io.coco import Annotations, Results
from posefix.keypoints.oks import keypoint_similarity
from posefix.training.calibration import People, cut, matched
from posefix.training.fusion import MOST, choose
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights

Doubles = npt.NDArray[np.float64]

#: Exponents tried, next to the present one.
EXPONENTS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


@torch.inference_mode()
def fit_reliability(
    weights: Weights, annotations: Annotations, images: str | os.PathLike[str], results: Sequence[Results]
) -> Calibration:
    """The calibration with ``outlier_exponent`` and, without an image model, ``independent_close_share``.

    The exponent is that with which the results come nearest to their annotation, each file at the weight that its
    outliers give. It changes only where it is better on images that it was not chosen on. No estimator whose errors
    have nothing to do with the network's can be closer to its places than labelled poses are.

    Args:
        weights: with a reference outlier rate; else their calibration stays.
        annotations: of images that were not trained on.
        images: folder.
        results: estimators' results on them.
    """
    calibration = weights.calibration
    if not can_measure_reliability(weights.config, calibration):
        return calibration
    refiner = Refiner(weights, device="auto", precision="auto")

    def outputs_of(poses: Doubles, people: npt.NDArray[np.intp]) -> tuple[People, list[ForwardOutput], Doubles]:
        every = np.linspace(0, len(people) - 1, min(MOST, len(people))).round().astype(int)
        seen = cut(refiner, annotations, Path(images), poses[every], people[every])
        outputs = list(forward_batches(refiner.network, seen.inputs, 32))
        counts = np.concatenate([outlier_counts(o, refiner.config.codec) for o in outputs], axis=1)
        return seen, outputs, counts.sum(-1).astype(np.float64)

    exponents = sorted({*EXPONENTS, calibration.outlier_exponent})
    reached, groups = [], []
    for poses, people in (matched(annotations, file, weights.skeleton) for file in results):
        if len(people):
            seen, outputs, counts = outputs_of(poses, people)
            rules = [replace(calibration, outlier_exponent=e) for e in exponents]
            powers = [calibration.prior_weight * float(measured_prior_weight(counts, rule)) for rule in rules]
            reached.append(np.stack([_similarity(refiner, seen, outputs, power) for power in powers]))
            groups.append(seen.group)
    if reached:
        best = choose(
            np.concatenate(reached, axis=1), np.concatenate(groups), exponents.index(calibration.outlier_exponent)
        )
        calibration = replace(calibration, outlier_exponent=exponents[best])
    labelled = np.flatnonzero(matchable(annotations, weights.skeleton))
    if weights.image_model is None and len(labelled):
        confident, _, close = outputs_of(annotations.ground_truth[labelled], labelled)[2]
        calibration = replace(calibration, independent_close_share=float(close / confident) if confident else 1.0)
    return calibration


def _similarity(refiner: Refiner, seen: People, outputs: Sequence[ForwardOutput], power: float) -> Doubles:
    """(P,) mean keypoint similarity that a weight of the prior reaches; NaN for who has no label."""
    codec, weight = refiner.config.codec, torch.full((1,), power, device=refiner.device)
    points = torch.cat([codec.decode(o.logits(weight), o.std)[0] for o in outputs]).double().cpu().numpy()
    similarity = keypoint_similarity(points, seen.targets, seen.area, np.array(refiner.skeleton.sigmas))
    labelled = seen.ground_truth
    total = np.where(labelled, similarity, 0.0).sum(-1)
    return np.where(labelled.any(-1), total / np.maximum(labelled.sum(-1), 1), np.nan)
