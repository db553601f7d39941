"""How a network's output is read, fitted to labelled people: temperatures and margin.

The temperature divides the logits where confidence is read from them, so that it predicts the keypoint similarity
reached; one per part where that predicts better on held-out halves, else one for all. The margin says how much better
another place must be expected to be before a keypoint moves there.

Measured on people that were not trained on: real estimators' results matched to labelled people, and labelled
people with synthetic errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from posefix.evaluation.matching import match_people, matchable, others_of
from posefix.geometry import transform_points
from posefix.inference.forward import forward_batches, outlier_counts
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import can_measure_reliability, measured_prior_weight
from posefix.io.coco import Annotations, Results, image_name
from posefix.io.image_names import image_path
from posefix.io.images import load_image
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import heatmap_probabilities
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import Skeleton
from posefix.network.inputs import NetworkInput
from posefix.pose_errors.synthesis import synthesize
from posefix.weights.weights import Weights

Doubles = npt.NDArray[np.float64]

#: Temperatures tried.
GRID = np.array([0.6, 0.75, 0.9, 1.0, 1.15, 1.35, 1.6, 2.0, 2.5, 3.0])
#: Margins tried.
MARGINS = np.array([0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2])
#: Share of the best margin's gain that the chosen one keeps.
KEPT = 0.95


@dataclass(frozen=True)
class People:
    """P people whose annotation is known, as the network takes them.

    Attributes:
        inputs: arrays of the P people.
        targets: (P, K, 2) labelled points in crop pixels.
        ground_truth: (P, K) which are labelled.
        area: (P,) labelled area in crop px².
        group: (P,) image, for splitting into halves.
    """

    inputs: NetworkInput
    targets: Doubles
    ground_truth: npt.NDArray[np.bool_]
    area: Doubles
    group: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Observations:
    """The network's image logits for P people with ground truth, in crop pixels.

    Attributes:
        logits: (P, K, h, w) float16.
        std: (P, K) length scale that test time assumes.
        points: (P, K, 2) input points.
        valid: (P, K) which there are.
        targets: (P, K, 2) labelled points.
        ground_truth: (P, K) which are.
        area: (P,) labelled area in crop px².
        group: (P,) image, for splitting into halves.
    """

    logits: torch.Tensor
    std: torch.Tensor
    points: torch.Tensor
    valid: torch.Tensor
    targets: Doubles
    ground_truth: npt.NDArray[np.bool_]
    area: Doubles
    group: npt.NDArray[np.int64]


def observe(
    weights: Weights,
    annotations: Annotations,
    images: str | os.PathLike[str],
    results: Sequence[Results],
    *,
    synthetic: bool = True,
    seed: int = 0,
) -> Observations:
    """Run the network on people with ground truth.

    Args:
        weights: to calibrate.
        annotations: of held-out images.
        images: folder.
        results: real estimators' results on them.
        synthetic: also labelled people with synthetic errors, once each.
        seed: of those.

    Returns:
        image logits and ground truth of all matched people, estimator after estimator.
    """
    skeleton = weights.skeleton
    cases = [matched(annotations, file, skeleton) for file in results]
    if synthetic:
        people = np.flatnonzero(matchable(annotations, skeleton))
        cases.append((_corrupt(annotations, people, skeleton, seed), people))
    refiner = Refiner(weights, device="auto", precision="auto")
    parts = [_observe(refiner, annotations, Path(images), poses, people) for poses, people in cases]
    return Observations(
        logits=torch.cat([p.logits for p in parts]),
        std=torch.cat([p.std for p in parts]),
        points=torch.cat([p.points for p in parts]),
        valid=torch.cat([p.valid for p in parts]),
        targets=np.concatenate([p.targets for p in parts]),
        ground_truth=np.concatenate([p.ground_truth for p in parts]),
        area=np.concatenate([p.area for p in parts]),
        group=np.concatenate([p.group for p in parts]),
    )


def matched(annotations: Annotations, file: Results, skeleton: Skeleton) -> tuple[Doubles, npt.NDArray[np.intp]]:
    """(P, K, 3) an estimator's poses of labelled people, and (P,) who they are."""
    entries, people = match_people(annotations, file, skeleton)
    return file.keypoints(skeleton)[entries], people


def _corrupt(annotations: Annotations, people: npt.NDArray[np.intp], skeleton: Skeleton, seed: int) -> Doubles:
    ground_truth = annotations.ground_truth[people]
    mask = ground_truth[..., 2] > 0
    near, overlap = others_of(annotations, people, 0.1)
    points, _ = synthesize(
        ground_truth[..., :2],
        mask,
        skeleton,
        annotations.area[people],
        np.random.default_rng(seed),
        others=near,
        overlap=overlap,
    )
    return np.concatenate([np.nan_to_num(points), mask[..., None]], axis=-1)


def cut(
    refiner: Refiner, annotations: Annotations, images: Path, poses: Doubles, people: npt.NDArray[np.intp]
) -> People:
    """Crops and annotation of people, image by image; those without a crop are left out.

    Args:
        refiner: that will see them.
        annotations: of the images.
        images: folder.
        poses: (P, K, 3).
        people: (P,) who they are.
    """
    crops, affine, kept = [], [], []
    image_ids = annotations.image_ids[people]
    for image_id in dict.fromkeys(image_ids.tolist()):
        rows = np.flatnonzero(image_ids == image_id)
        image = load_image(image_path(images, image_name({"image_id": image_id}, annotations)), ignore_orientation=True)
        prepared = refiner.prepare(image, poses[rows])
        crops.append(prepared.inputs)
        affine.append(prepared.affine)
        kept.append(people[rows[prepared.rows]])
    joined, matrices, who = NetworkInput.join(crops), np.concatenate(affine), np.concatenate(kept)
    ground_truth = annotations.ground_truth[who]
    position = {str(image_id): index for index, image_id in enumerate(annotations.images)}
    group = [position[str(i)] for i in annotations.image_ids[who].tolist()]
    return People(
        joined,
        transform_points(matrices, ground_truth[..., :2]),
        ground_truth[..., 2] > 0,
        annotations.area[who] * np.abs(np.linalg.det(matrices[:, :, :2])),
        np.array(group, np.int64),
    )


@torch.inference_mode()
def _observe(
    refiner: Refiner, annotations: Annotations, images: Path, poses: Doubles, people: npt.NDArray[np.intp]
) -> Observations:
    seen = cut(refiner, annotations, images, poses, people)
    # As for a whole results file.
    outputs = list(forward_batches(refiner.network, seen.inputs, 32))
    calibration = refiner.weights.calibration
    weight = calibration.prior_weight
    if can_measure_reliability(refiner.config, calibration):
        counts = np.concatenate([outlier_counts(o, refiner.config.codec) for o in outputs], axis=1)
        weight *= float(measured_prior_weight(counts.sum(-1), calibration))
    power = torch.full((1,), weight, device=refiner.device)
    return Observations(
        torch.cat([o.logits(power).half().cpu() for o in outputs]),
        torch.from_numpy(seen.inputs.std),
        torch.from_numpy(seen.inputs.crop_points),
        torch.from_numpy(seen.inputs.valid),
        seen.targets,
        seen.ground_truth,
        seen.area,
        seen.group,
    )


def predict(
    observations: Observations, codec: HeatmapCodec, sigmas: Sequence[float], temperature: Sequence[float]
) -> tuple[Doubles, Doubles]:
    """What the refiner would say, and what it would reach.

    Args:
        observations: P people.
        codec: ``ModelConfig.codec``.
        sigmas: (K,).
        temperature: (K,).

    Returns:
        (P, K) confidence and (P, K) keypoint similarity of the answer to the annotation.
    """
    heat = torch.tensor(np.array(temperature), dtype=torch.float32)
    confidence, similarity = [], []
    for start in range(0, len(observations.std), 64):
        rows = slice(start, start + 64)
        logits, std = observations.logits[rows].float(), observations.std[rows]
        points, _ = codec.decode(logits, std)
        value = codec.similarity(heatmap_probabilities(logits, heat), points, std)
        confidence.append(value.double().numpy())
        similarity.append(
            keypoint_similarity(
                points.double().numpy(), observations.targets[rows], observations.area[rows], np.array(sigmas)
            )
        )
    return np.concatenate(confidence), np.concatenate(similarity)


def calibration_error(confidence: Doubles, similarity: Doubles, bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and similarity over equally wide bins of confidence.

    Args:
        confidence: (n,).
        similarity: (n,).
        bins: how many.
    """
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gap = np.bincount(place, confidence - similarity, bins)
    return float(np.abs(gap).sum() / max(len(confidence), 1))


def reliability(confidence: Doubles, similarity: Doubles, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean confidence, mean similarity, count) of each bin of confidence that holds anything."""
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    rows = [(place == b) for b in range(bins)]
    return [(float(confidence[r].mean()), float(similarity[r].mean()), int(r.sum())) for r in rows if r.any()]


def fit_temperature(observations: Observations, codec: HeatmapCodec, skeleton: Skeleton) -> tuple[float, ...]:
    """(K,) temperatures that make the squared difference of confidence and similarity least.

    One per part where halves of the images, each predicted from the other, are predicted better so; else one.
    """
    count, mask = len(skeleton), observations.ground_truth
    errors = np.empty((len(GRID), *mask.shape))
    for i, heat in enumerate(GRID):
        confidence, similarity = predict(observations, codec, skeleton.sigmas, (heat,) * count)
        errors[i] = np.square(confidence - similarity) * mask

    def best(rows: npt.NDArray[np.bool_], per_part: bool) -> npt.NDArray[np.intp]:
        loss = errors[:, rows].sum(1)  # (grid, K)
        if not per_part:
            return np.full(count, loss.sum(1).argmin())
        parts = np.array(skeleton.parts)
        return np.array([loss[:, parts == p].sum(1).argmin() for p in parts])

    half = observations.group % 2 == 0
    held_out = [
        sum(
            errors[best(fit, per_part), :, np.arange(count)][:, test].sum()
            for fit, test in ((half, ~half), (~half, half))
        )
        for per_part in (False, True)
    ]
    chosen = best(np.ones(len(half), bool), per_part=bool(held_out[1] < held_out[0]))
    return tuple(float(GRID[i]) for i in chosen)


def fit_margin(
    observations: Observations, codec: HeatmapCodec, sigmas: Sequence[float], temperature: Sequence[float]
) -> float:
    """The largest margin that keeps nearly all that can be gained by moving keypoints.

    The best one is often 0, which moves every keypoint for little: on the weights in the package 0.01 keeps 96 % of its
    gain and leaves most good keypoints where they are.

    Args:
        observations: P people.
        codec: ``ModelConfig.codec``.
        sigmas: (K,).
        temperature: (K,) as fitted.

    Returns:
        one of ``MARGINS``; the largest of all where moving gains nothing.
    """
    advantage, gain = _moves(observations, codec, sigmas, temperature)
    free = observations.ground_truth & observations.valid.numpy()
    gains = np.array([gain[free & (advantage > margin)].sum() for margin in MARGINS])
    return float(MARGINS[np.flatnonzero(gains >= KEPT * max(gains.max(), 0.0)).max(initial=-1)])


def _moves(
    observations: Observations, codec: HeatmapCodec, sigmas: Sequence[float], temperature: Sequence[float]
) -> tuple[Doubles, Doubles]:
    """(P, K) how much better the answer is expected to be than the input, and how much better it is."""
    heat = torch.tensor(np.array(temperature), dtype=torch.float32)
    confidence, reached = predict(observations, codec, sigmas, temperature)
    own = []
    for start in range(0, len(observations.std), 64):
        rows = slice(start, start + 64)
        maps = heatmap_probabilities(observations.logits[rows].float(), heat)
        own.append(codec.similarity(maps, observations.points[rows], observations.std[rows]).double().numpy())
    given = keypoint_similarity(
        observations.points.double().numpy(), observations.targets, observations.area, np.array(sigmas)
    )
    return confidence - np.concatenate(own), reached - given
