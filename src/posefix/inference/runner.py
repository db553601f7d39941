"""People through a network by any backend, and what its output means: reliability, the prior's weight, points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from posefix.inference.constant_offset import measured_offset
from posefix.inference.crops import Prediction
from posefix.inference.options import Options
from posefix.inference.reliability import (
    CONFIDENT,
    Reliability,
    can_measure_reliability,
    measured_prior_weight,
    shared_outliers,
)
from posefix.inference.streams import Streams
from posefix.network.inputs import NetworkInput
from posefix.tensors import real_array
from posefix.weights.weights import Weights

Floats = npt.NDArray[np.floating]

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class View:
    """What a network says of B people's crops.

    Attributes:
        image_logits: (B, K, h, w) float32 before the prior; an array, or a tensor on the network's device.
        peaks: (B, K) see ``RefinementNetwork.image_logits_and_peaks``; None without.
        inputs: arrays of the input pose, without crops.
        counts: (3, B) from ``Model.count``; None where not counted yet.
    """

    image_logits: Any
    peaks: Any
    inputs: NetworkInput
    counts: Any = None


#: Some people who went, or still go, through the network together: their view, a second one with the flip test.
Piece = Future[tuple[View, ...]]


class Model(Protocol):
    """A network with its decoding, in one backend; thread-safe where it runs on a CPU.

    Attributes:
        backend: its name.
        precision: that of the layers.
    """

    backend: str
    precision: str

    def forward(self, inputs: NetworkInput) -> View:
        """Arrays of B people through the network."""

    def count(self, view: View) -> Any:
        """(3, B) see ``decoding.count_outliers``; an array, or a tensor on the network's device."""

    def decode(self, views: Sequence[View], prior_weight: Floats, decoder: str) -> Prediction:
        """Points and confidence from a view and, for the flip test, that of the mirrored crops."""

    def starting_threads(self) -> AbstractContextManager[None]:
        """Entered while threads start that will call this model."""

    def enter_thread(self) -> None:
        """Called first in each of them."""


class Runner:
    """Runs a model and reads its output.

    On a CPU every person goes alone through one of ``threads`` streams of one thread each. So a person's numbers do
    not depend on the other people, to the bit. On a GPU (``threads`` 0) people go in batches, in the calling thread.

    ``start`` begins with some people and returns at once where there are streams; ``finish`` waits.
    """

    def __init__(self, model: Model, weights: Weights, threads: int) -> None:
        self.model = model
        self.threads = threads
        self.measures_reliability = can_measure_reliability(weights.config, weights.calibration)
        self._keypoints, self._calibration = weights.config.num_keypoints, weights.calibration
        self._stride = weights.config.codec.stride
        self._flip_indices = weights.skeleton.flip_indices
        self._streams = Streams(threads, model.enter_thread, model.starting_threads) if threads else None

    def start(self, inputs: NetworkInput, options: Options) -> list[Piece]:
        """Begin with any number of people; without a ``prior_weight`` their outliers can be counted."""
        step = 1 if self._streams else options.batch_size
        return [
            self._run(partial(self._forward, inputs, slice(i, i + step), options)) for i in range(0, len(inputs), step)
        ]

    def _forward(self, inputs: NetworkInput, rows: slice, options: Options) -> tuple[View, ...]:
        part = inputs.take(rows)  # here and not before: this may cut the crops
        seen = (part, part.mirrored(self._flip_indices)) if options.flip_test else (part,)
        views = tuple(self.model.forward(one) for one in seen)
        if self._streams or options.prior_weight is not None or not self.measures_reliability:
            return views
        # A GPU works in order, and this shall not wait for the next people.
        return tuple(replace(view, counts=self.model.count(view)) for view in views)

    def counts(self, pieces: Sequence[Piece]) -> npt.NDArray[np.float64]:
        """(3, B) ``decoding.count_outliers`` of people who were started without a ``prior_weight``."""
        if not self.measures_reliability:
            return np.zeros((3, 0))
        found = self._each(self._count, [piece.result() for piece in pieces])
        return np.concatenate(found, axis=1) if found else np.zeros((3, 0))

    def _count(self, views: tuple[View, ...]) -> npt.NDArray[np.float64]:
        counts = (view.counts if view.counts is not None else self.model.count(view) for view in views)
        return np.asarray(np.mean([real_array(each, "counts") for each in counts], axis=0), np.float64)

    def reliability(self, counts: npt.NDArray[np.float64]) -> Reliability:
        """Reliability of an estimator by the ``counts`` of its people."""
        total = counts.sum(-1)
        if not counts.shape[1]:
            return Reliability()
        weight = measured_prior_weight(total, self._calibration)
        alike = bool(shared_outliers(total, self._calibration) > total[1])
        return Reliability(float(weight), int(total[0]), int(total[1]), alike=alike)

    def offset(self, pieces: Sequence[Piece]) -> tuple[float, float]:
        """``Reliability.offset`` of people of many images, by where the image shows their keypoints."""
        found = self.finish(pieces, Options(prior_weight=0.0), np.zeros(_people(pieces), np.int64))
        poses = [piece.result()[0].inputs for piece in pieces]
        given, valid = (np.concatenate([getattr(p, name) for p in poses]) for name in ("crop_points", "valid"))
        x, y = self._stride * measured_offset(
            (found.points - given) / self._stride, valid & (found.confidence > CONFIDENT)
        )
        return float(x), float(y)

    def finish(self, pieces: Sequence[Piece], options: Options, image_index: npt.NDArray[np.int64]) -> Prediction:
        """Points and confidence in crop pixels.

        Args:
            pieces: from ``start``; B people.
            options: decoder and prior weight; a weight of None is measured on the people of each image.
            image_index: (B,) which image each person is in.
        """
        weight = np.full(len(image_index), 1.0 if options.prior_weight is None else options.prior_weight)
        if options.prior_weight is None and self.measures_reliability:
            counts = np.stack([np.bincount(image_index, count)[image_index] for count in self.counts(pieces)])
            weight = measured_prior_weight(counts, self._calibration)
        decoder = options.decoder or self._calibration.decoder
        views = [piece.result() for piece in pieces]
        ends = np.cumsum([len(each[0].inputs) for each in views]).tolist()
        weighed = [(each, weight[end - len(each[0].inputs) : end]) for each, end in zip(views, ends, strict=True)]
        made = self._each(lambda of: self.model.decode(*of, decoder), weighed)
        return Prediction.join(made, self._keypoints)

    def _each(self, task: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
        """``task`` of each item, several in a row by each stream: the first takes twice as long as those after it."""
        share = -(-len(items) // max(self.threads, 1))
        parts = [items[i : i + share] for i in range(0, len(items), max(share, 1))]
        made = [self._run(partial(_mapped, task, part), first=True) for part in parts]
        return [one for each in made for one in each.result()]

    def _run(self, task: Callable[[], _Made], *, first: bool = False) -> Future[_Made]:
        if self._streams:
            return self._streams.submit(task, first=first)
        future: Future[_Made] = Future()
        future.set_result(task())
        return future


def _people(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.result()[0].inputs) for piece in pieces)


def _mapped(task: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    return [task(item) for item in items]
