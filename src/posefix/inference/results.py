"""A whole results file: images streamed, people batched across them; same entries, order, ids and fields out."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from posefix.deprecation import warn_renamed
from posefix.exceptions import FileFormatError, ImageError, InputError
from posefix.geometry import boxes_xywh_to_xyxy
from posefix.inference.crops import Prepared
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.report import Report
from posefix.inference.rescoring import RANKINGS, duplicates, person_scores
from posefix.io.coco import Annotations, Entry, image_name, replace_keypoints
from posefix.io.images import load_image
from posefix.keypoints.mapping import SharedKeypoints, share_keypoints
from posefix.keypoints.poses import Floats, read_poses
from posefix.keypoints.skeleton import Skeleton

logger = logging.getLogger(__name__)

#: People on whom the reliability of a results file is measured (a strong estimator's then varies by a sixth), and
#: how many of one image.
MEASURED, MEASURED_PER_IMAGE = 256, 3


def refine_entries(
    refiner: Refiner,
    entries: Sequence[Entry],
    images: str | os.PathLike[str],
    *,
    annotations: Annotations | None = None,
    options: Options | None = None,
    ranking: str = "pose_consistency",
    soft_nms: bool = True,
    use_boxes: bool = False,
    skeleton: Skeleton | None = None,
    workers: int = 2,
    progress: bool = False,
) -> tuple[list[Entry], Report]:
    """Refine COCO results entries.

    Args:
        refiner: with the entries' skeleton, or with one that shares keypoints with it.
        entries: as ``read_results`` gives; not changed.
        images: folder of the images.
        annotations: names of the images; else ``file_name`` of an entry, else the padded id.
        options: how to refine; a ``prior_weight`` of None is measured on the best-scored people of a random
            sample of the images.
        ranking: one of ``RANKINGS``, what becomes each person's ``score``.
        soft_nms: lower the new score of who repeats a better-scored person (``ranking.duplicates``); nobody is
            removed.
        use_boxes: crop around an entry's ``bbox`` where it has one, instead of around its keypoints.
        skeleton: the entries' keypoint set; None is the refiner's. Of another set, the keypoints that both have by
            name are refined and counted, the others stay as they are.
        workers: threads that read images and cut crops while the network computes.
        progress: show a bar.

    Returns:
        new entries in the same order with the same other fields, and the report.

    Raises:
        InputError: an unknown ranking, or no such folder.
        FileFormatError: no entry is a pose of the skeleton.
        SkeletonError: the skeleton shares no keypoint with the refiner's.
    """
    if ranking == "agreement":
        warn_renamed("ranking 'agreement'", "'pose_consistency'")
        ranking = "pose_consistency"
    if ranking not in RANKINGS:
        raise InputError(f"ranking: expected one of {', '.join(RANKINGS)}, got {ranking!r}")
    folder = Path(images)
    if not folder.is_dir():
        raise InputError(f"images: no such folder {str(folder)!r}")
    shared = share_keypoints(skeleton or refiner.skeleton, refiner.skeleton)
    poses, skipped = _split(entries, len(shared.source))
    if skipped and len(skipped) == len(entries):
        raise FileFormatError(
            f"results: no entry is a pose of skeleton {shared.source.name!r} "
            f"(entry 0: {skipped[0]}); the weights are for {len(refiner.skeleton)} keypoints"
        )
    groups: dict[str, list[int]] = {}
    for index in poses:
        groups.setdefault(image_name(entries[index], annotations), []).append(index)

    boxes = _boxes(entries) if use_boxes else np.full((len(entries), 4), np.nan)
    refined: dict[int, npt.NDArray[np.floating]] = {}
    touched, pose_consistency = np.zeros(len(entries), bool), np.ones(len(entries))
    unread: dict[str, str] = {}
    chosen = options or Options()

    def prepare(name: str, rows: list[int]) -> Prepared:
        # COCO's coordinates ignore the EXIF orientation.
        image = load_image(folder / name, ignore_orientation=True)
        own = np.stack([poses[i] for i in rows])
        if shared.identical:
            return refiner.prepare(image, own, boxes[rows])
        around = np.where(np.isfinite(boxes[rows]).all(-1, keepdims=True), boxes[rows], shared.boxes(own))
        return refiner.prepare(image, shared.to_target(own), around)

    confident = outliers = 0
    if chosen.prior_weight is None and refiner.measures_reliability:
        # One estimator made them all, so one weight for all; the images are read a second time below.
        confident, outliers = _outliers(refiner, {n: _best(entries, r) for n, r in groups.items()}, prepare, workers)
        chosen = replace(chosen, prior_weight=refiner.prior_weight_from(confident, outliers))
    pending: list[tuple[list[int], Prepared]] = []

    def flush() -> None:
        results = refiner.refine_prepared([p for _, p in pending], chosen)
        for (rows, prepared), result in zip(pending, results, strict=True):
            touched[[rows[r] for r in prepared.rows]] = True
            back = shared.put_back(np.stack([poses[i] for i in rows]), result.keypoints)
            refined.update(zip(rows, back, strict=True))
            pose_consistency[rows] = result.pose_consistency
        pending.clear()

    with tqdm(total=len(entries), unit="person", disable=None if progress else True) as bar:
        for name, rows, future in _ahead(groups, prepare, workers):
            try:
                pending.append((rows, future.result()))
            except ImageError as error:
                unread[name] = str(error)
            bar.update(len(rows))
            if sum(len(p.rows) for _, p in pending) >= chosen.batch_size:
                flush()
        flush()
    names = {i: name for name, rows in groups.items() for i in rows}

    def rank(rows: list[int], after: Floats) -> tuple[Floats | None, int]:
        own = after[:, shared.from_source]
        scores = person_scores(
            [entries[i].get("score") for i in rows], own[..., 2].mean(-1), pose_consistency[rows], ranking
        )
        if scores is None or not soft_nms:
            return scores, 0
        sigmas = np.array(shared.source.sigmas)[shared.from_source]
        repeated = duplicates(own, scores, [names[i] for i in rows], sigmas)
        return scores * (1 - repeated), int((repeated > 0).sum())

    output, report = _assemble(entries, poses, refined, touched, shared, rank, unread, skipped)
    prior_weight = chosen.prior_weight if refiner.network.prior is not None else None
    return output, replace(report, prior_weight=prior_weight, confident=confident, outliers=outliers)


def refine_mapped(
    refiner: Refiner, image: Any, keypoints: Any, skeleton: Skeleton, *, boxes_xyxy: Any = None, **options: Any
) -> Floats:
    """Refine the people of one image whose keypoint set is not the refiner's.

    Args:
        refiner: of a keypoint set that shares names with ``skeleton``.
        image: as for ``Refiner.refine``.
        keypoints: (N, K, 3) or (N, K, 2) of ``skeleton``.
        skeleton: the keypoints' set.
        boxes_xyxy: (N, 4) person boxes; default around all of a person's keypoints, shared or not.
        **options: as for ``Refiner.refine``.

    Returns:
        (N, K, 3) or (N, K, 2): what both sets have by name is refined, the third value of all others stays what it
        was, the estimator's score.

    Raises:
        SkeletonError: the sets share no keypoint.
        InputError, ImageError: as ``Refiner.refine``.
    """
    shared = share_keypoints(skeleton, refiner.skeleton)
    own = read_poses(keypoints, skeleton).original
    boxes = boxes_xyxy if boxes_xyxy is not None or shared.identical else shared.boxes(own)
    refined = refiner.refine(image, shared.to_target(own), boxes_xyxy=boxes, **options)
    return shared.put_back(own, refined)


def _split(entries: Sequence[Entry], count: int) -> tuple[dict[int, npt.NDArray[np.float64]], dict[int, str]]:
    """Poses by entry index, and why the others are none."""
    poses: dict[int, npt.NDArray[np.float64]] = {}
    skipped: dict[int, str] = {}
    for index, entry in enumerate(entries):
        values = entry.get("keypoints")
        if not isinstance(values, list) or len(values) != 3 * count:
            got = len(values) if isinstance(values, list) else type(values).__name__
            skipped[index] = f"expected {3 * count} numbers as keypoints, got {got}"
            continue
        try:
            poses[index] = np.array(values, np.float64).reshape(count, 3)
        except (TypeError, ValueError):
            skipped[index] = "keypoints hold something that is no number"
    return poses, skipped


def _boxes(entries: Sequence[Entry]) -> npt.NDArray[np.float64]:
    nothing = [np.nan] * 4
    given = [e.get("bbox") for e in entries]
    rows = [b if isinstance(b, list) and len(b) == 4 else nothing for b in given]
    return np.asarray(boxes_xywh_to_xyxy(np.array(rows, np.float64).reshape(-1, 4)))


def _best(entries: Sequence[Entry], rows: list[int]) -> list[int]:
    """The best-scored people of an image: detectors list many that are nobody."""

    def rank(row: int) -> float:
        score = entries[row].get("score")
        return -score if isinstance(score, int | float) and score == score else 0.0

    return sorted(rows, key=rank)[:MEASURED_PER_IMAGE]


def _outliers(refiner: Refiner, groups: dict[str, list[int]], prepare: Any, workers: int) -> tuple[int, int]:
    """``Refiner.outliers_in`` for about ``MEASURED`` people of images in random order."""
    names = list(groups)
    order = np.random.default_rng(0).permutation(len(names)).tolist()
    sample: list[Prepared] = []
    for _, _, future in _ahead({names[i]: groups[names[i]] for i in order}, prepare, workers):
        if not isinstance(future.exception(), ImageError):
            sample.append(future.result())
        if sum(len(p.rows) for p in sample) >= MEASURED:
            break
    return refiner.outliers_in(sample)


def _ahead(groups: dict[str, list[int]], prepare: Any, workers: int) -> Iterator[tuple[str, list[int], Future[Any]]]:
    """Images in order, prepared a few ahead of the one that is asked for."""
    waiting: deque[tuple[str, list[int], Future[Any]]] = deque()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for name, rows in groups.items():
            waiting.append((name, rows, pool.submit(prepare, name, rows)))
            if len(waiting) > 2 * max(workers, 1):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _assemble(
    entries: Sequence[Entry],
    poses: dict[int, npt.NDArray[np.float64]],
    refined: dict[int, npt.NDArray[np.floating]],
    touched: npt.NDArray[np.bool_],
    shared: SharedKeypoints,
    rank: Callable[[list[int], Floats], tuple[Floats | None, int]],
    unread: dict[str, str],
    skipped: dict[int, str],
) -> tuple[list[Entry], Report]:
    output = [dict(e) for e in entries]
    rows = [i for i in sorted(refined) if touched[i]]
    keypoints = moved = filled = lowered = 0
    distances: list[npt.NDArray[np.float64]] = []
    if rows:
        before, after = np.stack([poses[i] for i in rows]), np.stack([refined[i] for i in rows])
        touches = np.isin(np.arange(before.shape[1]), shared.from_source)
        there = np.isfinite(before).all(-1) & (before[..., 2] > 0) & touches
        distance = np.linalg.norm(np.nan_to_num(after[..., :2] - before[..., :2]), axis=-1)
        changed = there & (distance > 0)
        keypoints, moved = int(there.sum()), int(changed.sum())
        filled = int((~there & touches & (after[..., 2] > 0)).sum())
        distances.append(distance[changed])
        scores, lowered = rank(rows, after)
        new = replace_keypoints([entries[i] for i in rows], after, scores)
        for i, entry, stays in zip(rows, new, there & ~changed, strict=True):
            # What stays where it is keeps its digits.
            for k in np.flatnonzero(stays):
                entry["keypoints"][3 * k : 3 * k + 2] = entries[i]["keypoints"][3 * k : 3 * k + 2]
            for k in np.flatnonzero(~touches):
                entry["keypoints"][3 * k : 3 * k + 3] = entries[i]["keypoints"][3 * k : 3 * k + 3]
            output[i] = entry
    distance_all = np.concatenate(distances) if distances else np.zeros(0)
    report = Report(
        len(entries), len(rows), keypoints, moved, distance_all, filled, lowered, unread=unread, skipped=skipped
    )
    return output, report
