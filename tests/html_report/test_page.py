"""The file: whole, closed to the network, and names in it are text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from factories import FOUR, annotation_file, random_poses
from posefix.exceptions import InputError
from posefix.html_report.page import write_html_report
from posefix.html_report.people import Source
from posefix.io.coco import annotations_of
from posefix.pose_errors.report import make_report

NASTY = "</script><img src=x onerror=alert(1)>&\u2028.jpg"


def data_in(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def people(count: int, **more: Any) -> list[dict[str, Any]]:
    poses = random_poses(np.random.default_rng(0), count, FOUR)
    return [
        {"image_id": 1 + i % 3, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5, **more}
        for i, p in enumerate(poses)
    ]


def shifted(entries: list[dict[str, Any]], by: float) -> list[dict[str, Any]]:
    return [{**e, "keypoints": [v + by * (n % 3 < 2) for n, v in enumerate(e["keypoints"])]} for e in entries]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (1, 2, 3):
        assert cv2.imwrite(str(folder / f"{i:012d}.jpg"), np.full((480, 640, 3), 60 * i, np.uint8))
    return folder


def test_everything_of_everybody(tmp_path: Path, images: Path) -> None:
    before = people(5)
    before[2]["keypoints"][:3] = [0.0, 0.0, 0.0]
    after = shifted(before, 5.0)
    after[2]["keypoints"][:3] = [50.0, 60.0, 0.4]
    path = tmp_path / "report.html"
    assert write_html_report(path, Source(before, after, FOUR, images), title="mine", notes=["5 people"]) == 5
    data = data_in(path)
    assert (data["title"], data["notes"], data["refined"]) == ("mine", ["5 people"], True)
    assert data["skeleton"]["keypoints"] == list(FOUR.keypoints)
    assert data["figures"]["kinds"] is None
    moves = data["figures"]["moves"]
    assert (moves["keypoints"], moves["moved"], moves["filled"]) == (19, 19, 1)
    assert moves["median"] == pytest.approx(7.1, abs=0.05)
    assert sum(moves["histogram"]) == 19
    found = {p["entry"]: p for p in data["people"]}
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[2]["before"][0] is None
    assert found[2]["after"][0] is not None
    assert found[0]["moved"] == [7.1] * 4
    # Places in the shown image: differences are those of the poses, in its scale.
    person = found[0]
    shown = np.array(person["after"])[:, :2] - np.array(person["before"])[:, :2]
    np.testing.assert_allclose(shown, 5.0 * person["scale"], atol=0.11)
    assert all(p["photo"] for p in data["people"])


def test_places_are_those_of_the_image(tmp_path: Path) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[80:83, 100:103] = 255
    assert cv2.imwrite(str(tmp_path / "000000000001.png"), image)
    points = np.array([[101, 81, 1], [60, 40, 1], [150, 120, 1], [90, 90, 1]], float)
    entry = {"image_id": 1, "file_name": "000000000001.png", "keypoints": points.reshape(-1).tolist(), "score": 1.0}
    write_html_report(tmp_path / "r.html", Source([entry], [entry], FOUR, tmp_path))
    person = data_in(tmp_path / "r.html")["people"][0]
    photo = cv2.imdecode(np.frombuffer(base64.b64decode(person["photo"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert photo is not None
    y, x = np.nonzero(photo > 128)
    stored = (np.array([x.mean(), y.mean()]) + 0.5) * person["size"][0] / photo.shape[1]
    np.testing.assert_allclose(stored, person["before"][0][:2], atol=0.6)


def test_names_are_text(tmp_path: Path) -> None:
    entries = people(1, file_name=NASTY, id="<b>7</b>")
    path = tmp_path / "report.html"
    write_html_report(path, Source(entries, entries, FOUR), title=NASTY, notes=[NASTY])
    text = path.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "onerror=alert(1)&gt;&amp;" in text  # the title element
    assert text.count("</script>") == 2
    data = data_in(path)
    assert data["title"] == data["notes"][0] == data["people"][0]["image"] == NASTY
    assert data["people"][0]["id"] == "<b>7</b>"


def test_nothing_leads_out(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_html_report(path, Source(people(1), None, FOUR))
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=|@import|url\((?!#|`)", text.replace("url(#${id})", ""))
    assert "default-src 'none'" in text


def test_few_of_many(tmp_path: Path) -> None:
    before = people(6)
    after = [shifted([e], by)[0] for e, by in zip(before, (0, 9, 1, 0, 30, 0), strict=True)]
    path = tmp_path / "report.html"
    assert write_html_report(path, Source(before, after, FOUR), most=2) == 2
    data = data_in(path)
    assert [p["entry"] for p in data["people"]] == [4, 1]
    assert data["figures"]["people"] == 6


def test_with_labelled_people(tmp_path: Path) -> None:
    file = annotation_file(np.random.default_rng(1), images=3, people=2, skeleton=FOUR)
    truth = annotations_of(file, FOUR)
    right = [
        {"image_id": i, "category_id": 1, "score": 0.9, "keypoints": p.reshape(-1).tolist()}
        for i, p in zip(truth.image_ids.tolist(), truth.ground_truth, strict=True)
    ]
    wrong = shifted(right, 12.0)
    report = make_report(truth, wrong, FOUR, refined=right)
    path = tmp_path / "report.html"
    write_html_report(path, Source(wrong, right, FOUR, annotations=truth, diagnosis=report))
    data = data_in(path)
    kinds = data["figures"]["kinds"]
    assert kinds["ap"] == pytest.approx([report.losses.ap, 1.0], abs=1e-4)
    assert sum(kinds["all"][0]) == sum(kinds["all"][1]) == kinds["all"][1][0]
    assert kinds["worse"] == 0
    assert kinds["better"] > 0
    first = data["people"][0]
    assert first["oks"][1] == 1.0
    assert len(first["kinds"]) == 2
    assert first["truth"] is not None
    alone = make_report(truth, wrong, FOUR)
    write_html_report(path, Source(wrong, None, FOUR, annotations=truth, diagnosis=alone))
    oks = [p["oks"][0] for p in data_in(path)["people"] if p["oks"]]
    assert oks == sorted(oks)


def test_what_is_no_pose_and_images_that_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [*people(2), {"image_id": 1}, {"image_id": 1, "keypoints": [0.0] * 12, "score": "high"}]
    path = tmp_path / "report.html"
    assert write_html_report(path, Source(entries, entries, FOUR, tmp_path)) == 3
    assert "000000000001.jpg" in caplog.text
    data = data_in(path)
    assert all(p["photo"] is None for p in data["people"])
    assert write_html_report(path, Source([], [], FOUR)) == 0
    with pytest.raises(InputError, match="does not exist"):
        write_html_report(tmp_path / "no" / "r.html", Source([], [], FOUR))
