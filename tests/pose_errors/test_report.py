from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from factories import annotation_file, results_of, shared_dir
from posefix.cli.diagnose import diagnose
from posefix.evaluation.coco_ap import evaluate
from posefix.exceptions import InputError, MissingDependencyError
from posefix.io.coco import annotations_of
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.diagnosis import diagnose_results
from posefix.pose_errors.plots import plot_shares, worst_people, write_worst_people
from posefix.pose_errors.report import Report, format_report, make_report, to_json
from posefix.pose_errors.synthesis import PoseError


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return annotation_file(np.random.default_rng(3), people=4)


@pytest.fixture(scope="module")
def files(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(4)
    for name, content in (
        ("val.json", data),
        ("before.json", results_of(data, rng, 12.0)),
        ("after.json", results_of(data, rng, 6.0)),
    ):
        (folder / name).write_text(json.dumps(content))
    (folder / "images").mkdir()
    for image in data["images"][:-1]:
        cv2.imwrite(str(folder / "images" / image["file_name"]), rng.integers(0, 255, (480, 640, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def report(files: Path) -> Report:
    return make_report(files / "val.json", files / "before.json", refined=files / "after.json")


# ---------------------------------------------------------------- AP lost


def test_exact_results_lose_nothing(data: dict[str, Any]) -> None:
    losses = make_report(data, results_of(data, np.random.default_rng(0), 0.0)).losses
    assert losses.ap == pytest.approx(1.0)
    assert set(losses.lost) == {PoseError.JITTER, PoseError.INVERSION, PoseError.SWAP, PoseError.MISS}
    assert {*losses.lost.values(), losses.lost_to_all} == {0.0}


def test_a_kind_alone_costs_what_it_costs(data: dict[str, Any]) -> None:
    """Both sides exchanged in every other person: nothing but inversions."""
    entries = results_of(data, np.random.default_rng(0), 0.0)
    for entry in entries[::2]:
        pose = np.reshape(np.array(entry["keypoints"]), (17, 3))
        pose[5:] = pose[COCO.flip_indices][5:]
        entry["keypoints"] = pose.reshape(-1).tolist()
    losses = make_report(data, entries).losses
    assert losses.ap < 0.9
    # Where the mirror is not labelled the same exchange is a miss.
    assert losses.lost[PoseError.INVERSION] > 0.1
    assert losses.lost[PoseError.JITTER] == 0.0
    assert losses.ap + losses.lost_to_all == pytest.approx(1.0)


def test_losses_are_those_of_the_evaluation(report: Report, files: Path) -> None:
    assert report.losses.ap == evaluate(files / "val.json", files / "before.json").ap
    assert report.losses_after is not None
    assert report.losses_after.ap == evaluate(files / "val.json", files / "after.json").ap
    assert report.losses.lost_to_all >= max(report.losses.lost.values()) > 0


# ---------------------------------------------------------------- text and JSON


def test_the_text_holds_the_numbers(report: Report) -> None:
    text = format_report(report)
    lines = text.splitlines()
    assert "16 of 16 detections matched with 16 people" in lines[1]
    before, after = (d.counts for d in (report.before, report.after) if d is not None)
    knee = next(line for line in lines if line.startswith("left_knee")).split()
    shares = [f"{100 * n / before[13].sum():.1f}" for n in before[13]]
    refined = [f"{100 * n / before[13].sum():.1f}" for n in after[13]]
    pairs = [word for pair in zip(shares, refined, strict=True) for word in (pair[0], "→", pair[1])]
    assert knee == ["left_knee", *pairs, str(before[13].sum())]
    assert max(map(len, lines[1:])) <= 100
    assert "made worse" in text
    assert "made worse" not in format_report(Report(report.before, report.losses))


def test_nobody_can_be_printed(data: dict[str, Any]) -> None:
    empty = make_report(data, [], refined=[])
    assert "–" in format_report(empty)
    json.dumps(to_json(empty), allow_nan=False)


def test_json_holds_everything(report: Report) -> None:
    data = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert set(data) == {"kinds", "before", "after", "transitions", "moved"}
    shares = data["before"]["all"]
    assert sum(shares[kind] for kind in data["kinds"]) == pytest.approx(1.0)
    assert shares["keypoints"] == np.sum(data["transitions"])
    assert set(data["before"]["by_part"]) == set(report.before.skeleton.parts)
    assert len(data["before"]["by_keypoint"]) == 17
    assert data["moved"]["better"]["all"] > data["moved"]["worse"]["all"] > 0
    assert set(to_json(Report(report.before, report.losses))) == {"kinds", "before"}


# ---------------------------------------------------------------- images


@pytest.fixture
def _no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("_no_matplotlib")
def test_without_matplotlib_the_message_says_what_to_install(report: Report, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'posefix\[plot\]'"):
        plot_shares(report.before, tmp_path / "plot.png")


def test_the_plot(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib (posefix[plot])")
    plot_shares(report.before, tmp_path / "one.png")
    plot_shares(report.before, tmp_path / "two.svg", report.after)
    assert cv2.imread(str(tmp_path / "one.png")) is not None
    assert "</svg>" in (tmp_path / "two.svg").read_text()
    for name in ("absent/one.png", "one.unknown"):
        with pytest.raises(InputError, match=r"cannot be written|does not exist"):
            plot_shares(report.before, tmp_path / name)


def test_the_worst_people_come_first(report: Report) -> None:
    worst = worst_people(report.before, most=5)
    assert len(worst) == 5
    np.testing.assert_array_equal(report.before.oks[worst], np.sort(report.before.oks)[:5])
    assert report.after is not None
    change = report.after.oks - report.before.oks
    assert worst_people(report.before, report.after, 100) == [i for i in np.argsort(change) if change[i] < 0]


@pytest.mark.parametrize(("refined", "panels"), [(False, 2), (True, 3)])
def test_images_of_the_worst(
    files: Path, tmp_path: Path, refined: bool, panels: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = diagnose_results(files / "val.json", files / "after.json")
    after = diagnose_results(files / "val.json", files / "before.json", like=before) if refined else None
    truth = annotations_of(json.loads((files / "val.json").read_text()))
    with caplog.at_level(logging.WARNING):
        written = write_worst_people(truth, before, files / "images", tmp_path / "new" / "worst", after=after, most=16)
    assert 5 < len(written) <= 12  # one image of four is not there
    assert "004.jpg" in caplog.text
    assert [p.name for p in written] == sorted(p.name for p in written)
    for path in written:
        height, width = cv2.imread(str(path)).shape[:2]
        assert height == 480
        assert width > panels * 100


def test_a_folder_that_cannot_be_made_is_named(files: Path, report: Report) -> None:
    truth = annotations_of(json.loads((files / "val.json").read_text()))
    with pytest.raises(InputError, match=r"val\.json.*cannot be made"):
        write_worst_people(truth, report.before, files / "images", files / "val.json" / "worst")


# ---------------------------------------------------------------- the command


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(diagnose, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command(files: Path, tmp_path: Path) -> None:
    code, text = run(
        *(files / "val.json", files / "before.json", "--after", files / "after.json", "--json", tmp_path / "out.json"),
        *("--pictures", tmp_path / "worst", "--images", files / "images", "--worst", 3),
    )
    assert code == 0, text
    assert text.count("─\n") > 3
    assert json.loads((tmp_path / "out.json").read_text())["after"]["ap"] > 0
    assert f"images written to {tmp_path / 'worst'}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("val.json", "absent.json"), "no such file"),
        (("before.json", "val.json"), "expected annotations"),
        (("val.json", "before.json", "--draw", "x"), "--draw needs --images"),
        (("val.json", "before.json", "--skeleton", "mpii"), "skeleton 'mpii'"),
        (("val.json", "before.json", "--skeleton", "cat"), "'cat'"),
    ],
)
def test_mistakes_are_one_sentence(files: Path, arguments: tuple[str, ...], message: str) -> None:
    code, text = run(*(files / a if a.endswith(".json") else a for a in arguments))
    assert code != 0
    assert message in text
    assert "Traceback" not in text


@pytest.mark.usefixtures("_no_matplotlib")
def test_a_plot_that_cannot_be_drawn_fails_before_the_work(files: Path, tmp_path: Path) -> None:
    code, text = run(files / "val.json", files / "before.json", "--plot", tmp_path / "plot.png")
    assert code == 1
    assert text.startswith("Error: plots need matplotlib")


# ---------------------------------------------------------------- real estimators


def test_what_real_estimators_lose() -> None:
    coco = shared_dir() / "data" / "coco"
    reports = [
        make_report(coco / "val.json", coco / "results" / f"{name}.json")
        for name in ("tinypose_256", "simplepose", "movenet", "posenet")
    ]
    misses = [r.losses.lost[PoseError.MISS] for r in reports]
    assert misses == sorted(misses)
    for made in reports:
        assert made.losses.lost[PoseError.MISS] == max(made.losses.lost.values())
        assert made.losses.lost[PoseError.JITTER] > made.losses.lost[PoseError.INVERSION] > 0
        assert made.losses.lost_to_all > sum(made.losses.lost.values())
