"""AP under a bootstrap over images, from the matches of one COCOeval run.

Drawing an image w times weighs its true and false positives by w, so no image is ever matched twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from posefix.geometry import Doubles


def image_draws(images: int, samples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(samples, images) how often each image occurs when as many as there are get drawn with replacement."""
    if images == 0:
        return np.zeros((samples, 0), np.int64)
    return rng.multinomial(images, np.full(images, 1 / images), samples)


def resampled_ap(run: COCOeval, weights: npt.ArrayLike) -> Doubles:
    """AP of an evaluated COCOeval as if each image occurred ``weight`` times.

    Equal to accumulating over the repeated images, unless two people of one image share a score: copies of a person
    are ranked side by side. With all weights 1 it is COCOeval's AP.

    Args:
        run: after ``evaluate()``.
        weights: (S, I) whole numbers, images in order of their ids.

    Returns:
        (S,); NaN where no labelled person was drawn.
    """
    weights = np.asarray(weights, np.float64)
    images, ranges = len(run.params.imgIds), len(run.params.areaRng)
    per_category = [
        _weighted_precision(run.evalImgs[start : start + images], weights, run.params.recThrs)
        for start in range(0, len(run.evalImgs), max(ranges * images, 1))  # the first range of areas is "all"
    ]
    if not per_category:
        return np.full(len(weights), np.nan)
    stacked = np.stack(per_category)
    found = np.isfinite(stacked)
    count = found.sum(0)
    return np.asarray(np.where(count > 0, np.where(found, stacked, 0.0).sum(0) / np.maximum(count, 1), np.nan))


def _weighted_precision(matches: Sequence[Any], weights: Doubles, recalls: Doubles) -> Doubles:
    """(S,) precision of one category, averaged over thresholds of OKS and recall."""
    kept = [(image, match) for image, match in enumerate(matches) if match is not None]
    result = np.full(len(weights), np.nan)
    if not kept:
        return result
    persons = np.zeros(len(matches))
    for image, match in kept:
        persons[image] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    scores = np.concatenate([np.asarray(m["dtScores"], np.float64) for _, m in kept])
    order = np.argsort(-scores, kind="mergesort")
    owner = np.concatenate([np.full(len(m["dtScores"]), image) for image, m in kept])[order]
    matched = np.concatenate([m["dtMatches"] for _, m in kept], axis=1)[:, order] != 0
    counted = ~np.concatenate([m["dtIgnore"] for _, m in kept], axis=1)[:, order].astype(bool)
    hits, misses = matched & counted, ~matched & counted
    for sample, weight in enumerate(weights):
        total = weight @ persons
        if total == 0:
            continue
        true = np.cumsum(hits * weight[owner], axis=1)
        false = np.cumsum(misses * weight[owner], axis=1)
        recall = true / total
        precision = true / (false + true + np.spacing(1))
        # Interpolated precision: the best at this recall or a higher one; 0 beyond the last detection.
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
        places = np.stack([np.searchsorted(row, recalls, side="left") for row in recall])
        result[sample] = np.take_along_axis(best, places, axis=1).mean()
    return result
