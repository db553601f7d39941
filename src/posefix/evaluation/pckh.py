"""MPII Human Pose: annotations as COCO content, and PCKh (Andriluka et al., CVPR 2014; human-pose.mpi-inf.mpg.de).

Two forms are read: the authors' ``mpii_human_pose_v1_u12_1.mat``, and the JSON list that most code trains from
(HRNet's and mmpose's ``train.json``, ``valid.json``: image, joints, joints_vis, center, scale), whose head boxes
stand in a file of their own, ``gt_valid.mat``. MPII counts pixels from 1; here, as everywhere, they count from 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.evaluation.head_sizes import head_sizes
from posefix.exceptions import FileFormatError, InputError, MissingDependencyError
from posefix.geometry import boxes_around_points, boxes_xyxy_to_xywh
from posefix.io.coco import Entry, Results, check_entries, keypoints_of, read_results
from posefix.io.json import PathLike, is_number, kind_of, read_json, spelled_id
from posefix.keypoints.poses import labelled, present
from posefix.keypoints.skeleton import MPII
from posefix.messages import shown

#: A keypoint counts as found within this many head sizes: the 0.5 of PCKh@0.5.
THRESHOLD = 0.5
#: The official mean leaves these out.
_NOT_IN_MEAN = ("pelvis", "thorax")
_GROUPS = {
    "head": ("head_top",),
    **{p: (f"left_{p}", f"right_{p}") for p in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")},
}


@dataclass(frozen=True)
class Pckh:
    """Shares of keypoints found, in [0, 1].

    Attributes:
        keypoints: by name; NaN where it is nowhere labelled.
        mean: over all labelled keypoints but pelvis and thorax, as in the official table.
    """

    keypoints: Mapping[str, float]
    mean: float

    def groups(self) -> dict[str, float]:
        """Means of left and right as published tables have them: head (its top), shoulder, elbow, wrist, …"""
        return {name: float(np.mean([self.keypoints[k] for k in members])) for name, members in _GROUPS.items()}


def pckh(
    points: npt.ArrayLike, ground_truth: npt.ArrayLike, head_size: npt.ArrayLike, threshold: float = THRESHOLD
) -> Pckh:
    """Share of keypoints within ``threshold`` head sizes of the labelled ones.

    Args:
        points: (N, 16, 2) px; NaN is not found.
        ground_truth: (N, 16, 3) [x, y, v] px; v > 0 is labelled, visible or not.
        head_size: (N,) px, see ``head_sizes``.
        threshold: in head sizes.

    Raises:
        InputError: shapes that do not belong together, or a head without size.
    """
    found, truth, size = (np.asarray(a, np.float64) for a in (points, ground_truth, head_size))
    count = len(MPII)
    if found.shape != (len(found), count, 2) or truth.shape != (len(found), count, 3) or size.shape != found.shape[:1]:
        raise InputError(
            f"pckh: expected (N, {count}, 2) points, (N, {count}, 3) labelled and (N,) head sizes, "
            f"got {found.shape}, {truth.shape} and {size.shape}"
        )
    if not (size > 0).all():
        raise InputError(f"head_size: expected sizes above 0 px, got {size.min()}")
    seen = truth[..., 2] > 0
    with np.errstate(invalid="ignore"):
        near = np.linalg.norm(found - truth[..., :2], axis=-1) <= threshold * size[:, None]
    hits, total = (near & seen).sum(0), seen.sum(0)
    share = np.where(total > 0, hits / np.maximum(total, 1), np.nan)
    counted = np.array([k not in _NOT_IN_MEAN for k in MPII.keypoints])
    all_seen = total[counted].sum()
    mean = float(hits[counted].sum() / all_seen) if all_seen else float("nan")
    return Pckh(dict(zip(MPII.keypoints, share.tolist(), strict=True)), mean)


def evaluate_mpii(
    truth: Mapping[str, Any], results: Results | Sequence[Entry] | PathLike, threshold: float = THRESHOLD
) -> Pckh:
    """PCKh of results: one pose for every labelled person, as in MPII's single-person task.

    Args:
        truth: from ``read_mpii``, with head boxes.
        results: entries as in COCO results, or their file. With an ``annotation_id`` in every entry they are matched
            by it, and people without an entry count as not found; else they must be in the order of the annotations.
        threshold: in head sizes.

    Raises:
        FileFormatError: poses that cannot be matched, or annotations without head boxes.
    """
    if isinstance(results, (str, os.PathLike)):
        results = read_results(results)
    source, data = (results.source, results.entries) if isinstance(results, Results) else ("results", results)
    entries = check_entries(list(data), source=source)
    people = truth["annotations"]
    poses = keypoints_of(entries, MPII, source=source)
    points = np.full((len(people), len(MPII), 2), np.nan)
    for row, person in enumerate(_owners(entries, people, source)):
        points[person] = np.where(present(poses[row])[:, None], poses[row, :, :2], np.nan)
    ground_truth = np.array([p["keypoints"] for p in people], np.float64).reshape(-1, len(MPII), 3)
    return pckh(points, ground_truth, head_sizes(people), threshold)


def _owners(entries: Sequence[Entry], people: Sequence[Mapping[str, Any]], source: str) -> list[int]:
    """Index of each entry's labelled person."""
    if entries and all("annotation_id" in e for e in entries):
        place = {p["id"]: i for i, p in enumerate(people)}
        unknown = [e["annotation_id"] for e in entries if e["annotation_id"] not in place]
        if unknown:
            raise FileFormatError(f"{source}: annotation_id {shown(unknown[0])} is not among the annotations")
        return [place[e["annotation_id"]] for e in entries]
    if len(entries) != len(people):
        raise FileFormatError(
            f"{source}: expected {len(people)} people, one for each labelled one and in their order, or an "
            f"'annotation_id' in every entry, got {len(entries)} people"
        )
    for index, (entry, person) in enumerate(zip(entries, people, strict=True)):
        names = (spelled_id(person["image_id"]), str(person["file_name"]))
        if spelled_id(entry["image_id"]) not in names:
            raise FileFormatError(
                f"{source}: entry {index} is of image {shown(entry['image_id'])}, the annotation in its place of "
                f"{person['file_name']!r}; give every entry its 'annotation_id'"
            )
    return list(range(len(entries)))


def read_mpii(path: PathLike, head_boxes: PathLike | None = None) -> dict[str, Any]:
    """Read MPII's annotations as the content of a COCO annotation file.

    ``write_json`` makes a file of it that ``posefix train``, ``diagnose`` and ``refine --annotations`` read. Images'
    ids are the numbers in their names. COCO's fields apart, people have ``bbox_head`` where known, and ``center`` and
    ``scale`` as MPII gives them. ``bbox`` is the keypoints' extent × 1.2: MPII has no boxes.

    Args:
        path: the authors' ``.mat`` file (people without keypoints, and so all test images, are left out), or the
            JSON list.
        head_boxes: ``gt_valid.mat`` for the JSON list of the validation set: its head boxes, in the same order.

    Raises:
        FileFormatError: the file is something else.
        MissingDependencyError: SciPy, which reads .mat files, is not installed.
    """
    people = _from_mat(path) if Path(path).suffix.lower() == ".mat" else _from_json(path)
    if head_boxes is not None:
        boxes = _load_mat(head_boxes).get("headboxes_src")
        if boxes is None or np.shape(boxes) != (2, 2, len(people)):
            got = "none" if boxes is None else np.shape(boxes)
            raise FileFormatError(
                f"{os.fspath(head_boxes)}: expected 'headboxes_src' (2, 2, {len(people)}) as in gt_valid.mat, got {got}"
            )
        for person, box in zip(people, np.moveaxis(boxes, 2, 0).astype(np.float64), strict=True):
            person["bbox_head"] = [*(box[0] - 1).tolist(), *(box[1] - box[0]).tolist()]
    images: dict[str, dict[str, Any]] = {}
    for index, person in enumerate(people, 1):
        name = person["file_name"]
        stem = Path(name).stem
        image = images.setdefault(name, {"id": int(stem) if stem.isdecimal() else name, "file_name": name})
        pose = np.array(person["keypoints"], np.float64).reshape(1, -1, 3)
        box = boxes_xyxy_to_xywh(boxes_around_points(pose[..., :2], labelled(pose)))[0]
        seen = int(labelled(pose).sum())
        person |= {"id": index, "image_id": image["id"], "category_id": 1, "iscrowd": 0, "num_keypoints": seen}
        person["bbox"] = box.tolist() if seen else [0.0] * 4
    category = {"id": 1, "name": "person", "keypoints": list(MPII.keypoints), "skeleton": []}
    return {"images": list(images.values()), "annotations": people, "categories": [category]}


def _from_json(path: PathLike) -> list[dict[str, Any]]:
    data, source = read_json(path), os.fspath(path)
    if not isinstance(data, list):
        raise FileFormatError(
            f"{source}: expected MPII's list of people with image, joints and joints_vis, got {kind_of(data)}"
        )
    people = []
    for index, person in enumerate(data):
        known = isinstance(person, Mapping) and isinstance(person.get("image"), str)
        joints = np.array(person["joints"], np.float64) if known and _are_numbers(person.get("joints")) else None
        shown = person.get("joints_vis") if known else None
        if joints is None or joints.shape != (len(MPII), 2) or not isinstance(shown, list) or len(shown) != len(MPII):
            raise FileFormatError(
                f"{source}: person {index}: expected 'image', {len(MPII)} × [x, y] as 'joints' and {len(MPII)} "
                "numbers as 'joints_vis'"
            )
        there = np.array(shown, bool)
        pose = np.concatenate([np.where(there[:, None], joints - 1, 0.0), 2.0 * there[:, None]], axis=1)
        extra = {k: person[k] for k in ("center", "scale") if k in person}
        people.append({"file_name": person["image"], "keypoints": pose.reshape(-1).tolist(), **extra})
    return people


def _are_numbers(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(r, list) and len(r) == 2 and all(map(is_number, r)) for r in rows)


def _load_mat(path: PathLike) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependencyError("reading MPII's .mat files needs SciPy: pip install posefix[mpii]") from error
    if not Path(path).is_file():
        raise FileFormatError(f"{os.fspath(path)}: no such file")
    try:
        loaded: dict[str, Any] = loadmat(os.fspath(path), struct_as_record=False, squeeze_me=True)
    except Exception as error:  # SciPy raises anything from ValueError to zlib.error on damaged files
        raise FileFormatError(f"{os.fspath(path)}: no MATLAB file that SciPy can read: {error}") from error
    return loaded


def _from_mat(path: PathLike) -> list[dict[str, Any]]:
    release: Any = _load_mat(path).get("RELEASE")
    if not hasattr(release, "annolist"):
        raise FileFormatError(f"{os.fspath(path)}: expected MPII's structure RELEASE with annolist")
    people = []
    for image in np.atleast_1d(release.annolist):
        for person in np.atleast_1d(getattr(image, "annorect", [])):
            points = np.atleast_1d(getattr(getattr(person, "annopoints", None), "point", []))
            if len(points):
                people.append(_person(str(image.image.name), person, points))
    return people


def _person(file_name: str, person: Any, points: npt.NDArray[Any]) -> dict[str, Any]:
    pose = np.zeros((len(MPII), 3))
    for point in points:
        # The file leaves empty whether head top and neck are visible; 0 says that a keypoint is hidden.
        shown = np.atleast_1d(getattr(point, "is_visible", 1))
        hidden = len(shown) == 1 and str(shown[0]).strip() == "0"
        pose[int(point.id)] = (float(point.x) - 1, float(point.y) - 1, 1 if hidden else 2)
    found: dict[str, Any] = {"file_name": file_name, "keypoints": pose.reshape(-1).tolist()}
    corners = [np.atleast_1d(getattr(person, name, [])) for name in ("x1", "y1", "x2", "y2")]
    if all(len(c) == 1 for c in corners):
        x1, y1, x2, y2 = (float(c[0]) for c in corners)
        found["bbox_head"] = [x1 - 1, y1 - 1, x2 - x1, y2 - y1]
    place: Any = getattr(person, "objpos", None)
    scale = np.atleast_1d(getattr(person, "scale", []))
    if hasattr(place, "x") and len(scale) == 1:
        found |= {"center": [float(place.x), float(place.y)], "scale": float(scale[0])}
    return found
