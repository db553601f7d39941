"""Results as other programs wrap, nest and pack them: the same people in, the same form out."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posefix.adapters.containers import unwrap
from posefix.adapters.files import read_any
from posefix.exceptions import FileFormatError

KEYPOINTS = np.random.default_rng(0).uniform(1, 90, (3, 17, 3)).round(3)
FLAT = [k.reshape(-1).tolist() for k in KEYPOINTS]


def coco() -> list[dict[str, Any]]:
    return [{"image_id": i, "category_id": 1, "keypoints": row, "score": 0.5} for i, row in enumerate(FLAT)]


def nested(size: int) -> list[dict[str, Any]]:
    people = []
    for i, k in enumerate(KEYPOINTS):
        person: dict[str, Any] = {"image_id": i, "keypoints": k[:, :size].tolist(), "score": 0.5, "other": [1]}
        if size == 2:
            person["keypoint_scores"] = k[:, 2].tolist()
        people.append(person)
    return people


def open_pose() -> dict[str, Any]:
    eighteen = [*FLAT[0], 1.0, 2.0, 0.5]
    return {f"{i}.jpg": {"version": "AlphaPose", "people": [{"pose_keypoints_2d": eighteen}] * i} for i in range(3)}


FORMS: dict[str, Callable[[], Any]] = {
    "plain": coco,
    "results": lambda: {"results": coco(), "model": "m"},
    "predictions": lambda: {"info": {}, "predictions": coco()},
    "annotations": lambda: {"annotations": coco()},
    "nested": lambda: nested(3),
    "nested points and scores": lambda: nested(2),
    "wrapped and nested": lambda: {"results": nested(3)},
    "AlphaPose open": open_pose,
    "AlphaPose cmu": lambda: {
        k: {"version": "AlphaPose", "bodies": [{"joints": p["pose_keypoints_2d"]} for p in v["people"]]}
        for k, v in open_pose().items()
    },
    "PoseFlow": lambda: {f"{i}.jpg": [{"keypoints": row, "idx": 1, "score": 2.0}] for i, row in enumerate(FLAT)},
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_refined_is_written_as_it_was(name: str, tmp_path: Path) -> None:
    file, out = tmp_path / "r.json", tmp_path / "out.json"
    file.write_text(json.dumps(FORMS[name]()))
    opened = read_any(file)
    assert len(opened.entries) == 3
    assert all(len(e["keypoints"]) == 51 for e in opened.entries)
    opened.write(out, opened.entries)
    assert json.loads(out.read_text()) == FORMS[name]()


@pytest.mark.parametrize("name", FORMS)
def test_refined_numbers_come_back_in_the_same_places(name: str, tmp_path: Path) -> None:
    file, out = tmp_path / "r.json", tmp_path / "out.json"
    file.write_text(json.dumps(FORMS[name]()))
    opened = read_any(file)
    new = [
        {**e, "keypoints": [v + 1 if i % 3 < 2 else v for i, v in enumerate(e["keypoints"])]} for e in opened.entries
    ]
    opened.write(out, new)
    again = read_any(out)
    for before, after in zip(new, again.entries, strict=True):
        np.testing.assert_allclose(after["keypoints"], before["keypoints"], atol=2e-3)
        assert after["image_id"] == before["image_id"]


@pytest.mark.parametrize(
    "data",
    [
        {"images": [], "annotations": coco()},
        {"annotations": [{"image_id": 1, "keypoints": FLAT[0], "num_keypoints": 17}]},
        {"results": [], "predictions": []},
        {"a.jpg": 3},
        {},
        coco(),
    ],
)
def test_what_is_no_container(data: Any) -> None:
    assert unwrap(data, "a.jpg") is None


def test_packed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({"results": coco()})
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("inside.json", text)
    for name in ("r.json.gz", "r.zip"):
        opened = read_any(tmp_path / name)
        assert [e["keypoints"] for e in opened.entries] == FLAT
        opened.write(tmp_path / f"out_{name}", opened.entries)
        assert [e["keypoints"] for e in read_any(tmp_path / f"out_{name}").entries] == FLAT
        opened.write(tmp_path / "plain.json", opened.entries)
        assert json.loads((tmp_path / "plain.json").read_text()) == {"results": coco()}
    lines = "".join(json.dumps(e) + "\n" for e in coco())
    (tmp_path / "r.ndjson").write_text(lines)
    opened = read_any(tmp_path / "r.ndjson")
    opened.write(tmp_path / "out.ndjson", opened.entries)
    assert [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()] == coco()
    for raw in (text.encode(), gzip.compress(text.encode())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        opened = read_any("-")
        opened.write("-", opened.entries)
        assert json.loads(capsys.readouterr().out) == {"results": coco()}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_one_person_a_line(tmp_path: Path, count: int, mark: bytes, end: bytes) -> None:
    people = coco()[:count]
    (tmp_path / "r.jsonl").write_bytes(mark + (end or b"\n").join(json.dumps(e).encode() for e in people) + end)
    opened = read_any(tmp_path / "r.jsonl")
    assert opened.entries == people
    opened.write(tmp_path / "out.jsonl", opened.entries)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == people


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"[]", mtime=0)[:-9], "the archive is damaged"),
        (b"PK\x03\x04 no archive", "the archive is damaged"),
        (b'{"a": 1}\n{"b": ', "ends too early|is not JSON"),
    ],
)
def test_damaged_archives(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.gz").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_any(tmp_path / "r.gz")


def test_a_folder_of_lists(tmp_path: Path) -> None:
    folder, images = tmp_path / "json", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    content = {
        "a.png.predictions.json": [{"keypoints": FLAT[0], "bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 1}],
        "b.json": [{"keypoints": KEYPOINTS[1, :, :2].tolist(), "keypoint_scores": KEYPOINTS[1, :, 2].tolist()}] * 2,
        "c.json": [],
    }
    for name, people in content.items():
        (folder / name).write_text(json.dumps(people))
    for name in ("a.png", "b.jpg", "c.jpg"):
        (images / name).write_bytes(b"")
    opened = read_any(folder, images=images)
    assert [e["image_id"] for e in opened.entries] == ["a.png", "b.jpg", "b.jpg"]
    opened.write(tmp_path / "out", opened.entries)
    for name, people in content.items():
        assert json.loads((tmp_path / "out" / name).read_text()) == people
    one = read_any(folder / "b.json", images=images)
    assert [e["file_name"] for e in one.entries] == ["b.jpg", "b.jpg"]
    (folder / "z.json").write_text(json.dumps(content["b.json"]))
    with pytest.raises(FileFormatError, match="image_id"):
        read_any(folder / "z.json", images=images)  # no image of that name
