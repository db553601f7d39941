"""The size that headers tell is the size that decoders give, and what is too large is never decoded."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from posefix.exceptions import ImageError, InputError
from posefix.io.image_headers import encoded_size
from posefix.io.images import load_image

PIXELS = np.random.default_rng(0).integers(0, 255, (23, 41, 3), np.uint8)


@pytest.mark.parametrize(
    ("ending", "flags"),
    [
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".png", []),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
        (".bmp", []),
        (".tiff", []),
        (".ppm", []),
    ],
)
def test_sizes_of_opencvs_files(ending: str, flags: list[int]) -> None:
    data = cv2.imencode(ending, PIXELS, flags)[1].tobytes()
    assert encoded_size(data) == (41, 23)
    with pytest.raises(ImageError, match="has 41 × 23 pixels, expected at most 942; "):
        load_image(data, max_pixels=41 * 23 - 1)
    assert load_image(data, max_pixels=41 * 23).shape == (23, 41, 3)
    for length in range(0, len(data), 7):
        encoded_size(data[:length])  # whatever is cut, an answer


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_sizes_of_pils_files(kind: str, tmp_path: Path) -> None:
    PilImage.fromarray(PIXELS).save(tmp_path / "a", kind)
    assert encoded_size((tmp_path / "a").read_bytes()) == (41, 23)


def bomb(side: int) -> bytes:
    """A PNG of side × side grey pixels in a few kilobytes, as far as a reader gets before it gives up."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(bomb(30_000))
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"a\.png.*30000 × 30000.*POSEFIX_MAX_IMAGE_PIXELS"):
        load_image(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    monkeypatch.setenv("POSEFIX_MAX_IMAGE_PIXELS", "100")
    with pytest.raises(ImageError, match="expected at most 100;"):
        load_image(bomb(11))
    with pytest.raises(ImageError, match="11 × 11"):
        load_image(PilImage.new("RGB", (11, 11)))
    monkeypatch.setenv("POSEFIX_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(InputError, match="POSEFIX_MAX_IMAGE_PIXELS: expected a number of pixels, got 'many'"):
        load_image(bomb(11))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", "/dev/zero"):
        with pytest.raises(ImageError, match="got a pipe, socket or device"):
            load_image(path)
