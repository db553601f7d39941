"""Whether a keypoint is there at all: fitted on people, and on poses moved to where no person is.

The confidence of a place supposes that the keypoint is somewhere in the crop. A pose on a coffee cup would get a high
one. So poses of an estimator are moved to parts of the images where no person is labelled. A logistic regression over
the peaks of the image's own heatmaps learns to tell them apart (``Calibration.presence``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from posefix.evaluation.matching import match_people
from posefix.geometry import box_iou, boxes_around_points
from posefix.inference.decoding import presence
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.io.coco import Annotations, Results, image_name
from posefix.io.image_names import image_path
from posefix.io.images import load_image
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.poses import present
from posefix.weights.weights import Weights

Doubles = npt.NDArray[np.float64]

#: A moved pose may overlap labelled people by no more than this IoU.
MOST_OVERLAP = 0.02
#: Places tried for each moved pose, and by how much its size changes.
_TRIES, _SIZES = 30, (0.5, 1.2)
#: Share of the weight of all keypoints that those of moved poses have in the fit.
MOVED_SHARE = 0.2


@dataclass(frozen=True)
class PresenceObservations:
    """P poses of K keypoints, half of them moved to where no person is.

    Attributes:
        peaks: (P, K) of ``ForwardOutput``.
        confidence: (P, K) without presence.
        similarity: (P, K) reached; 0 where no person is.
        known: (P, K) bool, labelled, or of a moved pose.
        moved: (P,) bool, poses moved to empty places.
    """

    peaks: Doubles
    confidence: Doubles
    similarity: Doubles
    known: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]


def observe_presence(
    weights: Weights, annotations: Annotations, images: str | os.PathLike[str], results: Results, *, seed: int = 0
) -> PresenceObservations:
    """Run the network on an estimator's people, and on the same poses moved to where no person is.

    Args:
        weights: to calibrate.
        annotations: of held-out images.
        images: folder.
        results: an estimator's results on them.
        seed: of the places.
    """
    skeleton = weights.skeleton
    refiner = Refiner(replace(weights, calibration=replace(weights.calibration, presence=(), policy="always")))
    entries, people = match_people(annotations, results, skeleton)
    poses = results.keypoints(skeleton)[entries]
    ids = annotations.image_ids[people]
    rng = np.random.default_rng(seed)
    parts: list[tuple[npt.NDArray[np.generic], ...]] = []
    for image_id in dict.fromkeys(ids.tolist()):
        rows = np.flatnonzero(ids == image_id)
        image = load_image(image_path(images, image_name({"image_id": image_id}, annotations)), ignore_orientation=True)
        others = annotations.boxes_xyxy[annotations.image_ids == image_id]
        moved = [m for m in (_moved(poses[r], others, image.shape[:2], rng) for r in rows) if m is not None]
        both = np.concatenate([poses[rows], *(m[None] for m in moved)])
        prepared = refiner.prepare(image, both)
        measured = refiner.forward([prepared], Options(offset=(0.0, 0.0)))
        (refined,) = refiner.decode(measured, measured.chosen(Options()))
        found = [piece.result()[0].peaks for piece in measured.pieces]
        if len(prepared.rows) < len(both) or any(part is None for part in found):
            continue
        peaks = torch.cat(found).double().cpu().numpy()
        truth, count = annotations.ground_truth[people[rows]], len(rows)
        similarity, known = np.zeros(peaks.shape), np.ones(peaks.shape)
        similarity[:count] = keypoint_similarity(
            refined.keypoints[:count, :, :2], truth[..., :2], annotations.area[people[rows]], np.array(skeleton.sigmas)
        )
        known[:count] = truth[..., 2] > 0
        parts.append((peaks, np.asarray(refined.confidence), similarity, known, np.arange(len(both)) >= count))
    peaks, confidence, similarity, known, of_moved = (
        np.concatenate([np.asarray(a, np.float64) for a in arrays]) for arrays in zip(*parts, strict=True)
    )
    return PresenceObservations(peaks, confidence, similarity, known > 0, of_moved > 0)


def _moved(pose: Doubles, others_xyxy: Doubles, image_hw: Sequence[int], rng: np.random.Generator) -> Doubles | None:
    """A pose at another place and of another size, where no person is labelled; None where no place was found."""
    valid = present(pose)
    box = boxes_around_points(pose[None, :, :2], valid[None])[0]
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    limit = np.array([image_hw[1], image_hw[0]], np.float64)
    for _ in range(_TRIES):
        scale, place = rng.uniform(*_SIZES), rng.uniform((0, 0), limit)
        half = size * scale / 2
        there = np.concatenate([place - half, place + half])
        mostly_inside = (there[:2] > -size * scale / 3).all() and (there[2:] < limit + size * scale / 3).all()
        if mostly_inside and box_iou(there[None], others_xyxy).max(initial=0.0) < MOST_OVERLAP:
            return np.concatenate([(pose[:, :2] - centre) * scale + place, pose[:, 2:]], axis=-1)
    return None


def fit_presence(seen: PresenceObservations) -> tuple[float, float, float]:
    """The coefficients with the least squared difference of confidence × presence and similarity.

    Keypoints of moved poses have ``MOVED_SHARE`` of the weight.
    """
    count = np.array([(seen.known & ~seen.moved[:, None]).sum(), (seen.known & seen.moved[:, None]).sum()])
    share = np.where(seen.moved, MOVED_SHARE, 1 - MOVED_SHARE) / np.maximum(count[seen.moved.astype(int)], 1)
    weight = torch.from_numpy(seen.known * share[:, None])
    peaks, confidence, wanted = (torch.from_numpy(a) for a in (seen.peaks, seen.confidence, seen.similarity))
    best = peaks.topk((peaks.shape[1] + 1) // 2, dim=1).values.mean(1, keepdim=True)
    coefficients = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([coefficients], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        own, person, bias = coefficients
        value = (weight * (confidence * torch.sigmoid(own * peaks + person * best + bias) - wanted) ** 2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    own, person, bias = (round(float(c), 2) for c in coefficients.detach())
    return own, person, bias


def confidences(seen: PresenceObservations, weights: Weights, coefficients: Sequence[float]) -> tuple[Doubles, Doubles]:
    """(n,) confidence with presence and (n,) similarity of all known keypoints, people before moved poses."""
    calibration = replace(weights.calibration, presence=tuple(coefficients))
    factor = presence(torch.from_numpy(seen.peaks), torch.from_numpy(seen.peaks), calibration).numpy()
    order = np.argsort(seen.moved, kind="stable")
    known = seen.known[order]
    return (seen.confidence * factor)[order][known], seen.similarity[order][known]
