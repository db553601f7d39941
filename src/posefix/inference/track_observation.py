"""What the network says of the people of some frames: places of each keypoint, and left and right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.geometry import invert_affine, transform_points
from posefix.inference.constant_offset import ConstantOffset
from posefix.inference.crops import Prepared, well_inside
from posefix.inference.decoding import count_near, presence
from posefix.inference.forward import ForwardOutput
from posefix.inference.options import Options
from posefix.inference.reliability import CONFIDENT, can_measure_reliability, measured_prior_weight
from posefix.inference.runner import Runner
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.heatmaps import expected_similarity_modes, heatmap_probabilities
from posefix.keypoints.skeleton import Skeleton
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.video.left_right import SideState, decide_sides, exchange_sides, side_groups
from posefix.video.smoothing import Places
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Places that are kept of each keypoint.
PLACES = 4
#: Length scale at which the sides are compared, in those of keypoint similarity, and the least similarity.
_SIDE_SCALE, _LEAST = 0.5, 1e-3
#: Mean log odds of a group of keypoints below which both poses, as it is and exchanged, are compared; the most that a
#: frame counts.
_DOUBT, _SURE = 6.0, 8.0
#: How often sides are decided at most.
_ROUNDS = 3
#: Least measured weight of the input poses in a video. Other frames outvote their errors, and where another person
#: covers a person, they alone know whose keypoints are meant.
LEAST_WEIGHT = 0.8


@dataclass(frozen=True)
class Observer:
    """The network that sees the crops, and how its output is read.

    Attributes:
        runner: runs the network, in any backend.
        network: the same in torch, of which only the prior computes.
        calibration: how its logits are read.
        skeleton: the keypoint set.
    """

    runner: Runner
    network: RefinementNetwork
    calibration: Calibration
    skeleton: Skeleton

    @property
    def codec(self) -> HeatmapCodec:
        """Where heatmap pixels lie in a crop."""
        return self.network.config.codec

    def forward(self, inputs: NetworkInput, batch_size: int) -> Iterator[ForwardOutput]:
        """Any number of people through the network, put together ``batch_size`` at a time; no prior yet."""
        pieces = self.runner.start(inputs, Options(batch_size=batch_size, prior_weight=1.0))
        size = 1 if self.runner.threads else batch_size
        for start in range(0, len(inputs), batch_size):
            views = [p.result()[0] for p in pieces[start // size : -(-(start + batch_size) // size)]]
            logits = torch.cat([torch.as_tensor(v.image_logits) for v in views])
            seen = inputs.take(slice(start, start + batch_size)).without_crops().to(logits.device)
            peaks = None if views[0].peaks is None else torch.cat([torch.as_tensor(v.peaks) for v in views])
            yield ForwardOutput(logits, peaks, None, seen.crop_points, seen.valid, seen.std, seen.others)


@dataclass(frozen=True)
class Memory:
    """What is known of an estimator and its sides after some frames.

    Attributes:
        confident: keypoints of which the image was confident.
        outliers: how many of them the poses had elsewhere.
        close: how many they had at the very place.
        sides: where the decisions about left and right stand; None at the beginning.
        offset: that all keypoints have; None at the beginning.
    """

    confident: int = 0
    outliers: int = 0
    close: int = 0
    sides: SideState | None = None
    offset: ConstantOffset | None = None


@dataclass(frozen=True)
class Observed:
    """F frames' N people.

    Attributes:
        places: of their keypoints.
        exchanged: (F, N, G) whether left and right of a group were exchanged.
        offset: (F, N, 2) px by which the given poses were moved, all keypoints alike.
    """

    places: Places
    exchanged: Bools
    offset: Doubles

    def __len__(self) -> int:
        return len(self.places)

    def take(self, frames: slice) -> Observed:
        """Some of the frames."""
        return Observed(self.places.take(frames), self.exchanged[frames], self.offset[frames])

    @staticmethod
    def join(parts: Sequence[Observed]) -> Observed:
        """Frames one after another."""
        exchanged, offset = (np.concatenate([getattr(p, name) for p in parts]) for name in ("exchanged", "offset"))
        return Observed(Places.join([p.places for p in parts]), exchanged, offset)


@torch.inference_mode()
def observe(
    observer: Observer,
    frames: Sequence[Prepared],
    guessed: Bools,
    memory: Memory,
    *,
    prior_weight: float | None = None,
    batch_size: int = 32,
    repair_sides: bool = True,
) -> tuple[Observed, Memory]:
    """Where the network places the keypoints of the people of some frames.

    Args:
        observer: the network.
        frames: F frames' N people, from ``prepare``; people missing from a frame have no row.
        guessed: (F, N, K) keypoints whose input is a guess between neighbouring frames: they guide the network, but
            do not stay where they are.
        memory: of the frames before.
        prior_weight: as in ``Options``; None measures it, on all frames so far.
        batch_size: people per pass through the network.
        repair_sides: whether exchanged left and right are put right.
    """
    skeleton, codec = observer.skeleton, observer.codec
    groups = side_groups(skeleton)
    shape: tuple[int, int, int] = (guessed.shape[0], guessed.shape[1], guessed.shape[2])
    exchanged, offset = np.zeros((*shape[:2], len(groups)), bool), np.zeros((*shape[:2], 2))
    f = np.concatenate([np.full(len(p.rows), i) for i, p in enumerate(frames)]).astype(np.int64)
    n = np.concatenate([p.rows for p in frames]).astype(np.int64)
    if not len(f):
        return Observed(_empty(shape), exchanged, offset), memory
    inputs = NetworkInput.join([p.inputs for p in frames if len(p.rows)])
    affine = np.concatenate([p.affine for p in frames])
    back = invert_affine(affine)
    scale = np.sqrt(back[:, 0, 0] * back[:, 1, 1])[:, None]  # image px per crop px
    outputs = list(observer.forward(inputs, batch_size))

    if repair_sides and len(groups):
        came, rows, odds = inputs, np.arange(len(f)), np.zeros(shape)
        points, std, valid = np.zeros((*shape, 2)), np.ones(shape), np.zeros(shape, bool)
        points[f, n], std[f, n] = transform_points(back, inputs.crop_points), inputs.std * scale
        valid[f, n] = inputs.valid
        valid &= ~guessed
        # What the network says of a group leans to the others: of people whom that corrects, it is asked anew.
        for _ in range(_ROUNDS):
            odds[f[rows], n[rows]] = np.concatenate([_side_odds(o, observer) for o in outputs])[rows]
            as_given = np.ones(shape)
            for g, group in enumerate(groups):
                doubted = rows[_doubted(odds, valid, group)[n[rows]]]
                if len(doubted):
                    compared = _compared(observer, inputs, outputs, doubted, g, batch_size)
                    odds[f[doubted, None], n[doubted, None], group] = compared
                as_given[..., group] = np.where(exchanged[..., g, None], -1.0, 1.0)
            before, log_odds = exchanged, np.where(valid, as_given * odds, 0.0)
            exchanged, sides = decide_sides(points, valid, std, log_odds, skeleton, memory.sides)
            changed = np.flatnonzero((exchanged != before)[f, n].any(-1))
            if not len(changed):
                break
            # The network must see the pose as it should have been, or its answer leans to the exchanged one.
            inputs = _exchange_inputs(came, exchanged[f, n], observer)
            outputs = _replace_rows(outputs, changed, list(observer.forward(inputs.take(changed), batch_size)))
            rows = np.flatnonzero(np.isin(n, n[changed]))
        memory = replace(memory, sides=sides)
        guessed = exchange_sides(guessed[..., None], exchanged, skeleton)[..., 0]

    weight, memory = _weigh(observer, outputs, ~guessed[f, n], prior_weight, memory)
    if memory.offset is not None:
        moved = codec.stride * memory.offset.value()  # crop px
        inputs = replace(inputs, crop_points=inputs.crop_points + moved.astype(np.float32))
        offset[f, n] = moved * scale
    starts = np.cumsum([0, *map(len, outputs)])
    seen = [inputs.take(slice(*s)).without_crops() for s in pairwise(starts)]
    found = [_places_of(observer, o, s, weight) for o, s in zip(outputs, seen, strict=True)]
    points, mass, variance, own, shown = (np.concatenate(x).astype(np.float64) for x in zip(*found, strict=True))
    people = len(points)
    image_points = transform_points(back, codec.to_crop(points).reshape(people, -1, 2)).reshape(points.shape)
    variance *= np.square(codec.stride * scale)[..., None]
    if observer.calibration.policy == "safe":
        # As in a single image: an input that the image does not speak against is what was seen.
        margin = np.array(observer.calibration.margin or (0.0,))
        keep = inputs.valid & ~guessed[f, n] & (own >= mass[..., 0] - margin)
        given = transform_points(back, inputs.crop_points)
        keep &= np.linalg.norm(given - image_points[:, :, 0], axis=-1) < inputs.std * scale
        image_points[:, :, 0] = np.where(keep[..., None], given, image_points[:, :, 0])
    # Where nothing was given, a place counts as far as the image supports it.
    image_hw = np.array([p.image_hw for p in frames])[f][:, None, None]
    supported = shown[..., None] * well_inside(image_points, (inputs.std * scale)[..., None], image_hw)
    mass = np.where(inputs.valid[..., None], mass, mass * supported)
    places = _empty(shape)
    places.points[f, n], places.mass[f, n], places.variance[f, n] = image_points, mass, variance
    places.std[f, n] = inputs.std * scale
    return Observed(places, exchanged, offset), memory


def _empty(shape: tuple[int, int, int]) -> Places:
    """Places of no people."""
    several = (*shape, PLACES)
    return Places(np.zeros((*several, 2)), np.zeros(several), np.ones(several), np.full(shape, np.nan))


def _side_odds(output: ForwardOutput, observer: Observer) -> Doubles:
    """(B, K) log odds, by the image, that a keypoint is itself and not its mirror."""
    codec, flip = observer.codec, torch.from_numpy(observer.skeleton.flip_indices)
    probabilities = heatmap_probabilities(output.image_logits)
    std = output.std * _SIDE_SCALE
    flip = flip.to(output.valid.device)
    own = codec.similarity(probabilities, output.crop_points, std)
    mirror = codec.similarity(probabilities, output.crop_points[:, flip], std)
    odds = torch.log(own + _LEAST) - torch.log(mirror + _LEAST)
    return np.asarray((odds * (output.valid & output.valid[:, flip])).cpu().numpy(), np.float64)


def _doubted(odds: Doubles, valid: Bools, group: Ints) -> Bools:
    """(N,) people whose sides the image hardly speaks for in these frames, given a pose that it leans to."""
    seen = valid[..., group].any(-1)
    total = np.where(seen, np.clip(odds[..., group].sum(-1), -_SURE, _SURE), 0.0).sum(0)
    return np.asarray(seen.any(0) & (total < _DOUBT * seen.sum(0)))


def _compared(
    observer: Observer, inputs: NetworkInput, outputs: list[ForwardOutput], rows: Ints, group: int, batch_size: int
) -> Doubles:
    """(R, group) log odds of some people's sides: what the network says of the pose as it is, and of the exchanged."""
    members = side_groups(observer.skeleton)[group]
    exchanged = np.zeros((len(rows), len(side_groups(observer.skeleton))), bool)
    exchanged[:, group] = True
    other = _exchange_inputs(inputs.take(rows), exchanged, observer)

    def fit(parts: list[ForwardOutput]) -> Doubles:
        own = [
            observer.codec.similarity(heatmap_probabilities(o.image_logits), o.crop_points, o.std * _SIDE_SCALE)
            for o in parts
        ]
        valid = torch.cat([o.valid for o in parts])
        both = valid & valid[:, torch.from_numpy(observer.skeleton.flip_indices).to(valid.device)]
        return np.asarray((torch.log(torch.cat(own) + _LEAST) * both).cpu().numpy(), np.float64)

    again = list(observer.forward(other, batch_size))
    return np.asarray(fit(outputs)[rows][:, members] - fit(again)[:, members])


def _exchange_inputs(inputs: NetworkInput, exchanged: Bools, observer: Observer) -> NetworkInput:
    def swap(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        wide = values if values.ndim == 3 else values[..., None]
        return exchange_sides(wide, exchanged, observer.skeleton).reshape(values.shape)

    return replace(inputs, crop_points=swap(inputs.crop_points), valid=swap(inputs.valid), scores=swap(inputs.scores))


def _replace_rows(outputs: list[ForwardOutput], rows: Ints, new: list[ForwardOutput]) -> list[ForwardOutput]:
    """Outputs with those of some people replaced."""
    place = torch.from_numpy(rows)

    def replaced(name: str) -> Tensor | None:
        parts = [getattr(o, name) for o in outputs]
        if parts[0] is None:
            return None
        joined = torch.cat(parts)
        joined[place.to(joined.device)] = torch.cat([getattr(o, name) for o in new])
        return joined

    whole = ForwardOutput(**{f.name: replaced(f.name) for f in fields(ForwardOutput)})  # type: ignore[arg-type]
    return [whole]


def _weigh(
    observer: Observer, outputs: list[ForwardOutput], known: Bools, given: float | None, memory: Memory
) -> tuple[float, Memory]:
    """Weight of the pose prior and the poses' offset, measured on all frames so far; a given weight stays."""
    calibration, codec = observer.calibration, observer.codec
    if can_measure_reliability(observer.network.config, calibration):
        counted, differences, confident = zip(*(_compared_with_image(o, codec) for o in outputs), strict=True)
        seen = np.concatenate(counted, axis=1).sum(-1)
        counts = seen + np.array([memory.confident, memory.outliers, memory.close])
        usable = np.concatenate(confident) & known
        offset = memory.offset or ConstantOffset.unknown(usable.shape[1])
        memory = replace(
            memory,
            **dict(zip(("confident", "outliers", "close"), counts.tolist(), strict=True)),
            offset=offset.seen(np.concatenate(differences), usable),
        )
        if given is None:
            given = max(float(measured_prior_weight(counts, calibration)), LEAST_WEIGHT)
    return calibration.prior_weight * (1.0 if given is None else given), memory


def _compared_with_image(output: ForwardOutput, codec: HeatmapCodec) -> tuple[Ints, Floats, Bools]:
    """Counts (3, B), ways (B, K, 2) from the pose to the image's places in heatmap pixels, whether it is confident."""
    points, confidence = codec.decode(output.image_logits, output.std)
    pose = NetworkInput(None, output.crop_points, output.valid, output.std, None, others=output.others)
    found = count_near(points, confidence, pose), (points - output.crop_points) / codec.stride, confidence > CONFIDENT
    counts, ways, confident = (x.cpu().numpy() for x in found)
    return counts, ways, confident & output.valid.cpu().numpy()


def _places_of(observer: Observer, output: ForwardOutput, pose: NetworkInput, weight: float) -> tuple[Floats, ...]:
    """Places (B, K, M, 2) in heatmap pixels, their calibrated similarity, variance; pose's similarity; presence."""
    calibration, codec = observer.calibration, observer.codec
    temperature = torch.tensor(calibration.temperature or (1.0,), device=output.std.device)
    pose = pose.to(output.std.device)
    output = replace(output, log_prior=observer.network.log_prior(output.image_logits, pose))
    logits = output.logits(torch.full((len(output),), weight, device=output.std.device))
    sharp, calibrated = heatmap_probabilities(logits), heatmap_probabilities(logits, temperature)
    std = output.std / codec.stride
    points, found, variance = expected_similarity_modes(sharp, std, PLACES)
    similarity = [codec.similarity(calibrated, codec.to_crop(points[:, :, m]), output.std) for m in range(PLACES)]
    mass = torch.stack(similarity, -1) * (found > 0)
    own = codec.similarity(calibrated, pose.crop_points, output.std) * output.valid
    shown = presence(output.peaks, own, calibration)
    return tuple(x.cpu().numpy() for x in (points, mass, variance, own, shown))
