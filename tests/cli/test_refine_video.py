"""``posefix refine-video`` from a file and its video to refined files, a video and a plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from factories import make_weights
from posefix.cli import refine_video
from posefix.cli.main import main
from posefix.weights.weights import save_weights

T = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, its poses, and small untrained weights."""
    folder = tmp_path_factory.mktemp("video")
    save_weights(folder / "weights", make_weights(input_hw=(64, 64)))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    writer = cv2.VideoWriter(str(folder / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    (folder / "frames").mkdir()
    for t in range(T):
        writer.write(np.roll(image, t, 1))
        cv2.imwrite(str(folder / "frames" / f"{t}.png"), np.roll(image, t, 1))
    writer.release()
    pose = rng.uniform((20, 20), (80, 100), (17, 2))
    rows = [
        {
            "image_id": t,
            "category_id": 1,
            "track_id": 7,
            "keypoints": np.column_stack([points, np.full(17, 0.8)]).ravel().tolist(),
            "score": 0.5,
        }
        for t, points in enumerate(pose + rng.normal(0, 1, (T, 17, 2)))
    ]
    (folder / "in.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("source", ["in.avi", "frames"])
def test_from_files_to_files(folder: Path, tmp_path: Path, source: str) -> None:
    pytest.importorskip("matplotlib")
    out, film, plot = tmp_path / "out.json", tmp_path / "look.mp4", tmp_path / "plot.png"
    command = ["refine-video", str(folder / source), str(folder / "in.json"), "--out", str(out)]
    command += ["--weights", str(folder / "weights"), "--video", str(film), "--plot", str(plot)]
    command += ["--plot-keypoints", "nose,left_wrist"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert f"{T} frames, 1 person (coco)" in result.output
    before, after = json.loads((folder / "in.json").read_text()), json.loads(out.read_text())
    assert [{**a, "keypoints": 0} for a in after] == [{**b, "keypoints": 0} for b in before]
    assert [a["keypoints"] for a in after] != [b["keypoints"] for b in before]
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == T
    assert cv2.imread(str(plot)) is not None


def test_an_offset_that_was_taken_off_is_said() -> None:
    def line(*offsets: tuple[float, float]) -> str:
        parts = [SimpleNamespace(offset=np.full((3, 2, 2), o)) for o in offsets]
        return refine_video._offset_line(parts)  # type: ignore[arg-type]

    assert line() == line((0.0, 0.0), (0.0, 0.0)) == ""
    # The keypoints lay to the other side of where they were moved to; frames before it was known do not count.
    assert "by (6.5, -2.0) px" in line((0.0, 0.0), (-6.5, 2.0), (0.0, 0.0))


def test_online(folder: Path, tmp_path: Path) -> None:
    command = ["refine-video", str(folder / "in.avi"), str(folder / "in.json"), "--out", str(tmp_path / "o.json")]
    command += ["--weights", str(folder / "weights"), "--online", "--delay", "2"]
    command += ["--backend", "torch", "--threads", "2"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "computed by torch, " in result.output
    assert ", 2 threads" in result.output
    assert len(json.loads((tmp_path / "o.json").read_text())) == T


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.mp4", "in.json", "--out", "o.json"], "no such file"),
        (["in.avi", "absent.json", "--out", "o.json"], "absent.json"),
        (["in.avi", "in.json", "--out", "absent/o.json"], "does not exist"),
        (["in.avi", "in.json", "--out", "o.json", "--plot-keypoints", "tail"], "tail"),
        (["in.avi", "in.json", "--out", "o.json", "--first-frame", "3"], "before the first"),
        (["in.avi", "in.json", "--out", "o.json", "--plot", "o.png", "--plot-person", "4"], "one of the 1 people"),
    ],
)
def test_mistakes_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["refine-video", *arguments, "--weights", "weights"])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (folder / "o.json").exists()


def test_a_plot_needs_matplotlib_before_the_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(folder)
    line = ["in.avi", "in.json", "--out", str(tmp_path / "o.json"), "--plot", str(tmp_path / "p.png")]
    result = CliRunner().invoke(main, ["refine-video", *line, "--weights", "weights"])
    assert result.exit_code == 1
    assert "pip install 'posefix[plot]'" in result.output
    assert not (tmp_path / "o.json").exists()


def test_a_video_that_ends_early_is_told(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = json.loads((folder / "in.json").read_text())
    long, out = tmp_path / "long.json", tmp_path / "o.json"
    command = ["refine-video", str(folder / "in.avi"), str(long), "--out", str(out)]
    late = {**rows[-1], "image_id": T + 1}
    long.write_text(json.dumps([*rows, late]))
    result = CliRunner().invoke(main, [*command, "--weights", str(folder / "weights")])
    assert result.exit_code == 0, result.output
    assert f"the frames end after {T} of {T + 2}" in caplog.text
    assert json.loads(out.read_text())[-1] == late
    out.unlink()
    long.write_text(json.dumps([*rows, {**late, "image_id": 3 * T}]))
    result = CliRunner().invoke(main, [*command, "--weights", str(folder / "weights")])
    assert result.exit_code == 1
    assert f"expected {3 * T + 1}" in result.output
    assert not out.exists()
