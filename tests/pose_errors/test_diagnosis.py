from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from factories import FOUR, annotation_file, results_of, shared_dir
from posefix.evaluation.matching import match_people, open_results, others_of
from posefix.exceptions import FileFormatError, InputError
from posefix.io.coco import Results, annotations_of, replace_keypoints
from posefix.keypoints.oks import keypoint_similarity, similarity_radius
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, Skeleton
from posefix.pose_errors.diagnosis import KINDS, Comparison, diagnose, diagnose_results
from posefix.pose_errors.synthesis import ErrorRates, PartRates, PoseError, synthesize

Doubles = npt.NDArray[np.float64]
GOOD, JITTER, INVERSION, SWAP, MISS = KINDS
NONE = PoseError.NONE


def people(rng: np.random.Generator, count: int, skeleton: Skeleton, near: int) -> tuple[Doubles, Doubles, Doubles]:
    """(N, K, 3) labelled, (N, M, K, 3) other instances and (N,) areas; one keypoint in five is not labelled."""

    def drawn(*shape: int) -> Doubles:
        points = rng.uniform(0, 200, (*shape, len(skeleton), 2)).astype(np.float32)
        seen = rng.choice([0, 1, 2], (*shape, len(skeleton), 1), p=[0.2, 0.2, 0.6])
        return np.concatenate([points, seen], axis=-1).astype(np.float64)

    return drawn(count), drawn(count, near), rng.uniform(500, 20000, count)


def only(kind: PoseError) -> ErrorRates:
    share = {k: float(k == kind) for k in KINDS}
    miss, jitter, swap = share[MISS], share[JITTER], share[SWAP]
    return ErrorRates({}, PartRates((jitter,) * 2, (miss,) * 3, share[INVERSION], (swap,) * 2))


# ---------------------------------------------------------------- consistent with the generator


@pytest.mark.parametrize("skeleton", [COCO, MPII, CROWDPOSE, FOUR], ids=lambda s: s.name)
@pytest.mark.parametrize("near", [0, 1, 3])
def test_a_synthetic_error_is_diagnosed_as_what_it_is(skeleton: Skeleton, near: int) -> None:
    """Without exception but rounding: points are float32, so those drawn on the very border of a kind may cross it."""
    rng = np.random.default_rng(near)
    ground_truth, others, area = people(rng, 1000, skeleton, near)
    seen = ground_truth[..., 2] > 0
    for rates in (None, *(only(kind) for kind in KINDS)):
        points, kinds = synthesize(
            ground_truth[..., :2], seen, skeleton, area, rng, others=others, rates=rates, severity=np.ones(1000)
        )
        found = diagnose(points, seen, ground_truth, area, others, skeleton)
        np.testing.assert_array_equal(found == NONE, ~seen)
        wrong = seen & (found != kinds)
        assert wrong.sum() <= 1e-3 * seen.sum()
        border = np.zeros_like(wrong)
        candidates = np.concatenate([ground_truth[:, None], others], axis=1)
        candidates = np.concatenate([candidates, candidates[:, :, skeleton.flip_indices]], axis=1)
        similarity = keypoint_similarity(points[:, None], candidates[..., :2], area[:, None], skeleton.sigmas)
        similarity = np.sort(np.where(candidates[..., 2] > 0, similarity, 0.0), axis=1)
        for value in (0.5, 0.85):
            border |= (np.abs(similarity - value) < 1e-4).any(1)
        border |= (np.diff(similarity, axis=1) < 1e-4).any(1) & (similarity[:, -1] > 0.5)
        assert border[wrong].all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_found(kind: PoseError) -> None:
    rng = np.random.default_rng(0)
    ground_truth, others, area = people(rng, 300, COCO, 2)
    seen = ground_truth[..., 2] > 0
    points, _ = synthesize(
        ground_truth[..., :2], seen, COCO, area, rng, others=others, rates=only(kind), severity=np.full(300, 0.5)
    )
    found = diagnose(points, seen, ground_truth, area, others, COCO)
    assert (found == kind).sum() > 200


# ---------------------------------------------------------------- one keypoint at a time


def one(offset: float, *, seen: tuple[int, ...] = (2, 2, 2, 2), valid: bool = True, near: Any = None) -> list[int]:
    """Kinds of skeleton FOUR: all keypoints but the left hand at their place, that one ``offset`` px to the right."""
    ground_truth = np.array([[[0, 0], [100, 0], [200, 0], [0, 100]]], np.float64)
    points = ground_truth.copy()
    points[0, 1, 0] += offset
    mask = np.ones((1, 4), bool)
    mask[0, 1] = valid
    truth = np.concatenate([ground_truth, np.array(seen, float)[None, :, None]], -1)
    return diagnose(points, mask, truth, np.array([10000.0]), near, FOUR)[0].tolist()


def radius(similarity: float) -> float:
    return float(similarity_radius(similarity, 10000.0, FOUR.sigmas)[1])


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (0.0, GOOD),
        (radius(0.86), GOOD),
        (radius(0.84), JITTER),
        (radius(0.51), JITTER),
        (radius(0.49), MISS),
        (100 - radius(0.49), MISS),
        (100 - radius(0.51), INVERSION),
        (100.0, INVERSION),
        (1000.0, MISS),
    ],
)
def test_similarity_decides(offset: float, kind: PoseError) -> None:
    assert one(offset) == [GOOD, kind, GOOD, GOOD]


def test_without_annotation_there_is_no_kind_and_no_candidate() -> None:
    assert one(0.0, seen=(2, 0, 2, 0)) == [GOOD, NONE, GOOD, NONE]
    assert one(100.0, seen=(2, 1, 0, 2)) == [GOOD, MISS, NONE, GOOD]


def test_a_missing_prediction_is_a_miss() -> None:
    assert one(0.0, valid=False) == [GOOD, MISS, GOOD, GOOD]
    assert one(np.nan) == [GOOD, MISS, GOOD, GOOD]


def test_another_persons_keypoint_is_a_swap() -> None:
    somebody = np.array([[[[500, 0, 2], [400, 0, 2], [300, 0, 1], [500, 100, 2]]]], np.float64)
    assert one(300.0, near=somebody)[1] == SWAP  # the same keypoint
    assert one(200.0, near=somebody)[1] == SWAP  # its mirror
    assert one(400.0, near=somebody)[1] == MISS  # the head is no candidate for a hand
    somebody[..., 2] = 0
    assert one(300.0, near=somebody)[1] == MISS


def test_the_nearest_candidate_decides_and_the_own_one_in_a_tie() -> None:
    close = np.array([[[0, 0, 2], [100, 0, 2], [104, 0, 2], [0, 100, 2]]], np.float64)
    area = np.array([10000.0])
    points = close[..., :2].copy()
    for x, kind in ((101.9, GOOD), (102.0, GOOD), (102.1, INVERSION)):
        points[0, 1] = x, 0.0
        assert diagnose(points, np.ones((1, 4), bool), close, area, None, FOUR)[0, 1] == kind
    near = close[None].copy()  # somebody in the very same place
    assert diagnose(close[..., :2], np.ones((1, 4), bool), close, area, near, FOUR).tolist() == [[GOOD] * 4]


def test_no_size_and_nobody() -> None:
    ground_truth = np.ones((1, 4, 3))
    assert (diagnose(ground_truth[..., :2], np.ones((1, 4), bool), ground_truth, np.zeros(1), None, FOUR) == MISS).all()
    empty = diagnose(np.zeros((0, 4, 2)), np.zeros((0, 4), bool), np.zeros((0, 4, 3)), np.zeros(0), None, FOUR)
    assert empty.shape == (0, 4)
    assert empty.dtype == np.int8


@pytest.mark.parametrize("argument", range(5))
def test_shapes_that_do_not_fit_are_refused(argument: int) -> None:
    good = [np.zeros((2, 4, 2)), np.ones((2, 4), bool), np.zeros((2, 4, 3)), np.ones(2), np.zeros((2, 1, 4, 3))]
    diagnose(*good, FOUR)  # type: ignore[arg-type]
    good[argument] = good[argument][:, :3] if argument != 3 else np.ones(3)
    if argument == 4:
        good[4] = np.zeros((2, 1, 3, 3))
    name = ("points", "valid", "ground_truth", "area", "others")[argument]
    with pytest.raises(InputError, match=name):
        diagnose(*good, FOUR)  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_perfect_results_are_good() -> None:
    data = annotation_file(np.random.default_rng(0))
    found = diagnose_results(data, results_of(data, np.random.default_rng(0), 0.0))
    assert len(found) == found.people_count == 12
    np.testing.assert_array_equal(found.people[np.argsort(found.entries)], np.arange(12))
    seen = found.ground_truth[..., 2] > 0
    np.testing.assert_array_equal(found.kinds, np.where(seen, GOOD, NONE))
    np.testing.assert_allclose(found.oks, 1.0)
    assert found.counts[:, 0].sum() == seen.sum() == sum(c.sum() for c in found.part_counts().values())
    assert found.part_counts()["knee"][0] == found.counts[13:15].sum()


def test_what_the_file_says_is_what_the_arrays_say() -> None:
    rng = np.random.default_rng(1)
    data = annotation_file(rng, images=3, people=4)
    entries = results_of(data, rng, 12.0)
    found = diagnose_results(data, entries)
    truth = annotations_of(data)
    near, overlap = others_of(truth, found.people)
    assert (overlap == 3).all()
    seen = np.ones(found.kinds.shape, bool)
    expected = diagnose(found.points, seen, found.ground_truth, truth.area[found.people], near, COCO)
    np.testing.assert_array_equal(found.kinds, expected)
    assert len(set(found.kinds.ravel().tolist())) > 3


def test_missing_keypoints_are_those_at_the_origin_without_a_score() -> None:
    data = annotation_file(np.random.default_rng(0), images=1, people=1)
    entries = results_of(data, np.random.default_rng(0), 0.0)
    person = np.reshape(np.array(data["annotations"][0]["keypoints"]), (-1, 3))
    first, second = np.flatnonzero(person[:, 2] > 0)[:2].tolist()
    keypoints = np.reshape(np.array(entries[0]["keypoints"]), (1, -1, 3))
    keypoints[0, first] = 0.0
    keypoints[0, second, 2] = 0.0
    found = diagnose_results(data, replace_keypoints(entries, keypoints))
    assert found.kinds[0, first] == MISS
    assert found.similarity[0, first] == 0.0
    assert found.kinds[0, second] == GOOD


def test_matching_follows_the_scores() -> None:
    data = annotation_file(np.random.default_rng(0), images=2, people=1)
    exact = results_of(data, np.random.default_rng(0), 0.0)
    rough = results_of(data, np.random.default_rng(0), 2.0)
    entries = [{**exact[0], "score": 0.5}, {**rough[0], "score": 0.9}, {**exact[1], "category_id": 2}]
    entries += [{**exact[1], "score": 0.1, "keypoints": [5000.0] * 51}]
    matched = match_people(annotations_of(data), open_results(entries), COCO)
    assert [m.tolist() for m in matched] == [[1], [0]]


def test_only_the_best_twenty_of_a_image_are_matched() -> None:
    data = annotation_file(np.random.default_rng(0), images=1, people=1)
    entry = results_of(data, np.random.default_rng(0), 0.0)[0]
    others = [{**entry, "score": 0.9, "keypoints": [5000.0] * 51} for _ in range(20)]
    assert len(diagnose_results(data, [{**entry, "score": 0.1}, *others[:19]])) == 1
    assert len(diagnose_results(data, [{**entry, "score": 0.1}, *others])) == 0


def test_crowds_and_people_without_keypoints_are_nobody() -> None:
    data = annotation_file(np.random.default_rng(0), images=1, people=3)
    entries = results_of(data, np.random.default_rng(0), 0.0)
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1].update(keypoints=[0] * 51, num_keypoints=0)
    found = diagnose_results(data, entries)
    assert found.people.tolist() == [2]
    assert found.people_count == 1
    truth = annotations_of(data)
    near, count = others_of(truth, found.people)
    assert near.shape == (1, 1, 17, 3)
    assert count.tolist() == [1]


def test_no_detections() -> None:
    data = annotation_file(np.random.default_rng(0))
    found = diagnose_results(data, [])
    assert len(found) == 0
    assert found.counts.sum() == 0
    assert Comparison(found, diagnose_results(data, [], like=found)).transitions.sum() == 0


def test_results_of_other_images_are_refused() -> None:
    data = annotation_file(np.random.default_rng(0))
    entry = results_of(data, np.random.default_rng(0))[0]
    with pytest.raises(FileFormatError, match="entry 0: image_id 77"):
        diagnose_results(data, [{**entry, "image_id": 77}])


# ---------------------------------------------------------------- before and after


def pair() -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    rng = np.random.default_rng(3)
    data = annotation_file(rng, people=4)
    return data, results_of(data, rng, 12.0), results_of(data, rng, 6.0)


def test_transitions_count_every_keypoint_once() -> None:
    data, rough, fine = pair()
    before = diagnose_results(data, rough)
    after = diagnose_results(data, fine, like=before)
    comparison = Comparison(before, after)
    table = comparison.transitions
    np.testing.assert_array_equal(table.sum(1), before.counts.sum(0))
    np.testing.assert_array_equal(table.sum(0), after.counts.sum(0))
    assert table[JITTER, GOOD] == ((before.kinds == JITTER) & (after.kinds == GOOD)).sum() > 0
    rose, fell = comparison.moved()
    assert rose.sum() == (after.similarity > before.similarity + 0.1).sum() > 0
    assert fell[GOOD] == ((after.similarity < before.similarity - 0.1) & (before.kinds == GOOD)).sum()


def test_people_belong_together_by_id_or_by_order() -> None:
    data, rough, fine = pair()
    before = diagnose_results(data, rough)
    straight = diagnose_results(data, fine, like=before)
    named = [[{**e, "id": 10 + i} for i, e in enumerate(entries)] for entries in (rough, fine)]
    turned = diagnose_results(data, named[1][::-1], like=diagnose_results(data, named[0]))
    np.testing.assert_array_equal(turned.kinds, straight.kinds)
    with pytest.raises(InputError, match="in the same order, but person 0"):
        diagnose_results(data, fine[::-1], like=before)
    with pytest.raises(InputError, match="expected the 16 people"):
        diagnose_results(data, fine[1:], like=before)
    other = [*named[1][1:], {**named[1][0], "id": 99}]
    with pytest.raises(InputError, match="id 10 is not there"):
        diagnose_results(data, other, like=diagnose_results(data, named[0]))
    few = diagnose_results(data, rough[:5])
    with pytest.raises(InputError, match="like=before"):
        Comparison(before, few)


# ---------------------------------------------------------------- real estimators


def test_a_better_estimator_has_more_good_keypoints() -> None:
    coco = shared_dir() / "data" / "coco"
    good: list[float] = []
    for name in ("posenet", "movenet", "simplepose", "tinypose_256"):
        found = diagnose_results(coco / "val.json", coco / "results" / f"{name}.json")
        assert 190 < len(found) < 239 == found.people_count
        shares = found.counts.sum(0) / found.counts.sum()
        good.append(shares[GOOD])
        assert shares[JITTER] > shares[INVERSION] > 0.01
        faces = found.part_counts()["eye"]
        legs = found.part_counts()["knee"]
        assert faces[INVERSION] / faces.sum() < legs[INVERSION] / legs.sum()
    # PoseNet finds fewer people exactly than MoveNet but loses no fewer keypoints: the two weak ones are level.
    assert abs(good[1] - good[0]) < 0.03
    assert good[1] + 0.1 < good[2] < good[3] - 0.1


def test_sources_of_all_kinds(tmp_path: Path) -> None:
    data, rough, _ = pair()
    found = diagnose_results(annotations_of(data), Results("mine", rough))
    np.testing.assert_array_equal(found.kinds, diagnose_results(data, rough).kinds)
    with pytest.raises(FileFormatError, match="no such file"):
        diagnose_results(data, tmp_path / "absent.json")
