"""Back from the network to the image: what stays, what moves, what is filled."""

import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import make_weights, random_poses
from posefix import FileFormatError, InputError, Refiner, refine_results
from posefix.geometry import boxes_xywh_to_xyxy, boxes_xyxy_to_xywh
from posefix.inference import crops, engine, stream
from posefix.inference.crops import FAR, NEAREST, CropCutter, Prediction, Prepared, others_in_crops, paste_back
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.weights.calibration import Calibration


def prepare(keypoints: np.ndarray) -> Prepared:
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    return refiner.prepare(np.zeros((100, 100, 3), np.uint8), keypoints)


def test_paste_back_by_margin() -> None:
    keypoints = np.full((1, 17, 3), 0.5)
    keypoints[0, :, :2] = np.random.default_rng(0).uniform(10, 90, (17, 2))
    prepared = prepare(keypoints)
    best = np.full((1, 17), 0.8)
    own = np.linspace(0.7, 0.8, 17)[None]
    answer = Prediction(np.full((1, 17, 2), 20.0), best, own, np.ones((1, 17)))
    result = paste_back(prepared, answer, np.full(17, 0.05), fill_missing=True).keypoints
    stayed = (result[..., :2] == keypoints[..., :2]).all(-1)
    np.testing.assert_array_equal(stayed, own >= 0.75)
    np.testing.assert_allclose(result[..., 2], np.where(stayed, own, best))


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_nothing_is_filled_near_the_border(side: str) -> None:
    """Keypoints outside the image gather at its border."""
    ankle, knee = COCO.index("left_ankle"), COCO.index("left_knee")
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :9] = np.random.default_rng(0).uniform(30, 70, (9, 3))
    keypoints[0, :9, 2] = 1.0
    prepared = prepare(keypoints)
    scale = prepared.affine[0, 0, 0]
    std = prepared.inputs.std[0] / scale
    places = np.full((17, 2), 50.0)
    for k, lengths in ((ankle, 0.7), (knee, 0.8)):
        away = lengths * std[k] - 0.5  # the image begins half a pixel before the first pixel's centre
        places[k, int(side in ("top", "bottom"))] = away if side in ("left", "top") else 99 - away
    crop = np.concatenate([places, np.ones((17, 1))], 1) @ prepared.affine[0].T
    ones = np.ones((1, 17))
    refined = paste_back(prepared, Prediction(crop[None], 0.9 * ones, 0 * ones, ones), None, fill_missing=True)
    assert not refined.filled[0, ankle]
    assert (refined.keypoints[0, ankle] == 0).all()
    assert refined.filled[0, knee]
    np.testing.assert_allclose(refined.keypoints[0, knee, :2], places[knee], atol=1e-6)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    """``CROWD``, lowered to what a test refines in a second."""
    for module in (crops, engine, stream):
        monkeypatch.setattr(module, "CROWD", 6)
    return 6


def crowd(people: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), random_poses(rng, people)


def test_a_crowd_gets_what_each_of_them_gets(few_at_once: int) -> None:
    weights = make_weights(Calibration(policy="always", reference_outlier_rate=0.05), input_hw=(32, 32))
    refiner = Refiner(weights, device="cpu", precision="float32")
    image, poses = crowd(2 * few_at_once + 3)
    cutter = refiner.prepare(image, poses).inputs.crops
    assert isinstance(cutter, CropCutter)
    np.testing.assert_array_equal(cutter[7:8], refiner.prepare(image, poses[7:8]).inputs.crops)
    few = poses[:3]
    for options in ({"prior_weight": 0.8}, {"prior_weight": 0.8, "flip_test": True, "batch_size": 100}):
        whole, small = refiner.refine_batch([image, image], [poses, few], **options)
        np.testing.assert_array_equal(small, refiner.refine(image, few, **options))
        thirds = [refiner.refine(image, third, **options) for third in np.array_split(poses, 3)]
        np.testing.assert_array_equal(whole, np.concatenate(thirds))
    # Reliability is that of an even sample of the people.
    sample = np.linspace(0, len(poses) - 1, few_at_once).astype(int)
    weight = refiner.measure_reliability([image], [poses[sample]])
    expected = refiner.refine(image, poses, prior_weight=weight)
    np.testing.assert_array_equal(refiner.refine(image, poses), expected)
    assert refiner.measure_reliability([image], [poses]) == weight
    np.testing.assert_array_equal(next(refiner.refine_stream([(image, poses)])), expected)


def test_memory_does_not_grow_with_the_crowd(few_at_once: int) -> None:
    refiner = Refiner(make_weights(Calibration(policy="always")), device="cpu", precision="float32")

    def peak(people: int) -> float:
        image, poses = crowd(people)
        tracemalloc.start()
        try:
            refiner.refine(image, poses, prior_weight=1.0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(few_at_once)  # what is made once
    one = 3 * np.prod(refiner.config.input_hw)
    assert peak(6 * few_at_once) - peak(few_at_once + 1) < 2 * few_at_once * one


def people(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses somewhere in 640×480 px and their boxes (xyxy), a few pixels wider than the keypoints."""
    poses = np.ones((count, 17, 3))
    poses[..., :2] = rng.uniform((80, 90), (300, 250), (count, 1, 2)) + rng.uniform(0, 150, (count, 17, 2))
    boxes = np.concatenate([poses[..., :2].min(1) - 5, poses[..., :2].max(1) + 5], axis=-1)
    return poses, boxes


@pytest.mark.parametrize("count", [1, 6])
def test_boxes_in_the_other_form_are_refused(count: int) -> None:
    rng = np.random.default_rng(0)
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    image = np.zeros((480, 640, 3), np.uint8)
    poses, boxes = people(rng, count)
    # As [left, top, width, height], of which no side is inverted.
    wide = boxes_xyxy_to_xywh(boxes)
    wide[:, :2] = np.minimum(wide[:, :2], wide[:, 2:] - 1)
    poses[..., :2] += (wide[:, :2] - boxes[:, :2])[:, None]
    refiner.refine(image, poses, boxes_xyxy=boxes_xywh_to_xyxy(wide))
    with pytest.raises(InputError, match="got what fits them as"):
        refiner.refine(image, poses, boxes_xyxy=wide)


def test_results_with_corners_as_boxes_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((480, 640, 3), np.uint8))
    poses, boxes = people(rng, 4)
    entries = [
        {
            "image_id": 1,
            "file_name": "a.png",
            "category_id": 1,
            "keypoints": pose.reshape(-1).tolist(),
            "score": 0.5,
            "bbox": box,
        }
        for pose, box in zip(poses, boxes_xyxy_to_xywh(boxes).tolist(), strict=True)
    ]
    refine_results(refiner, entries, tmp_path, use_boxes=True)
    for entry, box in zip(entries, boxes.tolist(), strict=True):
        entry["bbox"] = box
    with pytest.raises(FileFormatError, match="bbox"):
        refine_results(refiner, entries, tmp_path, use_boxes=True)
    refine_results(refiner, entries, tmp_path)  # boxes that are not used do not matter


@pytest.mark.parametrize("box", [[400, 10, 440, 90], [-900, 10, -800, 90], [0, -500, 99, -400]])
def test_boxes_away_from_the_keypoints_are_not_used(box: list[float], caplog: pytest.LogCaptureFixture) -> None:
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    image = np.random.default_rng(0).integers(0, 256, (100, 500, 3), np.uint8)
    keypoints = random_poses(np.random.default_rng(0), 2)
    keypoints[..., :2] = 10 + 0.1 * keypoints[..., :2] % 80
    boxes = [[5.0, 5.0, 95.0, 95.0], box]
    np.testing.assert_array_equal(
        refiner.refine(image, keypoints, boxes_xyxy=boxes)[1], refiner.refine(image, keypoints)[1]
    )
    assert "those of people 1" in caplog.text


def test_boxes_far_beyond_the_image_are_cut() -> None:
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    image = np.zeros((100, 100, 3), np.uint8)
    keypoints = np.full((1, 17, 3), 0.9)
    keypoints[..., :2] = np.random.default_rng(0).uniform(20, 80, (17, 2))
    crop = [refiner.prepare(image, keypoints, [box]).affine for box in ([-0.5, -0.5, 99.5, 99.5], [-1e6, -9, 1e6, 1e6])]
    np.testing.assert_allclose(crop[1], crop[0])


def test_entries_that_are_no_results_are_refused(tmp_path: Path) -> None:
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    with pytest.raises(FileFormatError, match="'image_id', got None"):
        refine_results(refiner, [{"file_name": "a.png", "keypoints": [1.0, 2.0, 0.5] * 17}], tmp_path)


def others_of(points: Any, valid: Any = None, rows: Any = None, scale: float = 1.0) -> Any:
    """Of people whose crops are the image, ``scale`` times as large."""
    points = np.asarray(points, float)
    valid = np.ones(points.shape[:2], bool) if valid is None else valid
    rows = np.arange(len(points)) if rows is None else np.asarray(rows)
    affine = np.tile(np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]]), (len(rows), 1, 1))
    return others_in_crops(points, valid, rows, affine, np.ones((len(rows), points.shape[1])))


def row_of_people(count: int) -> Any:
    """One every 10 px, all keypoints of a person at one place."""
    return np.stack([10.0 * np.arange(count), np.zeros(count)], -1)[:, None].repeat(4, 1)


def test_the_nearest_other_people_in_crop_pixels() -> None:
    others = others_of(row_of_people(NEAREST + 4), scale=2.0)
    assert others.shape == (NEAREST + 4, NEAREST, 4, 2)
    np.testing.assert_array_equal(others[0, :, 0, 0], 20.0 * np.arange(1, NEAREST + 1))
    assert sorted(others[6, :, 0, 0]) == [40.0, 60.0, 80.0, 100.0, 140.0, 160.0, 180.0, 200.0]
    assert (others_of(row_of_people(1)) == FAR).all()
    assert others_of(row_of_people(0)).shape == (0, NEAREST, 4, 2)


def test_who_has_no_crop_is_another_person_too() -> None:
    others = others_of(row_of_people(3), rows=[2])
    assert others[0, :3, 0, 0].tolist() == [10.0, 0.0, FAR]


def test_missing_keypoints_are_nowhere() -> None:
    points = row_of_people(3)
    points[1, 0] = points[2] = np.nan
    others = others_of(points, np.isfinite(points[..., 0]))
    assert others[0, 0].tolist() == [[FAR, FAR], *[[10.0, 0.0]] * 3]
    assert (others[0, 1:] == FAR).all()


@pytest.mark.parametrize(("shared", "same"), [(1, False), (2, True), (4, True)])
def test_a_second_detection_of_a_person_is_nobody_else(shared: int, same: bool) -> None:
    points = row_of_people(2)
    points[1, :shared] = points[0, :shared] + 0.6
    others = others_of(points)
    assert (others[0, 0, 0, 0] == FAR) == same
    # Of two keypoints that both have, one is half.
    valid = np.array([[True, True, False, False], [True, True, True, False]])
    assert (others_of(points, valid)[0] == FAR).all()


def test_others_of_many_people(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).uniform(0, 500, (40, 4, 2))
    expected = others_of(points)
    monkeypatch.setattr(crops, "CROWD", 7)
    np.testing.assert_array_equal(others_of(points), expected)


def test_others_go_with_their_person() -> None:
    refiner = Refiner(make_weights(input_hw=(64, 64)), device="cpu")
    image = np.zeros((480, 640, 3), np.uint8)
    poses = random_poses(np.random.default_rng(1), 3)
    parts = [refiner.prepare(image, own).inputs for own in (poses, poses[:1])]
    joined = NetworkInput.join(parts)
    assert joined.others.shape == (4, NEAREST, 17, 2)
    np.testing.assert_array_equal(joined.take(slice(3, 4)).others, FAR)
    flip = refiner.weights.skeleton.flip_indices
    mirrored = joined.mirrored(flip)
    np.testing.assert_allclose(mirrored.others[0, 0, flip, 0], 63 - joined.others[0, 0, :, 0], rtol=1e-5)
    np.testing.assert_allclose(mirrored.mirrored(flip).others[0, 0], joined.others[0, 0], rtol=1e-5)
