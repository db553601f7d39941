"""An exported model refines where torch is not installed, and whatever needs torch says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from factories import annotation_file, make_weights, results_of
from posefix.inference.export import export_model
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import read_annotations
from posefix.keypoints.skeleton import COCO
from posefix.weights.calibration import Calibration
from posefix.weights.weights import save_weights

#: Goes before every program below: torch is not there, as if it had never been installed.
BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""

REFINE = """
import json
import cv2, numpy as np
import posefix
from posefix.cli.main import main
from posefix.io.coco import read_annotations

for name in posefix.__all__:
    getattr(posefix, name)
refiner = posefix.Refiner.from_pretrained("exported", precision="float32")
data = json.load(open("val.json"))
images = [f"val/{i['file_name']}" for i in data["images"]]
poses = np.load("poses.npy")
batch = refiner.refine_batch(images, list(poses))
single = [refiner.refine(cv2.imread(i), p, color="bgr", flip_test=True) for i, p in zip(images, poses)]
told = refiner.predict(images[0], poses[0])
streamed = [r for r in refiner.refine_stream(zip(images, poses), prior_weight=1.0)]
entries, report = posefix.refine_results(
    refiner, json.load(open("results.json")), "val", annotations=read_annotations("val.json", posefix.COCO)
)
json.dump([entries, report.computed_by], open("entries.json", "w"))
np.savez("found.npz", batch=batch, single=single, told=told.keypoints, streamed=streamed)
arguments = "refine results.json --images val --annotations val.json --weights exported --report report.html"
try:
    main([*arguments.split(), "--out", "refined.json"])
except SystemExit as done:
    assert not done.code, done
assert "torch" not in sys.modules
"""

MISTAKES = """
import posefix

def message(call):
    try:
        call()
    except posefix.MissingDependencyError as error:
        return str(error)
    raise AssertionError("no error")

print(message(posefix.Refiner.from_pretrained))
print(message(lambda: posefix.Refiner.from_pretrained("weights", backend="openvino")))
print(message(lambda: posefix.Refiner.from_pretrained("exported").refine_video([], [])))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Weights, the same exported, images, labels, results."""
    calibration = Calibration(policy="always", reference_outlier_rate=0.05)
    weights = make_weights(calibration, input_hw=(64, 64), uses_scores=True)
    weights.state["correction.log_gain"] += 4.0
    save_weights(tmp_path / "weights", weights)
    export_model(weights, tmp_path / "exported")
    rng = np.random.default_rng(0)
    data = annotation_file(rng, images=2, people=2)
    results = results_of(data, rng)
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(results))
    poses = np.array([r["keypoints"] for r in results]).reshape(2, 2, 17, 3)
    np.save(tmp_path / "poses.npy", poses)
    (tmp_path / "val").mkdir()
    for image in data["images"]:
        noise = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        assert cv2.imwrite(str(tmp_path / "val" / image["file_name"]), noise)
    return tmp_path


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "POSEFIX_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_refines_as_with_torch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    told = run(REFINE, place)
    assert "4 of 4 people refined" in told
    monkeypatch.chdir(place)
    found = np.load("found.npz")
    poses = list(np.load("poses.npy"))
    images = [f"val/{i['file_name']}" for i in json.loads(Path("val.json").read_text())["images"]]
    for source, backend, tolerance in (("exported", "auto", 0), ("weights", "torch", 0.02)):
        refiner = Refiner.from_pretrained(source, precision="float32", backend=backend)
        close = {"rtol": 0, "atol": tolerance}
        np.testing.assert_allclose(found["batch"], refiner.refine_batch(images, poses), **close)
        np.testing.assert_allclose(found["told"], refiner.predict(images[0], poses[0]).keypoints, **close)
        flipped = [refiner.refine(i, p, flip_test=True) for i, p in zip(images, poses, strict=True)]
        np.testing.assert_allclose(found["single"], flipped, **close)
        stream = list(refiner.refine_stream(zip(images, poses, strict=True), prior_weight=1.0))
        np.testing.assert_allclose(found["streamed"], stream, **close)
        entries, _ = refine_results(
            refiner, json.loads(Path("results.json").read_text()), "val", annotations=read_annotations("val.json", COCO)
        )
        ours, by = json.loads(Path("entries.json").read_text())
        assert by.startswith(("openvino", "onnx"))
        for one, other in zip(ours, entries, strict=True):
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], **close)
    assert len(json.loads(Path("refined.json").read_text())) == 4
    assert Path("report.html").is_file()


def test_says_what_needs_torch(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    lines = run(MISTAKES, place).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "pip install torch" in line
