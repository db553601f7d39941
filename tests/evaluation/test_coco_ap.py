"""The numbers are pycocotools' own, and the bootstrap's are what pycocotools says of the repeated images."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import coco as pycoco
from pycocotools.cocoeval import COCOeval

from factories import FOUR, annotation_file, results_of
from posefix.evaluation.bootstrap import image_draws, resampled_ap
from posefix.evaluation.coco_ap import Metrics, _run, compare, evaluate, format_table, to_json
from posefix.exceptions import FileFormatError, InputError, SkeletonError
from posefix.io.coco import annotations_of
from posefix.keypoints.skeleton import COCO, Skeleton


@pytest.fixture
def data() -> dict[str, Any]:
    """Ten images, with crowds, people without keypoints and sizes of every range."""
    rng = np.random.default_rng(5)
    content = annotation_file(rng, images=10, people=4)
    for index, person in enumerate(content["annotations"]):
        person["area"] = float(rng.choice([400.0, 5000.0, 20000.0]))
        person["iscrowd"] = int(index % 11 == 0)
        if index % 7 == 0:
            person["keypoints"], person["num_keypoints"] = [0] * 51, 0
    return content


@pytest.fixture
def results(data: dict[str, Any]) -> list[dict[str, Any]]:
    people = results_of(data, np.random.default_rng(6), 5.0)
    rng = np.random.default_rng(7)
    for person in people:
        person["score"] = float(rng.integers(1, 6)) / 5  # many ties
    strays = results_of(data, rng, 80.0)[::3]
    return people[:-3] + strays


def reference(data: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval:
    """Plain pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = pycoco.COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def values(metrics: Metrics) -> list[float]:
    return list(vars(metrics).values())


def test_same_as_plain_pycocotools(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    stats = reference(data, results).stats
    assert 0.1 < stats[0] < 0.95
    np.testing.assert_allclose(values(evaluate(data, results)), stats, atol=1e-12)


def test_files_content_and_arrays_agree(data: dict[str, Any], results: list[dict[str, Any]], tmp_path: Path) -> None:
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(data))
    found.write_text(json.dumps(results))
    metrics = evaluate(truth, found)
    assert metrics == evaluate(str(truth), results) == evaluate(annotations_of(data, COCO), found)


def test_nothing_is_printed_or_changed(
    data: dict[str, Any], results: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy((data, results))
    truth = annotations_of(data, COCO)
    ground_truth = truth.ground_truth.copy()
    evaluate(data, results)
    compare(truth, [results, results[:5]], samples=10)
    assert (data, results) == before
    np.testing.assert_array_equal(truth.ground_truth, ground_truth)
    assert capfd.readouterr() == ("", "")


def test_perfect_results_score_one(data: dict[str, Any]) -> None:
    people = results_of(data, np.random.default_rng(0), 0.0)
    people = [p for p, a in zip(people, data["annotations"], strict=True) if a["num_keypoints"]]
    assert values(evaluate(data, people)) == pytest.approx([1.0] * 10)


def test_boxes_in_results_change_nothing(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    boxed = [r | {"bbox": [0, 0, 2.0, 2.0], "area": 4.0, "segmentation": [], "id": 7} for r in results]
    assert evaluate(data, boxed) == evaluate(data, results)


def test_empty_results_score_zero(data: dict[str, Any]) -> None:
    assert values(evaluate(data, [])) == [0.0] * 10


def test_nobody_annotated_is_not_a_number(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for empty in (data | {"annotations": []}, data | {"annotations": [], "images": []}):
        found = results if empty["images"] else []
        assert all(math.isnan(v) for v in values(evaluate(empty, found)))
        rows = compare(empty, [found, found], samples=5)
        assert rows[1].interval is not None
        assert math.isnan(rows[1].interval[0])
        assert "–" in format_table(rows)
        assert to_json(rows)["results"][1]["ap"] is None


def test_ids_may_be_strings_or_mixed(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    metrics = evaluate(data, results)
    spelt = [r | {"image_id": str(r["image_id"])} for r in results]
    assert evaluate(data, spelt) == metrics
    named = [r | {"image_id": f"{r['image_id']:03d}.jpg"} for r in results]
    assert evaluate(data, named) == metrics
    for image in data["images"]:
        image["id"] = f"{image['id']:03d}"
    for person in data["annotations"]:
        person["image_id"] = f"{person['image_id']:03d}"
    assert evaluate(data, named) == metrics
    data["images"].append({"id": 4711})
    assert evaluate(data, named) == metrics


def test_annotation_ids_do_not_matter(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    metrics = evaluate(data, results)
    for index, person in enumerate(data["annotations"]):
        person["id"] = index  # COCOeval by itself loses matches with id 0
    assert evaluate(data, results) == metrics


def test_results_of_few_of_the_images_are_told(
    data: dict[str, Any], results: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(data, results)
    assert caplog.text == ""
    first = results[0]["image_id"]
    evaluate(data, [e for e in results if e["image_id"] == first])
    assert "results: has people in 1 of the 10 images with labelled people" in caplog.text


def test_order_of_people_does_not_matter(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for index, person in enumerate(results):
        person["score"] = 0.01 * index  # without ties
    metrics = evaluate(data, results)
    data["annotations"].reverse()
    data["images"].reverse()
    assert values(evaluate(data, results[::-1])) == pytest.approx(values(metrics), abs=1e-12)


def test_unknown_images_and_categories(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    with pytest.raises(FileFormatError, match="entry 1: image_id 999 is not among the 10 images"):
        evaluate(data, [results[0], results[1] | {"image_id": 999}])
    with pytest.raises(FileFormatError, match="category_id 1, got 0"):
        evaluate(data, [r | {"category_id": 0} for r in results])
    with pytest.raises(FileFormatError, match="entry 0: expected a number as 'score'"):
        evaluate(data, [{k: v for k, v in results[0].items() if k != "score"}])
    with pytest.raises(FileFormatError, match="annotation file"):
        evaluate(data, data)  # type: ignore[arg-type]
    bare = [{k: v for k, v in r.items() if k != "category_id"} for r in results]
    assert evaluate(data, bare) == evaluate(data, results)


def test_other_skeletons() -> None:
    rng = np.random.default_rng(3)
    data = annotation_file(rng, skeleton=FOUR)
    people = results_of(data, rng, 0.0)
    assert evaluate(data, people, FOUR).ap == pytest.approx(1.0)
    with pytest.raises(SkeletonError, match=r"skeleton 'coco'.*got 4: head"):
        evaluate(data, people, COCO)


def test_sigmas_count_and_unannotated_keypoints_do_not() -> None:
    rng = np.random.default_rng(4)
    data = annotation_file(rng, images=5, skeleton=FOUR)
    people = results_of(data, rng, 10.0)
    wide = Skeleton("wide", FOUR.keypoints, tuple(2 * s for s in FOUR.sigmas))
    assert evaluate(data, people, wide).ap > evaluate(data, people, FOUR).ap
    tailless = Skeleton("tailless", FOUR.keypoints, (*FOUR.sigmas[:3], 0.0), unannotated=frozenset({"tail"}))
    metrics = evaluate(data, people, tailless)
    for person in people:
        person["keypoints"][-3:] = [5000.0, 5000.0, 1.0]
    assert evaluate(data, people, tailless).ap50 == metrics.ap50


def test_two_categories_average(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    data["categories"].append(data["categories"][0] | {"id": 2})
    for person in data["annotations"][::2]:
        person["category_id"] = 2
    for person in results[::2]:
        person["category_id"] = 2
    np.testing.assert_allclose(values(evaluate(data, results)), reference(data, results).stats, atol=1e-12)
    run = _run(annotations_of(data, COCO), results, COCO)
    np.testing.assert_allclose(resampled_ap(run, np.ones((1, 10))), run.stats[0], atol=1e-12)


def repeated(
    data: dict[str, Any], results: list[dict[str, Any]], weights: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The file with every image as often as its weight says, copies side by side."""
    new: dict[str, Any] = {"images": [], "annotations": [], "categories": data["categories"]}
    found = []
    for image, weight in zip(data["images"], weights, strict=True):
        for copy_number in range(weight):
            new_id = 100 * image["id"] + copy_number
            new["images"].append(image | {"id": new_id})
            mine = [p for p in data["annotations"] if p["image_id"] == image["id"]]
            new["annotations"] += [p | {"image_id": new_id, "id": 100 * p["id"] + copy_number} for p in mine]
            found += [r | {"image_id": new_id} for r in results if r["image_id"] == image["id"]]
    return new, found


def test_resampling_is_what_pycocotools_says_of_repeated_images(
    data: dict[str, Any], results: list[dict[str, Any]]
) -> None:
    for index, person in enumerate(results):  # ties between images only; ties within one are broken otherwise
        person["score"] = (index % 4 + 1 if index < 37 else 5 + index % 2) / 10
    in_image = {(r["image_id"], r["score"]) for r in results}
    results = list({(r["image_id"], r["score"]): r for r in results}.values())
    assert len(results) == len(in_image) > 35
    run = _run(annotations_of(data, COCO), results, COCO)
    weights = np.concatenate([np.ones((1, 10), np.int64), image_draws(10, 12, np.random.default_rng(0))])
    drawn = resampled_ap(run, weights)
    assert drawn[0] == pytest.approx(run.stats[0], abs=1e-12)
    for weight, ap in zip(weights.tolist(), drawn, strict=True):
        assert ap == pytest.approx(reference(*repeated(data, results, weight)).stats[0], abs=1e-12)
    assert np.isnan(resampled_ap(run, np.zeros((1, 10)))).all()


def test_draws_keep_the_number_of_images() -> None:
    draws = image_draws(7, 50, np.random.default_rng(0))
    assert draws.shape == (50, 7)
    assert (draws.sum(1) == 7).all()
    assert image_draws(0, 3, np.random.default_rng(0)).shape == (3, 0)


def test_comparison(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    better = results_of(data, np.random.default_rng(8), 1.0)
    rows = compare(data, [results, better, results], names=["before", "after", "same"], samples=200)
    assert [r.name for r in rows] == ["before", "after", "same"]
    assert (rows[0].change, rows[0].interval) == (None, None)
    change, interval = rows[1].change, rows[1].interval
    assert change is not None
    assert interval is not None
    assert change == rows[1].metrics.ap - rows[0].metrics.ap
    assert 0 < interval[0] < change < interval[1]
    assert (rows[2].change, rows[2].interval) == (0.0, (0.0, 0.0))
    assert rows == compare(data, [results, better, results], names=["before", "after", "same"], samples=200)
    table = format_table(rows)
    lines = table.splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in (lines[0], lines[1], *lines[3:])}) <= 3
    assert f"{rows[0].metrics.ap:.3f}" in lines[2]
    assert f"{change:+.3f}" in lines[3]
    assert json.loads(json.dumps(to_json(rows)))["results"][1]["change"] == change
    assert "ΔAP" not in format_table(rows[:1])


def test_comparison_of_nothing(data: dict[str, Any], results: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="at least one"):
        compare(data, [])
    with pytest.raises(InputError, match="at least one"):
        compare(data, "results.json")
    with pytest.raises(InputError, match="names: expected 1"):
        compare(data, [results], names=["a", "b"])
    with pytest.raises(InputError, match="samples"):
        compare(data, [results], samples=0)


def test_names_of_files(data: dict[str, Any], results: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("a/r.json", "b/r.json", "c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(results))
    rows = compare(data, [tmp_path / "a/r.json", str(tmp_path / "b/r.json"), tmp_path / "c.json", results], samples=2)
    assert [r.name for r in rows] == [str(tmp_path / "a/r.json"), str(tmp_path / "b/r.json"), "c.json", "results 4"]
