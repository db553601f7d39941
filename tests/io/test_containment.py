"""Names in files do not lead out of the folder of images, wherever a folder is read."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from posefix.cli.main import main
from posefix.exceptions import ImageError, WeightsError
from posefix.io.image_names import find_images, image_path
from posefix.io.image_store import ImageStore
from posefix.network.config import ImageModelConfig

SOURCE = Path(__file__).resolve().parents[2] / "src" / "posefix"
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "a" / "1.png"), IMAGE)
    cv2.imwrite(str(tmp_path / "secret.png"), IMAGE)
    cv2.imwrite(str(tmp_path / "images-2.png"), IMAGE)
    os.symlink(tmp_path / "secret.png", tmp_path / "images" / "link.png")
    return tmp_path / "images"


OUTSIDE = ["../secret.png", "a/../../secret.png", "../images-2.png", "..", "a/../..", "/etc/passwd", "//etc/passwd"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"leads out of .*--allow-outside"):
        image_path(folder, name)
    with pytest.raises(ImageError, match="leads out of"):
        ImageStore(str(folder)).source(name)
    assert find_images(folder, [name]) == {name: name}
    monkeypatch.chdir(folder)
    with pytest.raises(ImageError, match="leads out of"):
        image_path(".", name)
    monkeypatch.setenv("POSEFIX_ALLOW_OUTSIDE", "1")
    assert image_path(folder, name) == os.path.join(folder, name)


@pytest.mark.parametrize("name", ["a/1.png", "a/../a/1.png", "link.png", "./a/1.png", "a/..1.png", "..a.png"])
def test_names_that_stay(folder: Path, name: str) -> None:
    assert image_path(folder, name) == os.path.join(folder, name)


def test_an_absolute_name_of_another_machine_is_found_by_its_base_name(folder: Path) -> None:
    assert find_images(folder, ["/data/val/1.png"]) == {"/data/val/1.png": os.path.join("a", "1.png")}


def test_nothing_joins_names_with_folders_another_way() -> None:
    """Images of results and annotations are opened through ``image_path``."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_image"
            if named and any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div) for n in ast.walk(node.args[0])):  # type: ignore[attr-defined]
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")  # type: ignore[attr-defined]
    assert [f for f in found if not f.startswith("cli/demo_pose.py")] == []  # the package's own image


def test_refine(folder: Path, tmp_path: Path) -> None:
    pose = [float(v) for k in range(17) for v in (10 + 2 * k, 20 + k, 0.9)]
    people = [{"image_id": i, "category_id": 1, "keypoints": pose, "score": 0.5, "file_name": n} for i, n in
              enumerate(["a/1.png", "../secret.png"])]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(people))
    command = ["refine", str(tmp_path / "r.json"), "--images", str(folder), "--out", str(tmp_path / "o.json")]
    result = CliRunner().invoke(main, [*command, "--draw", str(tmp_path / "drawn")])
    assert result.exit_code == 0, result.output
    assert "1 of 2 people refined" in result.output
    assert "leads out of" in result.output
    refined = json.loads((tmp_path / "o.json").read_text())
    assert refined[1] == people[1]
    assert not [p for p in (tmp_path / "drawn").glob("*") if "secret" in p.name]
    result = CliRunner().invoke(main, [*command, "--allow-outside"])
    assert "2 of 2 people refined" in result.output
    assert "POSEFIX_ALLOW_OUTSIDE" not in os.environ


@pytest.mark.parametrize("name", ["../x.onnx", "/x.onnx", "a/x.onnx", ".."])
def test_weights_name_files_of_their_own_folder(name: str) -> None:
    with pytest.raises(WeightsError, match="file must be a name in the weights folder"):
        ImageModelConfig(file=name)
