"""The command line as a newcomer meets it: help, examples, plain errors, exit statuses."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import posefix
from factories import annotation_file, make_weights, results_of
from posefix.cli.main import main
from posefix.weights.weights import save_weights

SOURCE = Path(posefix.__file__).parent


def commands(group: click.Group = main, trail: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {trail: group}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= commands(command, (*trail, name))
        else:
            found[(*trail, name)] = command
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, val.json, results/r.json and val/ as ``demo --data`` wants it."""
    folder = tmp_path_factory.mktemp("place")
    save_weights(folder / "weights", make_weights())
    rng = np.random.default_rng(0)
    data = annotation_file(rng, images=2, people=2)
    (folder / "val.json").write_text(json.dumps(data))
    (folder / "results").mkdir()
    (folder / "results" / "r.json").write_text(json.dumps(results_of(data, rng)))
    (folder / "val").mkdir()
    for image in data["images"]:
        noise = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        assert cv2.imwrite(str(folder / "val" / image["file_name"]), noise)
    return folder


@pytest.fixture
def inside(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with links to ``place``'s content."""
    for each in place.iterdir():
        (tmp_path / each.name).symlink_to(each)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> Result:
    return CliRunner().invoke(main, line.split())


def refused(line: str) -> str:
    """The one sentence of a command that must fail."""
    result = run(line)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert isinstance(result.exception, SystemExit)
    return result.stderr.removeprefix("Error: ").strip()


REFINE = "refine results/r.json --images val --annotations val.json --out refined.json --weights weights --device cpu"


def test_version() -> None:
    assert run("--version").output == f"posefix, version {posefix.__version__}\n"


@pytest.mark.parametrize("trail", sorted(commands()), ids=" ".join)
def test_every_help_text_has_an_example(trail: tuple[str, ...]) -> None:
    result = run(" ".join([*trail, "--help"]))
    assert result.exit_code == 0
    assert run(" ".join([*trail, "-h"])).output == result.output
    assert re.search(r"^  Examples?:$", result.output, re.M)
    assert re.search(rf"^    posefix {' '.join(trail)}".rstrip(), result.output, re.M)


@pytest.mark.parametrize("trail", [t for t in sorted(commands()) if not isinstance(commands()[t], click.Group)])
def test_every_option_is_explained(trail: tuple[str, ...]) -> None:
    for parameter in commands()[trail].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help.rstrip().endswith((".", ")", "…")), parameter.help


@pytest.mark.parametrize("trail", [(), ("weights",)])
def test_the_list_of_commands_is_not_cut_off(trail: tuple[str, ...]) -> None:
    assert "..." not in CliRunner().invoke(main, [*trail, "--help"]).output.split("Commands:")[1]


def test_a_command_is_suggested() -> None:
    result = CliRunner().invoke(main, ["refin"])
    assert result.exit_code == 2
    assert "No such command 'refin'. Did you mean refine?" in result.output
    assert "Did you mean" not in CliRunner().invoke(main, ["xyz"]).output


def test_completion_is_documented_and_works() -> None:
    assert "_POSEFIX_COMPLETE=bash_source posefix" in run("--help").output
    done = CliRunner().invoke(
        main,
        prog_name="posefix",
        env={"_POSEFIX_COMPLETE": "zsh_complete", "COMP_WORDS": "posefix r", "COMP_CWORD": "1"},
    )
    assert "refine" in done.output


def test_refine(inside: Path) -> None:
    result = run(REFINE)
    assert result.exit_code == 0, result.output
    assert "4 of 4 people refined" in result.stdout
    assert result.stderr == ""  # no progress bar without a terminal
    assert len(json.loads(Path("refined.json").read_text())) == 4


def test_refine_nobody(inside: Path) -> None:
    Path("none.json").write_text("[]")
    result = run(REFINE.replace("results/r.json", "none.json"))
    assert result.exit_code == 0
    assert "0 of 0 people refined" in result.output
    assert Path("refined.json").read_text() == "[]\n"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("results/r.json", "nowhere.json", "nowhere.json: no such file"),
        ("results/r.json", "val.json", "val.json: this is an annotation file"),
        ("results/r.json", "empty.json", "empty.json: the file is empty, expected JSON"),
        ("results/r.json", "shares.json", "expected pixels of the image, got only coordinates in 0…1; multiply x by"),
        ("results/r.json", "plain.json", "has 34 numbers as keypoints; expected [x, y, score] of each, 51 numbers"),
        ("results/r.json", "val/001.jpg", "expected JSON text, got binary data"),
        ("--annotations val.json", "--annotations results/r.json", "this is a list, as results files are"),
        ("--annotations val.json", "--annotations nowhere.json", "nowhere.json: no such file"),
        ("--images val", "--images nowhere", "nowhere: no such file or folder"),
        ("--images val", "--images weights", "none of the 2 images can be read, nothing is written"),
        ("--out refined.json", "--out nowhere/refined.json", "nowhere does not exist; create it first"),
        ("--out refined.json", "--out val", "val: expected a file to write, got a folder"),
        ("--weights weights", "--weights nowhere", "no such folder 'nowhere'"),
        ("--weights weights", "--weights val", "config.json"),
        ("--device cpu", "--device tpu9", "device: expected"),
        ("--device cpu", "--batch-size 0", "batch_size: expected an integer in 1…1,000,000, got 0"),
        ("--device cpu", "--skeleton mpii", "val.json: expected the 16 keypoints of skeleton 'mpii'"),
        ("--device cpu", "--skeleton mpii", "skeleton (on the command line --skeleton) names another set"),
        ("--device cpu", "--format openpose", "expected an OpenPose frame"),
    ],
)
def test_refine_says_what_is_wrong(inside: Path, old: str, new: str, part: str) -> None:
    Path("empty.json").write_text("")
    entries = json.loads(Path("results/r.json").read_text())
    shares = [{**e, "keypoints": np.clip(np.divide(e["keypoints"], 1000), 0, 1).tolist()} for e in entries]
    Path("shares.json").write_text(json.dumps(shares))
    Path("plain.json").write_text(json.dumps([{**e, "keypoints": e["keypoints"][:34]} for e in entries]))
    assert old in REFINE
    before = sorted(os.listdir())
    assert part in refused(REFINE.replace(old, new))
    assert sorted(os.listdir()) == before  # nothing whole, nothing in part


def test_a_broken_image_is_named(inside: Path) -> None:
    Path("val").unlink()
    Path("val").mkdir()
    Path("val/001.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert cv2.imwrite("val/002.jpg", np.zeros((480, 640, 3), np.uint8))
    result = run(REFINE)
    assert result.exit_code == 0
    assert "2 of 4 people refined" in result.output
    assert "001.jpg: image 'val/001.jpg': the file is cut short" in result.output
    strict = run(REFINE + " --strict")
    assert strict.exit_code == 1
    assert strict.stderr == "Error: 2 of 4 people could not be refined\n"


def test_an_openpose_folder_needs_a_folder(inside: Path) -> None:
    Path("frames").mkdir()
    Path("frames/001_keypoints.json").write_text('{"people": []}')
    Path("out").write_text("")
    line = "refine frames --images val --out out --weights weights"
    assert "out: expected a folder to write to, got a file" in refused(line)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("evaluate nowhere.json results/r.json", "nowhere.json: no such file"),
        ("evaluate results/r.json results/r.json", "this is a list, as results files are"),
        ("evaluate val.json val.json", "this is an annotation file, expected results"),
        ("evaluate val.json nowhere.json", "nowhere.json: no such file"),
        ("evaluate val.json results/r.json --json nowhere/a.json", "nowhere does not exist"),
        ("evaluate val.json results/r.json --skeleton mpii", "mpii"),
        ("evaluate val.json results/r.json --metric pckh --skeleton crowdpose", "--metric pckh is defined for"),
        ("evaluate val.json results/r.json --metric poseval", "keypoints"),
        ("diagnose nowhere.json results/r.json", "nowhere.json: no such file"),
        ("diagnose results/r.json val.json", "this is a list, as results files are"),
        ("diagnose val.json results/r.json --after none.json", "expected the 4 people"),
        ("diagnose val.json results/r.json --json nowhere/a.json", "nowhere does not exist"),
        ("train nowhere.yaml", "nowhere.yaml"),
        ("train val.json", "val.json"),
        ("train wrong.yaml", "colour"),
        ("train missing.yaml", "nowhere.json: no such file"),
        ("train folder.yaml", "sets: no such folder of images"),
        ("train rates.yaml", "rates: 'wings' is no part of skeleton 'coco'; known are nose, eye, ear"),
        ("demo --weights nowhere", "no such folder 'nowhere'"),
        ("demo --weights weights --out nowhere/demo.png", "nowhere does not exist"),
        ("demo --weights weights --data val", "found none"),
        ("convert nowhere.ckpt --out converted", "nowhere.ckpt"),
        ("weights verify nowhere", "no such folder 'nowhere'"),
        ("weights verify val", "config.json"),
        ("demo --weights .", "has no config.json; did you mean weights?"),
    ],
)
def test_commands_say_what_is_wrong(inside: Path, line: str, part: str) -> None:
    Path("none.json").write_text("[]")
    Path("wrong.yaml").write_text("colour: red\n")
    Path("missing.yaml").write_text("sets: [{annotations: nowhere.json, images: val}]\nout: run\n")
    Path("folder.yaml").write_text("sets: [{annotations: val.json, images: nowhere}]\nout: run\n")
    rates = "jitter: [0.3, 0.3], miss: [0.0, 0.0, 0.0], inversion: 0.0, swap: [0.0, 0.0]"
    Path("rates.yaml").write_text(f"sets: [{{annotations: val.json, images: val}}]\nrates: {{wings: {{{rates}}}}}\n")
    assert part in refused(line)


def test_a_image_of_no_known_kind(inside: Path) -> None:
    result = run("demo --weights weights --out demo.txt --device cpu")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "Error: demo.txt: expected a name that ends in .png or .jpg or .jpeg, got one that ends in .txt\n"
    )


def test_demo(inside: Path) -> None:
    result = run("demo --weights weights --out demo.png --data . --device cpu")
    assert result.exit_code == 0, result.output
    assert Path("demo.png").stat().st_size > 1000
    assert "astronaut.jpg" in Path("demo.html").read_text(encoding="utf-8")
    assert Path("demo-r.html").stat().st_size > 1000
    for part in ("Refiner(mobilenet_v2", "left_eye", "mean keypoint similarity", "r.json: 4 of 4 people", "after"):
        assert part in result.stdout


def test_evaluate(inside: Path) -> None:
    Path("none.json").write_text("[]")
    result = run("evaluate val.json results/r.json none.json --samples 20 --json table.json")
    assert result.exit_code == 0, result.output
    assert "95 % interval" in result.output
    assert "none.json" in result.output
    assert json.loads(Path("table.json").read_text())


def test_diagnose(inside: Path) -> None:
    result = run("diagnose val.json results/r.json --json report.json --draw worst --images val --worst 2")
    assert result.exit_code == 0, result.output
    assert "AP lost to it" in result.output
    assert len(list(Path("worst").iterdir())) == 2
    assert json.loads(Path("report.json").read_text())


@pytest.mark.parametrize("line", ["refine", "refine r.json", "evaluate val.json", "nonsense", "diagnose a b --draw c"])
def test_wrong_usage_has_status_2(line: str) -> None:
    result = run(line)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_interrupted(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("posefix.inference.refiner.Refiner.paste_back", interrupt)
    before = sorted(os.listdir())
    result = run(REFINE)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.strip() == "Interrupted."
    assert sorted(os.listdir()) == before


def test_interrupted_while_writing(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("posefix.io.json.os.fsync", interrupt)
    Path("refined.json").write_text("old")
    before = sorted(os.listdir())
    assert run(REFINE).exit_code == 130
    assert sorted(os.listdir()) == before
    assert Path("refined.json").read_text() == "old"


def test_errors_of_the_system_are_plain(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device", "refined.json")

    monkeypatch.setattr("posefix.io.json.os.replace", full)
    assert "No space left on device" in refused(REFINE)


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "posefix", "--version"], capture_output=True, text=True, timeout=300)
    assert done.stdout == f"posefix, version {posefix.__version__}\n"
    assert done.stderr == ""


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_commands_speak(path: Path) -> None:
    """Modules log; what is for the user's eyes is the command line's."""
    called = calls(ast.parse(path.read_text(encoding="utf-8")))
    if path.name in ("deprecation.py", "packed.py"):  # a warning for users; results on standard output
        return
    forbidden = {"print", "pprint", "warnings.warn", "tqdm.write", "sys.stdout.write", "sys.stderr.write"}
    if path.relative_to(SOURCE).parts[0] != "cli":
        forbidden |= {"click.echo", "click.secho", "logging.basicConfig"}
    assert not called & forbidden
    assert not {c for c in called if re.fullmatch(r"logging\.(debug|info|warning|error|exception)", c)}
