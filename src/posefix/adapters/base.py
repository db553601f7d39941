"""What every adapter hands over, and the few things they share: kinds of objects, scores, values put back exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import InputError, PosefixError
from posefix.io.images import load_image
from posefix.keypoints.poses import present, round_present
from posefix.tensors import is_tensor, plain_tensor

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
#: What the user gave as images: one per element of the output, or by image id; None where there are none.
Images = Sequence[Any] | Mapping[Any, Any] | None


@dataclass(frozen=True)
class Extracted:
    """An estimator's output as plain arrays, and the way back.

    Attributes:
        keypoints: one (N, K, 3) float64 array [x, y, score] per image, in pixels, pixel centre = integer; which of
            them are there is not decided here but by ``posefix.keypoints.poses.present``.
        rebuild: refined arrays of the same shapes → a new object of the output's kind. It must leave what did not
            change as it was; ``put_back`` and its likes do.
        names: K keypoint names, sides spelled ``left_`` and ``right_``; None tells the set by its size.
        boxes: per image (N, 4) xyxy px or None, NaN where a person has none.
        images: the output's own images, used where the user gives none; an entry may be a function that loads it.
        ids: per image its image id, by which a mapping of images is looked up.
    """

    keypoints: list[Doubles]
    rebuild: Callable[[list[Floats]], Any]
    names: tuple[str, ...] | None = None
    boxes: list[Doubles | None] | None = None
    images: list[Any] | None = None
    ids: list[Any] | None = None


#: What numpy, torch and plain Python raise at numbers, shapes and fields that are not as they should be.
_FAULTS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def nearly(kind: str, where: str) -> Iterator[None]:
    """An output that is nearly of a known kind is the user's mistake: one sentence that says which kind."""
    try:
        yield
    except PosefixError:
        raise
    except _FAULTS as error:
        raise InputError(f"{where}: not as {kind} should be: {type(error).__name__}: {error}") from error


def is_a(value: Any, package: str, *names: str) -> bool:
    """Whether a class of that name from that package is among the value's classes; the package is not imported."""
    return any(c.__name__ in names and c.__module__.split(".")[0] == package for c in type(value).__mro__)


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def to_numpy(values: Any) -> Doubles:
    """Array, tensor of any device or nested list → a new float64 array; every float and half is exact in it."""
    if is_tensor(values):
        values = plain_tensor(values, "keypoints").double().numpy()
    return np.array(values, np.float64)


def like(values: npt.ArrayLike, template: Any) -> Any:
    """Numbers as an array or tensor of the template's kind, dtype and device; integers become float32."""
    if is_tensor(template):
        import torch

        kept = template.dtype if template.is_floating_point() else torch.float32
        return torch.as_tensor(np.asarray(values), dtype=kept, device=template.device)
    return np.asarray(values).astype(template.dtype if template.dtype.kind == "f" else np.dtype(np.float32))


def unchanged(before: Floats, after: Floats) -> npt.NDArray[np.bool_]:
    """Where two arrays are equal; NaN equals NaN."""
    return np.asarray((before == after) | (np.isnan(before) & np.isnan(after)))


def put_back(own: Any, before: Floats, after: Floats, own_after: Floats | None = None) -> Any:
    """New values of an array or tensor; where nothing changed the old ones stay to the bit, whatever the frame.

    Args:
        own: array or tensor as the output had it.
        before: the same numbers as they were extracted.
        after: as they were refined.
        own_after: ``after`` in the frame of ``own``; default the same frame.
    """
    return like(np.where(unchanged(before, after), to_numpy(own), after if own_after is None else own_after), own)


def put_back_numbers(
    own: Sequence[Any], before: Floats, after: Floats, digits: int | None = None, own_after: Floats | None = None
) -> list[Any]:
    """``put_back`` for a flat list of Python numbers [x, y, score, …].

    Args:
        own: the list.
        before: as many numbers, as they were extracted.
        after: as they were refined.
        digits: to round new ones to, as ``round_present`` does: triples [x, y, score] then.
        own_after: as for ``put_back``.
    """
    new = list(own)
    values = np.asarray(after if own_after is None else own_after, np.float64)
    flat = (values if digits is None else round_present(values.reshape(-1, 3), digits)).reshape(-1)
    for place in np.flatnonzero(~unchanged(before, after).reshape(-1)):
        new[place] = float(flat[place])
    return new


def with_scores(points: Doubles, scores: Doubles | None) -> Doubles:
    """(N, K, 2) and (N, K) or None → (N, K, 3); without scores 1, or 0 where a point is not there."""
    if scores is None:
        scores = present(points).astype(np.float64)
    return np.concatenate([points, scores[..., None]], axis=-1)


def check_2d(points: Doubles, what: str) -> Doubles:
    """Points if they are (N, K, 2); no people where the array is empty.

    Raises:
        InputError: another shape.
    """
    if points.ndim != 3 or points.shape[-1] != 2:
        if points.size == 0:
            return np.zeros((0, 0, 2))
        raise InputError(f"{what}: expected (N, K, 2) keypoints in the image, got {points.shape}")
    return points


def single_size(images: Images, what: str) -> tuple[int, int]:
    """(width, height) of the one image that an output belongs to, for normalised coordinates.

    Raises:
        InputError: there is no image, or several.
    """
    if images is None or isinstance(images, Mapping) or len(images) != 1:
        raise InputError(f"{what}: coordinates are relative to the image's size, so pass the one image they are of")
    height, width = load_image(images[0]).shape[:2]
    return width, height
