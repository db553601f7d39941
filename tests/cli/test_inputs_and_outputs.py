"""Before any work: inputs that do not exist are named first, and names of outputs promise what is written."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from factories import annotation_file, make_weights, results_of
from posefix.cli.main import main
from posefix.weights.weights import save_weights

OPTIONAL = ("trackers", "supervision", "pyarrow", "matplotlib", "onnx", "onnxruntime", "openvino", "tensorflow", "ray")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each input, in which the commands run."""
    rng = np.random.default_rng(0)
    data = annotation_file(rng, images=1, people=2)
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "r.json").write_text(json.dumps(results_of(data, rng)))
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "001.jpg"), np.zeros((480, 640, 3), np.uint8))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "001_keypoints.json").write_text('{"people": []}')
    save_weights(tmp_path / "weights", make_weights(input_hw=(32, 32), width=0.35))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line: str) -> str:
    result = CliRunner().invoke(main, shlex.split(line))
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output.strip().splitlines()[-1]


#: Each command with an input that does not exist, an output that cannot be written, and no optional package.
MISSING = [
    "refine nope --images images --out no/o.json",
    "refine nope.parquet --images images --out no/o --shard 1/2",
    "refine nope --images images --out no/o --engine ray",
    "refine r.json --images nope --out no/o.json --report no/r.pdf",
    "refine r.json --images images --out no/o.json --annotations nope",
    "refine-video nope r.json --out no/o.json --plot no/p.png",
    "refine-video images nope --out no/o.json --plot no/p.png",
    "diagnose nope r.json --plot no/p.png",
    "diagnose val.json nope --plot no/p.png",
    "diagnose val.json r.json --after nope --plot no/p.png",
    "diagnose val.json r.json --images nope --report no/r.html --plot no/p.png",
    "evaluate nope r.json --json no/o.json",
    "evaluate val.json r.json nope --json no/o.json",
    "evaluate val.json r.json --head-boxes nope --json no/o.json",
    "demo --data nope --out no/o.png",
    "convert nope --out no/w",
    "convert-results nope --out no/o.parquet",
    "convert-results r.json --annotations nope --out no/o.parquet",
    "merge-results nope --out no/o.parquet",
    "export --weights nope --out no/o",
    "calibrate nope val.json r.json --images images",
    "calibrate weights nope r.json --images images",
    "calibrate weights val.json nope --images images",
    "calibrate weights val.json r.json --images nope",
    "train nope",
    "weights build --image-model nope.onnx --out no/o",
]


@pytest.mark.parametrize("line", MISSING)
def test_missing_inputs_come_first(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in OPTIONAL:
        monkeypatch.setitem(sys.modules, package, None)
    said = refused(line)
    assert "nope" in said
    assert "pip install" not in said
    assert "no/" not in said


def test_every_command_is_tried() -> None:
    assert {line.split()[0] for line in MISSING} == set(main.list_commands(click.Context(main)))


REFINE = "refine r.json --images images --weights weights --out"
OTHERWISE = [
    (f"{REFINE} x.csv", "expected a name that ends in .json or"),
    (f"{REFINE} x.HTML", "expected a name that ends in .json or"),
    (f"{REFINE} o.json --report x.pdf", "expected a name that ends in .html or .htm, got one that ends in .pdf"),
    (f"{REFINE} o.json --draw x.png", "expected a folder's name, got one that ends in .png"),
    (f"{REFINE} x.csv --shard 1/1", "expected a folder's name"),
    (f"{REFINE} x.csv --resume", "expected a folder's name"),
    ("refine frames --images images --weights weights --out x.json", "expected a folder's name"),
    ("refine-video images r.json --out o.json --video x.avi", "expected a name that ends in .mp4"),
    ("refine-video images r.json --out o.json --plot x.csv", "expected a name that ends in .png or .pdf or .svg"),
    ("refine-video images r.json --out o.json --video x.xyz", "expected a name that ends in .mp4"),
    ("refine-video images r.json --out o.json --plot x", "expected a name that ends in .png or .pdf or .svg"),
    ("diagnose val.json r.json --plot x.json", "expected a name that ends in .png"),
    ("diagnose val.json r.json --json x.html", "expected a name that ends in .json"),
    ("diagnose val.json r.json --images images --report x.json", "expected a name that ends in .html"),
    ("diagnose val.json r.json --images images --draw x.jpg", "expected a folder's name"),
    ("evaluate val.json r.json --json x.csv", "expected a name that ends in .json"),
    ("demo --weights weights --out x.pdf", "expected a name that ends in .png"),
    ("convert-results r.json --out x.csv", "expected a name that ends in .parquet or .json"),
    ("merge-results images --out x.csv", "expected a name that ends in .json"),
    ("export --weights weights --out x.onnx", "expected a folder's name"),
    ("train --example x.yaml", "expected a folder's name"),
]


@pytest.mark.parametrize(("line", "words"), OTHERWISE)
def test_names_promise_what_is_written(line: str, words: str, inside: Path) -> None:
    before = sorted(inside.iterdir())
    assert words in refused(line)
    assert sorted(inside.iterdir()) == before


@pytest.mark.parametrize("name", ["o.json", "o", "o.v2", "o.json.gz", "o.zip", "o.jsonl", "dir.csv/o"])
def test_other_names_are_written(name: str, inside: Path) -> None:
    (inside / "dir.csv").mkdir()
    result = CliRunner().invoke(main, f"{REFINE} {name} --device cpu".split())
    assert result.exit_code == 0, result.output
    content = (inside / name).read_bytes()
    if name == "o.jsonl":
        assert len(content.splitlines()) == len(json.loads((inside / "r.json").read_text()))
    else:
        assert content[:1] in (b"[", b"\x1f", b"P")


@pytest.mark.parametrize(
    "line",
    [
        f"{REFINE} val.json --annotations val.json",
        "evaluate val.json r.json --json r.json",
        "diagnose val.json r.json --json val.json",
    ],
)
def test_what_is_read_is_not_replaced(line: str, inside: Path) -> None:
    before = {p: p.read_bytes() for p in inside.iterdir() if p.is_file()}
    assert "would replace a file that is read" in refused(line)
    assert {p: p.read_bytes() for p in inside.iterdir() if p.is_file()} == before


EMPTY = [
    f"{REFINE} ''",
    "refine '' --images images --out o.json",
    "refine r.json --images '' --out o.json",
    "evaluate val.json ''",
    "refine-video '' r.json --out o.json",
]


@pytest.mark.parametrize("line", EMPTY)
def test_empty_names_are_told(line: str) -> None:
    assert "got an empty one" in refused(line)
