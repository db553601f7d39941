"""Refinement whose numbers do not depend on how people were put together.

On a CPU every person goes through the network alone. On a GPU kernels add up in another order for another number of
people per pass; who stands where in a pass of the same size makes no difference. So every pass there has exactly
``batch_size`` people, whatever images they are in; the last one is filled up with copies. Then one process, seven
shards and a hundred actors write the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from posefix.inference.crops import Prediction, Prepared, Refined
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.network.inputs import NetworkInput


@dataclass
class _Waiting:
    """An image some of whose people are still to go through the network."""

    prepared: Prepared
    predictions: list[Prediction] = field(default_factory=list)
    done: int = 0

    @property
    def missing(self) -> int:
        return len(self.prepared.rows) - self.done


def refine_in_full_batches(refiner: Refiner, prepared: Iterable[Prepared], options: Options) -> Iterator[Refined]:
    """Refine a stream of images, exactly ``options.batch_size`` people per pass.

    Args:
        refiner: whose network it is.
        prepared: images from ``Refiner.prepare``.
        options: how; a ``prior_weight`` of None is 1 here, because one image's people may be in several passes.

    Yields:
        one result per image, in order, as soon as all its people are through; memory is that of the people of a pass.
    """
    if options.prior_weight is None:
        options = replace(options, prior_weight=1.0)
    if refiner.threads:
        yield from refiner.refine_images(prepared, options)
        return
    queue: deque[_Waiting] = deque()
    for image in prepared:
        queue.append(_Waiting(image.moved(options.offset)))
        while sum(w.missing for w in queue) >= options.batch_size:
            _one_pass(refiner, queue, options)
        yield from _finished(refiner, queue, options)
    if any(w.missing for w in queue):
        _one_pass(refiner, queue, options)
    yield from _finished(refiner, queue, options)


def _one_pass(refiner: Refiner, queue: deque[_Waiting], options: Options) -> None:
    """Fill one pass with the first people who wait, and hand the predictions out."""
    size, taken = 0, list[tuple[_Waiting, int]]()
    for waiting in queue:
        if count := min(waiting.missing, options.batch_size - size):
            taken.append((waiting, count))
            size += count
    inputs = NetworkInput.join([w.prepared.inputs.take(slice(w.done, w.done + n)) for w, n in taken])
    if size < options.batch_size:
        inputs = inputs.take(np.resize(np.arange(size), options.batch_size))
    pieces = refiner.runner.start(inputs, options)
    prediction = refiner.runner.finish(pieces, options, np.zeros(len(inputs), np.int64))
    start = 0
    for waiting, count in taken:
        waiting.predictions.append(prediction.take(slice(start, start + count)))
        waiting.done += count
        start += count


def _finished(refiner: Refiner, queue: deque[_Waiting], options: Options) -> Iterator[Refined]:
    while queue and not queue[0].missing:
        image = queue.popleft()
        prediction = Prediction.join(image.predictions, refiner.config.num_keypoints)
        yield from refiner.paste_back([image.prepared], prediction, options)
