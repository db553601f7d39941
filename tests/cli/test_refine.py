"""``posefix refine`` from end to end, and the images of what moved most."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from factories import make_weights, random_poses
from posefix.adapters.files import read_any
from posefix.cli.main import main
from posefix.drawing.ranking import likely_gains
from posefix.inference import results
from posefix.io import atomic
from posefix.io.images import load_image
from posefix.keypoints.skeleton import COCO, CROWDPOSE, Skeleton
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
    folder = tmp_path / "images"
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

    gains = likely_gains(entries, refined, make_weights().skeleton)
    first, second = np.argsort(-gains)[:2].tolist()
    names = ["000000000007", "sub_named", "000000000009"]
    written = sorted(p.name for p in folder.iterdir())
    assert written == [f"001_{names[first]}_{first}.png", f"002_{names[second]}_{second}.png"]
    height, width = load_image(folder / written[0]).shape[:2]
    assert height > 480 + 2 * 22 - 1  # a line of facts and one of the legend
    assert width > 200


@pytest.mark.parametrize(("backend", "module"), [("torch", "torch"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_backend_and_threads(tmp_path: Path, images: Path, weights: Path, backend: str, module: str) -> None:
    pytest.importorskip(module)
    given = results_file(tmp_path, people(make_weights().skeleton, 7, 9))
    for more in ([], ["--resume", "--part-size", "1"]):
        if more:
            pytest.importorskip("pyarrow")
        result = refine(given, images, weights, "--backend", backend, "--threads", "3", *more)
        assert result.exit_code == 0, result.output
        assert re.search(rf"computed by {backend}, b?float(32|16), 3 threads", result.output), result.output
    refused = refine(given, images, weights, "--backend", backend, "--threads", "0")
    assert refused.exit_code == 2


def test_report_and_true_gains(tmp_path: Path, images: Path, weights: Path) -> None:
    """With labelled people, images show gains and losses, and the report the kinds of error."""
    entries = people(make_weights().skeleton, 7, 9)
    labelled = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in (7, 9)],
        "annotations": [
            {"id": n, "image_id": e["image_id"], "category_id": 1, "iscrowd": 0, "keypoints": e["keypoints"]}
            for n, e in enumerate(entries, 1)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    for annotation in labelled["annotations"]:
        annotation["keypoints"] = [2 if n % 3 == 2 else v for n, v in enumerate(annotation["keypoints"])]
    (tmp_path / "val.json").write_text(json.dumps(labelled))
    report, folder = tmp_path / "report.html", tmp_path / "examples"
    options = ["--report", str(report), "--draw", str(folder), "--annotations", str(tmp_path / "val.json")]
    result = refine(results_file(tmp_path, entries), images, weights, *options)
    assert result.exit_code == 0, result.output
    assert f"report: {report} (people shown: 2)" in result.output
    # The poses were right, and untrained weights make them wrong.
    assert sorted(p.name[:8] for p in folder.iterdir()) == ["loss_001", "loss_002"]
    assert '"kinds":{"matched":2' in report.read_text(encoding="utf-8")
    result = refine(tmp_path / "results.json", images, weights, "--report", str(tmp_path / "none" / "r.html"))
    assert result.exit_code == 1
    assert "does not exist" in result.output


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


def test_a_file_in_place_of_the_folder(tmp_path: Path, images: Path, weights: Path) -> None:
    (tmp_path / "moved").write_text("")
    results = results_file(tmp_path, people(make_weights().skeleton, 7))
    result = refine(results, images, weights, "--draw", str(tmp_path / "moved"))
    assert result.exit_code == 2  # click knows from the option's type
    assert "is a file" in result.output
    assert not (tmp_path / "refined.json").exists()


def test_results_into_a_pipe(tmp_path: Path, images: Path, weights: Path) -> None:
    """``--out /dev/stdout | …`` gives the results and nothing else; what is told goes to standard error."""
    results = results_file(tmp_path, people(COCO, 7, 9))
    command = [sys.executable, "-m", "posefix", "refine", str(results), "--images", str(images), "--device", "cpu"]
    command += ["--weights", str(weights), "--out", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [e["image_id"] for e in json.loads(done.stdout)] == [7, 9]
    assert "2 of 2 people refined" in done.stderr


@pytest.mark.parametrize("where", ["/proc/refined.json", "{tmp}/results.json/x", "{tmp}/images", "{tmp}/" + "x" * 300])
def test_what_cannot_be_written_is_told_before_the_work(
    where: str, tmp_path: Path, images: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_file(tmp_path, people(COCO, 7, 9))
    monkeypatch.setattr("posefix.cli.refine.load_refiner", lambda *_: pytest.fail("the work began"))
    command = ["refine", str(results), "--images", str(images), "--out", where.format(tmp=tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert where.format(tmp=tmp_path)[:40] in done.output


def test_a_disk_that_fills_up_leaves_the_old_file(
    tmp_path: Path, images: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = results_file(tmp_path, people(COCO, 7, 9))
    (tmp_path / "refined.json").write_text("old")
    real = results.refine_results

    def then_full(*args: Any, **kwargs: Any) -> Any:
        done = real(*args, **kwargs)
        monkeypatch.setattr(atomic.os, "fsync", no_space)
        return done

    monkeypatch.setattr(results, "refine_results", then_full)
    done = refine(given, images, weights)
    assert done.exit_code == 1
    assert f"{tmp_path / 'refined.json'}: cannot be written: No space left on device" in done.output
    assert (tmp_path / "refined.json").read_text() == "old"


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_openpose_frames_in_place_are_all_old_or_all_new(
    tmp_path: Path, images: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the refined frames move to their places: the next look finds all of them new."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, pose in zip(("000000000007", "000000000009"), random_poses(np.random.default_rng(0), 2), strict=True):
        body = np.zeros((25, 3))
        body[:17] = pose
        (folder / f"{name}_keypoints.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": body.ravel().tolist()}]})
        )
    old = {p.name: p.read_text() for p in folder.iterdir()}
    command = ["refine", str(folder), "--images", str(images), "--out", str(folder), "--weights", str(weights)]

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "finish", die)  # decided, and not one of the files moved
        with pytest.raises(Killed):
            CliRunner().invoke(main, [*command, "--device", "cpu"])
    assert {p.name: p.read_text() for p in folder.glob("*.json")} == old
    assert (folder / atomic.JOURNAL).is_dir()
    read_any(folder)
    new = {p.name: p.read_text() for p in folder.iterdir()}
    assert set(new) == set(old)
    assert all(new[name] != old[name] for name in old)


def test_exif_follows_the_option_and_is_told(tmp_path: Path, images: Path, weights: Path) -> None:
    """A turned image: COCO's results have stored pixels, AlphaPose's upright ones; doubt is in the summary."""
    image = Image.open(images / "000000000007.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(images / "000000000007.jpg", exif=exif, quality=95)
    entries = people(COCO, 7)
    outputs = {}
    for mode in ("auto", "apply", "ignore"):
        done = refine(results_file(tmp_path, entries), images, weights, "--exif", mode)
        assert done.exit_code == 0, done.output
        outputs[mode] = (tmp_path / "refined.json").read_text()
        assert ("EXIF orientation 6 ignored" in done.output) is (mode == "auto")
    assert outputs["auto"] == outputs["ignore"] != outputs["apply"]
    alphapose = [{**e, "image_id": "000000000007.jpg", "box": [1.0, 2.0, 30.0, 40.0]} for e in entries]
    done = refine(results_file(tmp_path, alphapose), images, weights)
    assert "EXIF orientation 6 applied" in done.output
    keypoints = [
        json.loads(text)[0]["keypoints"] for text in ((tmp_path / "refined.json").read_text(), outputs["apply"])
    ]
    np.testing.assert_allclose(*keypoints, atol=2e-3)
