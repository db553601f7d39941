"""A results file goes through whole: same entries, order, ids and fields, whatever single images or people hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import make_weights, random_poses
from posefix.adapters.files import read_any
from posefix.exceptions import FileFormatError, InputError
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import annotations_of
from posefix.weights.calibration import Calibration


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(), device="cpu", precision="float32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("000000000007.jpg", "000000000009.jpg", "named.png"):
        cv2.imwrite(
            str(tmp_path / name), rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        )
    return tmp_path


def make_entries(image_ids: list[Any]) -> list[dict[str, Any]]:
    poses = random_poses(np.random.default_rng(2), len(image_ids))
    return [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5, "track": [n], "note": "x"}
        for n, (i, p) in enumerate(zip(image_ids, poses, strict=True))
    ]


def test_everything_but_keypoints_survives(refiner: Refiner, images: Path) -> None:
    entries = make_entries([9, 7, 9, 7, 7])
    before = copy.deepcopy(entries)
    refined, report = refine_results(refiner, entries, images)
    assert entries == before
    changing = ("keypoints", "score")
    assert [{k: v for k, v in e.items() if k not in changing} for e in refined] == [
        {k: v for k, v in e.items() if k not in changing} for e in before
    ]
    assert all(list(e) == list(b) and 0 < e["score"] <= 0.5 for e, b in zip(refined, before, strict=True))
    assert report.complete
    assert (report.people, report.refined, report.keypoints) == (5, 5, 85)
    assert report.moved == len(report.distance) > 0
    assert "5 of 5 people refined" in report.summary()


def test_same_as_the_refiner_alone(refiner: Refiner, images: Path) -> None:
    entries = make_entries([9, 7, 9])
    refined, _ = refine_results(refiner, entries, images, options=Options(batch_size=2))
    poses = np.array([e["keypoints"] for e in entries]).reshape(-1, 17, 3)
    alone = refiner.refine(images / "000000000009.jpg", poses[[0, 2]])
    got = np.array([e["keypoints"] for e in refined]).reshape(-1, 17, 3)[[0, 2]]
    np.testing.assert_allclose(got, alone, atol=2e-3)


def test_bad_images_and_people_pass_through(refiner: Refiner, images: Path) -> None:
    (images / "000000000011.jpg").write_bytes(b"not an image")
    entries = make_entries([7, 10, 11, 7, 7, 7])
    entries[3]["keypoints"] = [1.0, 2.0]
    entries[4]["keypoints"][5] = "?"
    entries[5]["keypoints"] = [0.0] * 51
    refined, report = refine_results(refiner, entries, images)
    assert refined[1:] == entries[1:]
    assert refined[0] != entries[0]
    assert set(report.unread) == {"000000000010.jpg", "000000000011.jpg"}
    assert "no such file" in report.unread["000000000010.jpg"]
    assert set(report.skipped) == {3, 4, 5}
    assert not report.complete
    for part in (
        "1 of 6 people",
        "2 images that could not be read",
        "000000000011.jpg",
        "expected 51 numbers",
        "entry 5: no keypoint is there",
    ):
        assert part in report.summary()


def test_names_of_images(refiner: Refiner, images: Path) -> None:
    entries = make_entries([1, 2])
    entries[1]["file_name"] = "named.png"
    data = {
        "images": [{"id": 1, "file_name": "000000000007.jpg", "width": 640, "height": 480}],
        "annotations": [],
        "categories": [],
    }
    _, report = refine_results(refiner, entries, images, annotations=annotations_of(data))
    assert report.complete


def test_nobody(refiner: Refiner, images: Path) -> None:
    refined, report = refine_results(refiner, [], images)
    assert refined == []
    assert report.complete


def test_what_stays_keeps_its_digits(images: Path) -> None:
    keep_all = Refiner(make_weights(Calibration(policy="safe", margin=(1.0,) * 17)), device="cpu")
    entries = make_entries([7])
    entries[0]["keypoints"][0] = 123.45678901
    refined, report = refine_results(keep_all, entries, images)
    before = np.array(entries[0]["keypoints"]).reshape(-1, 3)
    np.testing.assert_array_equal(np.array(refined[0]["keypoints"]).reshape(-1, 3)[:, :2], before[:, :2])
    assert report.moved == 0


def test_estimators_ranking_leaves_scores(refiner: Refiner, images: Path) -> None:
    refined, _ = refine_results(refiner, make_entries([7, 9]), images, ranking="estimator")
    assert [e["score"] for e in refined] == [0.5, 0.5]


@pytest.mark.parametrize("ranking", ["product", "confidence"])
def test_rankings(refiner: Refiner, images: Path, ranking: str) -> None:
    entries = make_entries([7, 9])
    refined, _ = refine_results(refiner, entries, images, ranking=ranking)
    confidence = np.array([e["keypoints"] for e in refined]).reshape(-1, 17, 3)[..., 2].mean(-1)
    expected = confidence * (0.5 if ranking == "product" else 1)
    np.testing.assert_allclose([e["score"] for e in refined], expected, atol=1e-3)


def test_repeated_people_are_ranked_lower(refiner: Refiner, images: Path) -> None:
    keep_all = Refiner(make_weights(Calibration(policy="safe", margin=(1.0,) * 17)), device="cpu")
    entries = make_entries([7, 7, 9, 7])
    entries[1]["keypoints"] = [v + 0.5 for v in entries[0]["keypoints"]]
    entries[1]["score"] = 0.6
    entries[2]["keypoints"] = list(entries[0]["keypoints"])
    plain, unlowered = refine_results(keep_all, entries, images, soft_nms=False)
    lowered, report = refine_results(keep_all, entries, images)
    scores, was = [e["score"] for e in lowered], [e["score"] for e in plain]
    # The same pose with the lower score, and neither another pose nor another image.
    assert scores[1:] == was[1:]
    assert 0 <= scores[0] < 0.5 * was[0]
    assert [e["keypoints"] for e in lowered] == [e["keypoints"] for e in plain]
    assert (report.lowered, unlowered.lowered) == (1, 0)
    assert "1 person repeats a better-scored one, so the score was lowered" in report.summary()
    assert "repeat" not in unlowered.summary()
    left, _ = refine_results(keep_all, entries, images, ranking="estimator")
    assert [e["score"] for e in left] == [e["score"] for e in entries]


@pytest.mark.parametrize("score", [None, "high", -1.5, float("nan"), float("inf"), True])
def test_scores_that_cannot_be_weighed_stay(refiner: Refiner, images: Path, score: Any) -> None:
    entries = make_entries([7, 7])
    entries[1]["keypoints"] = list(entries[0]["keypoints"])
    entries[1]["score"] = score
    entries += make_entries([9, 9, 7])
    entries[3]["keypoints"] = list(entries[2]["keypoints"])
    refined, report = refine_results(refiner, entries, images)
    expected, _ = refine_results(refiner, [entries[0], *entries[2:]], images)
    assert repr(refined[1]["score"]) == repr(score)
    others = [e["score"] for i, e in enumerate(refined) if i != 1]
    np.testing.assert_allclose(others, [e["score"] for e in expected], atol=2e-5)
    assert min(others) < 0.5  # the repeated one of image 9
    assert report.lowered == 1  # a person without score lowers no other
    assert report.odd_scores == {1: repr(score)}
    assert f"1 person with a score that is no number ≥ 0 (it stays):\n  entry 1: {score!r}" in report.summary()
    assert refine_results(refiner, entries, images, ranking="estimator")[1].odd_scores == {}


def test_entries_without_a_score_are_told(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7])
    del entries[0]["score"]
    refined, report = refine_results(refiner, entries, images)
    assert "score" not in refined[0]
    assert "entry 0: it has none" in report.summary()


def test_boxes_of_entries(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 7])
    entries[0]["bbox"] = [10, 10, 300, 300]
    plain, _ = refine_results(refiner, entries, images)
    boxed, _ = refine_results(refiner, entries, images, use_boxes=True)
    assert boxed[0]["keypoints"] != plain[0]["keypoints"]
    np.testing.assert_allclose(boxed[1]["keypoints"], plain[1]["keypoints"], atol=2e-3)


@pytest.mark.parametrize("box", [[10, 10, -5, 20], [10, 10, 0, 0], ["a", 1, 2, 3], [None] * 4, [1, 2], 7, {"a": 1}])
def test_boxes_that_are_none_are_named(refiner: Refiner, images: Path, box: Any) -> None:
    entries = make_entries([7, 7, 9])
    plain, _ = refine_results(refiner, entries, images)
    entries[1]["bbox"] = box
    boxed, report = refine_results(refiner, entries, images, use_boxes=True)
    assert [e["keypoints"] for e in boxed] == [e["keypoints"] for e in plain]
    assert report.odd_boxes == {1: repr(box)}
    assert "not used (cropped around the keypoints)" in report.summary()
    assert refine_results(refiner, entries, images)[1].odd_boxes == {}


def test_boxes_away_from_the_keypoints_are_named(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 7, 9])
    plain, _ = refine_results(refiner, entries, images)
    entries[1]["bbox"] = [-500.0, -500.0, 20.0, 20.0]
    boxed, report = refine_results(refiner, entries, images, use_boxes=True)
    assert [e["keypoints"] for e in boxed] == [e["keypoints"] for e in plain]
    assert report.odd_boxes == {1: "[-500.0, -500.0, 20.0, 20.0], away from the keypoints"}


def test_people_outside_their_image_stay_and_are_named(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 7])
    entries[0]["keypoints"] = [v if i % 3 == 2 else v + 9000 for i, v in enumerate(entries[0]["keypoints"])]
    refined, report = refine_results(refiner, entries, images)
    assert refined[0] == entries[0]
    assert report.skipped == {0: "the person lies wholly outside the image"}
    assert "1 entry not refined (unchanged):" in report.summary()


def test_logits_are_told(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 9])
    for place, score in ((2, -0.7), (5, -3.0), (8, -1.0)):  # -1 is a usual mark of what is missing
        entries[0]["keypoints"][place] = score
    _, report = refine_results(refiner, entries, images)
    assert report.negative == 2
    assert "2 keypoints have a score below 0 and count as missing; if scores are logits" in report.summary()


def test_files_without_scores_are_told_once(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 9, 9])
    for entry in entries:
        del entry["score"]
    summary = refine_results(refiner, entries, images)[1].summary()
    assert "no person has a score" in summary
    assert "entry 0" not in summary


NOT_A_POSE: dict[str, Any] = {
    "NaN": [float("nan")] * 51,
    "null": [None] * 51,
    "text": ["here"] * 51,
    "digits": ["1.5"] * 51,
    "infinite": [float("inf")] * 51,
    "huge": [10**400] * 51,
    "nested": [[1.0]] * 51,
    "no list": None,
    "zeros with scores": [0.0, 0.0, 0.9] * 17,
}


@pytest.mark.parametrize("name", NOT_A_POSE)
def test_one_person_without_keypoints_stops_nobody(name: str, refiner: Refiner, images: Path, tmp_path: Path) -> None:
    """Through the whole command, also where only its image is missing."""
    for image_id in (7, 8):
        entries = make_entries([7, image_id, 9])
        entries[1]["keypoints"] = NOT_A_POSE[name]
        (tmp_path / "results.json").write_text(json.dumps(entries))
        opened = read_any(tmp_path / "results.json")
        refined, report = refine_results(refiner, opened.entries, images)
        opened.write(tmp_path / "out.json", refined)
        written = json.loads((tmp_path / "out.json").read_text())
        assert repr(written[1]) == repr(entries[1])
        assert (report.refined, report.complete) == (2, False)
        assert written[0]["keypoints"] != entries[0]["keypoints"]
        assert "entry 1: " in report.summary() or "000000000008.jpg" in report.summary()


def test_single_keypoints_without_numbers_are_missing(refiner: Refiner, images: Path) -> None:
    entries = make_entries([7, 9])
    expected = copy.deepcopy(entries)
    entries[0]["keypoints"][:6] = [None, None, None, float("nan"), 5.0, 0.3]
    expected[0]["keypoints"][:6] = [0.0] * 6
    options = Options(fill_missing=False, prior_weight=1.0)
    refined, report = refine_results(refiner, entries, images, options=options)
    plain, _ = refine_results(refiner, expected, images, options=options)
    assert repr(refined[0]["keypoints"][:6]) == repr(entries[0]["keypoints"][:6])  # as the file spells it
    assert refined[0]["keypoints"][6:] == plain[0]["keypoints"][6:]
    assert report.complete


@pytest.mark.parametrize("ranking", ["pose_consistency", "product", "confidence"])
@pytest.mark.parametrize("spelled", [[0.0, 0.0, 700.0], [None] * 3, [5.0, 5.0, float("nan")]])
def test_what_stays_missing_has_no_part_in_the_score(
    ranking: str, spelled: list[Any], refiner: Refiner, images: Path
) -> None:
    options = Options(fill_missing=False, prior_weight=1.0)
    scores = []
    for missing in (spelled, [0.0, 0.0, 0.0]):
        entries = make_entries([7, 9])
        entries[0]["keypoints"][:3] = missing
        refined, _ = refine_results(refiner, entries, images, options=options, ranking=ranking)
        scores.append([e["score"] for e in refined])
        assert repr(refined[0]["keypoints"][:3]) == repr(missing)
    assert scores[0] == scores[1]
    assert 0 < scores[0][0] <= 1


def test_a_stray_keypoint_does_not_stretch_the_crop(refiner: Refiner, images: Path) -> None:
    """As estimators write what they do not see: a score near 0, 1.7 times the image's height."""
    options = Options(fill_missing=False, prior_weight=1.0)
    entries = make_entries([7])
    missing = copy.deepcopy(entries)
    missing[0]["keypoints"][48:] = [0.0, 0.0, 0.0]
    expected, _ = refine_results(refiner, missing, images, options=options)
    for stray in ([300.0, 1.7 * 480, 0.0006], [-900.0, -900.0, 0.9]):
        entries[0]["keypoints"][48:] = stray
        prepared = refiner.prepare(images / "000000000007.jpg", np.reshape(entries[0]["keypoints"], (1, 17, 3)))
        without = refiner.prepare(images / "000000000007.jpg", np.reshape(missing[0]["keypoints"], (1, 17, 3)))
        np.testing.assert_array_equal(prepared.affine, without.affine)
        refined, _ = refine_results(refiner, entries, images, options=options)
        assert 0 < refined[0]["keypoints"][50] <= 1
    assert expected


def test_confidences_are_above_0_and_at_most_1(refiner: Refiner, images: Path) -> None:
    rng = np.random.default_rng(1)
    poses = random_poses(rng, 20)
    poses[10:, :, 2] *= 1000.0
    poses[5:, 3] = [-3e4, 9e6, 1e-9]
    for flat in (poses, poses.astype(np.float32)):
        refined = refiner.refine(images / "000000000007.jpg", flat, fill_missing=False)
        assert (refined[..., 2] > 0).all()
        assert (refined[..., 2] <= 1).all()


def test_mistakes(refiner: Refiner, images: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        refine_results(refiner, [], images / "nowhere")
    with pytest.raises(InputError, match="ranking"):
        refine_results(refiner, [], images, ranking="best")
    wrong = [{"image_id": 7, "category_id": 1, "keypoints": [0.0] * 48, "score": 1}]
    with pytest.raises(FileFormatError, match="expected 51 numbers as keypoints, got 48"):
        refine_results(refiner, wrong, images)
