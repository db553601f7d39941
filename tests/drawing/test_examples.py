"""Before | after images of the people who gained most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import FOUR
from posefix.drawing.examples import write_examples
from posefix.exceptions import InputError
from posefix.io.images import load_image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / "000000000007.jpg"), noise)
    return tmp_path


def person(*points: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    return {"image_id": 7, "keypoints": [float(v) for p in points for v in p], **more}


def pairs(*shifts: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    before = [person((10, 10, 1), (30, 10, 1), (10, 50, 1), (40, 50, 1), score=0.5) for _ in shifts]
    after = [
        {**entry, "keypoints": [v + shift * (n % 3 < 2) for n, v in enumerate(entry["keypoints"])]}
        for entry, shift in zip(before, shifts, strict=True)
    ]
    return before, after


def test_best_first(tmp_path: Path, images: Path) -> None:
    written = write_examples(*pairs(2, 9, 0, 4), images, tmp_path / "out", skeleton=FOUR)
    assert [p.name for p in written] == [f"{r:03d}_000000000007_{i}.png" for r, i in ((1, 1), (2, 3), (3, 0))]


def test_true_gains_and_losses(tmp_path: Path, images: Path) -> None:
    gains = [0.1, -0.5, np.nan, 0.3, -0.1, 0.2]
    written = write_examples(*pairs(*[5.0] * 6), images, tmp_path / "out", skeleton=FOUR, gains=gains, most=4)
    assert [p.name.split("_")[0] + p.stem[-2:] for p in written] == ["gain_3", "gain_5", "gain_0", "loss_1"]
    everything = write_examples(*pairs(*[5.0] * 6), images, tmp_path / "all", skeleton=FOUR, gains=gains)
    assert [p.stem[-1] for p in everything] == ["3", "5", "0", "1", "4"]


def test_facts_and_legend_stand_below(tmp_path: Path, images: Path) -> None:
    before, after = pairs(8)
    bare = [{k: v for k, v in entry.items() if k != "score"} for entry in before]
    with_score = load_image(write_examples(before, after, images, tmp_path / "a", skeleton=FOUR)[0])
    without = load_image(write_examples(bare, bare and after, images, tmp_path / "b", skeleton=FOUR)[0])
    assert with_score.shape[1] == without.shape[1]
    strip = with_score[480:]
    assert len(strip) >= 44
    assert (strip == 255).mean() > 0.6
    assert len(np.unique(strip.reshape(-1, 3), axis=0)) > 4  # the marks' colours
    assert (with_score[480:502] != without[480:502]).any()


def test_bad_images_are_passed_over(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = pairs(8, 8)
    for entries in (before, after):
        entries[0]["image_id"] = 8
    written = write_examples(before, after, images, tmp_path / "out", skeleton=FOUR, most=1)
    assert [p.name for p in written] == ["001_000000000007_1.png"]
    assert "000000000008.jpg" in caplog.text


def test_people_half_outside_the_image(tmp_path: Path, images: Path) -> None:
    before = [person((-500, 10, 1), (9000, 10, 1), (10, 50, 1), (np.nan, 50, 1))]
    after = [person((10, 10, 1), (30, 10, 1), (10, 50, 1), (40, 50, 1))]
    assert len(write_examples(before, after, images, tmp_path / "out", skeleton=FOUR)) == 1


def test_a_file_in_place_of_the_folder(tmp_path: Path, images: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="the folder cannot be made"):
        write_examples(*pairs(8), images, tmp_path / "taken", skeleton=FOUR)
