"""COCO files survive the way in and out; what is wrong with them is said in one sentence."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import FOUR, annotation_file, random_poses, results_of
from posefix.evaluation.coco_ap import evaluate
from posefix.exceptions import FileFormatError, InputError, SkeletonError
from posefix.io.coco import (
    Annotations,
    annotations_of,
    check_entries,
    image_name,
    keypoints_of,
    read_annotations,
    read_results,
    replace_keypoints,
    scores_of,
    write_results,
)
from posefix.io.json import read_json, write_json
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.diagnosis import diagnose_results


@pytest.fixture
def data() -> dict[str, Any]:
    return annotation_file(np.random.default_rng(1))


@pytest.fixture
def entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    people = results_of(data, np.random.default_rng(2))
    for index, person in enumerate(people):
        person |= {"id": 1000 - index, "note": {"ü": [1, None, "x"]}, "bbox": [1.23456789, 2, 3, 4]}
    return people


def put(folder: Path, content: Any) -> Path:
    path = folder / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_results_round_trip_keeps_everything(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    results = read_results(put(tmp_path, entries))
    assert results.entries == entries
    out = tmp_path / "out.json"
    write_results(out, results.entries)
    assert json.loads(out.read_text()) == entries
    assert [list(e) for e in read_results(out).entries] == [list(e) for e in entries]
    assert ", " not in out.read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_replaced_keypoints_come_back(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    before = copy.deepcopy(entries)
    poses = random_poses(np.random.default_rng(3), len(entries)) + 1e-5
    new = replace_keypoints(entries, poses.astype(np.float32))
    assert entries == before
    write_results(tmp_path / "out.json", new)
    back = read_results(tmp_path / "out.json")
    np.testing.assert_allclose(back.keypoints(COCO), poses, atol=6e-4)
    for old, fresh in zip(entries, back.entries, strict=True):
        assert {k: v for k, v in old.items() if k != "keypoints"} == {
            k: v for k, v in fresh.items() if k != "keypoints"
        }
        assert all(len(str(v).partition(".")[2]) <= 3 for v in fresh["keypoints"])
    assert replace_keypoints(back.entries, back.keypoints(COCO)) == back.entries  # a second time changes nothing
    ranked = replace_keypoints(entries, poses, np.linspace(0, 1, len(entries)))
    np.testing.assert_allclose(scores_of(ranked), np.linspace(0, 1, len(entries)), atol=1e-6)


def test_replaced_keypoints_that_are_missing_or_faint() -> None:
    pose = np.array([[[1.0, 2.0, 1e-6], [np.nan, 3.0, 0.5], [4.0, 5.0, 0.0], [np.inf, 1.0, 1.0]]])
    (entry,) = replace_keypoints([{"image_id": 1, "keypoints": []}], pose)
    assert entry["keypoints"] == [1.0, 2.0, 0.001, 0.0, 0.0, 0.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0]
    assert replace_keypoints([], np.zeros((0, 17, 3))) == []


@pytest.mark.parametrize(
    ("poses", "scores", "words"),
    [
        (np.zeros((2, 17, 3)), None, r"expected \(1, K, 3\).*got \(2, 17, 3\)"),
        (np.zeros((1, 17, 2)), None, r"got \(1, 17, 2\)"),
        (np.zeros((1, 17, 3)), np.zeros(2), r"scores: expected \(1,\)"),
    ],
)
def test_replaced_keypoints_must_fit(poses: Any, scores: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace_keypoints([{"image_id": 1, "keypoints": []}], poses, scores)


def test_nothing_is_left_behind_when_writing_fails(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("precious")
    bad = [*entries, {"image_id": 1, "keypoints": [float("nan")] * 51}]
    with pytest.raises(InputError, match=f"entry {len(entries)}"):
        write_results(out, bad)
    with pytest.raises(InputError, match="type object"):
        write_results(out, [{"image_id": 1, "keypoints": [], "x": object()}])
    with pytest.raises(InputError, match="create it first"):
        write_results(tmp_path / "none" / "out.json", entries)
    assert out.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [out]


def test_written_where_the_path_points(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_json(link, {"a": np.float32(0.5), "b": np.arange(2)})
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"a": 0.5, "b": [0, 1]}
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(real.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    write_json("/dev/null", [1])
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("hello", "not JSON"),
        ('[{"image_id": 1, "keyp', "too early"),
        ('[{"image_id": 1,', "too early"),
        ('[{"image_id": 1}', "too early"),
        ("[" * 100_000, "nested too deeply|too early"),
        ("{}", "expected a list, got an object"),
        ("3", "got a number"),
        ("null", "got nothing"),
        ("[3]", "entry 0: expected an object, got a number"),
        ('[{"image_id": 1}]', "entry 0 has no list 'keypoints'"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "boxes alone"),
        ('[{"keypoints": []}]', "image_id"),
        ('[{"image_id": [1], "keypoints": []}]', "image_id"),
        ('[{"image_id": 1.5, "keypoints": []}]', "image_id"),
    ],
)
def test_what_is_no_results_file(content: str, words: str, tmp_path: Path) -> None:
    path = put(tmp_path, content)
    with pytest.raises(FileFormatError, match=words) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(FileFormatError, match="got a folder"):
        read_json(tmp_path)
    (tmp_path / "a.npz").write_bytes(bytes(range(128, 256)))
    with pytest.raises(FileFormatError, match="binary"):
        read_json(tmp_path / "a.npz")
    (tmp_path / "bom.json").write_text("[]", encoding="utf-8-sig")
    assert read_json(tmp_path / "bom.json") == []


def test_the_two_kinds_of_files_are_told_apart(data: dict[str, Any], entries: list[Any], tmp_path: Path) -> None:
    path = put(tmp_path, data)
    with pytest.raises(FileFormatError, match=r"file\.json.*this is an annotation file, expected results"):
        read_results(path)
    path = put(tmp_path, entries)
    with pytest.raises(FileFormatError, match=r"file\.json.*results files are, expected annotations"):
        read_annotations(path)
    with pytest.raises(FileFormatError, match="expected 'images'"):
        annotations_of({"annotations": []})


def test_empty_results_are_legal(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, []))
    assert len(results) == 0
    assert results.keypoints(COCO).shape == (0, 17, 3)
    assert scores_of(results.entries).shape == (0,)
    write_results(tmp_path / "out.json", results.entries)
    assert read_json(tmp_path / "out.json") == []


@pytest.mark.parametrize(
    ("keypoints", "words"),
    [
        ([0.0] * 48, "entry 1: expected 51 numbers .*'coco'.*got 48"),
        ([0.0] * 34, "score of each keypoint is missing"),
        ([[0.0, 0.0, 1.0]] * 17, "in one list"),
        ([0.0] * 50 + ["1"], "got '1'"),
        ([0.0] * 50 + [None], "got None"),
        ([0.0] * 50 + [float("nan")], "got nan"),
        ([0.0] * 50 + [float("inf")], "got inf"),
        ([0.0] * 50 + [[1]], r"got \[1\]"),
    ],
)
def test_keypoints_of_wrong_length_or_value(entries: list[dict[str, Any]], keypoints: list[Any], words: str) -> None:
    entries[1]["keypoints"] = keypoints
    with pytest.raises(FileFormatError, match=words):
        keypoints_of(check_entries(entries), COCO)


def test_another_skeletons_length_is_recognised(entries: list[dict[str, Any]]) -> None:
    with pytest.raises(FileFormatError, match=r"expected 12 numbers.*'four'.*got 51.*'coco'"):
        keypoints_of(entries, FOUR, source="a.json")


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_scores_must_be_numbers(entries: list[dict[str, Any]], score: Any) -> None:
    entries[2]["score"] = score
    with pytest.raises(FileFormatError, match="entry 2: expected a number as 'score'"):
        scores_of(entries)
    del entries[2]["score"]
    with pytest.raises(FileFormatError, match=r"entry 2.*got none"):
        scores_of(entries)


def test_annotations_as_arrays(data: dict[str, Any], tmp_path: Path) -> None:
    people = read_annotations(put(tmp_path, data), COCO)
    assert len(people) == len(data["annotations"]) == 12
    for index, person in enumerate(data["annotations"]):
        np.testing.assert_array_equal(people.ground_truth[index].reshape(-1), person["keypoints"])
        left, top, width, height = person["bbox"]
        np.testing.assert_allclose(people.boxes_xyxy[index], [left, top, left + width, top + height])
        assert people.area[index] == person["area"]
        assert people.num_keypoints[index] == person["num_keypoints"]
        assert people.images[people.image_ids[index]].file_name == f"{person['image_id']:03d}.jpg"
    assert people.image_ids.dtype == np.int64
    assert not people.iscrowd.any()


def test_missing_fields_have_a_defined_answer(data: dict[str, Any]) -> None:
    whole = annotations_of(data, COCO)
    for person in data["annotations"]:
        for key in ("area", "num_keypoints", "iscrowd", "category_id", "id"):
            del person[key]
    for image in data["images"]:
        del image["width"], image["height"], image["file_name"]
    bare = annotations_of(data, COCO)
    size = whole.boxes_xyxy[:, 2:] - whole.boxes_xyxy[:, :2]
    np.testing.assert_allclose(bare.area, 0.53 * size.prod(-1))
    np.testing.assert_array_equal(bare.num_keypoints, whole.num_keypoints)
    np.testing.assert_array_equal(bare.category_ids, whole.category_ids)
    assert not bare.iscrowd.any()
    assert bare.images[1].width is None
    assert image_name({"image_id": 1}, bare) == "000000000001.jpg"
    for person in data["annotations"]:
        del person["bbox"]
    del data["annotations"][0]["keypoints"]
    bare = annotations_of(data, COCO)
    np.testing.assert_array_equal(bare.boxes_xyxy[0], 0.0)
    assert bare.num_keypoints[0] == 0
    seen = np.where(bare.ground_truth[1:, :, 2:] > 0, bare.ground_truth[1:, :, :2], np.nan)
    extent = np.nanmax(seen, axis=1) - np.nanmin(seen, axis=1)
    np.testing.assert_allclose(bare.boxes_xyxy[1:, 2:] - bare.boxes_xyxy[1:, :2], 1.2 * extent)


def test_no_people_and_no_categories(data: dict[str, Any]) -> None:
    assert annotations_of(data | {"annotations": []}, COCO).ground_truth.shape == (0, 17, 3)
    del data["categories"]
    assert annotations_of(data).ground_truth.shape == (12, 17, 3)
    assert annotations_of({"images": [], "annotations": []}).ground_truth.shape == (0, 0, 3)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("image_id", 77, "annotation 3: image_id 77 is not among"),
        ("image_id", None, "annotation 3: image_id None"),
        ("bbox", [1, 2, 3], "annotation 3.*bbox"),
        ("bbox", [1, 2, 3, None], "annotation 3.*bbox"),
        ("area", "big", "annotation 3.*'area', got 'big'"),
        ("area", -1.0, "annotation 3.*'area'"),
        ("keypoints", [0] * 48, "annotation 3: expected 51 numbers.*got 48"),
        ("keypoints", 3, "annotation 3: expected 51 numbers.*got a number"),
        ("keypoints", [0.0] * 50 + [float("nan")], "annotation 3: expected finite"),
    ],
)
def test_what_is_wrong_with_an_annotation(data: dict[str, Any], key: str, value: Any, words: str) -> None:
    data["annotations"][3][key] = value
    for skeleton in (COCO, None):
        with pytest.raises(FileFormatError, match=words):
            annotations_of(data, skeleton)


def test_annotations_of_boxes_only(data: dict[str, Any]) -> None:
    data["categories"] = [{"id": 1, "name": "person"}]
    for person in data["annotations"]:
        del person["keypoints"]
    with pytest.raises(FileFormatError, match="person_keypoints"):
        annotations_of(data)


def test_other_categories_are_left_out(data: dict[str, Any]) -> None:
    data["categories"].append({"id": 9, "name": "dog"})
    data["annotations"].insert(0, {"id": 99, "image_id": 1, "category_id": 9, "bbox": [0, 0, 5, 5]})
    assert len(annotations_of(data, COCO)) == 12
    data["annotations"][3]["area"] = "big"
    with pytest.raises(FileFormatError, match="annotation 3"):  # the file's own count
        annotations_of(data, COCO)


def test_keypoint_names_are_checked(data: dict[str, Any]) -> None:
    with pytest.raises(SkeletonError, match=r"skeleton 'four' \(head.*got those of skeleton 'coco'"):
        annotations_of(data, FOUR)
    names = data["categories"][0]["keypoints"]
    data["categories"][0]["keypoints"] = [n.replace("_", " ").title() for n in names]
    assert len(annotations_of(data, COCO)) == 12
    data["categories"][0]["keypoints"] = [names[0], *names[:0:-1]]
    with pytest.raises(SkeletonError, match="17: nose, right_ankle"):
        annotations_of(data, COCO)


def spell_ids(data: dict[str, Any], spelling: Any) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    for person in changed["annotations"]:
        person["image_id"] = spelling(person["image_id"])
    return changed


def test_image_ids_may_be_strings(data: dict[str, Any]) -> None:
    named = spell_ids(data, lambda i: f"a{i}")
    for image in named["images"]:
        image["id"] = f"a{image['id']}"
    people = annotations_of(named, COCO)
    assert people.image_ids.tolist() == [p["image_id"] for p in named["annotations"]]
    assert people.find("a2") is people.images["a2"]
    mixed = annotations_of(spell_ids(data, str), COCO)
    np.testing.assert_array_equal(mixed.image_ids, annotations_of(data, COCO).image_ids)
    for spelling in (2, "2", 2.0, np.int64(2), "002.jpg"):
        assert mixed.find(spelling) is mixed.images[2]
    assert mixed.find(9) is None


@pytest.mark.parametrize(
    ("entry", "known", "plain"),
    [
        ({"image_id": 2}, "002.jpg", "000000000002.jpg"),
        ({"image_id": "2"}, "002.jpg", "000000000002.jpg"),
        ({"image_id": 2, "file_name": "b/c.png"}, "002.jpg", "b/c.png"),
        ({"image_id": 8, "file_name": "b/c.png"}, "b/c.png", "b/c.png"),
        ({"image_id": 581781}, "000000581781.jpg", "000000581781.jpg"),
        ({"image_id": "002.jpg"}, "002.jpg", "002.jpg"),
        ({"image_id": "video/7.PNG"}, "video/7.PNG", "video/7.PNG"),
        ({"image_id": "frame.7"}, "frame.7.jpg", "frame.7.jpg"),
    ],
)
def test_image_names(data: dict[str, Any], entry: dict[str, Any], known: str, plain: str) -> None:
    people: Annotations = annotations_of(data, COCO)
    assert image_name(entry, people) == known
    assert image_name(entry) == plain


def test_names_that_several_images_have_are_an_error() -> None:
    data = annotation_file(np.random.default_rng(0), images=4)
    for image, name in zip(data["images"], ("a/1.jpg", "b/1.jpg", "b/2.jpg", "2.jpg"), strict=True):
        image["file_name"] = name
    annotations = annotations_of(data)
    for spelling, expected in (("a/1.jpg", 1), ("b/2.jpg", 3), ("2.jpg", 4), ("2", 2), (3, 3)):
        found = annotations.find(spelling)
        assert found is not None
        assert found.id == expected
    assert annotations.find("c.jpg") is None
    with pytest.raises(FileFormatError, match=r"image '1\.jpg' may be any of 2 images \('a/1\.jpg', 'b/1\.jpg'\)"):
        annotations.find("1.jpg")
    results = [{"image_id": "1.jpg", "category_id": 1, "score": 1.0, "keypoints": [1.0] * 51}]
    for use in (evaluate, diagnose_results):
        with pytest.raises(FileFormatError, match="may be any of 2 images"):
            use(annotations, results)  # type: ignore[operator]
    data["images"][1]["file_name"] = "a/1.jpg"
    with pytest.raises(FileFormatError, match="may be any of 2 images"):
        annotations_of(data).find("a/1.jpg")


def test_one_id_for_two_images_is_an_error() -> None:
    data = annotation_file(np.random.default_rng(0))
    data["images"].append(dict(data["images"][0]))  # the same image twice, as merged files have
    assert len(annotations_of(data).images) == 4
    data["images"].append(data["images"][0] | {"file_name": "other.jpg"})
    with pytest.raises(FileFormatError, match=r"image 5: id 1 is also that of '001\.jpg'"):
        annotations_of(data)
