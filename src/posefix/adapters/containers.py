"""Lists of people as other programs wrap and nest them ⇄ a plain list of COCO-like entries.

Each form is taken apart into entries with flat keypoints, and put together again with all that surrounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posefix.io.coco import Entry
from posefix.io.image_names import ENDINGS

_ONE_IMAGE = "people of one image"
#: Keys under which results are wrapped.
_WRAPPERS = ("results", "predictions", "annotations", "data")


@dataclass(frozen=True, eq=False)
class Container:
    """Entries in whatever surrounds them.

    Attributes:
        kind: what it is, for messages.
        entries: people with flat ``keypoints`` and an ``image_id``.
        rebuild: the same people with new numbers → the content of a file of the same form.
    """

    kind: str
    entries: list[Entry]
    rebuild: Callable[[list[Entry]], Any]

    @property
    def of_one_image(self) -> bool:
        """Whether people have no image id of their own."""
        return self.kind == _ONE_IMAGE


def unwrap(data: Any, image: str) -> Container | None:
    """Take a known form apart; None where the data is in none of them.

    Known are results under a key ``results``, ``predictions`` or ``annotations``; AlphaPose's ``open`` and ``cmu``
    objects and PoseFlow's lists by image name; keypoints nested as [[x, y, score], …], or as [[x, y], …] with
    ``keypoint_scores`` (MMPose); lists without image ids, of one image (OpenPifPaf, MMPose).

    Args:
        data: the content of a file.
        image: name of the image that people without ``image_id`` are in.
    """
    if isinstance(data, Mapping):
        return _wrapped(data, image) or _by_image(data)
    if isinstance(data, list) and data and all(isinstance(p, Mapping) for p in data):
        return _nested(data, image)
    return None


def _wrapped(data: Mapping[str, Any], image: str) -> Container | None:
    if "images" in data or "categories" in data:
        return None  # annotations, or PoseTrack
    keys = [k for k in _WRAPPERS if isinstance(data.get(k), list)]
    if len(keys) != 1:
        return None
    key, people = keys[0], data[keys[0]]
    if not all(isinstance(p, Mapping) and "keypoints" in p for p in people):
        return None
    if any(not isinstance(p.get("score", p.get("keypoint_scores")), (int, float, list)) for p in people):
        return None  # labels, not results
    inner = unwrap(people, image) or Container("", [dict(p) for p in people], lambda new: new)
    return Container(f"results under {key!r}", inner.entries, lambda new: {**data, key: inner.rebuild(new)})


def _by_image(data: Mapping[str, Any]) -> Container | None:
    """Objects by image name: AlphaPose's ``open`` and ``cmu``, PoseFlow's."""
    if not data or not all(str(name).lower().endswith(ENDINGS) or str(name).isdecimal() for name in data):
        return None
    entries: list[Entry] = []
    kind = ""
    for name, value in data.items():
        found = _people_of(value)
        if found is None:
            return None
        kind, key, people = found
        for person in people:
            if not isinstance(person, Mapping) or not isinstance(person.get(key), list):
                return None
            entries.append({**person, "image_id": name, "file_name": name, "keypoints": person[key]})

    def rebuild(new: list[Entry]) -> Any:
        people = iter(new)
        result = {}
        for name, value in data.items():
            kind, key, own = _people_of(value) or ("", "", [])
            refined = []
            for person in own:
                entry = next(people)
                changed = {key: entry["keypoints"]}
                if "score" in person and "score" in entry:
                    changed["score"] = entry["score"]
                refined.append({**person, **changed})
            result[name] = refined if isinstance(value, list) else {**value, _KEYS[kind][0]: refined}
        return result

    return Container(kind, entries, rebuild)


#: Kind → key of the people, key of a person's keypoints.
_KEYS = {"AlphaPose's open": ("people", "pose_keypoints_2d"), "AlphaPose's cmu": ("bodies", "joints")}


def _people_of(value: Any) -> tuple[str, str, list[Any]] | None:
    if isinstance(value, Mapping):
        for kind, (people, key) in _KEYS.items():
            if isinstance(value.get(people), list):
                return kind, key, value[people]
    if isinstance(value, list) and all(isinstance(p, Mapping) and "keypoints" in p for p in value):
        return "PoseFlow's", "keypoints", value
    return None


def _nested(people: list[Any], image: str) -> Container | None:
    """Lists whose keypoints are nested, or whose people have no image id; None for plain COCO results."""
    odd = [p for p in people if _is_nested(p.get("keypoints")) or ("image_id" not in p and "keypoints" in p)]
    if not odd or any("keypoints" not in p for p in people):
        return None
    entries = [_flat(p, image) for p in people]

    def rebuild(new: list[Entry]) -> Any:
        return [_as_before(p, e) for p, e in zip(people, new, strict=True)]

    return Container(_ONE_IMAGE if any("image_id" not in p for p in people) else "nested keypoints", entries, rebuild)


def _is_nested(keypoints: Any) -> bool:
    rows = keypoints if isinstance(keypoints, list) else []
    return bool(rows) and all(isinstance(row, list) and len(row) in (2, 3) for row in rows)


def _flat(person: Mapping[str, Any], image: str) -> Entry:
    keypoints, scores = person["keypoints"], person.get("keypoint_scores")
    entry = {"image_id": image, "file_name": image, **person} if "image_id" not in person else dict(person)
    if not _is_nested(keypoints):
        return entry
    if all(isinstance(p, list) and len(p) == 2 for p in keypoints):
        if not isinstance(scores, list) or len(scores) != len(keypoints):
            scores = [1.0] * len(keypoints)
        keypoints = [[*p, s] for p, s in zip(keypoints, scores, strict=True)]
    entry["keypoints"] = [v for p in keypoints if isinstance(p, list) for v in p]
    box = person.get("bbox")
    if "keypoint_scores" in person and isinstance(box, list):  # MMPose's is [[x1, y1, x2, y2]]
        box = box[0] if len(box) == 1 and isinstance(box[0], list) else box
        corners = len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
        entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]] if corners else None
        entry.setdefault("score", person.get("bbox_score"))
        if entry["score"] is None:
            del entry["score"]
    return entry


def _as_before(person: Mapping[str, Any], entry: Entry) -> Entry:
    new = {**person, "keypoints": entry["keypoints"]}
    if _is_nested(person["keypoints"]):
        flat, size = entry["keypoints"], len(person["keypoints"][0])
        rows = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        new["keypoints"] = [row[:size] for row in rows]
        if "keypoint_scores" in person:
            new["keypoint_scores"] = [row[2] for row in rows]
    if "score" in person and "score" in entry:
        new["score"] = entry["score"]
    return new
