"""Any image a user has → (H, W, 3) uint8 RGB: files, encoded bytes, PIL and MediaPipe images, arrays, tensors.

Alpha is dropped, not blended. Floats are read by one rule: all values in [−0.1, 1.1] (room for the overshoot of
a resize) are a 0–1 image, else all in [−0.1, 255.5] are a 0–255 image, anything else is refused, since
normalised images would turn black without a word.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from posefix.exceptions import ImageError, InputError
from posefix.io.image_headers import encoded_size
from posefix.messages import shown
from posefix.tensors import is_tensor, plain_tensor

if TYPE_CHECKING:
    import torch

Image = npt.NDArray[np.uint8]

#: Of an encoded image: 16,384 × 16,384, 800 MB when decoded.
MAX_PIXELS = 2**28

_ACCEPTED = "a path, encoded bytes or a file opened for them, a PIL image, a numpy array or a torch tensor"
_SHAPES = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_CHANNELS = (3, 1, 4)
_ORIENTATION_TAG = 0x0112
#: Beginnings of TIFF files.
_TIFF = (b"II*\0", b"MM\0*")
#: The orientation that undoes one: quarter turns undo each other, all others themselves.
_INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def load_image(
    source: Any, *, color: str = "rgb", ignore_orientation: bool = False, max_pixels: int | None = None
) -> Image:
    """Open or convert one image.

    Args:
        source: a path; the bytes of an encoded file, or a file opened for reading bytes; a PIL image of any mode; a
            MediaPipe image; a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, integers in 0–255,
            uint16 (0–65535) or floats in 0–1 or 0–255 (the rule stands at the top of this file); a torch tensor of
            the same kinds, also channels first.
            A tensor that could be either (three pixels wide) is read as channels last.
        color: channel order of arrays and tensors, ``"rgb"`` or ``"bgr"``; files and PIL images know their own.
        ignore_orientation: do not turn the image as its EXIF data says. COCO's sizes and coordinates do not.
        max_pixels: files and PIL images that have more are refused by their headers. Default ``MAX_PIXELS``, or what
            the environment variable ``POSEFIX_MAX_IMAGE_PIXELS`` says.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous; the array itself where it is that already. The input never changes.

    Raises:
        ImageError: no such file, a file that cannot be decoded or is cut short, or an array that is no image.
        InputError: ``color`` is neither ``"rgb"`` nor ``"bgr"``.

    Examples:
        >>> load_image("photo.jpg").shape
        (480, 640, 3)
    """
    if not isinstance(color, str) or color not in ("rgb", "bgr"):
        raise InputError(f"color: expected 'rgb' or 'bgr', got {shown(color)}")
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), ignore_orientation, _pixel_limit(max_pixels))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = np.frombuffer(source, np.uint8)
        return _decode(data, "image: the encoded bytes", ignore_orientation, _pixel_limit(max_pixels))
    if is_tensor(source):
        return _from_array(_tensor_to_array(source), color)
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if hasattr(source, "getbands") and hasattr(source, "convert"):  # PIL, which is not a dependency
        return _from_pil(source, ignore_orientation, _pixel_limit(max_pixels))
    if hasattr(source, "numpy_view"):  # mediapipe's, always RGB
        return _from_array(np.asarray(source.numpy_view()), "rgb")
    if hasattr(source, "read"):
        opened = np.frombuffer(_read(source), np.uint8)
        return _decode(opened, "image: the opened file", ignore_orientation, _pixel_limit(max_pixels))
    raise ImageError(f"image: expected {_ACCEPTED}, got {type(source).__name__}")


def _read(stream: Any) -> bytes:
    try:
        data = stream.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"image: the opened file cannot be read: {error}") from None
    if not isinstance(data, bytes):
        raise ImageError(f"image: expected a file opened for bytes (mode 'rb'), got one of {type(data).__name__}")
    return data


def _pixel_limit(max_pixels: int | None) -> int:
    if max_pixels is not None:
        return max_pixels
    given = os.environ.get("POSEFIX_MAX_IMAGE_PIXELS", "")
    if given and not (given.isascii() and given.isdigit()):
        raise InputError(f"POSEFIX_MAX_IMAGE_PIXELS: expected a number of pixels, got {shown(given)}")
    return int(given[:18]) if given else MAX_PIXELS


def _check_size(size: tuple[int, int] | None, limit: int, what: str) -> None:
    if size is not None and size[0] * size[1] > limit:
        raise ImageError(
            f"{what} has {size[0]} × {size[1]} pixels, expected at most {limit}; if that is right, raise "
            "POSEFIX_MAX_IMAGE_PIXELS"
        )


def _from_file(path: Path, ignore_orientation: bool, limit: int) -> Image:
    # numpy opens what Python opens; cv2.imread fails on names outside the code page of some systems.
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe waits until a process writes into it
            raise ImageError(f"image {str(path)!r}: expected an image file, got a pipe, socket or device")
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise ImageError(f"image {str(path)!r}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"image {str(path)!r}: expected an image, got a folder") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"image {str(path)!r}: cannot be opened: {error}") from None
    return _decode(data, f"image {str(path)!r}: the file", ignore_orientation, limit)


def _decode(data: npt.NDArray[np.uint8], what: str, ignore_orientation: bool, limit: int) -> Image:
    if data.size == 0:
        raise ImageError(f"{what} is empty")
    # Decoders of some versions fill what is missing with grey and only print a warning, so look first.
    encoded = data.tobytes()
    _check_size(encoded_size(encoded), limit, what)
    if not _is_complete(encoded):
        raise ImageError(f"{what} is cut short; copy or download it again")
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if ignore_orientation else 0)
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageError(f"{what} cannot be decoded: {error.err}") from None
    if image is None:
        raise ImageError(f"{what} is damaged or not an image that OpenCV reads (JPEG, PNG, WebP, BMP, TIFF)")
    pixels: Image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    if ignore_orientation and encoded[:4] in _TIFF:  # OpenCV turns TIFF files whatever its flags say
        pixels = turn(pixels, _INVERSE[exif_orientation(encoded)])
    return pixels


def _is_complete(data: bytes) -> bool:
    """Whether the end of a JPEG, PNG or WebP file is there; True for other formats."""
    if data.startswith(b"\xff\xd8\xff"):
        # The end marker must follow the last start of scan: an embedded thumbnail has one of its own.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return data.find(b"IEND", 8) > 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _from_pil(image: Any, ignore_orientation: bool, limit: int) -> Image:
    _check_size(image.size, limit, "image: the PIL image")
    try:
        orientation = _checked(image.getexif().get(_ORIENTATION_TAG, 1))
        image.load()
        # PIL turns TIFF files as it reads them, and then the tag is gone.
        turned = orientation != 1 and _checked(image.getexif().get(_ORIENTATION_TAG, 1)) == 1
        orientation = _INVERSE[orientation] if turned else orientation
        orientation = orientation if turned == ignore_orientation else 1
        if image.mode == "F" or image.mode.startswith("I"):
            values = np.array(image)
            # Mode "I" is 32 bits wide; 16-bit files open as it in many versions.
            array = values.astype(np.uint16) if values.dtype.kind in "iu" and _fits_16_bits(values) else values
        elif image.mode == "P" and "transparency" in image.info:
            array = np.array(image.convert("RGBA"))  # a direct conversion to RGB warns
        else:
            array = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"image: the PIL image cannot be read: {error}") from None
    return _from_array(turn(array, orientation), "rgb")


def _fits_16_bits(values: npt.NDArray[Any]) -> bool:
    return bool(values.size and values.dtype.itemsize > 1 and values.min() >= 0 and 255 < values.max() <= 65535)


def turn(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply EXIF orientation 1–8 to (H, W, …): 5–8 exchange the axes; then mirrors."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def exif_orientation(encoded: bytes) -> int:
    """The EXIF orientation 1–8 of an encoded JPEG, PNG, WebP or TIFF file; 1 where it has none."""
    try:
        if encoded[:4] in _TIFF:
            return _tiff_orientation(encoded)
        if encoded.startswith(b"\xff\xd8"):
            start = 2
            while encoded[start] == 0xFF and encoded[start + 1] != 0xDA:
                size = int.from_bytes(encoded[start + 2 : start + 4], "big")
                if encoded[start + 1] == 0xE1 and encoded[start + 4 : start + 10] == b"Exif\0\0":
                    return _tiff_orientation(encoded[start + 10 : start + 2 + size])
                start += 2 + size
        png, riff = encoded.startswith(b"\x89PNG"), encoded.startswith(b"RIFF")
        start = 8 if png else 12 if riff else len(encoded)
        while start + 8 <= len(encoded):
            first, second = encoded[start : start + 4], encoded[start + 4 : start + 8]
            name, size = (second, int.from_bytes(first, "big")) if png else (first, int.from_bytes(second, "little"))
            if name in (b"eXIf", b"EXIF"):
                return _tiff_orientation(encoded[start + 8 : start + 8 + size].removeprefix(b"Exif\0\0"))
            start += 12 + size if png else 8 + size + size % 2
    except (IndexError, struct.error):  # a header that is damaged tells nothing
        pass
    return 1


def _tiff_orientation(data: bytes) -> int:
    """The orientation in the first directory of a TIFF structure, which EXIF data are."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 1
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
        if tag == _ORIENTATION_TAG:
            return _checked(value)
    return 1


def _checked(orientation: Any) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _tensor_to_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    import torch

    try:
        values = plain_tensor(tensor, "image")
    except InputError as error:
        raise ImageError(str(error)) from None
    if values.dtype is torch.bfloat16:  # numpy has no such type
        values = values.float()
    if values.ndim == 3:
        first, last = values.shape[0], values.shape[2]
        for channels in _CHANNELS:
            if last == channels:
                break
            if first == channels:
                values = values.permute(1, 2, 0)
                break
    return np.asarray(values.numpy())


def _from_array(array: npt.NDArray[Any], color: str) -> Image:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in _CHANNELS:
        hint = ""
        if array.ndim == 3 and array.shape[0] in _CHANNELS:
            hint = "; transpose(1, 2, 0) puts the channels last"
        elif array.ndim == 4:
            hint = "; pass one image at a time"
        raise ImageError(f"image: expected an array {_SHAPES}, got {array.shape}{hint}")
    if array.size == 0:
        raise ImageError(f"image: expected at least one pixel, got {array.shape}")
    pixels = np.ascontiguousarray(_to_uint8(np.asarray(array)))
    if pixels.shape[2] == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if pixels.shape[2] == 4:
        code = cv2.COLOR_RGBA2RGB if color == "rgb" else cv2.COLOR_BGRA2RGB
        return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
    return pixels if color == "rgb" else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _to_uint8(array: npt.NDArray[Any]) -> Image:
    """Values of any accepted type → 0–255."""
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if array.dtype == np.bool_:
        return np.asarray(array.astype(np.uint8) * 255, np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return np.asarray((array.astype(np.uint32) + 128) // 257, np.uint8)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"image: expected bool, integers or floats, got dtype {array.dtype}")
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ImageError(
                f"image: expected {array.dtype} values in 0–255, got {low} to {high}; give 16-bit images as uint16"
            )
        return array.astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("image: expected finite floats, got NaN or infinity")
    scaled: npt.NDArray[np.float32]
    if low >= -0.1 and high <= 1.1:
        scaled = array.astype(np.float32) * np.float32(255.0)
    elif low >= -0.1 and high <= 255.5:
        scaled = array.astype(np.float32)
    else:
        raise ImageError(
            f"image: expected floats in 0–1 or 0–255, got {low:.4g} to {high:.4g}; undo the normalisation or clip"
        )
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)
