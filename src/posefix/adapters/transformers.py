"""transformers ViTPose, ``post_process_pose_estimation``: a dict per person; a threshold leaves keypoints out.

Its ``bbox`` mixes a centre with a size (coco_to_pascal_voc of centre and scale) and is never cropped from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posefix.adapters.base import Extracted, Floats, Images, like, put_back, to_numpy
from posefix.exceptions import InputError
from posefix.keypoints.layouts import BY_COUNT
from posefix.keypoints.poses import present
from posefix.keypoints.skeleton import Skeleton

#: Of whole bodies with hands and face, the last is 132.
_LAST_LABEL = 1023


def recognise(output: Any) -> bool:
    """The list of people of one image; lists of images are taken apart before."""
    return (
        isinstance(output, list)
        and len(output) > 0
        and all(isinstance(p, dict) and {"keypoints", "scores", "labels"} <= set(p) for p in output)
        and "boxes" not in output[0]
    )


def extract(output: Any, images: Images, skeleton: Skeleton) -> Extracted:
    """One image's people, each keypoint at the place that its label says; scores are heatmap maxima."""
    labels = [np.asarray(to_numpy(p["labels"]), np.int64).reshape(-1) for p in output]
    if any(label.size and not 0 <= label.min() <= label.max() <= _LAST_LABEL for label in labels):
        raise InputError(f"transformers: expected labels, the keypoints' places, in 0…{_LAST_LABEL}")
    last = max((int(label.max()) for label in labels if label.size), default=0)
    count = next((c for c in (len(skeleton), *sorted(BY_COUNT)) if c > last), last + 1)
    before = np.zeros((len(output), count, 3))
    for row, person, label in zip(before, output, labels, strict=True):
        row[label, :2] = to_numpy(person["keypoints"]).reshape(-1, 2)
        row[label, 2] = to_numpy(person["scores"]).reshape(-1)

    def rebuild(refined: list[Floats]) -> Any:
        return [_person(*each) for each in zip(output, labels, before, refined[0], strict=True)]

    return Extracted([before], rebuild)


def _person(person: dict[str, Any], label: Any, before: Floats, after: Floats) -> dict[str, Any]:
    points = put_back(person["keypoints"], before[label, :2], after[label, :2])
    scores = put_back(person["scores"], before[label, 2].reshape(person["scores"].shape), after[label, 2])
    new = {**person, "keypoints": points, "scores": scores}
    filled = np.setdiff1d(np.flatnonzero(present(after)), label)
    if filled.size:
        # Keypoints that the threshold had dropped and that are there now take their place by label.
        places = np.concatenate([label, filled])
        order = np.argsort(places, kind="stable")
        new["labels"] = person["labels"].new_tensor(places[order])
        new["keypoints"] = like(np.concatenate([to_numpy(points), after[filled, :2]])[order], person["keypoints"])
        new["scores"] = like(np.concatenate([to_numpy(scores), after[filled, 2]])[order], person["scores"])
    return new
