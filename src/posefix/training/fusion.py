"""How an image model and the package's own network are mixed, fitted to labelled people.

The mix that brings keypoints nearest to their annotation, on a grid around the present one. Another mix than that is
taken only where it is better on images that it was not chosen on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.evaluation.matching import matchable
from posefix.exceptions import InputError
from posefix.inference.constant_offset import measured_offset
from posefix.inference.decoding import count_outliers
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import CONFIDENT, can_measure_reliability, measured_prior_weight
from posefix.io.coco import Annotations, Results
from posefix.keypoints.oks import keypoint_similarity
from posefix.network.image_model import ImageModelConfig, fuse
from posefix.network.model import RefinementNetwork
from posefix.training.calibration import People, cut, matched
from posefix.weights.weights import Weights

Doubles = npt.NDArray[np.float64]

#: Of the present sharpness and of the present own weight, tried together.
SHARPNESS, OWN_WEIGHT = (0.5, 0.7, 1.0, 1.4, 2.0), (0.5, 1.0, 2.0)
#: People of one results file that are looked at; more change little and fill the memory.
MOST = 600


@dataclass(frozen=True)
class Fusion:
    """A fitted mix.

    Attributes:
        sharpness: see ``ImageModelConfig``.
        own_weight: likewise.
        offset: likewise.
        reference_outlier_rate: at which every estimator keeps the weight that it had.
        labelled_close_share: see ``Calibration``.
        similarity: (before, after) mean keypoint similarity reached.
    """

    sharpness: float
    own_weight: float
    offset: tuple[float, float]
    reference_outlier_rate: float
    labelled_close_share: float
    similarity: tuple[float, float]


@dataclass(frozen=True)
class _Seen:
    """What the two networks say of one estimator's people, not yet mixed: (P, K, h, w) float16 each."""

    people: People
    own: Tensor | None
    log_maps: Tensor


def fit_fusion(
    weights: Weights, annotations: Annotations, images: str | os.PathLike[str], results: Sequence[Results]
) -> Fusion:
    """Sharpness and own weight for weights with an image model.

    Args:
        weights: with an image model.
        annotations: of images that neither network was trained on.
        images: folder.
        results: estimators' results on them.

    Raises:
        InputError: weights without an image model, or no result that fits a labelled person.
    """
    if weights.image_model is None:
        raise InputError("calibrate: sharpness and own weight belong to an image model, and these weights have none")

    def forward(refiner: Refiner, poses: Doubles, people: npt.NDArray[np.intp]) -> _Seen:
        every = np.linspace(0, len(people) - 1, min(MOST, len(people))).round().astype(int)
        return _forward(refiner.network, cut(refiner, annotations, Path(images), poses[every], people[every]))

    estimated = [matched(annotations, file, weights.skeleton) for file in results]
    if not any(len(people) for _, people in estimated):
        raise InputError(
            "calibrate: none of the results fits a labelled person; sharpness needs labels, for how well an "
            "estimator and a network agree tells how precise the estimator is, not how sharp the network should be"
        )
    labelled = np.flatnonzero(matchable(annotations, weights.skeleton))
    truth = annotations.ground_truth[labelled]
    as_given = Refiner(weights, device="auto", precision="auto")
    offset = _offset(as_given, weights.image_model.config, forward(as_given, truth, labelled))
    image_model = replace(weights.image_model, config=replace(weights.image_model.config, offset=offset))
    refiner = Refiner(replace(weights, image_model=image_model), device="auto", precision="auto")
    network = refiner.network
    seen = [forward(refiner, poses, people) for poses, people in estimated if len(people)]
    config = image_model.config
    # An own network that was left out stays out.
    grid = [
        replace(config, sharpness=config.sharpness * s, own_weight=config.own_weight * w)
        for s in SHARPNESS
        for w in (OWN_WEIGHT if config.own_weight else (1.0,))
    ]
    powers = [_power(refiner, config, one) for one in seen]
    groups = np.concatenate([one.people.group for one in seen])
    reached = np.stack(
        [np.concatenate([_similarity(refiner, c, one, p) for one, p in zip(seen, powers, strict=True)]) for c in grid]
    )
    present = grid.index(config)
    chosen = grid[choose(reached, groups, present)]
    rates = [_outlier_rate(network, c, seen) for c in (config, chosen)]
    confident, _, close = _counts(network, chosen, forward(refiner, truth, labelled))
    return Fusion(
        chosen.sharpness,
        chosen.own_weight,
        offset,
        weights.calibration.reference_outlier_rate * rates[1] / rates[0],
        float(close / max(confident, 1)),
        (float(np.nanmean(reached[present])), float(np.nanmean(reached[grid.index(chosen)]))),
    )


def choose(reached: Doubles, groups: npt.NDArray[np.int64], present: int) -> int:
    """Which of (candidates, P) is best; the present one unless halves of the images choose better for each other."""
    half = groups % 2 == 0
    gain = 0.0
    for fit, test in ((half, ~half), (~half, half)):
        if not fit.any() or not test.any():
            return present
        best = int(np.nanmean(reached[:, fit], axis=1).argmax())
        gain += float(np.nansum(reached[best, test] - reached[present, test]))
    return int(np.nanmean(reached, axis=1).argmax()) if gain > 0 else present


@torch.inference_mode()
def _forward(network: RefinementNetwork, people: People) -> _Seen:
    own, maps = [], []
    for start in range(0, len(people.inputs), 32):
        part = people.inputs.take(slice(start, start + 32)).to(network.mean.device)
        if network.sees_by_itself:
            own.append(network.own_logits_and_peaks(part)[0].half().cpu())
        assert network.image_model is not None
        maps.append(network.image_model.log_maps(part.crops).half().cpu())
    without = replace(people, inputs=people.inputs.without_crops())
    return _Seen(without, torch.cat(own) if own else None, torch.cat(maps))


@torch.inference_mode()
def _offset(refiner: Refiner, config: ImageModelConfig, labelled: _Seen) -> tuple[float, float]:
    """``ImageModelConfig.offset`` by labelled people, the image model seen alone."""
    inputs, codec = labelled.people.inputs.to("cpu"), refiner.config.codec
    alone = _mixed(refiner.network, replace(config, own_weight=0.0), labelled, slice(None))
    points, confidence = codec.decode(alone, inputs.std)
    usable = inputs.valid & (confidence > CONFIDENT)
    more = codec.stride * measured_offset(((points - inputs.crop_points) / codec.stride).numpy(), usable.numpy())
    return round(config.offset[0] + float(more[0]), 2), round(config.offset[1] + float(more[1]), 2)


def _mixed(network: RefinementNetwork, config: ImageModelConfig, seen: _Seen, rows: slice) -> Tensor:
    own = None if seen.own is None else seen.own[rows].float()
    return fuse(own, seen.log_maps[rows].float(), config, network.image_model_rows)


def _counts(network: RefinementNetwork, config: ImageModelConfig, seen: _Seen) -> npt.NDArray[np.int64]:
    """(3,) ``count_outliers`` of an estimator's people."""
    found = np.zeros(3, np.int64)
    for start in range(0, len(seen.log_maps), 64):
        rows = slice(start, start + 64)
        inputs = seen.people.inputs.take(rows).to("cpu")
        found += count_outliers(_mixed(network, config, seen, rows), inputs, network.config.codec).sum(-1).numpy()
    return found


def _power(refiner: Refiner, config: ImageModelConfig, seen: _Seen) -> float:
    """Weight of the pose prior for an estimator, measured on all its people."""
    calibration = refiner.weights.calibration
    if not can_measure_reliability(refiner.config, calibration):
        return calibration.prior_weight
    counts = _counts(refiner.network, config, seen)
    return calibration.prior_weight * float(measured_prior_weight(counts, calibration))


def _outlier_rate(network: RefinementNetwork, config: ImageModelConfig, seen: Sequence[_Seen]) -> float:
    """Share of outliers over all estimators; one is counted beforehand."""
    confident, outliers, _ = np.sum([_counts(network, config, one) for one in seen], axis=0)
    return float((outliers + 1) / (confident + 1))


@torch.inference_mode()
def _similarity(refiner: Refiner, config: ImageModelConfig, seen: _Seen, power: float) -> Doubles:
    """(P,) mean keypoint similarity that a mix reaches; NaN for who has no label."""
    network, found = refiner.network, []
    prior = network.prior
    for start in range(0, len(seen.log_maps), 64):
        rows = slice(start, start + 64)
        inputs = seen.people.inputs.take(rows).to("cpu")
        logits = _mixed(network, config, seen, rows)
        if prior is not None:
            log_prior = network.log_prior(logits, inputs)
            assert log_prior is not None
            logits = logits + power * log_prior
        points, _ = network.config.codec.decode(logits, inputs.std)
        people = seen.people
        similarity = keypoint_similarity(
            points.double().numpy(), people.targets[rows], people.area[rows], np.array(refiner.skeleton.sigmas)
        )
        labelled = people.ground_truth[rows]
        total = np.where(labelled, similarity, 0.0).sum(-1)
        found.append(np.where(labelled.any(-1), total / np.maximum(labelled.sum(-1), 1), np.nan))
    return np.concatenate(found)
