"""``posefix refine`` from end to end, and the images of what moved most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from factories import FOUR, make_weights, random_poses
from posefix.cli.main import main
from posefix.drawing.movements import movements, write_most_moved
from posefix.exceptions import InputError
from posefix.io.images import load_image
from posefix.keypoints.skeleton import CROWDPOSE, Skeleton
from posefix.weights.calibration import Calibration
from posefix.weights.weights import save_weights

KEEPS_ALL = Calibration(policy="safe", margin=(1.0,) * 17)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, make_weights())
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("000000000007.jpg", "000000000009.jpg", "sub/named.png"):
        noise = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        assert cv2.imwrite(str(folder / name), noise)
    return folder


def people(skeleton: Skeleton, *image_ids: Any) -> list[dict[str, Any]]:
    poses = random_poses(np.random.default_rng(2), len(image_ids), skeleton)
    return [
        {"image_id": i, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5}
        for i, p in zip(image_ids, poses, strict=True)
    ]


def results_file(folder: Path, entries: list[dict[str, Any]]) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(entries))
    return path


def refine(results: Path, images: Path, weights: Path, *options: str) -> Result:
    out = str(results.with_name("refined.json"))
    fixed = ["--images", str(images), "--out", out, "--weights", str(weights), "--device", "cpu"]
    return CliRunner().invoke(main, ["refine", str(results), *fixed, *options])


def test_refines_and_draws(tmp_path: Path, images: Path, weights: Path) -> None:
    entries = people(make_weights().skeleton, 7, 9, 9)
    entries[1]["file_name"] = "sub/named.png"
    folder = tmp_path / "new" / "moved"
    result = refine(results_file(tmp_path, entries), images, weights, "--draw", str(folder), "--draw-count", "2")
    assert result.exit_code == 0, result.output
    refined = json.loads((tmp_path / "refined.json").read_text())
    assert [e["image_id"] for e in refined] == [7, 9, 9]
    assert "3 of 3 people refined" in result.output
    assert f"2 images written to {folder}" in result.output

    moved = movements(entries, refined, make_weights().skeleton)
    first, second = np.argsort(-moved)[:2].tolist()
    names = ["000000000007", "sub_named", "000000000009"]
    written = sorted(p.name for p in folder.iterdir())
    assert written == [f"001_{names[first]}_{first}.png", f"002_{names[second]}_{second}.png"]
    height, width = load_image(folder / written[0]).shape[:2]
    assert height == 480
    assert width > 200


def test_all_people_are_drawn_where_there_are_few(tmp_path: Path, images: Path, weights: Path) -> None:
    results = results_file(tmp_path, people(make_weights().skeleton, 7))
    assert refine(results, images, weights, "--draw", str(tmp_path / "moved")).exit_code == 0
    assert [p.name for p in (tmp_path / "moved").iterdir()] == ["001_000000000007_0.png"]


def test_nothing_is_drawn_where_nothing_moved(tmp_path: Path, images: Path) -> None:
    save_weights(tmp_path / "keeps", make_weights(KEEPS_ALL))
    results = results_file(tmp_path, people(make_weights().skeleton, 7, 9))
    result = refine(results, images, tmp_path / "keeps", "--draw", str(tmp_path / "moved"))
    assert result.exit_code == 0
    assert "no image written: nothing moved" in result.output
    assert not (tmp_path / "moved").exists()


def test_draws_another_skeleton(tmp_path: Path, images: Path, weights: Path) -> None:
    results = results_file(tmp_path, people(CROWDPOSE, 7, 9))
    result = refine(results, images, weights, "--skeleton", "crowdpose", "--draw", str(tmp_path / "moved"))
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "moved").iterdir())) == 2


def test_draws_openpose_frames(tmp_path: Path, images: Path, weights: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    pose = random_poses(np.random.default_rng(0), 25)[:, 0].reshape(-1).tolist()
    (folder / "000000000007_keypoints.json").write_text(
        json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": pose}]})
    )
    fixed = ["--images", str(images), "--out", str(tmp_path / "out"), "--weights", str(weights)]
    result = CliRunner().invoke(main, ["refine", str(folder), *fixed, "--draw", str(tmp_path / "moved")])
    assert result.exit_code == 0, result.output
    assert [p.name for p in (tmp_path / "moved").iterdir()] == ["001_000000000007_0.png"]


def pose(*points: tuple[float, float, float]) -> dict[str, Any]:
    return {"image_id": 7, "keypoints": [float(v) for p in points for v in p]}


def test_movement_is_in_units_of_the_person() -> None:
    small = pose((10, 10, 1), (30, 10, 1), (10, 50, 1), (0, 0, 0))
    moved = pose((14, 10, 1), (34, 10, 1), (14, 50, 1), (90, 90, 1))  # the last one was filled, not moved
    large = pose((100, 100, 1), (300, 100, 1), (100, 500, 1), (0, 0, 0))
    shifted = pose((104, 100, 1), (304, 100, 1), (104, 500, 1), (0, 0, 0))
    found = movements([small, large, small], [moved, shifted, small], FOUR)
    np.testing.assert_allclose(found, [4 / 40, 4 / 400, 0.0])


def test_what_is_no_pose_did_not_move() -> None:
    wrong = [
        {"image_id": 1},
        {"image_id": 1, "keypoints": [1.0]},
        {"image_id": 1, "keypoints": ["a"] * 12},
        pose(*[(np.nan, 1, 1)] * 4),
    ]
    assert movements(wrong, wrong, FOUR).tolist() == [0.0] * 4
    with pytest.raises(InputError, match="expected the 4 people"):
        movements(wrong, wrong[:1], FOUR)


def test_bad_images_are_passed_over(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = [pose((10, 10, 1), (30, 10, 1), (10, 50, 1), (40, 50, 1)) | {"image_id": i} for i in (8, 7)]
    after = [{**e, "keypoints": [v + 5 * (n % 3 < 2) for n, v in enumerate(e["keypoints"])]} for e in before]
    written = write_most_moved(before, after, images, tmp_path / "out", skeleton=FOUR, most=1)
    assert [p.name for p in written] == ["001_000000000007_1.png"]
    assert "000000000008.jpg" in caplog.text


def test_draws_people_half_outside_the_image(tmp_path: Path, images: Path) -> None:
    before = [pose((-500, 10, 1), (9000, 10, 1), (10, 50, 1), (np.nan, 50, 1))]
    after = [pose((10, 10, 1), (30, 10, 1), (10, 50, 1), (40, 50, 1))]
    assert len(write_most_moved(before, after, images, tmp_path, skeleton=FOUR)) == 1


def test_a_file_in_place_of_the_folder(tmp_path: Path, images: Path, weights: Path) -> None:
    (tmp_path / "moved").write_text("")
    results = results_file(tmp_path, people(make_weights().skeleton, 7))
    result = refine(results, images, weights, "--draw", str(tmp_path / "moved"))
    assert result.exit_code == 2  # click knows from the option's type
    assert "is a file" in result.output
    assert not (tmp_path / "refined.json").exists()
    before, after = [pose(*[(1, 1, 1)] * 4)], [pose(*[(9, 1, 1)] * 4)]
    with pytest.raises(InputError, match="the folder cannot be made"):
        write_most_moved(before, after, images, tmp_path / "moved", skeleton=FOUR)
