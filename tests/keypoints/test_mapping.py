"""Poses of another keypoint set are refined by weights that share keypoints with it; the rest is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from factories import FOUR, make_weights, random_poses
from posefix.cli.main import main
from posefix.exceptions import FileFormatError, SkeletonError
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_mapped, refine_results
from posefix.keypoints.mapping import share_keypoints
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton
from posefix.weights.calibration import Calibration
from posefix.weights.weights import save_weights

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    """COCO weights that move every keypoint."""
    return Refiner(make_weights(calibration=Calibration(policy="always")), device="cpu", precision="float32")


@pytest.fixture
def image() -> Any:
    return RNG(0).integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)


@pytest.mark.parametrize(("skeleton", "count"), [(MPII, 12), (CROWDPOSE, 12), (POSETRACK18, 13), (COCO, 17)])
def test_what_is_shared(skeleton: Skeleton, count: int) -> None:
    shared = share_keypoints(skeleton, COCO)
    names = [skeleton.keypoints[k] for k in shared.from_source]
    assert names == [COCO.keypoints[k] for k in shared.from_target]
    assert len(names) == count
    assert shared.identical == (skeleton is COCO)
    assert not set(names) & skeleton.unannotated


def test_ears_that_nobody_annotates_are_neither_seen_nor_made_up() -> None:
    shared = share_keypoints(POSETRACK18, POSETRACK18)
    assert not shared.identical
    poses = random_poses(RNG(1), 2, POSETRACK18)
    ears = [POSETRACK18.index(f"{side}_ear") for side in ("left", "right")]
    assert not shared.to_target(poses)[:, ears].any()
    np.testing.assert_array_equal(shared.put_back(poses, poses + 1)[:, ears], poses[:, ears])
    far = poses.copy()
    far[:, ears, :2] = 1e4
    np.testing.assert_array_equal(shared.boxes(far, (400, 400)), shared.boxes(poses, (400, 400)))


def test_there_and_back() -> None:
    shared = share_keypoints(MPII, COCO)
    poses = random_poses(RNG(1), 3, MPII)
    moved = shared.to_target(poses)
    np.testing.assert_array_equal(moved[:, COCO.index("left_knee")], poses[:, MPII.index("left_knee")])
    assert not moved[:, COCO.index("nose")].any()
    np.testing.assert_array_equal(shared.put_back(poses, moved), poses)
    merged = shared.put_back(poses, moved + 1)
    assert (merged != poses).any(-1).sum(-1).tolist() == [12] * 3


def test_a_set_without_common_names_is_refused(refiner: Refiner, image: Any) -> None:
    with pytest.raises(SkeletonError, match="'four' and 'coco' share no keypoint"):
        refine_mapped(refiner, image, random_poses(RNG(0), 1, FOUR), FOUR)


@pytest.mark.parametrize("width", [2, 3])
def test_refine_mapped(refiner: Refiner, image: Any, width: int) -> None:
    poses = random_poses(RNG(2), 4, MPII)[..., :width]
    before = poses.copy()
    refined = refine_mapped(refiner, image, poses, MPII)
    np.testing.assert_array_equal(poses, before)
    shared = share_keypoints(MPII, COCO)
    own = np.setdiff1d(np.arange(16), shared.from_source)
    np.testing.assert_array_equal(refined[:, own], poses[:, own])
    assert (refined[:, shared.from_source] != poses[:, shared.from_source]).any(-1).all()
    # The crop is cut around all of the person, not around what is shared.
    alone = refiner.refine(image, shared.to_target(poses), boxes_xyxy=shared.boxes(poses, image.shape[:2]))
    np.testing.assert_array_equal(refined[:, shared.from_source], alone[:, shared.from_target])


def test_scores_are_heard_among_what_is_shared(refiner: Refiner, image: Any) -> None:
    poses = random_poses(RNG(6), 3, MPII)
    poses[..., 2] = RNG(7).uniform(0.2, 0.8, poses.shape[:2])
    shared = share_keypoints(MPII, COCO)
    own = np.setdiff1d(np.arange(16), shared.from_source)
    poses[:, own, 2] = 1  # whoever is surest of a keypoint that the weights do not know
    poses[0, shared.from_source[0], 2] = 0
    heard = refiner.prepare(image, poses, shared=shared).inputs.scores
    given = poses[:, shared.from_source, 2]
    wanted = np.ones((3, 17))
    wanted[:, shared.from_target] = np.where(given > 0, given / given.max(-1, keepdims=True), 1)
    np.testing.assert_allclose(heard, wanted, rtol=1e-6)


def test_the_same_set_is_refined_as_ever(refiner: Refiner, image: Any) -> None:
    poses = random_poses(RNG(3), 2)
    np.testing.assert_array_equal(refine_mapped(refiner, image, poses, COCO), refiner.refine(image, poses))


def test_who_has_nothing_in_common_stays(refiner: Refiner, image: Any) -> None:
    poses = random_poses(RNG(4), 2, MPII)
    poses[0, share_keypoints(MPII, COCO).from_source, 2] = 0
    refined = refine_mapped(refiner, image, poses, MPII)
    np.testing.assert_array_equal(refined[0], poses[0])
    assert (refined[1] != poses[1]).any()


def crowd_entries(people: int) -> list[dict[str, Any]]:
    poses = random_poses(RNG(5), people, CROWDPOSE)
    return [
        {"image_id": "named.png", "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5, "x": i}
        for i, p in enumerate(poses)
    ]


def test_results_of_another_set(refiner: Refiner, image: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "named.png"), image)
    entries = crowd_entries(3)
    entries[0]["keypoints"][3 * 12 : 3 * 12 + 3] = [1.23456789, 2, 0.0000001]  # the head's top, which COCO has not
    refined, report = refine_results(refiner, entries, tmp_path, skeleton=CROWDPOSE, ranking="confidence")
    assert report.complete
    assert report.keypoints == 3 * 12
    assert report.filled == 0
    for old, new in zip(entries, refined, strict=True):
        assert new["keypoints"][36:] == old["keypoints"][36:]
        assert new["x"] == old["x"]
        assert new["score"] == pytest.approx(np.mean(new["keypoints"][2:36:3]), abs=1e-3)
    alone = refine_mapped(refiner, image, np.array([e["keypoints"] for e in entries]).reshape(-1, 14, 3), CROWDPOSE)
    got = np.array([e["keypoints"] for e in refined]).reshape(-1, 14, 3)
    np.testing.assert_allclose(got, alone, atol=2e-3)
    with pytest.raises(FileFormatError, match="skeleton 'crowdpose'"):
        refine_results(refiner, [{**entries[0], "keypoints": [1.0] * 51}], tmp_path, skeleton=CROWDPOSE)


def test_boxes_of_the_file_come_first(refiner: Refiner, image: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "named.png"), image)
    entries = crowd_entries(2)
    x, y = np.reshape(entries[0]["keypoints"], (-1, 3))[:, :2].min(0)
    entries[0]["bbox"] = [x - 40, y - 40, 150, 150]
    around, _ = refine_results(refiner, entries, tmp_path, skeleton=CROWDPOSE)
    inside, _ = refine_results(refiner, entries, tmp_path, skeleton=CROWDPOSE, use_boxes=True)
    assert around[0] != inside[0]
    assert around[1] == inside[1]


def test_command(refiner: Refiner, image: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "named.png"), image)
    save_weights(tmp_path / "weights", refiner.weights)
    (tmp_path / "in.json").write_text(json.dumps(crowd_entries(2)))
    command = ["refine", str(tmp_path / "in.json"), "--images", str(tmp_path), "--device", "cpu"]
    command += ["--weights", str(tmp_path / "weights"), "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(main, [*command, "--skeleton", "crowdpose"])
    assert done.exit_code == 0, done.output
    assert "2 of 2 people refined" in done.output
    assert json.loads((tmp_path / "out.json").read_text())[0]["keypoints"][36:] == crowd_entries(2)[0]["keypoints"][36:]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert (
        "entry 0 has 14 keypoints, not the 17 of skeleton 'coco'; name the file's own set with --skeleton"
        in done.output
    )
