"""Which file an image's name means."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from posefix.exceptions import FileFormatError
from posefix.io.image_names import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = (
        "000000000139.jpg",
        "sub/street one.png",
        "sub/B.JPG",
        "x/same.jpg",
        "y/same.jpg",
        "COCO_val2014_000000000042.jpg",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("000000000139.jpg", "000000000139.jpg"),
        ("139.jpg", "000000000139.jpg"),
        ("val2017/000000000139.jpg", "000000000139.jpg"),
        ("COCO_val2014_000000000139.jpg", "000000000139.jpg"),
        ("000000000042.jpg", "COCO_val2014_000000000042.jpg"),
        ("000000000139.png", "000000000139.jpg"),
        ("sub\\street one.png", "sub/street one.png"),
        ("sub/street%20one.png", "sub/street one.png"),
        ("C:\\data\\street one.png", "sub/street one.png"),
        ("b.jpg", "sub/B.JPG"),
        ("b", "sub/B.JPG"),
        ("x/same.jpg", "x/same.jpg"),
        ("nowhere.jpg", "nowhere.jpg"),
        ("street.one.png", "street.one.png"),
    ],
)
def test_names(folder: Path, name: str, file: str) -> None:
    assert find_images(folder, [name]) == {name: file}


def test_ambiguous_names_are_refused(folder: Path) -> None:
    with pytest.raises(FileFormatError, match=r"2 files of .* may be meant, x/same\.jpg and y/same\.jpg"):
        find_images(folder, ["same.jpg"])


@pytest.mark.parametrize(("disk", "name"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_in_either_encoding(tmp_path: Path, disk: str, name: str) -> None:
    file, asked = (unicodedata.normalize(form, "Übung é.jpg") for form in (disk, name))
    (tmp_path / file).write_bytes(b"")
    found = find_images(tmp_path, [asked])[asked]
    assert (tmp_path / found).is_file()


def test_linked_folders_are_searched_and_circles_end(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "images"
    store.mkdir()
    folder.mkdir()
    (store / "deep.jpg").write_bytes(b"")
    (folder / "link").symlink_to(store)
    (folder / "again").symlink_to(store)
    (folder / "circle").symlink_to(folder)
    assert find_images(folder, ["deep.jpg"]) == {"deep.jpg": "again/deep.jpg"}


def test_odd_names(folder: Path) -> None:
    names = ["", "a\x00b", "x" * 5000, ".."]
    assert find_images(folder, names) == {n: n for n in names}
