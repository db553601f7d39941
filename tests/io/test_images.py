"""Every kind of image ends as the same (H, W, 3) uint8 RGB; every bad one as one clear sentence."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps

from posefix.exceptions import ImageError, InputError
from posefix.io.images import load_image


@pytest.fixture
def rgb() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def encoded(image: npt.NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(image: npt.NDArray[Any], orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


def check(image: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> None:
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


def test_all_sources_of_one_image_agree(rgb: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = encoded(rgb)
    path = tmp_path / "Übung 画像.png"
    path.write_bytes(data)
    unit = rgb.astype(np.float64) / 255.0
    alpha = np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=-1)
    sources = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "opened": io.BytesIO(data),
        "mediapipe": SimpleNamespace(numpy_view=lambda: rgb),
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "pil": Image.fromarray(rgb),
        "pil rgba": Image.fromarray(alpha),
        "uint8": rgb,
        "fortran": np.asfortranarray(rgb),
        "alpha": alpha,
        "int64": rgb.astype(np.int64),
        "uint16": rgb.astype(np.uint16) * 257,
        "big-endian uint16": (rgb.astype(np.uint16) * 257).astype(">u2"),
        "float 0-1": unit,
        "float16 0-1": unit.astype(np.float16),
        "float 0-255": rgb.astype(np.float32),
        "tensor": torch.from_numpy(rgb),
        "tensor chw": torch.from_numpy(rgb).permute(2, 0, 1),
        "tensor chw float": torch.from_numpy(unit).permute(2, 0, 1).float().requires_grad_(),
    }
    for name, source in sources.items():
        image = load_image(source)
        assert image.flags.c_contiguous, name
        np.testing.assert_array_equal(image, rgb, err_msg=name)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    for source in (bgr, alpha[..., [2, 1, 0, 3]], bgr / 255.0, torch.from_numpy(bgr), torch.from_numpy(bgr).mT.mT):
        check(load_image(source, color="bgr"), rgb)
    check(load_image(path, color="bgr"), rgb)  # files know their own order
    check(load_image(Image.fromarray(rgb), color="bgr"), rgb)


def test_bfloat16_tensors_are_close(rgb: npt.NDArray[np.uint8]) -> None:
    image = load_image((torch.from_numpy(rgb).float() / 255).bfloat16())
    assert np.abs(image.astype(int) - rgb).max() <= 1


def test_grey_becomes_three_equal_channels(rgb: npt.NDArray[np.uint8]) -> None:
    grey = rgb[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=-1)
    for source in (
        grey,
        grey[..., None],
        Image.fromarray(grey),
        encoded(grey),
        torch.from_numpy(grey.copy()),
        torch.from_numpy(grey.copy())[None],
        grey.astype(np.uint16) * 257,
        encoded(grey.astype(np.uint16) * 257),
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray(grey.astype(np.int32) * 257),
        Image.fromarray(grey.astype(np.int32)),
        Image.fromarray(grey.astype(np.float32)),
    ):
        check(load_image(source), expected)
    mask = grey > 100
    for binary in (mask, Image.fromarray(mask), torch.from_numpy(mask)):
        check(load_image(binary), np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1))


def test_palette_and_transparency_and_other_modes() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    flat[:, 3:] = (200, 10, 30)
    image = Image.fromarray(flat)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    check(load_image(palette), flat)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=b"\x00\x80")
    check(load_image(Image.open(buffer)), flat)
    check(load_image(buffer.getvalue()), flat)
    for mode in ("LA", "CMYK", "YCbCr", "HSV", "1", "RGBA"):
        assert load_image(image.convert(mode)).shape == flat.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(rgb: npt.NDArray[np.uint8], orientation: int, tmp_path: Path) -> None:
    data = with_orientation(rgb, orientation)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    check(load_image(Image.open(io.BytesIO(data))), turned)
    check(load_image(Image.open(io.BytesIO(data)), ignore_orientation=True), rgb)
    smooth = cv2.resize(rgb[:3, :4], (48, 32), interpolation=cv2.INTER_LINEAR)
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_orientation(smooth, orientation, "JPEG"))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    image = load_image(path)
    assert image.shape == turned.shape
    assert np.abs(image.astype(int) - turned).mean() < 3
    assert load_image(path, ignore_orientation=True).shape == smooth.shape


def test_sixteen_bits_scale_to_the_full_range() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = load_image(values)[..., 0]
    np.testing.assert_array_equal(image, np.rint(values / 257.0))


def test_float_rule() -> None:
    unit = np.array([[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(load_image(unit)[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(load_image(unit * 1.2 - 0.1)[0, :, 0], [0, 128, 255])  # overshoot is clipped
    np.testing.assert_array_equal(load_image(unit * 2)[0, :, 0], [0, 1, 2])
    for bad in (unit * 2 - 1, unit * 256, unit - 0.2, unit * 1000):
        with pytest.raises(ImageError, match="undo the normalisation"):
            load_image(bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    with pytest.raises(ImageError, match="NaN or infinity"):
        load_image(np.array([[0.0, bad], [0.5, 1.0]]))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.zeros((4, 0), np.uint8), "at least one pixel"),
        (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\)"),
        (np.zeros((3, 4, 5), np.uint8), "transpose"),
        (np.zeros((1, 4, 5, 3), np.uint8), "one image at a time"),
        (torch.zeros(1, 3, 4, 5), "one image at a time"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.full((2, 2), 300), "0–255"),
        (np.full((2, 2), -1), "0–255"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        (np.full((2, 2), "a"), "dtype"),
        (np.full((2, 2), None), "dtype"),
        ([[1, 2], [3, 4]], "got list"),
        (None, "got NoneType"),
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (io.StringIO("text"), "opened for bytes"),
        (io.BytesIO(b"no image"), "the opened file is damaged"),
    ],
)
def test_what_is_no_image_is_told(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_files_missing_empty_cut_and_folders_are_told_apart(tmp_path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ImageError, match=r"a\.png.*no such file"):
        load_image(path)
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        load_image(path)
    path.write_text("not an image")
    with pytest.raises(ImageError, match="not an image"):
        load_image(path)
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("a\0b")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_files(
    rgb: npt.NDArray[np.uint8], kind: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encoded(np.tile(rgb, (12, 12, 1)), kind)
    load_image(data)
    with pytest.raises(ImageError, match="cut short"):
        load_image(data[: int(len(data) * share)])
    assert capfd.readouterr().err == ""


def test_truncated_jpeg_with_a_whole_thumbnail(rgb: npt.NDArray[np.uint8]) -> None:
    small, data = encoded(rgb, "JPEG"), encoded(np.tile(rgb, (8, 8, 1)), "JPEG")
    block = b"Exif\0\0" + small
    both = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    np.testing.assert_array_equal(load_image(both), load_image(data))
    np.testing.assert_array_equal(load_image(both + b"trailing bytes"), load_image(data))
    with pytest.raises(ImageError, match="cut short"):
        load_image(both[:-50])


def test_truncated_pil_image(rgb: npt.NDArray[np.uint8]) -> None:
    data = encoded(np.tile(rgb, (8, 8, 1)), "JPEG")
    with pytest.raises(ImageError, match="PIL image cannot be read"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_color_is_checked(rgb: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="'rgb' or 'bgr', got 'BGR'"):
        load_image(rgb, color="BGR")


def test_input_is_never_changed(rgb: npt.NDArray[np.uint8]) -> None:
    for source in (rgb, rgb / 255.0, rgb[..., 0] > 99, rgb.astype(np.uint16)):
        before = source.copy()
        source.setflags(write=False)
        load_image(source, color="bgr")
        np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 70000, 3)])
def test_extreme_sizes(shape: tuple[int, ...]) -> None:
    assert load_image(np.zeros(shape, np.uint8), color="bgr").shape == (*shape[:2], 3)


def test_hundred_megapixels() -> None:
    assert load_image(np.broadcast_to(np.uint8(7), (2500, 40000))).shape == (2500, 40000, 3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 1, 1), (1, 1)), ((1, 1, 3), (1, 1)), ((3, 8, 3), (3, 8)), ((4, 8, 9), (8, 9)), ((1, 8, 9), (8, 9))],
)
def test_where_the_channels_of_a_tensor_are(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert load_image(torch.zeros(shape)).shape == (*expected, 3)
