"""Estimators' outputs taken apart, refined and put together: one after another, or in an endless stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, like
from posefix.adapters.registry import Extract, adapt
from posefix.exceptions import InputError
from posefix.inference.batching import ahead
from posefix.inference.crops import Prepared, Refined
from posefix.inference.engine import Engine
from posefix.inference.options import Options
from posefix.keypoints.poses import NORMALISED, normalised
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown
from posefix.tensors import is_tensor
from posefix.typed import checked

#: People on whom a stream's reliability is measured.
MEASURED = 256
#: Images that are held back for it at most.
HELD_BACK = 512
#: Threads that may be asked for.
MOST_WORKERS = 1024


def prepare_images(
    refiner: Engine,
    images: Sequence[Any],
    keypoints: Sequence[Any],
    boxes_xyxy: Sequence[Any] | None,
    color: str,
    skeleton: Skeleton | str | None,
) -> Iterator[Prepared]:
    """Arrays of several images' people, each image prepared when it is asked for; see ``Refiner.refine_batch``."""
    if isinstance(images, np.ndarray | str | Path) or not hasattr(images, "__len__"):
        kind = {np.ndarray: "one array"}.get(type(images), "one path")
        got = kind if isinstance(images, np.ndarray | str | Path) else type(images).__name__
        hint = "" if hasattr(images, "__len__") else "; refine_stream takes images one after another"
        raise InputError(f"expected as many images as arrays of keypoints, got {got} and {_count(keypoints)}{hint}")
    if len(images) != _count(keypoints):
        raise InputError(f"expected as many images as arrays of keypoints, got {len(images)} and {_count(keypoints)}")
    boxes = [None] * len(images) if boxes_xyxy is None else boxes_xyxy
    if isinstance(boxes, str) or _count(boxes) != len(images):
        raise InputError(f"boxes_xyxy: expected one array or None per image, got {_count(boxes)}")
    if normalised(keypoints):
        raise InputError(f"keypoints: {NORMALISED}")
    shared = refiner.shared(skeleton)
    return (
        refiner.prepare(image, pose, box, color=color, shared=shared)
        for image, pose, box in zip(images, keypoints, boxes, strict=True)
    )


def _count(values: Any) -> Any:
    try:
        return len(values)
    except TypeError:
        return type(values).__name__


def as_given(refined: Floats, given: Any) -> Any:
    """A tensor of the given one's kind where keypoints came as a tensor; else the array as it is."""
    return like(refined, given) if is_tensor(given) else refined


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
    if not 0 <= checked(workers, int, "workers", InputError) <= MOST_WORKERS:
        raise InputError(f"workers: expected 0…{MOST_WORKERS}, got {shown(workers)}")
    try:
        pairs = iter(pairs)
    except TypeError:
        raise InputError(f"pairs: expected an iterable of (image, output), got {shown(pairs)}") from None

    def prepare(pair: Any) -> tuple[Extracted, list[Prepared]]:
        image, output = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, pair)
        found = adapt(output, source, image, adapter)
        order = "rgb" if image is None else color
        return found, list(prepare_output(refiner, found, use_boxes=use_boxes, color=order, skeleton=skeleton))

    ready = (done.result() for _, done in ahead(prepare, pairs, workers))
    if options.prior_weight is None and refiner.measures_reliability:
        first: list[tuple[Extracted, list[Prepared]]] = []
        for item in ready:
            first.append(item)
            people = sum(len(p.rows) for _, parts in first for p in parts)
            if people >= MEASURED or len(first) >= HELD_BACK:
                break
        parts = [p for _, prepared in first for p in prepared]
        outputs, reliability = refiner.forward(parts, options)
        options = replace(options, prior_weight=reliability.prior_weight)
        refined = iter(refiner.decode(parts, outputs, options))
        del parts, outputs
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
