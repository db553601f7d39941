"""COCO annotation and results files ⇄ arrays; unknown fields, order and ids survive.

A results file is a list of people: ``{"image_id", "category_id", "keypoints": [x, y, score, …], "score"}``. An
annotation file is an object with ``images``, ``annotations`` and ``categories``; fields it lacks get a defined
value: ``area`` 0.53 × box, ``bbox`` 1.2 × the extent of the labelled keypoints, ``num_keypoints`` their count,
``iscrowd`` no, ``keypoints`` none labelled. Everything else that is wrong is one FileFormatError.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import FileFormatError, InputError
from posefix.geometry import Doubles, box_area, boxes_around_points, boxes_xywh_to_xyxy, boxes_xyxy_to_xywh
from posefix.io.json import (
    PathLike,
    box_field,
    categories_of,
    check_keypoint_names,
    is_id,
    is_number,
    keypoint_rows,
    kind_of,
    number_field,
    read_json,
    spelled_id,
    write_json,
)
from posefix.keypoints.oks import AREA_PER_BOX
from posefix.keypoints.poses import NORMALISED, labelled, normalised, round_present
from posefix.keypoints.skeleton import Skeleton
from posefix.messages import shown

#: One person of a results file, as it stands there.
Entry = dict[str, Any]
#: Integers in COCO; file names or digits as strings in the wild.
ImageId = int | str

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_RESULTS = "a results file is a list of {image_id, category_id, keypoints, score}"
#: What labelled people have and results do not.
_LABELS = {"iscrowd", "num_keypoints"}
_ANNOTATIONS = "an annotation file is an object with images, annotations and categories"


@dataclass(frozen=True)
class ImageInfo:
    """One image of an annotation file; what the file does not tell is None."""

    id: ImageId
    file_name: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True, eq=False)
class Annotations:
    """The people of an annotation file, in file order.

    Attributes:
        source: the file, for messages.
        images: by id, in file order.
        image_ids: (N,) int64, or objects where ids are strings.
        category_ids: (N,) int64.
        ground_truth: (N, K, 3) [x, y, v] px.
        boxes_xyxy: (N, 4) px.
        area: (N,) px².
        iscrowd: (N,) bool.
        num_keypoints: (N,) int64; 0 where only a box is labelled.
        ids: N annotation ids as the file has them, None where it has none.
    """

    source: str
    images: dict[ImageId, ImageInfo]
    image_ids: npt.NDArray[Any]
    category_ids: npt.NDArray[np.int64]
    ground_truth: Doubles
    boxes_xyxy: Doubles
    area: Doubles
    iscrowd: npt.NDArray[np.bool_]
    num_keypoints: npt.NDArray[np.int64]
    ids: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.ground_truth)

    def find(self, image_id: Any) -> ImageInfo | None:
        """The image of an id as results files write it: the id, its digits as a string, or the file name.

        Raises:
            FileFormatError: a name that several images have.
        """
        found = self._by_spelling.get(spelled_id(image_id), ())
        if len(found) > 1:
            listed = ", ".join(repr(i.file_name) for i in found[:3])
            raise FileFormatError(
                f"{self.source}: image {shown(spelled_id(image_id))} may be any of {len(found)} images ({listed}); "
                "results must name images by id, or by file_name with its folders"
            )
        return found[0] if found else None

    @cached_property
    def _by_spelling(self) -> dict[str, list[ImageInfo]]:
        """Every spelling; an id goes before a whole name, that before a name without its folders."""
        ids: dict[str, list[ImageInfo]] = {}
        names: dict[str, list[ImageInfo]] = {}
        short: dict[str, list[ImageInfo]] = {}
        for image in self.images.values():
            ids.setdefault(str(image.id), []).append(image)
            if image.file_name:
                names.setdefault(image.file_name, []).append(image)
                short.setdefault(os.path.basename(image.file_name), []).append(image)
        return short | names | ids


@dataclass(frozen=True, eq=False)
class Results:
    """A results file: ``entries`` are the file's own objects, in its order."""

    source: str
    entries: list[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def keypoints(self, skeleton: Skeleton) -> Doubles:
        """(N, K, 3) [x, y, score]; see ``keypoints_of``."""
        return keypoints_of(self.entries, skeleton, source=self.source)


def read_results(path: PathLike) -> Results:
    """Read a COCO results file; an empty list is legal.

    Raises:
        FileFormatError: no such file, not JSON, not a list of people with ``image_id`` and ``keypoints``.
    """
    return Results(os.fspath(path), check_entries(read_json(path), source=os.fspath(path)))


def read_annotations(path: PathLike, skeleton: Skeleton | None = None) -> Annotations:
    """Read a COCO annotation file.

    Args:
        path: the file.
        skeleton: what the keypoints must be; None takes them as they come.

    Raises:
        FileFormatError: no such file, not JSON, or not labelled keypoints.
        SkeletonError: the file names keypoints other than the skeleton's.
    """
    return annotations_of(read_json(path), skeleton, source=os.fspath(path))


def check_entries(data: Any, *, source: str = "results", poses: bool = True) -> list[Entry]:
    """Tell whether ``data`` is a list of people with ``image_id`` and a list ``keypoints``, and return it.

    Args:
        data: what was read.
        source: the file, for messages.
        poses: whether every person must have a list of keypoints.

    Raises:
        FileFormatError: it is not; the message names ``source`` and the first entry at fault.
    """
    if isinstance(data, Mapping) and "annotations" in data:
        raise FileFormatError(f"{source}: this is an annotation file, expected results; {_RESULTS}")
    if not isinstance(data, list):
        raise FileFormatError(f"{source}: expected a list, got {kind_of(data)}; {_RESULTS}")
    if data and all(map(is_label, data)):
        raise labels_error(source)
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise FileFormatError(f"{source}: entry {index}: expected an object, got {kind_of(entry)}; {_RESULTS}")
        if poses and not isinstance(entry.get("keypoints"), list):
            hint = "; boxes alone are not enough" if "bbox" in entry and "keypoints" not in entry else ""
            raise FileFormatError(f"{source}: entry {index} has no list 'keypoints'{hint}")
        image_id = entry.get("image_id")
        if not is_id(image_id):
            raise FileFormatError(
                f"{source}: entry {index}: expected an integer or string 'image_id', got {shown(image_id)}"
            )
        if poses and not is_id(entry.get("category_id", 1)):
            got = shown(entry["category_id"])
            raise FileFormatError(f"{source}: entry {index}: expected an integer as 'category_id', got {got}")
    if normalised(np.reshape(k, (1, -1, 3)) for e in data if (k := e.get("keypoints")) and _is_flat(k)):
        raise FileFormatError(f"{source}: keypoints: {NORMALISED}")
    return data


def is_label(entry: Any) -> bool:
    """Whether this is a labelled person, not a result."""
    return isinstance(entry, Mapping) and set(entry) >= _LABELS and "score" not in entry


def labels_error(source: str) -> FileFormatError:
    """A list of labelled people where results are expected."""
    return FileFormatError(
        f"{source}: these are annotations ({', '.join(sorted(_LABELS))}), expected results; {_RESULTS}"
    )


def _is_flat(values: Any) -> bool:
    """Whether these are numbers by threes, as COCO has keypoints."""
    return isinstance(values, list) and len(values) % 3 == 0 and all(type(v) in (int, float) for v in values)


def read_pose(values: Any, count: int) -> Doubles | str:
    """One person's keypoints as a file has them → (K, 3) [x, y, score]; or, as text, why they are none.

    NaN and null, which some write for what is missing, are NaN here.

    Args:
        values: a list of 3K numbers.
        count: K.
    """
    if not isinstance(values, list) or len(values) != 3 * count:
        got = len(values) if isinstance(values, list) else kind_of(values)
        return f"expected {3 * count} numbers as keypoints, got {got}"
    if not all(isinstance(v, (int, float, type(None))) for v in values):
        return "keypoints hold something that is no number"
    try:
        return np.array(values, np.float64).reshape(count, 3)
    except OverflowError:
        return "keypoints hold a number beyond any image"


def keypoints_of(entries: Sequence[Entry], skeleton: Skeleton, *, source: str = "results") -> Doubles:
    """(N, K, 3) [x, y, score] px of results entries.

    Raises:
        FileFormatError: a wrong count of numbers, or a value that is no finite number, with the entry's index.
    """
    return keypoint_rows([e["keypoints"] for e in entries], skeleton, len(skeleton), f"{source}: entry")


def scores_of(entries: Sequence[Entry], *, source: str = "results") -> Doubles:
    """(N,) score of each person, by which AP ranks them.

    Raises:
        FileFormatError: a score is missing or no finite number, with the entry's index.
    """
    for index, entry in enumerate(entries):
        if not is_number(entry.get("score")):
            got = entry.get("score", "none")
            raise FileFormatError(f"{source}: entry {index}: expected a number as 'score' to rank people by, got {got}")
    return np.array([e["score"] for e in entries], np.float64)


def replace_keypoints(
    entries: Sequence[Entry], keypoints: npt.ArrayLike, scores: npt.ArrayLike | None = None
) -> list[Entry]:
    """New entries with other keypoints, rounded to 3 decimals; all other fields stay, the input is not changed.

    Args:
        entries: N people.
        keypoints: (N, K, 3) [x, y, score] px; a keypoint that is not finite is written as (0, 0, 0), COCO's missing.
        scores: (N,) new person scores; None leaves them, NaN leaves one.

    Raises:
        InputError: shapes that do not belong together.
    """
    values = np.asarray(keypoints, np.float64)
    if values.ndim != 3 or values.shape[0] != len(entries) or values.shape[2] != 3:
        raise InputError(f"keypoints: expected ({len(entries)}, K, 3), one pose per entry, got {values.shape}")
    rounded = rounded_keypoints(values)
    flat = rounded.reshape(len(entries), -1).tolist() if len(entries) else []
    new = [{**entry, "keypoints": row} for entry, row in zip(entries, flat, strict=True)]
    if scores is not None:
        ranks = np.asarray(scores, np.float64)
        if ranks.shape != (len(entries),):
            raise InputError(f"scores: expected ({len(entries)},), one per entry, got {ranks.shape}")
        rounded_ranks = np.round(ranks, 6).tolist()
        new = [{**e, "score": r} if math.isfinite(r) else e for e, r in zip(new, rounded_ranks, strict=True)]
    return new


def rounded_keypoints(keypoints: Doubles) -> Doubles:
    """Keypoints with the digits of a results file, 3 decimals.

    Args:
        keypoints: (N, K, 3) [x, y, score] px; one that is not finite becomes (0, 0, 0), COCO's missing.

    Returns:
        a new (N, K, 3).
    """
    rounded = round_present(keypoints, 3)
    rounded[~np.isfinite(keypoints).all(-1)] = 0.0
    return rounded


def write_results(path: PathLike, entries: Sequence[Entry]) -> None:
    """Write a results file, whole or not at all; numbers as they are (``replace_keypoints`` rounds).

    Raises:
        InputError: keypoints that are no list of finite numbers, or the file cannot be written; what was there before
            is unchanged.
    """
    for index, entry in enumerate(entries):
        if not all(map(is_number, np.ravel(entry["keypoints"]).tolist())):
            raise InputError(f"entries: expected finite keypoints, got NaN or infinity or no number in entry {index}")
    write_json(path, list(entries))


def image_name(entry: Entry, annotations: Annotations | None = None) -> str:
    """File name of an entry's image: from the annotations, else its ``file_name``, else its id.

    Ids are padded to 12 digits as COCO's are, ``139`` → ``000000000139.jpg``; a string with an ending is a name.
    """
    image_id = entry["image_id"]
    info = annotations.find(image_id) if annotations is not None else None
    name = (info.file_name if info is not None else None) or entry.get("file_name")
    if isinstance(name, str) and name:
        return name
    text = spelled_id(image_id)
    if text.isdecimal():
        return f"{int(text):012d}.jpg"
    return text if text.lower().endswith(_ENDINGS) else f"{text}.jpg"


def with_image(entry: Entry, annotations: Annotations) -> Entry:
    """An entry that says all that the annotations know of its image: ``file_name``, ``image_width``, ``image_height``.

    Raises:
        FileFormatError: an image that may be any of several.
    """
    info = annotations.find(entry["image_id"])
    known = {"image_width": info.width, "image_height": info.height} if info is not None else {}
    return {**entry, "file_name": image_name(entry, annotations), **{k: v for k, v in known.items() if v is not None}}


def annotations_of(data: Any, skeleton: Skeleton | None = None, *, source: str = "annotations") -> Annotations:
    """The content of an annotation file → arrays; ``read_annotations`` for what is already in memory.

    Where categories list keypoints, only the people of those categories are taken. Raises as that does.
    """
    if isinstance(data, list):
        raise FileFormatError(f"{source}: this is a list, as results files are, expected annotations; {_ANNOTATIONS}")
    if not isinstance(data, Mapping) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise FileFormatError(f"{source}: expected 'images' and 'annotations', both lists; {_ANNOTATIONS}")
    named = {c["id"]: c["keypoints"] for c in categories_of(data, source) if "id" in c}
    for names in named.values():
        check_keypoint_names(names, skeleton, source)
    images = _images(data["images"], source)
    spelling = {str(i): i for i in images}  # "139" in one list and 139 in the other are one image
    persons: list[Mapping[str, Any]] = []
    indices: list[int] = []
    for index, person in enumerate(data["annotations"]):
        if not isinstance(person, Mapping):
            raise FileFormatError(f"{source}: annotation {index}: expected an object, got {kind_of(person)}")
        category = person.get("category_id", next(iter(named), None))
        if category is not None and not is_id(category):
            raise FileFormatError(
                f"{source}: annotation {index}: expected an integer as 'category_id', got {shown(category)}"
            )
        if named and category not in named:
            continue
        if spelled_id(person.get("image_id")) not in spelling:
            got = shown(person.get("image_id"))
            raise FileFormatError(f"{source}: annotation {index}: image_id {got} is not among the file's images")
        persons.append(person)
        indices.append(index)
    if persons and not named and not any(p.get("keypoints") for p in persons):
        raise FileFormatError(f"{source}: no annotation has 'keypoints'; use the person_keypoints file, not instances")
    counts = [len(n) for n in named.values()]
    counts += [len(p["keypoints"]) // 3 for p in persons if isinstance(p.get("keypoints"), list) and p["keypoints"]]
    count = len(skeleton) if skeleton is not None else next(iter(counts), 0)
    rows = [p.get("keypoints") or [0] * (3 * count) for p in persons]
    ground_truth = keypoint_rows(rows, skeleton, count, f"{source}: annotation", indices)
    seen = labelled(ground_truth)
    extent = boxes_xyxy_to_xywh(np.nan_to_num(boxes_around_points(ground_truth[..., :2], seen), nan=0.0))
    boxes = np.asarray(boxes_xywh_to_xyxy(box_field(persons, indices, extent, source)), np.float64)
    ids = [spelling[spelled_id(p["image_id"])] for p in persons]
    categories = number_field(
        persons, indices, "category_id", np.full(len(ids), next(filter(is_number, named), 1)), source
    )
    return Annotations(
        source=source,
        images=images,
        image_ids=np.array(ids, np.int64 if all(isinstance(i, int) and abs(i) < 2**63 for i in ids) else object),
        category_ids=categories.astype(np.int64),
        ground_truth=ground_truth,
        boxes_xyxy=boxes,
        area=number_field(persons, indices, "area", AREA_PER_BOX * box_area(boxes), source),
        iscrowd=number_field(persons, indices, "iscrowd", np.zeros(len(ids)), source) > 0,
        num_keypoints=number_field(persons, indices, "num_keypoints", seen.sum(-1), source).astype(np.int64),
        ids=tuple(p.get("id") for p in persons),
    )


def _images(listed: list[Any], source: str) -> dict[ImageId, ImageInfo]:
    images: dict[ImageId, ImageInfo] = {}
    for index, image in enumerate(listed):
        if not isinstance(image, Mapping) or not isinstance(image.get("id"), (int, str)):
            raise FileFormatError(f"{source}: image {index}: expected an object with an integer or string 'id'")
        name = image.get("file_name")
        width, height = (int(s) if is_number(s) else None for s in (image.get("width", ""), image.get("height", "")))
        info = ImageInfo(image["id"], str(name) if name else None, width, height)
        if images.setdefault(info.id, info) != info:
            raise FileFormatError(
                f"{source}: image {index}: id {shown(info.id)} is also that of {shown(images[info.id].file_name)}; "
                "every image needs an id of its own"
            )
    return images
