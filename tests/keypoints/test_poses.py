"""What is missing: one rule, whoever asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from factories import random_poses
from posefix.adapters.files import read_any
from posefix.adapters.registry import adapt
from posefix.drawing import draw as drawing
from posefix.drawing.ranking import likely_gains
from posefix.exceptions import InputError, SkeletonError
from posefix.inference.rescoring import duplicates
from posefix.io.coco import replace_keypoints
from posefix.keypoints.layouts import BODY_25, MEDIAPIPE, columns
from posefix.keypoints.poses import (
    framing,
    labelled,
    normalised,
    present,
    read_poses,
    relative_scores,
    round_present,
    scored,
    scored_by_poseval,
)
from posefix.keypoints.skeleton import COCO, POSETRACK18

#: (x, y, score) and whether it is there.
TABLE = (
    ((50.0, 60.0, 0.5), True),
    ((0.0, 60.0, 0.5), True),  # on the image's edge
    ((50.0, 0.0, 0.5), True),
    ((-3.0, 60.0, 0.5), True),
    ((50.0, 60.0, 7.0), True),
    ((50.0, 60.0, 1e-4), True),
    ((0.0, 0.0, 0.0), False),
    ((0.0, 0.0, 1.0), False),  # older OpenPose
    ((0.0, 0.0, 0.37), False),  # packages that drop the place and leave the score
    ((-0.0, 0.0, 0.37), False),
    ((50.0, 60.0, 0.0), False),
    ((50.0, 60.0, -1.0), False),
)
#: What only arrays can hold.
ODD = (
    ((np.nan, 60.0, 0.5), False),
    ((50.0, np.nan, 0.5), False),
    ((50.0, 60.0, np.nan), False),
    ((np.inf, 60.0, 0.5), False),
    ((1e9, 60.0, 0.5), False),
)
THERE = np.array([t for _, t in TABLE])


def pose(count: int = 17, rows: Any = TABLE) -> np.ndarray[Any, Any]:
    """(1, K, 3): the table, then keypoints that are there."""
    values = random_poses(np.random.default_rng(0), 1)[:, np.zeros(count, int)]
    values[0, : len(rows)] = [row for row, _ in rows]
    return values


def test_the_rule() -> None:
    for row, expected in (*TABLE, *ODD):
        assert bool(present(np.array(row))) is expected, row
    points = np.array([[0.0, 0.0], [0.0, 5.0], [5.0, 0.0], [np.nan, 5.0]])
    np.testing.assert_array_equal(present(points), [False, True, True, False])
    np.testing.assert_array_equal(read_poses(pose(rows=(*TABLE, *ODD)), COCO).valid[0], [t for _, t in (*TABLE, *ODD)])


def openpose() -> dict[str, Any]:
    values = pose()
    frame = np.zeros((1, 25, 3))
    frame[:, [BODY_25.index(k) for k in COCO.keypoints]] = values
    return {"people": [{"pose_keypoints_2d": frame.reshape(-1).tolist()}]}


def entry(**more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": pose().reshape(-1).tolist(), **more}


def continuous() -> dict[str, Any]:
    """torchvision's frame: half a pixel more; a score is a logit and never missing."""
    values = np.where(scored(pose())[..., None], pose() + np.array([0.5, 0.5, 0.0]), 0.0)
    values[..., 2] = 1
    return {"boxes": torch.zeros(1, 4), "keypoints": torch.tensor(values)}


ADAPTED: dict[str, Callable[[], Any]] = {
    "array": pose,
    "tensor": lambda: torch.tensor(pose()),
    "lists": lambda: pose().tolist(),
    "coco": lambda: [entry()],
    "alphapose": lambda: [entry(image_id="1.jpg", box=[0, 0, 9, 9])],
    "openpose": openpose,
    "rtmlib": lambda: (pose()[..., :2], pose()[..., 2]),
    "mmpose": lambda: [{"keypoints": pose()[0, :, :2].tolist(), "keypoint_scores": pose()[0, :, 2].tolist()}],
    "transformers": lambda: [
        {
            "keypoints": torch.tensor(pose()[0, :, :2]),
            "scores": torch.tensor(pose()[0, :, 2]),
            "labels": torch.arange(17),
        }
    ],
}


@pytest.mark.parametrize("name", ADAPTED)
def test_every_adapter_follows_it(name: str) -> None:
    images: Any = {1: np.zeros((9, 9, 3)), "1.jpg": 1} if name in ("coco", "alphapose") else np.zeros((9, 9, 3))
    found = adapt(ADAPTED[name](), COCO, images)
    valid = read_poses(found.keypoints[0], COCO).valid[0]
    np.testing.assert_array_equal(valid[: len(THERE)], THERE)
    assert valid[len(THERE) :].all()


def test_frames_whose_zero_is_elsewhere() -> None:
    found = adapt(continuous(), COCO, np.zeros((9, 9, 3)))
    np.testing.assert_array_equal(read_poses(found.keypoints[0], COCO).valid, scored(pose()))


def posetrack(values: Any) -> dict[str, Any]:
    person = {"id": 1, "image_id": 7, "track_id": 0, "keypoints": values.reshape(-1).tolist()}
    person["scores"] = values[0, :, 2].tolist()
    return {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}],
    }


@pytest.mark.parametrize("name", ["coco", "alphapose", "openpose", "posetrack"])
def test_every_file_format_follows_it(name: str, tmp_path: Path) -> None:
    skeleton = POSETRACK18 if name == "posetrack" else COCO
    data: Any = {
        "coco": lambda: [entry()],
        "alphapose": lambda: [entry(image_id="1.jpg", box=[0, 0, 9, 9])],
        "openpose": openpose,
        "posetrack": lambda: posetrack(pose()),
    }[name]()
    (tmp_path / "a.json").write_text(json.dumps(data))
    opened = read_any(tmp_path / "a.json", skeleton)
    values = np.array(opened.entries[0]["keypoints"]).reshape(17, 3)
    np.testing.assert_array_equal(present(values)[: len(THERE)], THERE)


def test_drawing_ranking_and_movement_follow_it() -> None:
    values = pose()
    _, drawn = drawing._split("keypoints", values, COCO, 0.0)
    np.testing.assert_array_equal(drawn[0, : len(THERE)], THERE)
    crop, _, _ = drawing.cut_out(np.zeros((480, 640, 3), np.uint8), values[0])
    assert crop.shape[0] == 480
    # The second person is the first where that is there, and far away where it is not.
    other = values.copy()
    other[0, : len(THERE)][~THERE, :2] += 300
    both = np.concatenate([values, other])
    missing = np.where(present(both)[..., None], both, 0.0)
    sigmas = np.array(COCO.sigmas)
    expected = duplicates(missing, np.array([0.9, 0.8]), ["a", "a"], sigmas)
    np.testing.assert_allclose(duplicates(both, np.array([0.9, 0.8]), ["a", "a"], sigmas), expected)
    moved = values.copy()
    moved[0, : len(THERE)][~THERE, :2] += 300  # what was missing does not count as moved
    assert likely_gains([entry()], [entry(keypoints=moved.reshape(-1).tolist())], COCO) == [0.0]


def test_nothing_that_is_there_is_written_as_missing() -> None:
    values = np.array([[[1e-5, 2e-5, 0.5], [0.0, 0.0, 0.5], [5.0, 6.0, 1e-6], [-1e-9, 0.0, 1e-9]]])
    for digits in (2, 3, 6):
        np.testing.assert_array_equal(present(round_present(values, digits)), present(values))
    new = replace_keypoints([entry()], values)[0]["keypoints"]
    np.testing.assert_array_equal(present(np.reshape(new, (-1, 3))), present(values[0]))


def test_missing_keypoints_have_no_score_to_compare_with() -> None:
    scores = relative_scores(np.array([[0.2, 0.9, 0.4]]), np.array([[True, False, True]]))
    np.testing.assert_allclose(scores, [[0.5, 1.0, 1.0]])


def test_a_file_and_an_array_give_the_same_keypoints(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "7.jpg"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps([entry()]))
    entries = read_any(tmp_path / "a.json").entries
    np.testing.assert_array_equal(np.reshape(entries[0]["keypoints"], (1, 17, 3)), pose())


def test_framing_leaves_out_strays_only() -> None:
    """Points inside, just outside and far outside an image of 640 × 480, with small and large relative scores."""
    rows = [(300, 200, 1.0), (300, 200, 1e-4), (300, 500, 1e-4), (300, 530, 1e-4), (300, 530, 0.06), (300, 1000, 1.0)]
    values = np.zeros((1, 17, 3))
    values[0, : len(rows)] = rows
    counts = framing(read_poses(values, COCO), (480, 640))
    np.testing.assert_array_equal(counts[0, : len(rows)], [True, True, True, False, True, False])
    assert not read_poses(np.where(values > 400, np.nan, values), COCO).points[0, 2].any()  # not valid: 0
    alone = np.zeros((1, 17, 3))
    alone[0, 0] = (300, 5000, 0.5)  # nothing else there
    assert framing(read_poses(alone, COCO), (480, 640))[0, 0]


@pytest.mark.parametrize("shape", [(0,), (0, 17, 3), (0, 17, 2), (0, 0, 3), (0, 0), (0, 51)])
def test_nobody(shape: tuple[int, ...]) -> None:
    assert read_poses(np.zeros(shape), COCO).points.shape == (0, 17, 2)


@pytest.mark.parametrize("shape", [(2, 0, 3), (5, 17, 0), (2, 0), (0, 16, 3), (1, 0, 51), (1, 17, 4), (1, 478, 3)])
def test_what_is_not_nobody(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(N, 17, 3\)"):
        read_poses(np.zeros(shape), COCO)


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((17, 3), r"pass keypoints\[None\]"),
        ((2, 51), r"pass keypoints.reshape\(-1, 17, 3\)"),
        ((2, 16, 3), "for another keypoint set pass skeleton="),
    ],
)
def test_another_shape_is_answered_with_the_fix(shape: tuple[int, ...], fix: str) -> None:
    with pytest.raises(InputError, match=fix):
        read_poses(np.ones(shape), COCO)


def test_normalised_coordinates_are_told_from_pixels() -> None:
    shares = np.random.default_rng(0).random((2, 17, 3))
    assert normalised([shares])
    assert normalised([shares.astype(np.float32)[..., :2], shares])
    assert normalised([np.where(np.arange(17)[:, None] < 5, shares, np.nan)])
    assert not normalised([shares * 100, shares])
    assert not normalised([np.full((3, 17, 3), 0.5)])  # one place: nothing was found
    assert not normalised([np.zeros((2, 17, 3))])
    assert not normalised([])
    assert not normalised([None])


def test_keypoints_by_names_that_are_not_one() -> None:
    names = (*COCO.keypoints, "LeftEye")
    with pytest.raises(SkeletonError, match="expected one keypoint called 'left_eye', got 2"):
        columns(names, len(names), COCO)
    with pytest.raises(SkeletonError, match="expected a pose of 33 keypoints, got 468"):
        columns(MEDIAPIPE, 468, COCO)
    assert columns((*COCO.keypoints, "tail", "tail"), 19, COCO).tolist() == list(range(17))


def test_what_is_written_is_rounded_and_no_more() -> None:
    values = np.array(
        [[[12.3456, 7.8912, 0.45678], [0.0, 0.0, 0.0], [3.0, 4.0, -0.0], [0.004, 0.0, 0.5], [9, 9, 1e-9]]]
    )
    expected = [[[12.35, 7.89, 0.46], [0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.01, 0.0, 0.5], [9, 9, 0.01]]]
    found = round_present(values.astype(np.float32), 2)
    np.testing.assert_array_equal(found, expected)
    assert not np.signbit(found).any()
    np.testing.assert_array_equal(round_present(np.array([[[0.0, -0.004, 0.5]]]), 2), [[[0.01, 0.0, 0.5]]])
    assert np.isnan(round_present(np.array([[[1.0, 2.0, np.nan]]]), 2)[0, 0, 2])


def test_which_coordinates_are_normalised() -> None:
    def at(*points: tuple[float, float]) -> npt.NDArray[np.float64]:
        return np.array([points])

    five = ((0.1, 0.2), (0.2, 1.0), (0.0, 0.4), (0.4, 0.5), (1.0, 0.6))
    assert normalised([at(*five)])  # five places, the border among them
    assert not normalised([at(*five[:4], five[0])])  # four
    assert normalised([at(*five[:3]), at(*five[3:])])  # of all together
    assert not normalised([at(*five), at((1.5, 0.2))])
    assert not normalised([at(*five), at((-0.1, 0.2))])
    assert not normalised([at(*five), np.zeros(3)])  # nothing that can be judged
    assert not normalised([at(*five), "x"])
    scored_five = np.concatenate([at(*five), np.full((1, 5, 1), 90.0)], -1)
    assert normalised([scored_five])  # scores of any unit


def test_each_persons_scores_are_over_their_own_best() -> None:
    scores = np.array(
        [
            [0.2, 0.4, 0.1],
            [5.0, 10.0, 0.0],  # another scale
            [0.0, 1.0, 2.0],  # visibilities say nothing
            [1.0, 1.0, 2.0],
            [0.0, 3.0, 1.0],  # 3 is none
            [0.5, np.nan, -1.0],
        ]
    )
    valid = np.ones(scores.shape, bool)
    valid[0, 1] = False  # not there: its score does not count
    expected = [[1, 1, 0.5], [0.5, 1, 0], [1, 1, 1], [1, 1, 1], [0, 1, 1 / 3], [1, 1, 0]]
    found = relative_scores(scores, valid)
    np.testing.assert_allclose(found, expected)
    assert found.dtype == relative_scores(scores.astype(np.float16), valid).dtype == np.float64
    np.testing.assert_array_equal(relative_scores(np.zeros((2, 0)), np.zeros((2, 0), bool)), np.zeros((2, 0)))


@pytest.mark.parametrize(
    ("kind", "read_as"),
    [("f8", "f8"), (">f8", "f8"), ("f4", "f4"), ("f2", "f4"), ("u1", "f4"), ("i8", "f4"), ("?", None)],
)
def test_number_types(kind: str, read_as: str | None) -> None:
    values = np.ones((2, 17, 3)).astype(kind)
    if read_as is None:
        with pytest.raises(InputError, match=r"^keypoints: expected numbers"):
            read_poses(values, COCO)
    else:
        poses = read_poses(values, COCO)
        assert poses.original.dtype == np.dtype(read_as)
        assert poses.points.dtype == np.float64
        assert poses.original is not values
        missing = read_poses(np.concatenate([values, np.zeros((1, 17, 3), kind)]), COCO)
        assert not missing.points[2].any()


def test_no_people_have_as_many_numbers_as_were_given() -> None:
    for given, expected in (((0, 17, 2), 2), ((0, 17, 3), 3), ((0,), 3), ((0, 0, 2), 2), ((0, 51), 3)):
        original = read_poses(np.zeros(given), COCO).original
        assert original.shape == (0, 17, expected)
        assert original.dtype == (np.float32 if given[1:] not in ((17, 2), (17, 3)) else original.dtype)


def test_messages_of_other_shapes_end_where_nothing_helps() -> None:
    for shape, end in (
        ((17, 2), "; for one person pass keypoints[None]"),
        ((2, 50), "got (2, 50)"),
        ((3,), "got (3,)"),
    ):
        with pytest.raises(InputError) as caught:
            read_poses(np.ones(shape), COCO)
        assert str(caught.value).endswith(end)
    with pytest.raises(InputError, match=r"pass skeleton= \(coco, \w+, \w+, \w+ or a Skeleton\)$"):
        read_poses(np.ones((1, 16, 2)), COCO)


def test_framing_goes_by_each_person_and_by_both_sides() -> None:
    """An image of 640 × 480: a tenth of it is 64 and 48 px, beyond its last pixel."""
    values = np.zeros((3, 17, 3))
    values[:, 0] = (300, 200, 1.0)
    values[0, 1:5] = [(-60, 200, 0.01), (-70, 200, 0.01), (300, -40, 0.01), (300, -50, 0.01)]
    values[1, 1:5] = [(639 + 64, 9, 0.01), (639 + 64.5, 9, 0.01), (9, 479 + 48, 0.01), (9, 479 + 48.5, 0.01)]
    values[2, :3] = [(9, -481, 1.0), (2000, 9, 1.0), (639 + 640, 9, 1.0)]  # all of it is elsewhere
    counts = framing(read_poses(values, COCO), (480, 640))
    np.testing.assert_array_equal(counts[0, :6], [True, True, False, True, False, False])
    np.testing.assert_array_equal(counts[1, :6], [True, True, False, True, False, False])
    np.testing.assert_array_equal(counts[2, :4], [True, True, True, False])
    values[2, 0] = (9, 9, 1.0)
    np.testing.assert_array_equal(framing(read_poses(values, COCO), (480, 640))[2, :4], [True, False, False, False])


def test_variants_of_the_evaluations() -> None:
    values = np.array([[0, 0, 0], [0, 0, 2], [5, 0, 0], [0, 5, 1], [5, 6, 0.4], [-1, 0, 0]], float)
    np.testing.assert_array_equal(labelled(values), [False, True, False, True, True, False])
    np.testing.assert_array_equal(scored(values), [False, False, True, True, True, True])
    np.testing.assert_array_equal(scored_by_poseval(values), [False, True, True, True, True, True])
