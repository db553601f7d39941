"""Frames without people in every form, and outputs nearly of a known kind: a result or one sentence."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from posefix.adapters.registry import adapt
from posefix.exceptions import InputError, SkeletonError
from posefix.keypoints.skeleton import COCO

IMAGE = np.zeros((8, 8, 3), np.uint8)
POSE = np.ones((1, 17, 2)), np.full((1, 17), 0.9)


def like_package(module: str, name: str, **fields: Any) -> Any:
    """An object that looks as if a package had made it; the real ones are in the other files here."""
    made = type(name, (), {"__module__": module})()
    vars(made).update(fields)
    return made


def ultralytics_nobody() -> Any:
    keypoints = like_package("ultralytics.engine.results", "Keypoints", data=torch.zeros(1, 0, 51), orig_shape=(8, 8))
    return like_package(
        "ultralytics.engine.results",
        "Results",
        keypoints=keypoints,
        boxes=like_package("ultralytics", "Boxes", xyxy=torch.zeros(0, 4)),
        orig_shape=(8, 8),
        orig_img=IMAGE,
    )


NO_PEOPLE: dict[str, Any] = {
    "ultralytics": ultralytics_nobody(),
    "supervision": like_package("supervision.key_points.core", "KeyPoints", xy=np.zeros((1, 0, 2)), confidence=None),
    "supervision, scores": like_package(
        "supervision.key_points.core", "KeyPoints", xy=np.zeros((0, 17, 2)), confidence=np.zeros((0, 17))
    ),
    "rtmlib, lists": ([], []),
    "rtmlib, arrays": (np.zeros((0, 17, 2)), np.zeros((0, 17))),
    "rtmlib, flat arrays": (np.array([]), np.array([])),
    "torchvision": {
        "boxes": torch.zeros(0, 4),
        "keypoints": torch.zeros(0, 17, 3),
        "keypoints_scores": torch.zeros(0, 17),
    },
    "OpenPose": {"people": []},
    "OpenPose, hands": {"people": [{"pose_keypoints_2d": [], "hand_left_keypoints_2d": [1, 2, 3]}]},
    "mmpose": {"predictions": [[]]},
    "array": np.zeros((0, 17, 3)),
    "tensor": torch.zeros(0, 17, 3),
}


@pytest.mark.parametrize("kind", NO_PEOPLE)
def test_a_frame_of_nobody(kind: str) -> None:
    output = NO_PEOPLE[kind]
    found = adapt(output, COCO, IMAGE)
    assert [k.shape for k in found.keypoints] == [(0, 17, 3)]
    assert type(found.rebuild(found.keypoints)) is type(output)


@pytest.mark.parametrize("kind", [k for k in NO_PEOPLE if k != "mmpose"])
def test_a_frame_of_nobody_among_others(kind: str) -> None:
    frames = [POSE, NO_PEOPLE[kind], POSE]
    found = adapt(frames, COCO, [IMAGE] * 3)
    assert [len(k) for k in found.keypoints] == [1, 0, 1]
    new = found.rebuild(found.keypoints)
    assert [type(f) for f in new] == [type(f) for f in frames]


def test_two_lists_are_two_images_of_nobody() -> None:
    assert len(adapt([[], []], COCO, [IMAGE] * 2).keypoints) == 2


def test_endless_frames_are_not_collected() -> None:
    given = (IMAGE for _ in itertools.count())
    assert len(adapt([POSE, POSE], COCO, given).images or ()) == 2
    with pytest.raises(InputError, match="got a generator of frames"):
        adapt(POSE[0], COCO, (IMAGE for _ in itertools.count()))


@pytest.mark.parametrize("count", [21, 468, 478])
def test_hands_and_faces_are_no_pose(count: int) -> None:
    marks = [like_package("mediapipe.x", "NormalizedLandmark", x=0.5, y=0.5, visibility=1.0) for _ in range(count)]
    with pytest.raises(SkeletonError, match=f"expected a pose of 33 keypoints, got {count}; landmarks of hands and"):
        adapt([marks], COCO, IMAGE)


def vitpose(**fields: Any) -> list[dict[str, Any]]:
    person = {"keypoints": torch.ones(17, 2), "scores": torch.ones(17), "labels": torch.arange(17)}
    return [{**person, **fields}]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (vitpose(labels=torch.full((17,), 2**31)), r"expected labels, the keypoints' places, in 0…1023"),
        (vitpose(labels=torch.full((17,), -1)), "expected labels"),
        (vitpose(keypoints=torch.ones(17, 2).to("meta")), "got a tensor on the device 'meta'"),
        (vitpose(scores=torch.ones(3)), "not as transformers ViTPose people should be"),
        ({"boxes": torch.zeros(1, 4), "keypoints": torch.zeros(17, 3)}, "Keypoint R-CNN"),
        ({"people": [{"pose_keypoints_2d": "1 2 3"}]}, "OpenPose"),
        ({"people": [{"pose_keypoints_2d": 3}]}, "OpenPose"),
        ({"people": [{"pose_keypoints_2d": ["a"] * 75}]}, "OpenPose"),
        ([{"image_id": 1, "keypoints": 5}], "COCO results"),
        ([{"image_id": 1, "keypoints": [10**400] * 51}], "COCO results"),
        ([{"image_id": 1, "keypoints": [1] * 51, "bbox": ["a"] * 4}], "COCO results"),
        (torch.zeros(1, 17, 3).to("meta"), "keypoints: expected values"),
        (torch.zeros(1, 17, 3, dtype=torch.complex64), "real numbers"),
        (np.array([[["a"] * 3] * 17]), "array or tensor"),
    ],
)
def test_nearly_right(output: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        adapt(output, COCO, IMAGE)


def test_sparse_tensors() -> None:
    sparse = torch.ones(1, 17, 3).to_sparse()
    assert adapt(sparse, COCO, IMAGE).keypoints[0].tolist() == np.ones((1, 17, 3)).tolist()


PEOPLE = np.random.default_rng(0).uniform(5, 60, (2, 17, 3))
FORMS: dict[str, Any] = {
    "list of arrays": list(PEOPLE),
    "tuple of tensors": tuple(torch.from_numpy(PEOPLE)),
    "list of points": list(PEOPLE[..., :2]),
    "rtmlib, tensors": (torch.from_numpy(PEOPLE[..., :2]), torch.from_numpy(PEOPLE[..., 2])),
    "rtmlib, scores in a column": (PEOPLE[..., :2], PEOPLE[..., 2:]),
    "mmpose, arrays": [{"keypoints": p[:, :2], "keypoint_scores": p[:, 2]} for p in PEOPLE.astype(np.float32)],
    "mmpose, tensors": [{"keypoints": p[:, :2], "keypoint_scores": p[:, 2]} for p in torch.from_numpy(PEOPLE)],
    "mmpose, lists": [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist()} for p in PEOPLE],
}


def kinds(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [kinds(v) for v in value]
    if isinstance(value, dict):
        return {k: kinds(v) for k, v in value.items()}
    return type(value), getattr(value, "dtype", None), getattr(value, "shape", None)


@pytest.mark.parametrize("form", FORMS)
def test_people_come_back_as_they_came(form: str) -> None:
    found = adapt(FORMS[form], COCO, IMAGE)
    np.testing.assert_allclose(found.keypoints[0][..., :2], PEOPLE[..., :2], rtol=1e-6)
    moved = [k + np.array([1.0, 2.0, 0.0]) for k in found.keypoints]
    new = found.rebuild(moved)
    assert kinds(new) == kinds(FORMS[form])
    np.testing.assert_allclose(adapt(new, COCO, IMAGE).keypoints[0], moved[0], rtol=1e-6)


def test_people_of_different_sizes_are_told() -> None:
    with pytest.raises(InputError, match="different numbers of keypoints"):
        adapt([PEOPLE[0], PEOPLE[1, :5]], COCO, IMAGE)
