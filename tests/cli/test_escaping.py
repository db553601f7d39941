"""Names, ids, scores and licences of files do nothing to the terminal, in whatever command they appear."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import posefix.cli
from factories import annotation_file, make_weights, results_of
from posefix.cli.main import main
from posefix.keypoints.skeleton import COCO
from posefix.weights.weights import save_weights

ESCAPE = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e\r\nfake line\x08"
NASTY = f"{ESCAPE}<img src=x onerror=alert(1)>`rm`$\\frac{{$"
SECRET = "s3://KEY:SECRET@bucket"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in which every text is hostile."""
    place = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    truth = annotation_file(rng, images=2, people=2)
    found = results_of(truth, rng)
    (place / "images").mkdir()
    cv2.imwrite(str(place / "images" / "001.jpg"), np.zeros((480, 640, 3), np.uint8))
    plain = {"edges": [], "unannotated": []}
    names = [NASTY + n if n == "nose" else n for n in COCO.keypoints]
    formulas = [n if n.startswith(("left", "right")) else "<b>`a`$\\frac{$" for n in COCO.keypoints]
    odd = [{**found[0], "score": NASTY}, {**found[1], "bbox": NASTY}, {**found[2], "file_name": NASTY}]
    odd += [{**found[3], "keypoints": [NASTY] * 51}]
    files: dict[str, Any] = {
        "val.json": truth,
        "results.json": found,
        "odd.json": odd,
        "unknown_id.json": [{**found[0], "image_id": NASTY}],
        "category.json": truth | {"categories": [{"id": 1, "name": NASTY, "keypoints": names}]},
        "twice.json": truth | {"images": [{**truth["images"][0], "file_name": NASTY}, truth["images"][0]]},
        "skeleton.json": COCO.to_dict() | plain | {"keypoints": names},
        "formulas.json": COCO.to_dict() | plain | {"name": "<b>`$", "keypoints": formulas},
        "labelled.json": truth | {"categories": [{"id": 1, "name": "person", "keypoints": formulas}]},
        "config.yaml": {NASTY: 1},
        "broken.json": f'[{{"a": 1}}, {NASTY}',
    }
    for name, data in files.items():
        text = yaml.safe_dump(data) if name.endswith("yaml") else data if isinstance(data, str) else json.dumps(data)
        (place / name).write_text(text, encoding="utf-8")
    about = {"title": NASTY, "licence": NASTY, "results": {NASTY: {NASTY: 1.0}}, "trained": NASTY, "url": SECRET}
    save_weights(place / "weights", replace(make_weights(input_hw=(32, 32), width=0.35), about=about))
    for name, change in {"other": {"format": NASTY}, "key": {"model": {NASTY: 1}}}.items():
        (place / name).mkdir()
        config = json.loads((place / "weights" / "config.json").read_text()) | change
        (place / name / "config.json").write_text(json.dumps(config))
        (place / name / "model.safetensors").write_bytes((place / "weights" / "model.safetensors").read_bytes())
    return place


REFINE = ("--images", "images", "--weights", "weights", "--out", "out.json", "--device", "cpu")
COMMANDS = {
    "refine": ("refine", "odd.json", *REFINE, "--use-boxes"),
    "refine broken": ("refine", "broken.json", *REFINE),
    "refine skeleton": ("refine", "results.json", *REFINE, "--skeleton", "skeleton.json"),
    "refine annotations": ("refine", "results.json", *REFINE, "--annotations", "twice.json"),
    "refine no such file": ("refine", f"{ESCAPE.splitlines()[0]}.json", *REFINE),
    "refine out": ("refine", "results.json", *REFINE[:-4], "--out", f"{ESCAPE.splitlines()[0]}.json"),
    "refine weights": ("refine", "results.json", "--images", "images", "--out", "o.json", "--weights", SECRET),
    "verify weights": ("weights", "verify", SECRET),
    "export weights": ("export", "--weights", SECRET, "--out", "exported"),
    "demo weights": ("demo", "--weights", SECRET, "--out", "demo.png"),
    "refine to a store": ("refine", "results.json", *REFINE[:-4], "--out", f"{SECRET}/x"),
    "evaluate id": ("evaluate", "val.json", "unknown_id.json"),
    "evaluate categories": ("evaluate", "category.json", "results.json"),
    "diagnose": ("diagnose", "val.json", "results.json", "--skeleton", "skeleton.json"),
    "formulas": ("diagnose", "labelled.json", "results.json", "--skeleton", "formulas.json", "--plot", "p.svg"),
    "weights card": ("weights", "card", "weights"),
    "weights verify": ("weights", "verify", "weights"),
    "weights verify other": ("weights", "verify", "other"),
    "weights verify key": ("weights", "verify", "key"),
    "train": ("train", "config.yaml"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_reaches_the_terminal(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, [str(a) for a in COMMANDS[name]])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    said = done.output
    assert said
    acting = {c for c in said if not (c.isprintable() or c == "\n")}
    assert not acting, said
    assert not [line for line in said.splitlines() if line.startswith("fake line")], said
    assert "SECRET" not in said
    assert done.exit_code == 0 or name != "formulas", said


def test_commands_print_through_one_function() -> None:
    prints = re.compile(r"click\.(echo|secho|echo_via_pager)\(|\bprint\(")
    files = Path(posefix.cli.__file__).parent.glob("*.py")
    found = {f.name for f in files if prints.search(f.read_text("utf-8"))}
    assert found == {"options.py"}
