"""MPII: the authors' .mat file and the common JSON give the same people; PCKh by its rule."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from scipy.io import savemat

from factories import random_poses
from posefix.cli.main import main
from posefix.evaluation.head_sizes import head_sizes
from posefix.evaluation.pckh import evaluate_mpii, pckh, read_mpii
from posefix.exceptions import FileFormatError, InputError, MissingDependencyError
from posefix.io.coco import annotations_of
from posefix.io.json import write_json
from posefix.keypoints.skeleton import MPII

IMAGES = ["015601864.jpg", "015601864.jpg", "005808361.jpg"]


@pytest.fixture
def poses() -> npt.NDArray[np.float64]:
    """(3, 16, 3) [x, y, v] px from 0; one keypoint hidden, one not labelled."""
    poses = random_poses(np.random.default_rng(0), 3, MPII).round(0)
    poses[..., 2] = 2
    poses[0, 4, 2] = 1
    poses[1, 11] = 0
    return poses


@pytest.fixture
def heads() -> npt.NDArray[np.float64]:
    """(3, 4) xyxy px from 0."""
    return np.array([[100.0, 50, 130, 90], [10, 20, 40, 60], [300, 100, 360, 180]])


def structs(rows: list[dict[str, Any]]) -> npt.NDArray[Any]:
    """A MATLAB structure array; a field that a row does not have is empty."""
    names = dict.fromkeys(k for row in rows for k in row)
    array = np.zeros((1, len(rows)), dtype=[(n, object) for n in names])
    for i, row in enumerate(rows):
        for n in names:
            array[0, i][n] = row.get(n, np.zeros((0, 0)))
    return array


@pytest.fixture
def mat(tmp_path: Path, poses: Any, heads: Any) -> Path:
    """As the authors' file is: counted from 1, empty fields, people without keypoints, a test image."""
    people = []
    for pose, head in zip(poses, heads, strict=True):
        points = []
        for k, (x, y, v) in enumerate(pose):
            if v > 0:
                shown: Any = np.zeros((0, 0)) if k in (8, 9) else "0" if v == 1 else "1"
                points.append({"x": x + 1, "y": y + 1, "id": k, "is_visible": shown})
        place = structs([{"x": 50.0, "y": 60.0}])
        corners = dict(zip(("x1", "y1", "x2", "y2"), head + 1, strict=True))
        people.append({**corners, "annopoints": structs([{"point": structs(points)}]), "scale": 1.5, "objpos": place})
    bystander = {"scale": 2.0, "objpos": structs([{"x": 5.0, "y": 6.0}])}
    annolist = structs(
        [
            {"image": structs([{"name": IMAGES[0]}]), "annorect": structs([people[0], bystander, people[1]])},
            {"image": structs([{"name": "000004812.jpg"}]), "annorect": structs([bystander])},
            {"image": structs([{"name": "000000001.jpg"}])},
            {"image": structs([{"name": IMAGES[2]}]), "annorect": structs([people[2]])},
        ]
    )
    release = structs([{"annolist": annolist, "img_train": np.array([[1, 0, 0, 1]])}])
    savemat(tmp_path / "mpii.mat", {"RELEASE": release}, oned_as="row")
    return tmp_path / "mpii.mat"


@pytest.fixture
def valid(tmp_path: Path, poses: Any, heads: Any) -> tuple[Path, Path]:
    """As HRNet's valid.json and gt_valid.mat are."""
    people = [
        {
            "image": name,
            "joints": np.where(pose[:, 2:] > 0, pose[:, :2] + 1, -1).tolist(),
            "joints_vis": (pose[:, 2] > 0).astype(int).tolist(),
            "center": [50.0, 60.0],
            "scale": 1.5,
        }
        for name, pose in zip(IMAGES, poses, strict=True)
    ]
    (tmp_path / "valid.json").write_text(json.dumps(people))
    savemat(tmp_path / "gt_valid.mat", {"headboxes_src": np.moveaxis(heads.reshape(3, 2, 2) + 1, 0, 2)})
    return tmp_path / "valid.json", tmp_path / "gt_valid.mat"


def keypoints(data: dict[str, Any]) -> npt.NDArray[np.float64]:
    return np.array([p["keypoints"] for p in data["annotations"]]).reshape(-1, 16, 3)


def test_mat_file(mat: Path, poses: Any, heads: Any) -> None:
    data = read_mpii(mat)
    np.testing.assert_array_equal(keypoints(data), poses)
    assert [i["file_name"] for i in data["images"]] == [IMAGES[0], IMAGES[2]]
    assert [p["image_id"] for p in data["annotations"]] == [15601864, 15601864, 5808361]
    assert data["annotations"][0]["center"] == [50.0, 60.0]
    np.testing.assert_allclose(head_sizes(data["annotations"]), 0.6 * np.hypot(*(heads[:, 2:] - heads[:, :2]).T))
    np.testing.assert_array_equal(data["annotations"][2]["bbox_head"], [300, 100, 60, 80])
    truth = annotations_of(data, MPII)
    assert truth.num_keypoints.tolist() == [16, 15, 16]


def test_both_forms_are_one(mat: Path, valid: tuple[Path, Path]) -> None:
    one, other = read_mpii(mat), read_mpii(*valid)
    assert one["images"] == other["images"]
    for a, b in zip(one["annotations"], other["annotations"], strict=True):
        assert (a["image_id"], a["id"], a["bbox_head"], a["bbox"], a["scale"]) == (
            (b["image_id"], b["id"], b["bbox_head"], b["bbox"], b["scale"])
        )
    np.testing.assert_array_equal(keypoints(one)[..., :2], keypoints(other)[..., :2])


def entries(data: dict[str, Any], found: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": p["image_id"], "annotation_id": p["id"], "keypoints": pose.reshape(-1).tolist(), "score": 1.0}
        for p, pose in zip(data["annotations"], found, strict=True)
    ]


def test_pckh_by_hand(mat: Path, poses: Any) -> None:
    data = read_mpii(mat)
    found = poses.copy()
    found[..., 2] = 1
    size = head_sizes(data["annotations"])  # 30, 30, 60
    knee, pelvis = MPII.index("left_knee"), MPII.index("pelvis")
    found[0, knee, 0] += 0.5 * size[0] + 0.01
    found[1, knee, 0] += 0.5 * size[1]  # just near enough
    found[2, knee] = 0  # not found
    found[0, pelvis, 1] += 500  # not in the mean
    found[1, 11] = (0, 0, 1)  # not labelled
    measured = evaluate_mpii(data, entries(data, found))
    assert measured.keypoints["left_knee"] == pytest.approx(1 / 3)
    assert measured.keypoints["pelvis"] == pytest.approx(2 / 3)
    assert measured.mean == pytest.approx((3 * 14 - 1 - 2) / (3 * 14 - 1))
    assert measured.groups()["knee"] == pytest.approx((1 / 3 + 1) / 2)
    assert measured.groups()["head"] == 1
    # Order or ids: the same; and a missing person counts as not found.
    by_order = [{k: v for k, v in e.items() if k != "annotation_id"} for e in entries(data, found)]
    assert evaluate_mpii(data, by_order) == measured
    assert evaluate_mpii(data, entries(data, found)[::-1]) == measured
    assert evaluate_mpii(data, entries(data, found)[:2]).mean == pytest.approx((2 * 14 - 1 - 1) / (3 * 14 - 1))


def test_results_that_cannot_be_matched(mat: Path, valid: tuple[Path, Path], poses: Any) -> None:
    data = read_mpii(mat)
    good = [{k: v for k, v in e.items() if k != "annotation_id"} for e in entries(data, poses)]
    with pytest.raises(FileFormatError, match="expected 3 people"):
        evaluate_mpii(data, good[:2])
    with pytest.raises(FileFormatError, match="entry 0 is of image 5808361"):
        evaluate_mpii(data, good[::-1])
    with pytest.raises(FileFormatError, match="annotation_id 9 is not"):
        evaluate_mpii(data, [good[0] | {"annotation_id": 9}])
    with pytest.raises(FileFormatError, match="as 'bbox_head', got None"):
        evaluate_mpii(read_mpii(valid[0]), good)
    with pytest.raises(InputError, match="pckh: expected"):
        pckh(poses, poses, np.ones(3))
    with pytest.raises(InputError, match="above 0"):
        pckh(poses[..., :2], poses, np.zeros(3))


def test_nobody() -> None:
    nothing = pckh(np.zeros((0, 16, 2)), np.zeros((0, 16, 3)), np.zeros(0))
    assert np.isnan(nothing.mean)
    assert np.isnan(list(nothing.keypoints.values())).all()


def test_other_files_are_refused(valid: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ({}, [{"image": "a.jpg"}], [{"image": "a.jpg", "joints": [[1, "x"]] * 16, "joints_vis": [1] * 16}]):
        (tmp_path / "bad.json").write_text(json.dumps(content))
        with pytest.raises(FileFormatError):
            read_mpii(tmp_path / "bad.json")
    (tmp_path / "noise.mat").write_bytes(b"no matrix" * 50)
    savemat(tmp_path / "other.mat", {"x": 1})
    for name, message in (("noise", "no MATLAB file"), ("other", "structure RELEASE"), ("gone", "no such file")):
        with pytest.raises(FileFormatError, match=message):
            read_mpii(tmp_path / f"{name}.mat")
    savemat(tmp_path / "short.mat", {"headboxes_src": np.zeros((2, 2, 2))})
    with pytest.raises(FileFormatError, match=r"expected 'headboxes_src' \(2, 2, 3\)"):
        read_mpii(valid[0], tmp_path / "short.mat")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingDependencyError, match=r"pip install posefix\[mpii\]"):
        read_mpii(tmp_path / "mpii.mat")


def test_command(mat: Path, valid: tuple[Path, Path], poses: Any, tmp_path: Path) -> None:
    data = read_mpii(mat)
    write_json(tmp_path / "results.json", entries(data, np.where(poses > 0, poses, 1.0)))
    for files in ([str(mat)], [str(valid[0]), "--head-boxes", str(valid[1])]):
        done = CliRunner().invoke(
            main, ["evaluate", files[0], str(tmp_path / "results.json"), "--metric", "pckh", *files[1:]]
        )
        assert done.exit_code == 0, done.output
        assert done.output.splitlines()[0].split() == ["results", "head", "shoulder", "elbow", "wrist", "hip", "knee",
                                                       "ankle", "mean"]  # fmt: skip
        assert done.output.splitlines()[2].split()[-1] == "100.0"
