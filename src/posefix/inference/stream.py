"""Estimators' outputs taken apart, measured, refined and put together: one after another, or in an endless stream."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from posefix.adapters.base import Extracted, Floats
from posefix.adapters.registry import Extract, adapt
from posefix.exceptions import InputError
from posefix.inference.batching import ahead, check_workers
from posefix.inference.crops import CROWD, Prepared, Refined
from posefix.inference.engine import Engine
from posefix.inference.options import Options
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown
from posefix.typed import checked

logger = logging.getLogger(__name__)

#: Below so many clearly visible keypoints, measured reliability says little.
FEW_CONFIDENT = 100
#: People on whom a stream's reliability is measured.
MEASURED = 256
#: Images that are held back for it at most.
HELD_BACK = 512


def prepare_output(
    refiner: Engine, found: Extracted, *, use_boxes: bool, color: str, skeleton: Skeleton | str | None
) -> Iterator[Prepared]:
    """The images of an output that show people, each prepared when it is asked for."""
    use_boxes = checked(use_boxes, bool, "use_boxes", InputError)
    shared = refiner.shared(skeleton)
    for index, keypoints in enumerate(found.keypoints):
        if len(keypoints):
            image = (found.images or ())[index]
            boxes = found.boxes[index] if use_boxes and found.boxes is not None else None
            # An adapter's image may be a function that loads it.
            yield refiner.prepare(image() if callable(image) else image, keypoints, boxes, color=color, shared=shared)


def put_together(found: Extracted, refined: Iterable[Refined]) -> Any:
    """An output of the same kind with what came out for the images of ``prepare_output``."""
    results = iter(refined)
    keypoints: list[Floats] = [next(results).keypoints if len(own) else own for own in found.keypoints]
    return found.rebuild(keypoints)


def measured_weight(refiner: Engine, prepared: Iterable[Prepared], options: Options) -> float:
    """``Refiner.measure`` of images from ``Engine.prepare``."""
    reliability = refiner.measure_prepared(prepared, options)
    if refiner.measures_reliability and reliability.confident < FEW_CONFIDENT:
        logger.warning(
            "reliability measured on %d clearly visible keypoints only, so it stays near 1; give more people",
            reliability.confident,
        )
    return reliability.prior_weight


def stream(
    refiner: Engine,
    pairs: Iterable[Any],
    options: Options,
    *,
    use_boxes: bool,
    adapter: Extract | None,
    color: str,
    skeleton: Skeleton | str | None,
    workers: int,
) -> Iterator[Any]:
    """``Refiner.refine_stream``; see there."""
    source = refiner.shared(skeleton).source
    check_workers(workers)
    try:
        pairs = iter(pairs)
    except TypeError:
        raise InputError(f"pairs: expected an iterable of (image, output), got {shown(pairs)}") from None

    def prepare(pair: Any) -> tuple[Extracted, list[Prepared]]:
        image, output = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, pair)
        found = adapt(output, source, image, adapter)
        order = "rgb" if image is None else color
        return found, list(prepare_output(refiner, found, use_boxes=use_boxes, color=order, skeleton=skeleton))

    faults: list[Exception] = []

    def prepared_pairs() -> Iterator[tuple[Extracted, list[Prepared]]]:
        try:
            for _, done in ahead(prepare, pairs, workers):
                yield done.result()
        except Exception as error:  # what came before it comes out first
            faults.append(error)

    ready = prepared_pairs()
    if options.prior_weight is None and refiner.measures_reliability:
        first: list[tuple[Extracted, list[Prepared]]] = []
        for item in ready:
            first.append(item)
            people = sum(len(p.rows) for _, parts in first for p in parts)
            if people >= MEASURED or len(first) >= HELD_BACK:
                break
        parts = [p for _, prepared in first for p in prepared]
        if any(len(p.rows) > CROWD for p in parts):  # too many to keep what the network says of them
            options = replace(options, prior_weight=refiner.measure_prepared(parts, options).prior_weight)
            refined = refiner.refine_images(parts, options)
        else:
            measured = refiner.forward(parts, options)
            options = measured.chosen(options)
            refined = iter(refiner.decode(measured, options))
            del measured
        del parts
        for found, prepared in first:
            yield put_together(found, [next(refined) for _ in prepared])
        del first
    in_work: deque[tuple[Extracted, int]] = deque()

    def parts_of_the_rest() -> Iterator[Prepared]:
        for found, prepared in ready:
            in_work.append((found, len(prepared)))
            yield from prepared

    results: list[Refined] = []
    for result in refiner.refine_images(parts_of_the_rest(), options):
        results.append(result)
        while in_work and len(results) >= in_work[0][1]:
            found, count = in_work.popleft()
            yield put_together(found, results[:count])
            results = results[count:]
    while in_work:
        found, count = in_work.popleft()
        yield put_together(found, results[:count])
        results = results[count:]
    if faults:
        raise faults[0]
