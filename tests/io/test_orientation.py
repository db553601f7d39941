"""Which way up an image is read: all eight EXIF orientations, four kinds of files, three readers, recorded sizes."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from posefix.exceptions import InputError
from posefix.io.coco import annotations_of
from posefix.io.images import exif_orientation, load_image, turn
from posefix.io.orientation import ExifRule

KINDS = ("JPEG", "PNG", "WEBP", "TIFF")
#: What the four corners of the stored image show; no two turns put the same four in the same places.
CORNERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], np.uint8)


def stored(height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    return CORNERS.repeat(height // 2, 0).repeat(width // 2, 1)


def encoded(kind: str, orientation: int | None, pixels: np.ndarray[Any, Any] | None = None) -> bytes:
    image = PilImage.fromarray(stored() if pixels is None else pixels)
    exif, stream = image.getexif(), io.BytesIO()
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(stream, kind, **options)
    return stream.getvalue()


def near(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.shape == other.shape and np.abs(one.astype(int) - other).mean() < 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_files_bytes_and_pil_images_are_turned_once(kind: str, orientation: int | None, tmp_path: Path) -> None:
    data = encoded(kind, orientation)
    assert exif_orientation(data) == (orientation or 1)
    (tmp_path / "a").write_bytes(data)
    upright = turn(stored(), orientation or 1)
    for ignore, expected in ((False, upright), (True, stored())):
        assert near(load_image(tmp_path / "a", ignore_orientation=ignore), expected)
        assert near(load_image(data, ignore_orientation=ignore), expected)
        assert near(load_image(PilImage.open(io.BytesIO(data)), ignore_orientation=ignore), expected)


def test_turns_are_as_opencv_makes_them() -> None:
    for orientation in range(1, 9):
        data = np.frombuffer(encoded("PNG", orientation), np.uint8)
        np.testing.assert_array_equal(turn(stored(), orientation), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def test_damaged_headers_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        data = encoded(kind, 6)
        for _ in range(200):
            cut = bytearray(data[: rng.integers(0, len(data))])
            for place in rng.integers(0, max(len(cut), 1), 4):
                cut[place : place + 1] = bytes([int(rng.integers(0, 256))])
            assert 1 <= exif_orientation(bytes(cut)) <= 8
    assert exif_orientation(b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 77, 0)) == 1


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("mode", ["auto", "apply", "ignore"])
@pytest.mark.parametrize("recorded", [None, "stored", "upright", "half"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_who_decides(orientation: int, recorded: str | None, mode: str, upright: bool, tmp_path: Path) -> None:
    """The option; else the recorded size, where it fits one only; else the format. Doubt is told."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG", orientation))
    sizes = {"stored": (64, 48), "upright": (48, 64) if orientation == 6 else (64, 48), "half": (32, 24)}
    image, remark = ExifRule(mode, upright).load(path, sizes[recorded] if recorded else (None, None))
    decides = mode == "auto" and orientation == 6 and recorded in ("stored", "upright")
    apply = recorded == "upright" if decides else upright if mode == "auto" else mode == "apply"
    assert near(image, turn(stored(), orientation) if apply else stored())
    shown = (image.shape[1], image.shape[0])
    if recorded is not None and sizes[recorded] != shown:
        assert remark is not None
        assert "recorded as" in remark
    elif decides and apply != upright:
        assert remark is not None
        assert "as the recorded size says" in remark
    elif mode == "auto" and orientation > 1 and not decides:
        assert remark is not None
        assert f"--exif {'ignore' if apply else 'apply'}" in remark
    else:
        assert remark is None


def test_a_person_of_a_results_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG", 6))
    data = {"images": [{"id": 1, "file_name": "a.jpg", "width": 48, "height": 64}], "annotations": [], "categories": []}
    image, remark = ExifRule().load_for(path, {"image_id": "1"}, annotations_of(data))
    assert image.shape == (64, 48, 3)
    assert remark is not None
    assert ExifRule().load_for(path, {"image_id": "1"}, None)[0].shape == (48, 64, 3)
    with pytest.raises(InputError, match="exif: expected one of"):
        ExifRule("never")
