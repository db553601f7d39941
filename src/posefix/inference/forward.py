"""The network's answer for crops: batches, flip test, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.inference.crops import Answer, Crops
from posefix.inference.options import Options
from posefix.inference.reliability import count_departures, trust_from_departures
from posefix.keypoints.heatmaps import (
    cell_probabilities,
    expected_position,
    expected_similarity,
    expected_similarity_argmax,
    mirror_maps,
)
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import Calibration


@torch.inference_mode()
def read_logits(network: RefinementNetwork, crops: Crops, batch_size: int = 32, trust: float = 1.0) -> Tensor:
    """(B, K, h, w) float32 logits of any number of people."""
    parts = [network(*batch, trust=trust).float() for batch in _batches(network, crops, batch_size)]
    return torch.cat(parts) if parts else torch.zeros(0, network.config.num_keypoints, *network.config.map_hw)


def can_measure_trust(network: RefinementNetwork, calibration: Calibration) -> bool:
    """Whether these weights have a trust, and know how it shows."""
    return network.prior is not None and calibration.usual_departure > 0


@torch.inference_mode()
def departures(network: RefinementNetwork, crops: Crops, batch_size: int = 32) -> tuple[int, int]:
    """Keypoints that the picture is sure of, and how many of them any number of people have elsewhere."""
    counts = [_departures(_look_at(network, batch)).sum(-1) for batch in _batches(network, crops, batch_size)]
    sure, beside = np.sum(counts or [(0, 0)], axis=0)
    return int(sure), int(beside)


@torch.inference_mode()
def answer(
    network: RefinementNetwork,
    calibration: Calibration,
    flip: npt.NDArray[np.int64],
    crops: Crops,
    options: Options,
    pictures: npt.NDArray[np.int64],
) -> Answer:
    """Refine any number of people, ``options.batch_size`` at a time.

    Where trust is measured, what was seen of one picture's people is kept until all were: 0.6 MB for each at 320×224.

    Args:
        network: in evaluation mode, on its device.
        calibration: how its logits are read.
        flip: (K,) permutation of the skeleton.
        crops: B people.
        options: decoder, flip test, batch size, trust.
        pictures: (B,) which picture each person is in, in ascending order.

    Returns:
        points and confidences in crop pixels.
    """
    config = network.config
    order = torch.from_numpy(flip).to(network.mean.device)
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    measured = options.trust is None and can_measure_trust(network, calibration)
    for chunk in _chunks(pictures, options.batch_size, whole_pictures=measured):
        looks: list[tuple[_Look, ...]] = []
        for batch in _batches(network, crops.take(chunk), options.batch_size):
            mirrored = [_look_at(network, _mirror(batch, order, config))] if options.flip_test else []
            looks.append((_look_at(network, batch), *mirrored))
        if measured:
            trust = _trust_by_picture(looks, pictures[chunk], calibration)
        else:
            factor = 1.0 if options.trust is None else options.trust
            trust = torch.full((chunk.stop - chunk.start,), factor * calibration.trust, device=order.device)
        parts = torch.split(trust, [len(look[0].valid) for look in looks])
        results += [_decode(k, t, calibration, config, order, options) for k, t in zip(looks, parts, strict=True)]
    if not results:
        shape = (0, config.num_keypoints)
        return Answer(np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape))
    return Answer(*(torch.cat(p).cpu().double().numpy() for p in zip(*results, strict=True)))


@dataclass(frozen=True)
class _Look:
    """What picture and pose each say, apart; ``std`` is in cells too."""

    evidence: Tensor
    prior: Tensor | None
    cell_points: Tensor
    valid: Tensor
    std: Tensor

    def logits(self, trust: Tensor) -> Tensor:
        return self.evidence if self.prior is None else self.evidence + trust[:, None, None, None] * self.prior


def _look_at(network: RefinementNetwork, batch: tuple[Tensor, ...]) -> _Look:
    images, points, valid, std, scores = batch
    evidence = network.evidence(images, points, valid, scores)
    prior = network.log_prior(evidence, points, valid, std, scores)
    return _Look(evidence, prior, (points - network.config.cell_offset) / STRIDE, valid, std / STRIDE)


def _mirror(batch: tuple[Tensor, ...], order: Tensor, config: ModelConfig) -> tuple[Tensor, ...]:
    images, points, valid, std, scores = batch
    mirrored = points[:, order]
    mirrored[..., 0] = config.input_hw[1] - 1 - mirrored[..., 0]
    return images.flip(2), mirrored, valid[:, order], std[:, order], scores[:, order]


def _departures(look: _Look) -> npt.NDArray[np.int64]:
    """(2, n) ``count_departures``."""
    counts: npt.NDArray[np.int64] = (
        torch.stack(count_departures(look.evidence, look.cell_points, look.valid, look.std)).cpu().numpy()
    )
    return counts


def _trust_by_picture(
    looks: list[tuple[_Look, ...]], pictures: npt.NDArray[np.int64], calibration: Calibration
) -> Tensor:
    """(n,) power of the prior for the people of whole pictures; mirrored looks count like others."""
    counts = np.concatenate([np.mean([_departures(look) for look in pair], axis=0) for pair in looks], axis=1)
    _, place = np.unique(pictures, return_inverse=True)
    sure, beside = (np.bincount(place, count)[place] for count in counts)
    trust = calibration.trust * trust_from_departures(sure, beside, calibration.usual_departure)
    return torch.from_numpy(trust).float().to(looks[0][0].std.device)


def _decode(
    looks: tuple[_Look, ...],
    trust: Tensor,
    calibration: Calibration,
    config: ModelConfig,
    order: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Points, their confidence and that of the input points; the second look, if any, is the mirrored one."""
    look = looks[0]
    temperature = torch.tensor(calibration.temperature or (1.0,), device=trust.device)
    logits = look.logits(trust)
    # The point is read from the network's own distribution, how sure it is from the calibrated one.
    sharp, calibrated = cell_probabilities(logits), cell_probabilities(logits, temperature)
    for mirrored in looks[1:]:
        logits = mirrored.logits(trust)
        shift = (STRIDE - 1 - 2 * config.cell_offset) / STRIDE
        # Mirrored keypoint k is keypoint order[k]: the temperature goes by name, not by place.
        heat = temperature[order] if len(temperature) > 1 else temperature
        sharp = (sharp + mirror_maps(cell_probabilities(logits), order, shift)) / 2
        calibrated = (calibrated + mirror_maps(cell_probabilities(logits, heat), order, shift)) / 2
    if (options.decoder or calibration.decoder) == "soft_argmax":
        cells = expected_position(sharp)
    else:
        cells, _ = expected_similarity_argmax(sharp, look.std)
    confidence = expected_similarity(calibrated, cells, look.std)
    own = expected_similarity(calibrated, look.cell_points, look.std) * look.valid
    return cells * STRIDE + config.cell_offset, confidence, own


def _chunks(pictures: npt.NDArray[np.int64], size: int, *, whole_pictures: bool) -> Iterator[slice]:
    """People ``size`` at a time; of whole pictures fewer, or all of one that has more."""
    start, total = 0, len(pictures)
    while start < total:
        stop = min(start + size, total)
        if whole_pictures and stop < total and pictures[stop - 1] == pictures[stop]:
            first = int(np.searchsorted(pictures, pictures[stop]))
            stop = first if first > start else int(np.searchsorted(pictures, pictures[stop], side="right"))
        yield slice(start, stop)
        start = stop


def _batches(network: RefinementNetwork, crops: Crops, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    device = network.mean.device
    for start in range(0, len(crops), batch_size):
        part = crops.take(slice(start, start + batch_size))
        yield tuple(torch.from_numpy(getattr(part, f.name)).to(device, non_blocking=True) for f in fields(Crops))
