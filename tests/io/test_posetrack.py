"""PoseTrack 2018: files in and out, and AP by poseval's rules."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from factories import make_weights
from posefix.cli.main import main
from posefix.evaluation.posetrack_ap import evaluate_posetrack
from posefix.exceptions import FileFormatError, SkeletonError
from posefix.io.posetrack import PoseTrack, read_posetrack, write_posetrack
from posefix.keypoints.skeleton import POSETRACK18
from posefix.weights.weights import save_weights

EARS = [POSETRACK18.index(f"{side}_ear") for side in ("left", "right")]
COUNTED = [k for k in range(17) if k not in EARS]


def annotations(video: int, frames: int = 3, people: int = 2, seed: int = 0) -> dict[str, Any]:
    """A sequence's annotation file, as the data set's are; the last frame has no people."""
    rng = np.random.default_rng([seed, video])
    data: dict[str, Any] = {
        "images": [
            {
                "has_no_densepose": True,
                "is_labeled": f < frames - 1,
                "file_name": f"images/val/{video:06d}_mpii_test/{f:06d}.jpg",
                "nframes": frames,
                "frame_id": 10_000_000_000 + video * 10_000 + f,
                "vid_id": f"{video:06d}",
                "id": 10_000_000_000 + video * 10_000 + f,
            }
            for f in range(frames)
        ],
        "annotations": [],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}
        ],
    }
    for image in data["images"][:-1]:
        for track in range(people):
            corner = np.array([30.0 + 200 * track, 40.0])
            pose = np.concatenate([corner + rng.uniform(0, 120, (17, 2)), np.ones((17, 1))], axis=1).round(1)
            pose[[*EARS, rng.integers(5, 17)]] = 0
            data["annotations"].append(
                {
                    "bbox_head": [*corner.tolist(), 30, 40],  # head size 0.6 · 50 = 30
                    "keypoints": pose.reshape(-1).tolist(),
                    "track_id": track,
                    "image_id": image["id"],
                    "bbox": [*corner.tolist(), 120.0, 120.0],
                    "scores": [],
                    "category_id": 1,
                    "id": image["id"] * 100 + track,
                }
            )
    return data


def results(truth: dict[str, Any], noise: float, seed: int = 0) -> dict[str, Any]:
    """Results on a sequence: the labelled people, displaced, and one who is not there."""
    rng = np.random.default_rng(seed)
    data = {"images": copy.deepcopy(truth["images"]), "annotations": [], "categories": truth["categories"]}
    people = [*truth["annotations"], truth["annotations"][0] | {"track_id": 7}]
    for person in people:
        pose = np.reshape(np.array(person["keypoints"], float), (17, 3))
        pose[:, :2] += rng.normal(0, noise, (17, 2)) + (400 if person["track_id"] == 7 else 0)
        pose[:, 2] = 1
        pose[EARS] = 0
        scores = rng.uniform(0.05, 1, 17).round(4)
        kept = {k: person[k] for k in ("track_id", "image_id", "category_id", "id")}
        data["annotations"].append(
            {**kept, "keypoints": pose.reshape(-1).tolist(), "scores": scores.tolist(), "tag": {"kept": [1]}}
        )
    return data


def folder(path: Path, sequences: dict[str, dict[str, Any]]) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in sequences.items():
        (path / name).write_text(json.dumps(data))
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return folder(
        tmp_path / "val", {f"{v:06d}_mpii_test.json": annotations(v, people=p) for v, p in ((342, 2), (522, 3))}
    )


@pytest.fixture
def found(tmp_path: Path, truth: Path) -> Path:
    files = {p.name: results(json.loads(p.read_text()), 12.0, i) for i, p in enumerate(sorted(truth.glob("*.json")))}
    return folder(tmp_path / "results", files)


# ---------------------------------------------------------------- files


def test_entries_carry_image_track_and_scores(truth: Path, found: Path) -> None:
    read = read_posetrack(found)
    entries = read.entries()
    assert len(read.sequences) == 2
    assert len(entries) == len(read.people) == 4 + 1 + 6 + 1
    first = read.people[0]
    assert entries[0]["file_name"] == "images/val/000342_mpii_test/000000.jpg"
    assert (entries[0]["track_id"], entries[0]["image_id"], entries[0]["tag"]) == (0, 10003420000, {"kept": [1]})
    pose = np.reshape(entries[0]["keypoints"], (17, 3))
    np.testing.assert_array_equal(pose[COUNTED, 2], np.array(first["scores"])[COUNTED])
    assert not pose[EARS].any()
    ground_truth = read_posetrack(truth)
    np.testing.assert_array_equal(
        ground_truth.keypoints()[0, :, 2] > 0, ground_truth.annotations().ground_truth[0, :, 2] > 0
    )
    assert ground_truth.to_coco()["images"] == ground_truth.images


def test_results_come_back_whole(truth: Path, found: Path, tmp_path: Path) -> None:
    read = read_posetrack(found)
    files = write_posetrack(tmp_path / "out", read_posetrack(truth), read.entries())
    assert [f.name for f in files] == ["000342_mpii_test.json", "000522_mpii_test.json"]
    for file in files:
        new, old = json.loads(file.read_text()), json.loads((found / file.name).read_text())
        assert new["images"] == old["images"]
        assert new["categories"] == old["categories"]
        for mine, theirs in zip(new["annotations"], old["annotations"], strict=True):
            same = set(theirs) - {"keypoints", "scores"}
            assert {k: mine[k] for k in same} == {k: theirs[k] for k in same}
            assert set(mine) == set(theirs)
            np.testing.assert_allclose(mine["keypoints"], theirs["keypoints"], atol=6e-4)
            np.testing.assert_array_equal(np.array(mine["scores"])[COUNTED], np.array(theirs["scores"])[COUNTED])


def test_what_poseval_requires(truth: Path, tmp_path: Path) -> None:
    """Frames all there and in order, one category 'person' of 17 names, a track id, scores in a list of their own."""
    pose = np.ones((17, 3))
    pose[3] = (5, 5, 0)
    entry = {"image_id": "10003420001", "keypoints": pose.reshape(-1).tolist(), "score": 0.3}
    write_posetrack(tmp_path / "out", read_posetrack(truth), [entry, entry])
    data = json.loads((tmp_path / "out" / "000342_mpii_test.json").read_text())
    assert data["images"] == json.loads((truth / "000342_mpii_test.json").read_text())["images"]
    assert [c["name"] for c in data["categories"]] == ["person"]
    assert data["categories"][0]["keypoints"] == list(POSETRACK18.keypoints)
    assert [p["track_id"] for p in data["annotations"]] == [0, 1]
    assert data["annotations"][0]["keypoints"][9:12] == [0, 0, 0]
    assert data["annotations"][0]["scores"][2:5] == [1, 0, 1]
    assert json.loads((tmp_path / "out" / "000522_mpii_test.json").read_text())["annotations"] == []


@pytest.mark.parametrize("track", [-1, 10_000, "3", 1.5])
def test_track_ids_that_poseval_refuses(track: Any, truth: Path, tmp_path: Path) -> None:
    entry = {"image_id": 10003420001, "keypoints": [1.0] * 51, "track_id": track}
    with pytest.raises(FileFormatError, match="entry 0: expected a 'track_id'"):
        write_posetrack(tmp_path / "out", read_posetrack(truth), [entry])
    with pytest.raises(FileFormatError, match="has no frame 5"):
        write_posetrack(tmp_path / "out", read_posetrack(truth), [{"image_id": 5, "keypoints": [1.0] * 51}])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: {"annolist": []}, FileFormatError, "format of 2017"),
        (lambda d: [], FileFormatError, "one file per sequence"),
        (lambda d: d | {"images": d["images"][1:]}, FileFormatError, "image_id 10003420000 is not among"),
        (lambda d: d | {"images": d["images"] * 2}, FileFormatError, "'id' of its own"),
        (
            lambda d: d | {"images": [{"id": None}], "annotations": [{"keypoints": [1.0] * 51}]},
            FileFormatError,
            "image_id None is not among",
        ),
        (lambda d: d | {"annotations": [{"image_id": 10003420000}]}, FileFormatError, "with 'keypoints'"),
        (lambda d: d | {"categories": [{"id": 1, "keypoints": ["nose"]}]}, SkeletonError, "skeleton 'posetrack18'"),
    ],
)
def test_other_files_are_refused(change: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(change(annotations(342))))
    with pytest.raises(error, match=message):
        read_posetrack(tmp_path / "x.json")
    (tmp_path / "x.json").unlink()
    with pytest.raises(FileFormatError, match=r"no \.json file"):
        read_posetrack(tmp_path)


# ---------------------------------------------------------------- average precision


def slow_ap(truth: PoseTrack, found: PoseTrack) -> dict[str, float]:
    """poseval's rules in plain loops."""
    detections: dict[int, list[tuple[float, bool]]] = {k: [] for k in COUNTED}
    total = dict.fromkeys(COUNTED, 0)
    for image in truth.images:
        own = [p for p in truth.people if p["image_id"] == image["id"]]
        if not own:
            continue
        others = [p for p in found.people if p["image_id"] == image["id"]]
        gt = [np.reshape(p["keypoints"], (17, 3)) for p in own]
        pr = [np.reshape(p["keypoints"], (17, 3)) for p in others]
        share = np.zeros((len(pr), len(gt)))
        near = np.zeros((len(pr), len(gt), 17), bool)
        for i, p in enumerate(pr):
            for j, g in enumerate(gt):
                size = 0.6 * np.hypot(*own[j]["bbox_head"][2:])
                for k in COUNTED:
                    if p[k].any() and g[k].any():
                        near[i, j, k] = np.hypot(*(p[k, :2] - g[k, :2])) <= 0.5 * size
                share[i, j] = near[i, j].sum() / max(sum(g[k].any() for k in COUNTED), 1)
        for g in gt:
            for k in COUNTED:
                total[k] += int(g[k].any())
        owner = {}
        for j in range(len(gt)):
            fans = [i for i in range(len(pr)) if share[i].argmax() == j and share[i, j] > 0]
            if fans:
                owner[max(fans, key=lambda i, j=j: share[i, j])] = j
        for i, p in enumerate(pr):
            for k in COUNTED:
                if p[k].any():
                    hit = i in owner and bool(near[i, owner[i], k])
                    detections[k].append((others[i]["scores"][k], hit))
    ap = {}
    for k in COUNTED:
        curve, hits = [], 0
        for n, (_, hit) in enumerate(sorted(detections[k], reverse=True), 1):
            hits += hit
            curve.append((hits / total[k], hits / n))
        area = last = 0.0
        for i, (recall, _) in enumerate(curve):
            area += (recall - last) * max(p for _, p in curve[i:])
            last = recall
        ap[POSETRACK18.keypoints[k]] = area
    return ap


@pytest.mark.parametrize("noise", [3.0, 12.0, 30.0])
def test_ap_follows_the_rules(noise: float, truth: Path, tmp_path: Path) -> None:
    files = {p.name: results(json.loads(p.read_text()), noise, i) for i, p in enumerate(sorted(truth.glob("*.json")))}
    ground_truth, found = read_posetrack(truth), read_posetrack(folder(tmp_path / "results", files))
    ap = evaluate_posetrack(ground_truth, found)
    expected = slow_ap(ground_truth, found)
    assert ap.keypoints == pytest.approx(expected)
    assert ap.mean == pytest.approx(np.mean(list(expected.values())))
    assert ap.groups()["knee"] == pytest.approx((expected["left_knee"] + expected["right_knee"]) / 2)
    assert set(ap.keypoints) == {POSETRACK18.keypoints[k] for k in COUNTED}


def test_perfect_and_absent_results(truth: Path) -> None:
    ground_truth = read_posetrack(truth)
    perfect = {n: d | {"annotations": [p | {"scores": [1.0] * 17} for p in d["annotations"]]}
               for n, d in ground_truth.sequences.items()}  # fmt: skip
    assert evaluate_posetrack(ground_truth, PoseTrack("r", perfect)).mean == pytest.approx(1)
    no_people = {n: d | {"annotations": []} for n, d in ground_truth.sequences.items()}
    assert evaluate_posetrack(ground_truth, PoseTrack("r", no_people)).mean == 0
    other = {"x.json": {"images": [{"id": 3}], "annotations": []}}
    with pytest.raises(FileFormatError, match="frame 3 is not among"):
        evaluate_posetrack(ground_truth, PoseTrack("r", other))
    headless = copy.deepcopy(ground_truth.sequences)
    del headless["000342_mpii_test.json"]["annotations"][1]["bbox_head"]  # type: ignore[attr-defined]
    with pytest.raises(FileFormatError, match=r"annotation 1: expected .* as 'bbox_head'"):
        evaluate_posetrack(PoseTrack("t", headless), PoseTrack("r", no_people))


def test_ignored_regions_and_empty_frames_do_not_count(truth: Path, found: Path) -> None:
    ground_truth, results_ = read_posetrack(truth), read_posetrack(found)
    free = evaluate_posetrack(ground_truth, results_)
    # A false person in the frame where no_people is labelled changes nothing.
    for name, data in ground_truth.sequences.items():
        extra = dict(results_.people[0]) | {"image_id": data["images"][-1]["id"]}
        results_.sequences[name]["annotations"].append(extra)  # type: ignore[index]
    assert evaluate_posetrack(ground_truth, results_) == free
    # One who is not there, at 400 px further, is ignored where the region says so.
    for data in ground_truth.sequences.values():
        for image in data["images"]:
            image |= {"ignore_regions_x": [[425, 900, 900, 425]], "ignore_regions_y": [[300, 300, 900, 900]]}
    ignoring = evaluate_posetrack(ground_truth, results_)
    assert ignoring.mean > free.mean


# ---------------------------------------------------------------- commands


def test_a_folder_of_sequences_is_refined_and_evaluated(truth: Path, found: Path, tmp_path: Path) -> None:
    for image in read_posetrack(truth).images:
        path = tmp_path / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8))
    save_weights(tmp_path / "weights", make_weights())
    command = ["refine", str(found), "--skeleton", "posetrack18", "--images", str(tmp_path), "--device", "cpu"]
    command += ["--weights", str(tmp_path / "weights"), "--out", str(tmp_path / "refined")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "12 of 12 people refined" in done.output
    before, after = read_posetrack(found), read_posetrack(tmp_path / "refined")
    assert [p["track_id"] for p in after.people] == [p["track_id"] for p in before.people]
    old, new = before.keypoints(), after.keypoints()
    assert not new[:, EARS].any()  # never labelled, so not made up
    for name in ("head_bottom", "head_top"):
        np.testing.assert_allclose(new[:, POSETRACK18.index(name)], old[:, POSETRACK18.index(name)], atol=1e-3)
    assert (new[:, POSETRACK18.index("left_knee")] != old[:, POSETRACK18.index("left_knee")]).any()
    command = ["evaluate", str(truth), str(found), str(tmp_path / "refined"), "--metric", "poseval"]
    done = CliRunner().invoke(main, [*command, "--json", str(tmp_path / "table.json")])
    assert done.exit_code == 0, done.output
    assert "shoulder" in done.output
    mean = json.loads((tmp_path / "table.json").read_text())["results"][0]["mean"]
    assert mean == pytest.approx(evaluate_posetrack(read_posetrack(truth), before).mean)
    done = CliRunner().invoke(main, [*command, "--skeleton", "mpii"])
    assert "--metric poseval is defined for --skeleton posetrack18" in done.output
