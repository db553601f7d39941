from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from posefix.keypoints.oks import (
    duplicate_oks,
    keypoint_similarity,
    keypoint_std,
    oks,
    oks_nms,
    similarity_radius,
)
from posefix.keypoints.skeleton import COCO

SIGMAS = np.array(COCO.sigmas)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_radius_is_the_inverse_of_similarity(rng: np.random.Generator) -> None:
    area = rng.uniform(100, 1e5, 50)
    targets = rng.normal(size=(50, 17, 2)) * 100
    for ks in (0.1, 0.5, 0.85, 0.999):
        angle = rng.uniform(0, 2 * np.pi, (50, 17, 1))
        step = similarity_radius(ks, area, SIGMAS)[..., None] * np.concatenate([np.cos(angle), np.sin(angle)], -1)
        np.testing.assert_allclose(keypoint_similarity(targets + step, targets, area, SIGMAS), ks, atol=1e-9)
    assert (similarity_radius(1.0, area, SIGMAS) == 0).all()


def test_similarity_is_symmetric_bounded_and_one_at_the_target(rng: np.random.Generator) -> None:
    points, targets = rng.normal(size=(2, 30, 17, 2)) * 20
    area = rng.uniform(100, 1e4, 30)
    ks = keypoint_similarity(points, targets, area, SIGMAS)
    assert ((ks >= 0) & (ks <= 1)).all()
    np.testing.assert_array_equal(ks, keypoint_similarity(targets, points, area, SIGMAS))
    np.testing.assert_array_equal(keypoint_similarity(points, points, area, SIGMAS), 1.0)


def test_similarity_ignores_translation_scale_rotation_and_order(rng: np.random.Generator) -> None:
    points, targets = rng.normal(size=(2, 30, 17, 2)) * 20
    area = rng.uniform(100, 1e4, 30)
    ks = keypoint_similarity(points, targets, area, SIGMAS)
    np.testing.assert_allclose(keypoint_similarity(points + 99, targets + 99, area, SIGMAS), ks)
    np.testing.assert_allclose(keypoint_similarity(points * 3, targets * 3, area * 9, SIGMAS), ks)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(keypoint_similarity(points @ turn, targets @ turn, area, SIGMAS), ks)
    order = rng.permutation(17)
    permuted = keypoint_similarity(points[:, order], targets[:, order], area, SIGMAS[order])
    np.testing.assert_array_equal(permuted, ks[:, order])
    np.testing.assert_allclose(
        keypoint_similarity(points[:, COCO.flip_indices], targets[:, COCO.flip_indices], area, SIGMAS),
        ks[:, COCO.flip_indices],
    )


def test_similarity_falls_with_distance() -> None:
    distance = np.linspace(0, 100, 50)
    points = np.zeros((50, 17, 2))
    points[..., 0] = distance[:, None]
    ks = keypoint_similarity(points, np.zeros((50, 17, 2)), np.full(50, 5000.0), SIGMAS)
    assert (np.diff(ks, axis=0) < 0).all()
    np.testing.assert_allclose(ks, np.exp(-(distance[:, None] ** 2) / (2 * 5000 * (2 * SIGMAS) ** 2)))


def test_what_is_not_there_has_similarity_zero() -> None:
    points, targets, area = np.zeros((2, 17, 2)), np.zeros((2, 17, 2)), np.array([100.0, 0.0])
    points[0, 0], points[0, 1] = np.nan, np.inf
    sigmas = SIGMAS.copy()
    sigmas[2] = 0.0
    ks = keypoint_similarity(points, targets, area, sigmas)
    assert (ks[0, :3] == 0).all()
    assert (ks[0, 3:] == 1).all()
    assert (ks[1] == 0).all()
    targets[0, 1] = np.inf
    assert keypoint_similarity(points, targets, area, sigmas)[0, 1] == 0


def test_std_is_the_length_scale() -> None:
    np.testing.assert_allclose(keypoint_std(2500.0, SIGMAS), 100 * SIGMAS)
    assert keypoint_std(np.ones((4, 3)), SIGMAS).shape == (4, 3, 17)


# ---------------------------------------------------------------- OKS


def test_oks_is_the_mean_over_visible_keypoints(rng: np.random.Generator) -> None:
    points, targets = rng.normal(size=(5, 17, 2)) * 20, rng.normal(size=(7, 17, 2)) * 20
    area, visible = rng.uniform(100, 1e4, 7), rng.random((7, 17)) < 0.5
    visible[0] = False
    values = oks(points, targets, visible, area, SIGMAS)
    assert values.shape == (5, 7)
    for i in range(5):
        for j in range(7):
            ks = keypoint_similarity(points[i], targets[j], area[j], SIGMAS)
            assert values[i, j] == pytest.approx(ks[visible[j]].mean() if visible[j].any() else 0.0)


def test_oks_agrees_with_pycocotools(rng: np.random.Generator) -> None:
    from pycocotools.coco import COCO as Annotations  # noqa: N811
    from pycocotools.cocoeval import COCOeval

    targets = rng.uniform(50, 300, (3, 17, 2))
    points = targets[[0, 1, 2, 0]] + rng.normal(size=(4, 17, 2)) * 8
    area, visible = rng.uniform(3000, 2e4, 3), rng.random((3, 17)) < 0.7

    def flat(pose: np.ndarray, third: np.ndarray) -> list[float]:
        return np.concatenate([pose, third[:, None]], -1).reshape(-1).tolist()

    truth, found = Annotations(), Annotations()
    common = {"images": [{"id": 1}], "categories": [{"id": 1}]}
    truth.dataset = {
        **common,
        "annotations": [
            {
                "id": j + 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "ignore": 0,
                "area": area[j],
                "bbox": [0, 0, 400, 400],
                "num_keypoints": int(visible[j].sum()),
                "keypoints": flat(targets[j], 2.0 * visible[j]),
            }
            for j in range(3)
        ],
    }
    found.dataset = {
        **common,
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1,
                "score": 1 - 0.1 * i,
                "area": 1.0,
                "keypoints": flat(points[i], np.ones(17)),
            }
            for i in range(4)
        ],
    }
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth, found, "keypoints")
    evaluation._prepare()
    expected = evaluation.computeOks(1, 1)
    np.testing.assert_allclose(oks(points, targets, visible, area, SIGMAS), expected, atol=1e-6)


def test_oks_with_no_people() -> None:
    no_people, nothing = np.zeros((0, 17, 2)), np.zeros((0, 17), bool)
    someone, all_of_it = np.zeros((2, 17, 2)), np.ones((2, 17), bool)
    assert oks(no_people, someone, all_of_it, np.ones(2), SIGMAS).shape == (0, 2)
    assert oks(someone, no_people, nothing, np.ones(0), SIGMAS).shape == (2, 0)


# ---------------------------------------------------------------- suppression


def test_nms_keeps_the_best_of_each_group(rng: np.random.Generator) -> None:
    people = np.arange(4)[:, None, None] * 1000.0 + rng.uniform(0, 200, (4, 17, 2))
    points = np.repeat(people, 3, 0) + rng.normal(size=(12, 17, 2)) * 0.1
    scores, area = rng.permutation(12) / 12.0, np.full(12, 2e4)
    kept = oks_nms(points, scores, area, SIGMAS)
    best = [3 * g + int(scores[3 * g : 3 * g + 3].argmax()) for g in range(4)]
    assert sorted(kept) == best
    assert (np.diff(scores[kept]) < 0).all()


def test_nms_is_idempotent_and_does_not_depend_on_order(rng: np.random.Generator) -> None:
    points = rng.uniform(0, 60, (30, 17, 2))
    scores, area = rng.permutation(30) / 30.0, rng.uniform(1e4, 4e4, 30)
    kept = oks_nms(points, scores, area, SIGMAS, threshold=0.3)
    assert 1 < len(kept) < 30
    again = oks_nms(points[kept], scores[kept], area[kept], SIGMAS, threshold=0.3)
    np.testing.assert_array_equal(again, np.arange(len(kept)))
    order = rng.permutation(30)
    shuffled = oks_nms(points[order], scores[order], area[order], SIGMAS, threshold=0.3)
    np.testing.assert_array_equal(order[shuffled], kept)


def test_nms_measures_a_pair_by_its_mean_area() -> None:
    points, scores, area = np.zeros((2, 17, 2)), np.array([1.0, 0.5]), np.array([1000.0, 9000.0])
    points[1, :, 0] = 8.0
    pair = keypoint_similarity(points[0], points[1], 5000.0, SIGMAS).mean()
    assert len(oks_nms(points, scores, area, SIGMAS, threshold=pair - 1e-6)) == 1
    assert len(oks_nms(points, scores, area, SIGMAS, threshold=pair + 1e-6)) == 2


def test_nms_extremes(rng: np.random.Generator) -> None:
    points, scores, area = np.zeros((5, 17, 2)), rng.random(5), np.full(5, 1e4)
    np.testing.assert_array_equal(oks_nms(points, scores, area, SIGMAS), [scores.argmax()])
    assert len(oks_nms(points, scores, area, SIGMAS, threshold=1.0)) == 5
    assert oks_nms(points[:0], scores[:0], area[:0], SIGMAS).shape == (0,)
    points[:] = np.nan
    assert len(oks_nms(points, scores, area, SIGMAS)) == 5


@pytest.mark.parametrize("apart", [0, 300])
def test_duplicate_oks_by_plain_loops(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    monkeypatch.setattr("posefix.keypoints.oks._PAIRS", 700)
    people = 70  # more than are computed at once
    points = rng.normal(size=(people, 17, 2)) * 20 + apart * rng.normal(size=(people, 1, 2))
    valid, scores, area = rng.random((people, 17)) < 0.7, rng.integers(0, 4, people) / 4, rng.uniform(1e3, 1e4, people)
    expected = np.zeros(people)
    for i in range(people):
        for j in range(people):
            if scores[j] > scores[i] or (scores[j] == scores[i] and j < i):
                ks = keypoint_similarity(points[i], points[j], (area[i] + area[j]) / 2, SIGMAS)
                both, either = valid[i] & valid[j], valid[i] | valid[j]
                expected[i] = max(expected[i], ks[both].sum() / either.sum())
    assert len(set(scores)) < people
    np.testing.assert_allclose(duplicate_oks(points, valid, scores, area, SIGMAS), expected, atol=1e-9)


def test_duplicate_oks_is_what_nms_goes_by(rng: np.random.Generator) -> None:
    points = np.repeat(rng.normal(size=(4, 17, 2)) * 40, 2, axis=0)
    points[1::2] += rng.normal(size=(4, 17, 2))
    scores, area = rng.random(8), np.full(8, 4e3)
    repeated = duplicate_oks(points, np.ones((8, 17), bool), scores, area, SIGMAS)
    kept = oks_nms(points, scores, area, SIGMAS, threshold=0.5)
    np.testing.assert_array_equal(np.sort(kept), np.flatnonzero(repeated <= 0.5))
    assert len(kept) == 4


def test_duplicate_oks_of_no_people_of_points_and_of_keypoints_never_annotated() -> None:
    assert duplicate_oks(np.zeros((0, 17, 2)), np.zeros((0, 17), bool), np.zeros(0), np.zeros(0), SIGMAS).shape == (0,)
    same = np.ones((2, 17, 2))
    nothing = duplicate_oks(same, np.zeros((2, 17), bool), np.ones(2), np.ones(2), SIGMAS)
    np.testing.assert_array_equal(nothing, 0)
    half = np.where(np.arange(17) < 5, SIGMAS, 0.0)
    np.testing.assert_array_equal(duplicate_oks(same, np.ones((2, 17), bool), np.ones(2), np.ones(2), half), [0, 1])
    np.testing.assert_array_equal(duplicate_oks(same, np.ones((2, 17), bool), np.ones(2), np.zeros(2), SIGMAS), 0)


def test_thousands_in_one_image_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 4000, (1500, 17, 2))
    tracemalloc.start()
    duplicate_oks(points, np.ones((1500, 17), bool), rng.uniform(0, 1, 1500), np.full(1500, 900.0), SIGMAS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_one_keypoint_counts_by_itself() -> None:
    one = np.full((2, 1, 2), 50.0)
    one[1, 0, 0] += 2.0
    valid, area = np.ones((2, 1), bool), np.array([400.0, 400.0])
    expected = keypoint_similarity(one[:1], one[1:], area[:1], SIGMAS[:1])[0, 0]
    assert 0.1 < expected < 0.9
    np.testing.assert_allclose(duplicate_oks(one, valid, [0.9, 0.8], area, SIGMAS[:1]), [0, expected])
    np.testing.assert_allclose(oks(one[:1], one[1:], valid[1:], area[1:], SIGMAS[:1]), [[expected]])


def test_numbers_of_any_type() -> None:
    """Integers and halves are read as doubles; so are scores of one byte, which would wrap when they are negated."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 60_000, (6, 17, 2))
    valid, scores, area = np.ones((6, 17), bool), np.array([250, 0, 1, 200, 100, 128], np.uint8), np.full(6, 3e8)
    expected = duplicate_oks(whole.astype(float), valid, scores.astype(float), area, SIGMAS)
    assert (expected > 0).sum() == 5
    found = duplicate_oks(whole.astype(np.uint16), valid.astype(int), scores, area.tolist(), SIGMAS)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        keypoint_similarity(whole[:3].astype(np.uint16), whole[3:].astype(np.uint16), area[:3], SIGMAS),
        keypoint_similarity(whole[:3].astype(float), whole[3:].astype(float), area[:3], SIGMAS),
    )


def test_nms_of_one_byte_scores(rng: np.random.Generator) -> None:
    points = np.concatenate([rng.uniform(0, 100, (1, 17, 2))] * 3)
    kept = oks_nms(points.astype(np.uint16), np.array([0, 255, 7], np.uint8), np.full(3, 900), SIGMAS, 0.9)
    assert kept.tolist() == [1]
    assert kept.dtype == np.int64
