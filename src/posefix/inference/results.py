"""A whole results file: images streamed, people batched across them; same entries, order, ids and fields out."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from posefix.choices import RANKINGS
from posefix.deprecation import warn_renamed
from posefix.exceptions import FileFormatError, ImageError, InputError
from posefix.geometry import boxes_around_points, boxes_meet, boxes_xywh_to_xyxy, boxes_xyxy_to_xywh, read_otherwise
from posefix.inference.batching import ahead, check_workers
from posefix.inference.crops import Prepared, Refined
from posefix.inference.full_batches import refine_in_full_batches
from posefix.inference.options import Options, make_options
from posefix.inference.refiner import Refiner
from posefix.inference.reliability import Reliability
from posefix.inference.report import NO_SCORE, Report
from posefix.inference.rescoring import can_be_weighed, rescore
from posefix.io.coco import Annotations, Entry, check_entries, image_name, read_pose, replace_keypoints
from posefix.io.image_names import find_images, image_path
from posefix.io.json import is_number
from posefix.io.orientation import AUTO, ExifRule
from posefix.keypoints.mapping import SharedKeypoints, share_keypoints
from posefix.keypoints.poses import Floats, present
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

logger = logging.getLogger(__name__)

#: People on whom the reliability of a results file is measured (a strong estimator's then varies by a sixth), and
#: how many of one image.
MEASURED, MEASURED_PER_IMAGE = 256, 3


def refine_results(
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
    exif: ExifRule = AUTO,
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
        soft_nms: lower the new score of people who repeat a better-scored one (``rescoring.duplicates``); no person
            is removed.
        use_boxes: crop around an entry's ``bbox`` where it has one, instead of around its keypoints.
        skeleton: the entries' keypoint set; None is the refiner's. Of another set, the keypoints that both have by
            name are refined and counted, the others stay as they are.
        exif: whether images are turned as their EXIF data say; by default as the width and height on record are, else
            not, as in COCO.
        workers: threads that read images and cut crops while the network computes.
        progress: show a bar.

    Returns:
        new entries in the same order with the same other fields, and the report.

    Raises:
        InputError: an unknown ranking, or no such folder.
        FileFormatError: no entry is a pose of the skeleton.
        SkeletonError: the skeleton shares no keypoint with the refiner's.

    Examples:
        >>> opened = read_any("results.json")
        >>> entries, report = refine_results(refiner, opened.entries, "images/")
        >>> opened.write("refined.json", entries)
    """
    if ranking == "agreement":
        warn_renamed("ranking 'agreement'", "'pose_consistency'")
        ranking = "pose_consistency"
    if ranking not in RANKINGS:
        raise InputError(f"ranking: expected one of {', '.join(RANKINGS)}, got {shown(ranking)}")
    check_workers(workers)
    if not os.fspath(images) or not Path(images).is_dir():
        raise InputError(f"images: no such folder {str(images)!r}")
    shared = share_keypoints(skeleton or refiner.skeleton, refiner.skeleton)
    people = _read(entries, annotations, shared, use_boxes=use_boxes)
    found = find_images(images, people.image_of.values())
    people = replace(people, image_of={i: found[name] for i, name in people.image_of.items()})
    chosen = options or Options()
    done = _Done(len(entries))
    odd_images: dict[str, str] = {}

    def prepare(unit: Unit) -> Prepared:
        name, rows = unit
        image, remark = exif.load_for(image_path(images, name), entries[rows[0]], annotations)
        if remark:
            odd_images[name] = remark
        return refiner.prepare(image, np.stack([people.poses[i] for i in rows]), people.boxes[rows], shared=shared)

    reliability = Reliability()
    with tqdm(total=len(entries), unit="person", disable=None if progress else True) as bar:
        if chosen.prior_weight is None and refiner.measures_reliability:
            reliability = _measure(refiner, _sample(people), prepare, chosen, workers, done)
            chosen = replace(chosen, prior_weight=reliability.prior_weight, offset=reliability.offset)
            bar.update(len(done.refined))
        _refine(refiner, people.units(without=done.refined), prepare, chosen, workers, done, bar.update)

    rows = sorted(i for i in done.refined if done.touched[i])
    before, after = (np.stack([of[i] for i in rows]) if rows else None for of in (people.poses, done.refined))
    if before is None or after is None:
        report = Report(len(entries), 0, 0, 0, np.zeros(0), 0, unread=done.unread, skipped=people.skipped)
        output = [dict(e) for e in entries]
    else:
        scores, lowered = rescore(
            [entries[i].get("score") for i in rows],
            after[:, shared.from_source],
            done.pose_consistency[rows],
            [people.image_of[i] for i in rows],
            np.array(shared.source.sigmas)[shared.from_source],
            ranking=ranking,
            soft_nms=soft_nms,
        )
        output = _write(entries, rows, before, after, scores, shared)
        report = _count(len(entries), before, after, shared, lowered, done.unread, people.skipped)
    odd_scores = {
        i: repr(entries[i]["score"])[:80] if "score" in entries[i] else NO_SCORE
        for i in rows
        if not can_be_weighed(entries[i].get("score"))
    }
    return output, replace(
        report,
        prior_weight=chosen.prior_weight if refiner.config.pose_prior else None,
        confident=reliability.confident,
        outliers=reliability.outliers,
        alike=reliability.alike,
        offset=chosen.offset or (0.0, 0.0),
        skipped=people.skipped | _not_refined(people, done),
        odd_scores=odd_scores if ranking in ("pose_consistency", "product") else {},
        odd_boxes=people.odd_boxes,
        odd_images=odd_images,
        computed_by=refiner.computed_by,
    )


def refine_mapped(
    refiner: Refiner,
    image: Any,
    keypoints: Any,
    skeleton: Skeleton,
    *,
    boxes_xyxy: Any = None,
    color: str = "rgb",
    **options: Any,
) -> Floats:
    """Refine the people of one image whose keypoint set is not the refiner's.

    Args:
        refiner: of a keypoint set that shares names with ``skeleton``.
        image: as for ``Refiner.refine``.
        keypoints: (N, K, 3) or (N, K, 2) of ``skeleton``.
        skeleton: the keypoints' set.
        boxes_xyxy: (N, 4) person boxes; default around all of a person's keypoints, shared or not.
        color: as for ``Refiner.refine``.
        **options: as for ``Refiner.refine``.

    Returns:
        (N, K, 3) or (N, K, 2): what both sets have by name is refined, the third value of all others stays what it
        was, the estimator's score.

    Raises:
        SkeletonError: the sets share no keypoint.
        InputError, ImageError: as ``Refiner.refine``.
    """
    shared = share_keypoints(skeleton, refiner.skeleton)
    prepared = refiner.prepare(image, keypoints, boxes_xyxy, color=color, shared=shared)
    return refiner.refine_prepared([prepared], make_options(**options))[0].keypoints


#: An image's name and those of its people that go through the network together.
Unit = tuple[str, list[int]]


@dataclass(frozen=True, eq=False)
class _People:
    """A results file's people.

    Attributes:
        entries: as the file has them.
        poses: (K, 3) of each entry that is a pose of the keypoint set.
        skipped: why the others are none.
        boxes: (entries, 4) xyxy; NaN where the keypoints' extent is taken.
        odd_boxes: what entries have as ``bbox`` that is none.
        image_of: name of each pose's image.
    """

    entries: Sequence[Entry]
    poses: dict[int, npt.NDArray[np.float64]]
    skipped: dict[int, str]
    boxes: npt.NDArray[np.float64]
    odd_boxes: dict[int, str]
    image_of: dict[int, str]

    def units(self, without: Container[int] = ()) -> list[Unit]:
        """All people by image, without those already refined."""
        groups: dict[str, list[int]] = {}
        for index, name in self.image_of.items():
            if index not in without:
                groups.setdefault(name, []).append(index)
        return list(groups.items())


class _Done:
    """What has come out so far, by entry."""

    def __init__(self, count: int) -> None:
        self.refined: dict[int, Floats] = {}
        self.touched = np.zeros(count, bool)
        self.outside = np.zeros(count, bool)
        self.pose_consistency = np.ones(count)
        self.unread: dict[str, str] = {}

    def add(self, rows: list[int], prepared: Prepared, result: Refined) -> None:
        self.refined.update(zip(rows, result.keypoints, strict=True))
        self.touched[[rows[r] for r in prepared.rows if result.confidence[r].any()]] = True
        beyond = np.array(prepared.poses.valid.any(-1))
        beyond[prepared.rows] = False
        self.outside[rows] = beyond
        self.pose_consistency[rows] = result.pose_consistency


def _read(
    entries: Sequence[Entry], annotations: Annotations | None, shared: SharedKeypoints, *, use_boxes: bool
) -> _People:
    check_entries(list(entries), poses=False)
    poses, skipped = _split(entries, len(shared.source))
    if skipped and len(skipped) == len(entries):
        raise FileFormatError(
            f"results: no entry is a pose of skeleton {shared.source.name!r} "
            f"(entry 0: {skipped[0]}); the weights are for {len(shared.target)} keypoints"
        )
    boxes, odd = _boxes(entries) if use_boxes else (np.full((len(entries), 4), np.nan), {})
    rows = list(poses)
    own = np.array([poses[i] for i in rows]).reshape(len(rows), len(shared.source), 3)
    around = boxes_around_points(own[..., :2], present(own))
    if read_otherwise(boxes[rows], boxes_xyxy_to_xywh(boxes[rows]), around):
        raise FileFormatError(
            "results: bbox: expected [left, top, width, height] around the keypoints, got what fits as [left, top, "
            "right, bottom]; leave use_boxes (--use-boxes) away, or write the boxes in the COCO form"
        )
    # The keypoints are what is refined, so a box that has none of them is not this person's.
    for place in np.flatnonzero(np.isfinite(boxes[rows] + around).all(-1) & ~boxes_meet(boxes[rows], around)).tolist():
        odd[rows[place]] = f"{shown(entries[rows[place]]['bbox'])}, away from the keypoints"
        boxes[rows[place]] = np.nan
    return _People(entries, poses, skipped, boxes, odd, {i: image_name(entries[i], annotations) for i in poses})


def _not_refined(people: _People, done: _Done) -> dict[int, str]:
    """Why poses in readable images could not be refined."""
    nothing = "no keypoint is there: finite, not at (0, 0), with a score above 0"
    broken = "the network's numbers for this person are not finite"
    outside = "the person lies wholly outside the image"

    def why(index: int) -> str:
        return outside if done.outside[index] else broken if present(people.poses[index]).any() else nothing

    return {i: why(i) for i in sorted(done.refined) if not done.touched[i]}


def _sample(people: _People) -> Iterator[Unit]:
    """The best-scored people of each image, images in random order; detectors list many false ones."""

    def rank(row: int) -> float:
        score = people.entries[row].get("score")
        return -float(score) if score is not None and can_be_weighed(score) else 0.0

    units = people.units()
    for place in np.random.default_rng(0).permutation(len(units)).tolist():
        name, rows = units[place]
        yield name, sorted(rows, key=rank)[:MEASURED_PER_IMAGE]


def _measure(
    refiner: Refiner,
    units: Iterable[Unit],
    prepare: Callable[[Unit], Prepared],
    options: Options,
    workers: int,
    done: _Done,
) -> Reliability:
    """The estimator's reliability on about ``MEASURED`` people, who are refined with it on the way.

    But for those of the last pass if it is not full: their numbers would depend on its size.
    """
    taken: list[tuple[Unit, Prepared]] = []
    for unit, future in ahead(prepare, units, workers):
        if not isinstance(future.exception(), ImageError):
            taken.append((unit, future.result()))
        if sum(len(p.rows) for _, p in taken) >= MEASURED:
            break
    measured = refiner.forward([p for _, p in taken], options)
    people, full = 0, sum(len(p.rows) for _, p in taken) // options.batch_size * options.batch_size
    results = refiner.decode(measured, measured.chosen(options))
    for ((_, rows), prepared), result in zip(taken, results, strict=True):
        people += len(prepared.rows)
        if people > full:
            break
        done.add(rows, prepared, result)
    return measured.reliability


def _refine(
    refiner: Refiner,
    units: Iterable[Unit],
    prepare: Callable[[Unit], Prepared],
    options: Options,
    workers: int,
    done: _Done,
    advance: Callable[[int], object],
) -> None:
    """Refine the people of all images; of images that cannot be read, note why."""
    in_work: deque[tuple[Unit, Prepared]] = deque()

    def readable() -> Iterator[Prepared]:
        for unit, future in ahead(prepare, units, workers):
            try:
                prepared = future.result()
            except ImageError as error:
                done.unread[unit[0]] = str(error)
                advance(len(unit[1]))
                continue
            in_work.append((unit, prepared))
            yield prepared

    for result in refine_in_full_batches(refiner, readable(), options):
        (_, rows), prepared = in_work.popleft()
        done.add(rows, prepared, result)
        advance(len(rows))


def _split(entries: Sequence[Entry], count: int) -> tuple[dict[int, npt.NDArray[np.float64]], dict[int, str]]:
    """Poses by entry index, and why the others are none."""
    poses: dict[int, npt.NDArray[np.float64]] = {}
    skipped: dict[int, str] = {}
    for index, entry in enumerate(entries):
        pose = read_pose(entry.get("keypoints"), count)
        if isinstance(pose, str):
            skipped[index] = pose
        else:
            poses[index] = pose
    return poses, skipped


def _boxes(entries: Sequence[Entry]) -> tuple[npt.NDArray[np.float64], dict[int, str]]:
    """(N, 4) xyxy, NaN where an entry has no usable box, and what it has instead, by entry."""
    boxes = np.full((len(entries), 4), np.nan)
    odd: dict[int, str] = {}
    for index, entry in enumerate(entries):
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and box[2] > 0 and box[3] > 0:
            boxes[index] = box
        elif box is not None and box != []:
            odd[index] = repr(box)[:80]
    return np.asarray(boxes_xywh_to_xyxy(boxes)), odd


def _write(
    entries: Sequence[Entry],
    rows: list[int],
    before: Floats,
    after: Floats,
    scores: Floats | None,
    shared: SharedKeypoints,
) -> list[Entry]:
    """New entries; whatever was not refined and whatever did not move keeps its digits."""
    output = [dict(e) for e in entries]
    touches = np.isin(np.arange(before.shape[1]), shared.from_source)
    stays = touches & (before[..., :2] == after[..., :2]).all(-1) & present(before)
    untouched = ~touches | ((before == after) | (np.isnan(before) & np.isnan(after))).all(-1)
    new = replace_keypoints([entries[i] for i in rows], after, scores)
    for i, entry, keeps, same in zip(rows, new, stays, untouched, strict=True):
        for k in np.flatnonzero(keeps):
            entry["keypoints"][3 * k : 3 * k + 2] = entries[i]["keypoints"][3 * k : 3 * k + 2]
        for k in np.flatnonzero(same):
            entry["keypoints"][3 * k : 3 * k + 3] = entries[i]["keypoints"][3 * k : 3 * k + 3]
        output[i] = entry
    return output


def _count(
    people: int,
    before: Floats,
    after: Floats,
    shared: SharedKeypoints,
    lowered: int,
    unread: dict[str, str],
    skipped: dict[int, str],
) -> Report:
    touches = np.isin(np.arange(before.shape[1]), shared.from_source)
    there = present(before) & touches
    distance = np.linalg.norm(np.nan_to_num(after[..., :2] - before[..., :2]), axis=-1)
    moved = there & (distance > 0)
    return Report(
        people=people,
        refined=len(before),
        keypoints=int(there.sum()),
        moved=int(moved.sum()),
        distance=distance[moved],
        filled=int((~there & touches & present(after)).sum()),
        lowered=lowered,
        negative=int(((before[..., 2] < 0) & (before[..., 2] != -1) & touches).sum()),
        unread=unread,
        skipped=skipped,
    )
