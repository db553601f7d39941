"""People through a network by any backend: one at a time on each core of a CPU, in batches on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from posefix.inference.crops import Prediction
from posefix.inference.streams import Streams
from posefix.network.inputs import NetworkInput

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """What a network says of B people's crops.

    Attributes:
        image_logits: (B, K, h, w) float32 before the prior; an array, or a tensor on the network's device.
        peaks: (B, K) see ``RefinementNetwork.image_logits_and_peaks``; None without.
        inputs: arrays of the input pose, without crops.
    """

    image_logits: Any
    peaks: Any
    inputs: NetworkInput


class Model(Protocol):
    """A network with its decoding, in one backend; thread-safe where it runs on a CPU.

    Attributes:
        backend: its name.
        precision: that of the layers.
    """

    backend: str
    precision: str

    def look(self, inputs: NetworkInput) -> View:
        """Arrays of B people through the network."""

    def count_outliers(self, view: View) -> Counts:
        """(3, B) see ``decoding.count_outliers``."""

    def decode(self, views: Sequence[View], prior_weight: Floats, decoder: str) -> Prediction:
        """Points and confidence from a view and, for the flip test, that of the mirrored crops."""

    def starting_threads(self) -> AbstractContextManager[None]:
        """Entered while threads start that will call this model."""

    def enter_thread(self) -> None:
        """Called first in each of them."""


@dataclass(frozen=True)
class Piece:
    """Some people who went, or still go, through the network together.

    Attributes:
        size: how many.
        result: their view, a second one with the flip test; (3, size) mean outlier counts over these, or None.
    """

    size: int
    result: Future[tuple[tuple[View, ...], npt.NDArray[np.float64] | None]]

    @property
    def views(self) -> tuple[View, ...]:
        """The views, once they are there."""
        return self.result.result()[0]


class Runner:
    """Runs a model.

    On a CPU every person goes alone through one of ``threads`` streams of one thread each. So a person's numbers do
    not depend on the other people, to the bit. On a GPU (``threads`` 0) people go in batches, in the calling thread.
    """

    def __init__(self, model: Model, flip_indices: npt.NDArray[np.int64], threads: int) -> None:
        self.model = model
        self.threads = threads
        self._flip_indices = flip_indices
        self._streams = Streams(threads, model.enter_thread, model.starting_threads) if threads else None

    def start(self, inputs: NetworkInput, *, batch_size: int, flip_test: bool, count: bool) -> list[Piece]:
        """Begin with any number of people.

        Args:
            inputs: arrays of B people.
            batch_size: people per pass on a GPU.
            flip_test: also run the mirrored crops.
            count: also count outliers.
        """
        step = 1 if self._streams else batch_size
        pieces = []
        for begin in range(0, len(inputs), step):
            part = inputs.take(slice(begin, begin + step))

            def look(part: NetworkInput = part) -> tuple[tuple[View, ...], npt.NDArray[np.float64] | None]:
                seen = (part, part.mirrored(self._flip_indices)) if flip_test else (part,)
                views = tuple(self.model.look(one) for one in seen)
                counts = np.mean([self.model.count_outliers(view) for view in views], axis=0) if count else None
                return views, counts

            pieces.append(Piece(len(part), self._run(look)))
        return pieces

    def outliers(self, pieces: Sequence[Piece]) -> npt.NDArray[np.float64]:
        """(3, B) ``decoding.count_outliers`` of people who were started with ``count``."""
        counts = [c for c in (p.result.result()[1] for p in pieces) if c is not None]
        return np.concatenate(counts, axis=1) if counts else np.zeros((3, 0))

    def decode(
        self, pieces: Sequence[Piece], prior_weight: npt.NDArray[np.floating], decoder: str, num_keypoints: int
    ) -> Prediction:
        """Points and confidence of people who were started.

        Args:
            pieces: from ``start``; B people.
            prior_weight: (B,) as in ``Options``.
            decoder: one of ``codec.DECODERS``.
            num_keypoints: K.
        """
        made: list[Future[Prediction]] = []
        for piece, rows in zip(pieces, _rows(pieces), strict=True):

            def finish(piece: Piece = piece, rows: slice = rows) -> Prediction:
                return self.model.decode(piece.views, prior_weight[rows], decoder)

            piece.result.result()  # a task that waits for another could leave no thread to run that one
            made.append(self._run(finish, first=True))
        return Prediction.join([m.result() for m in made], num_keypoints)

    def _run(self, task: Any, *, first: bool = False) -> Future[Any]:
        if self._streams:
            return self._streams.submit(task, first=first)
        future: Future[Any] = Future()
        future.set_result(task())
        return future


def _rows(pieces: Sequence[Piece]) -> Iterator[slice]:
    start = 0
    for piece in pieces:
        yield slice(start, start + piece.size)
        start += piece.size
