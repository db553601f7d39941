"""Folders and files of other estimators; structures as OpenPose, AlphaPose and PoseTrack document them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import annotation_file, random_poses
from posefix.adapters.files import Opened, detect_format, is_alphapose, read_any
from posefix.choices import RESULTS_FORMATS
from posefix.exceptions import FileFormatError, InputError, SkeletonError
from posefix.io.coco import image_name, replace_keypoints
from posefix.io.posetrack import read_posetrack, write_posetrack
from posefix.keypoints.skeleton import COCO, CROWDPOSE, POSETRACK18, Skeleton


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def poses(rng: np.random.Generator, people: int, count: int) -> np.ndarray[Any, Any]:
    names = tuple(f"k{i}" for i in range(count))
    return random_poses(rng, people, Skeleton("any", names, (0.1,) * count))


def coco(rng: np.random.Generator, count: int = 17) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5, "extra": i}
        for i, p in enumerate(poses(rng, 3, count))
    ]


def alphapose(rng: np.random.Generator, count: int = 17) -> list[dict[str, Any]]:
    return [
        {**e, "image_id": f"{i}.jpg", "box": [1.0, 2.0, 3.0, 4.0], "idx": [0.0]} for i, e in enumerate(coco(rng, count))
    ]


def posetrack(rng: np.random.Generator, scores: bool = True) -> dict[str, Any]:
    people = []
    for i, pose in enumerate(poses(rng, 3, 17)):
        values = pose.copy()
        values[3:5] = 0  # ears are never labelled
        flat = np.where([True, True, False], values, (values > 0) * 1.0).reshape(-1).tolist()
        if not scores:
            flat = values.reshape(-1).tolist()
        person = {"id": 100 + i, "image_id": 7 if i else 8, "track_id": i, "category_id": 1, "keypoints": flat}
        people.append(person | ({"scores": values[:, 2].tolist()} if scores else {}))
    return {
        "images": [
            {"id": 7, "file_name": "images/val/1_mpii/000000.jpg", "frame_id": 7},
            {"id": 8, "file_name": "images/val/1_mpii/000001.jpg", "frame_id": 8},
        ],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}],
    }


def openpose(rng: np.random.Generator, folder: Path, count: int = 25) -> Path:
    folder.mkdir()
    for frame, people in enumerate((2, 0, 1)):
        data = poses(rng, people, count)
        data[:, 3] = 0
        content = {
            "version": 1.3,
            "people": [
                {"person_id": [-1], "pose_keypoints_2d": p.reshape(-1).tolist(), "hand_left_keypoints_2d": []}
                for p in data
            ],
        }
        (folder / f"video_{frame:012d}_keypoints.json").write_text(json.dumps(content))
    return folder


def content(path: Path) -> Any:
    if path.is_dir():
        return {p.name: json.loads(p.read_text()) for p in sorted(path.glob("*.json"))}
    return json.loads(path.read_text())


def moved(opened: Opened, by: float = 1.0) -> list[dict[str, Any]]:
    """Entries as a refiner gives them: what is there moves."""
    values = np.array([e["keypoints"] for e in opened.entries], np.float64).reshape(len(opened.entries), -1, 3)
    there = values[..., 2] > 0
    values[there, :2] += by
    values[there, 2] = 0.75
    return replace_keypoints(opened.entries, values)


def sources(rng: np.random.Generator, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    files: dict[str, Any] = {
        "coco": coco(rng),
        "coco 133": coco(rng, 133),
        "alphapose": alphapose(rng),
        "alphapose 26": alphapose(rng, 26),
        "posetrack": posetrack(rng),
        "posetrack unscored": posetrack(rng, scores=False),
        "openpose frame": None,
        "no people": [],
    }
    found = {"openpose 25": openpose(rng, tmp_path / "op25"), "openpose 18": openpose(rng, tmp_path / "op18", 18)}
    files["openpose frame"] = content(found["openpose 25"])["video_000000000000_keypoints.json"]
    for name, data in files.items():
        found[name] = tmp_path / f"{name}.json"
        found[name].write_text(json.dumps(data))
    return {k: (p, "coco" if k == "no people" else k.split()[0]) for k, p in found.items()}


NAMES = (
    *("coco", "coco 133", "alphapose", "alphapose 26", "posetrack", "posetrack unscored"),
    *("openpose frame", "openpose 25", "openpose 18", "no people"),
)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path, expected = sources(rng, tmp_path)[name]
    assert detect_format(path) == expected
    opened = read_any(path)
    assert opened.format == expected
    opened.write(tmp_path / "out", copy.deepcopy(opened.entries))
    assert content(tmp_path / "out") == content(path)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "no people"])
def test_refined(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path, _ = sources(rng, tmp_path)[name]
    opened = read_any(path)
    assert all(len(e["keypoints"]) == 51 for e in opened.entries)
    opened.write(tmp_path / "out", moved(opened))
    again = read_any(tmp_path / "out")
    for new, old in zip(again.entries, moved(opened), strict=True):
        np.testing.assert_allclose(new["keypoints"], old["keypoints"], atol=1e-3)
        assert name == "openpose frame" or new["image_id"] == old["image_id"]  # a frame is named as its file
    assert again.format == opened.format


def test_the_rest_stays(rng: np.random.Generator, tmp_path: Path) -> None:
    path, _ = sources(rng, tmp_path)["alphapose 26"]
    opened = read_any(path)
    assert opened.entries[0]["bbox"] == [1.0, 2.0, 3.0, 4.0]
    opened.write(tmp_path / "out", moved(opened))
    for new, old in zip(content(tmp_path / "out"), content(path), strict=True):
        assert set(new) == set(old)
        assert new["keypoints"][51:] == old["keypoints"][51:]
        assert new["idx"] == old["idx"]


def test_images(rng: np.random.Generator, tmp_path: Path) -> None:
    found = sources(rng, tmp_path)
    assert [image_name(e) for e in read_any(found["alphapose"][0]).entries] == ["0.jpg", "1.jpg", "2.jpg"]
    assert image_name(read_any(found["posetrack"][0]).entries[0]) == "images/val/1_mpii/000001.jpg"
    frames = [image_name(e) for e in read_any(found["openpose 25"][0]).entries]
    assert frames == ["video_000000000000.jpg"] * 2 + ["video_000000000002.jpg"]
    cv2.imwrite(str(tmp_path / "video_000000000002.png"), np.zeros((8, 8, 3), np.uint8))
    frames = [image_name(e) for e in read_any(found["openpose 25"][0], images=tmp_path).entries]
    assert frames[2] == "video_000000000002.png"


def test_posetrack_with_its_own_skeleton(rng: np.random.Generator, tmp_path: Path) -> None:
    path, _ = sources(rng, tmp_path)["posetrack"]
    opened = read_any(path, POSETRACK18)
    data = content(path)
    assert opened.entries[0]["keypoints"][3:6] == [
        *data["annotations"][0]["keypoints"][3:5],
        data["annotations"][0]["scores"][1],
    ]
    filled = [e | {"keypoints": [5.0, 6.0, 0.5] * 17} for e in opened.entries]
    opened.write(tmp_path / "out", filled)
    new = content(tmp_path / "out")["annotations"][0]
    assert new["keypoints"][:3] == [5.0, 6.0, 1.0]
    assert new["scores"][0] == 0.5
    assert new["keypoints"][9:15] == [0.0] * 6  # no ears
    assert new["track_id"] == 0


def test_posetrack_has_no_eyes_for_coco(rng: np.random.Generator, tmp_path: Path) -> None:
    entry = read_any(sources(rng, tmp_path)["posetrack"][0], COCO).entries[0]
    eyes = slice(3 * COCO.index("left_eye"), 3 * COCO.index("right_eye") + 3)
    assert entry["keypoints"][eyes] == [0] * 6


def test_normalised_openpose(rng: np.random.Generator, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((101, 201, 3), np.uint8))
    pose = poses(rng, 1, 25)[0]
    pose[:, :2] /= 1000
    (tmp_path / "a_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": pose.ravel().tolist()}]}))
    opened = read_any(tmp_path / "a_keypoints.json", images=tmp_path)
    np.testing.assert_allclose(opened.entries[0]["keypoints"][:2], pose[0, :2] * [200, 100])
    with pytest.raises(FileFormatError, match="pass the one image"):
        read_any(tmp_path / "a_keypoints.json")


@pytest.mark.parametrize("own_keypoints", [False, True])
@pytest.mark.parametrize("name", ["posetrack", "posetrack unscored", "openpose frame"])
def test_a_file_is_the_same_alone_and_in_a_folder(
    name: str, own_keypoints: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Every format of ``RESULTS_FORMATS`` of which a folder may hold files; the others refuse folders."""
    path, _ = sources(rng, tmp_path)[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    alone = folder / "a.json"
    alone.write_text(path.read_text())
    one, many = (read_any(p, own_keypoints=own_keypoints) for p in (alone, folder))
    assert detect_format(folder) == detect_format(alone) == many.format == one.format
    assert many.entries == one.entries
    assert many.skeleton == one.skeleton
    one.write(tmp_path / "one.json", moved(one))
    many.write(tmp_path / "many", moved(many))
    assert content(tmp_path / "many") == {"a.json": content(tmp_path / "one.json")}
    assert set(RESULTS_FORMATS) == {"coco", "alphapose", "openpose", "posetrack"}, "add a new format to this test"


@pytest.mark.parametrize("name", ["coco", "alphapose"])
def test_formats_of_one_file_refuse_folders(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path, _ = sources(rng, tmp_path)[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.json").write_text(path.read_text())
    with pytest.raises(FileFormatError, match=r"a list of people for each image; a\.json is none of these"):
        read_any(tmp_path / "folder")
    with pytest.raises(FileFormatError, match=f"got {name} files"):
        detect_format(tmp_path / "folder")


def test_sequences_number_their_frames_for_themselves(rng: np.random.Generator, tmp_path: Path) -> None:
    """Two sequences whose frames have the same ids: people stay with the images of their own."""
    (tmp_path / "folder").mkdir()
    for sequence in "ab":
        data = posetrack(rng)
        for image in data["images"]:
            image["file_name"] = f"{sequence}/{image['id']}.jpg"
        (tmp_path / "folder" / f"{sequence}.json").write_text(json.dumps(data))
    names = [e["file_name"] for e in read_any(tmp_path / "folder").entries]
    assert names == ["a/8.jpg", "a/7.jpg", "a/7.jpg", "b/8.jpg", "b/7.jpg", "b/7.jpg"]
    entries = read_posetrack(tmp_path / "folder").entries()
    with pytest.raises(FileFormatError, match=r"frame 7 is in a\.json and in b\.json"):
        write_posetrack(tmp_path / "out", read_posetrack(tmp_path / "folder"), entries)


def annotations(**person: Any) -> dict[str, Any]:
    data = annotation_file(np.random.default_rng(0))
    data["annotations"] = [p | person for p in data["annotations"]]
    return data


@pytest.mark.parametrize(
    "data",
    [
        annotations(),
        annotations(track_id=1),
        annotations(track_id=1, scores=[]),
        annotations()["annotations"],
        posetrack(np.random.default_rng(0))
        | {"annotations": [{"image_id": 7, "track_id": 0, "scores": [], "keypoints": [5.0, 6.0, 1] * 17}]},
    ],
    ids=["coco", "coco with tracks", "with empty scores", "only the list", "posetrack"],
)
@pytest.mark.parametrize("format_", ["auto", "posetrack", "coco"])
@pytest.mark.parametrize("in_folder", [False, True])
def test_annotations_are_refused(data: Any, format_: str, in_folder: bool, tmp_path: Path) -> None:
    """Refined, their visibilities would become confidences and unlabelled keypoints would be filled."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError):
        read_any(tmp_path if in_folder else path, format=format_)


def test_people_that_are_no_pose_pass_through(rng: np.random.Generator, tmp_path: Path) -> None:
    """In every format; the others are read and written as without them."""
    odd: list[Any] = [[None] * 51, ["text"] * 51, [1.0, 2.0], "text", 7, None, {"a": 1}, [[1.0] * 51], [True] * 50]
    for name, (path, _) in sources(rng, tmp_path).items():
        data = content(path)
        if not data or path.is_dir():
            continue
        for value in odd:
            new = copy.deepcopy(data)
            people = new if isinstance(new, list) else new["people"] if "people" in new else new["annotations"]
            field = "pose_keypoints_2d" if "people" in new else "keypoints"
            if name.startswith("posetrack") and not isinstance(value, list):
                continue  # read_posetrack refuses those before any work
            people[1][field] = value
            (tmp_path / "odd.json").write_text(json.dumps(new))
            opened = read_any(tmp_path / "odd.json")
            opened.write(tmp_path / "out.json", copy.deepcopy(opened.entries))
            assert content(tmp_path / "out.json") == new, (name, value)


def test_an_image_with_two_endings_is_ambiguous(rng: np.random.Generator, tmp_path: Path) -> None:
    path, _ = sources(rng, tmp_path)["openpose 25"]
    for ending in ("png", "jpg"):
        cv2.imwrite(str(tmp_path / f"video_000000000002.{ending}"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FileFormatError, match=r"may be video_000000000002\.jpg or video_000000000002\.png"):
        read_any(path, images=tmp_path)


def test_what_the_file_does_not_hold_is_not_filled(rng: np.random.Generator, tmp_path: Path) -> None:
    """So that reports do not count what cannot be written."""
    found = sources(rng, tmp_path)
    skeleton = read_any(found["posetrack"][0]).skeleton
    assert skeleton.unannotated == {"left_eye", "right_eye", "left_ear", "right_ear"}
    assert read_any(found["posetrack"][0], own_keypoints=True).skeleton == POSETRACK18
    assert read_any(found["openpose 25"][0]).skeleton == COCO
    assert read_any(found["alphapose 26"][0]).skeleton == COCO


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images": [], "annotations": [{"keypoints": [], "num_keypoints": 3}]}, "annotation file"),
        ({"a": 1}, "expected COCO or AlphaPose results"),
        ("text", "got a string"),
        ({"people": [{"pose_keypoints_2d": [1, 2, 3]}]}, "expected 75 numbers"),
        ([{"image_id": 1, "keypoints": [0] * 51}, {"image_id": 1, "keypoints": [0] * 78}], None),
        ([{"image_id": 1, "keypoints": [0] * 78}, {"image_id": 1, "keypoints": [0] * 51}], None),
        ([{"image_id": 1, "keypoints": [0] * 78}, {"image_id": 1, "keypoints": [0] * 75}], None),
        ([{"image_id": 1, "keypoints": [0] * 42}], "entry 0 has 14 keypoints"),
    ],
)
def test_what_is_refused(data: Any, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(data))
    if message is None:  # refine_results tells the people that are no such pose
        assert len(read_any(tmp_path / "a.json").entries) == 2
        return
    with pytest.raises(FileFormatError, match=message):
        read_any(tmp_path / "a.json")


def test_wrong_use(rng: np.random.Generator, tmp_path: Path) -> None:
    found = sources(rng, tmp_path)
    with pytest.raises(InputError, match="format: expected auto"):
        read_any(found["coco"][0], format="xml")
    with pytest.raises(FileFormatError, match="expected a coco file, got a folder"):
        read_any(found["openpose 25"][0], format="coco")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="got none"):
        read_any(tmp_path / "empty")
    with pytest.raises(SkeletonError):
        read_any(found["posetrack"][0], Skeleton("x", ("a", "b"), (0.1, 0.1)))
    assert len(read_any(found["alphapose 26"][0], CROWDPOSE).entries[0]["keypoints"]) == 42
    with pytest.raises(InputError, match="the 3 entries"):
        read_any(found["alphapose 26"][0]).write(tmp_path / "out", [])


def test_upright_formats(rng: np.random.Generator, tmp_path: Path) -> None:
    """AlphaPose and OpenPose read images as their EXIF data turn them; COCO's coordinates are of stored pixels."""
    for name, (path, _) in sources(rng, tmp_path).items():
        assert read_any(path).upright is (name.split()[0] in ("alphapose", "openpose")), name
        assert is_alphapose(path) is name.startswith("alphapose"), name
    (tmp_path / "broken.json").write_text("{")
    assert not is_alphapose(tmp_path / "broken.json")
