"""Another network that sees a person's crop: what must be known to feed it and to read its output.

Top-down pose networks answer a crop with a map per keypoint (heatmaps), or with one distribution per axis (SimCC).
Either becomes a logarithm over the pixels of posefix's own heatmaps, whose pixel p lies at crop pixel 4 · p + 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posefix.exceptions import InputError, WeightsError
from posefix.keypoints.skeleton import Skeleton
from posefix.network.config import HEATMAP_OFFSET, STRIDE, Normalisation
from posefix.network.config import ImageModelConfig as ImageModelConfig


@dataclass(frozen=True)
class ImageModel:
    """A network that is ready to run.

    Attributes:
        run: (B, h, w, 3) uint8 RGB tensor, not normalised → its outputs: one tensor or array, or two for SimCC.
        config: how to read them.
        origin: where it is from, for messages.

    Examples:
        >>> model = ImageModel(my_network, ImageModelConfig(input_hw=(384, 288), alignment="half_pixel"))
        >>> refiner = Refiner(image_model=model)
    """

    run: Callable[[Tensor], Any]
    config: ImageModelConfig = field(default_factory=ImageModelConfig)
    origin: str = ""

    def log_maps(self, crops: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 crops → (B, K, h / 4, w / 4) float32 logarithms, ``sharpness`` not yet applied.

        Raises:
            InputError: an output of a shape that the configuration does not say.
        """
        if not len(crops):
            return torch.zeros(0, len(self.config.keypoints), *self.config.map_hw, device=crops.device)
        outputs = self.run(crops)
        if isinstance(outputs, Tensor | np.ndarray):
            outputs = [outputs]
        tensors = [torch.as_tensor(o).to(crops.device, torch.float32) for o in outputs]
        return read_outputs(tensors, self.config, len(crops))


def read_outputs(outputs: Sequence[Tensor], config: ImageModelConfig, count: int) -> Tensor:
    """A network's outputs as logarithms over posefix's heatmap pixels.

    Args:
        outputs: (B, K', h, w), or (B, K', w) and (B, K', h) for SimCC; K' at least ``len(config.keypoints)``, of
            which the first are taken.
        config: how to read them.
        count: B, as it should be.

    Returns:
        (B, K, h / 4, w / 4) of the crop's (h, w), float32.

    Raises:
        InputError: outputs of another shape.
    """
    simcc = config.output == "simcc"
    keypoints, shapes = len(config.keypoints), [tuple(o.shape) for o in outputs]
    fits = len(outputs) == 1 + simcc and all(
        len(s) == 4 - simcc and s[0] == count and s[1] >= keypoints and min(s[2:]) > 1 for s in shapes
    )
    if not fits:
        wanted = "({0}, K, bins of x) and ({0}, K, bins of y)" if simcc else "({0}, K, h, w)"
        raise InputError(
            f"image model {config.family}: expected {config.output} of shape {wanted.format(count)} with K of at least "
            f"{keypoints}, got {' and '.join(map(str, shapes)) or 'nothing'}"
        )
    (height, width), (rows, columns) = config.input_hw, config.map_hw
    values = [o[:, :keypoints] for o in outputs]
    if config.output != "logits":
        values = [torch.log(v.clamp_min(config.floor)) for v in values]
    if simcc:
        along_x, along_y = values
        x = (
            along_x
            @ _reading(along_x.shape[-1], width, columns, config.alignment, config.offset[0]).to(along_x.device).T
        )
        y = along_y @ _reading(along_y.shape[-1], height, rows, config.alignment, config.offset[1]).to(along_y.device).T
        return y[..., :, None] + x[..., None, :]
    (maps,) = values
    by_row = _reading(maps.shape[-2], height, rows, config.alignment, config.offset[1]).to(maps.device)
    by_column = _reading(maps.shape[-1], width, columns, config.alignment, config.offset[0]).to(maps.device)
    return by_row @ maps @ by_column.T


def _reading(given: int, pixels: int, size: int, alignment: str, offset: float) -> Tensor:
    """(size, given) weights that read a network's ``given`` heatmap pixels at the places of posefix's: Catmull-Rom.

    The logarithm of a Gaussian is a parabola, which this interpolates exactly.
    """
    places = STRIDE * np.arange(size) + HEATMAP_OFFSET + offset
    if alignment == "udp":
        places = places * (given - 1) / (pixels - 1)
    elif alignment == "corner":
        places = places * given / pixels
    else:
        places = (places + 0.5) * given / pixels - 0.5
    first = np.floor(places).astype(np.int64)
    t = (places - first)[:, None]
    cubic = np.concatenate(
        [
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1,
            -1.5 * t**3 + 2 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        ],
        axis=1,
    )
    weights = np.zeros((size, given), np.float32)
    neighbours = np.clip(first[:, None] + np.arange(-1, 3), 0, given - 1)
    np.add.at(weights, (np.arange(size)[:, None], neighbours), cubic)
    return torch.from_numpy(weights)


def rows_in_skeleton(config: ImageModelConfig, skeleton: Skeleton) -> npt.NDArray[np.int64]:
    """(K_skeleton,) which of the image model's keypoints each of the skeleton's is, −1 for none.

    Raises:
        WeightsError: they share no name.
    """
    names = config.keypoints
    index = np.array([names.index(k) if k in names else -1 for k in skeleton.keypoints], np.int64)
    if (index < 0).all():
        raise WeightsError(
            f"image model {config.family}: none of its keypoints ({', '.join(names[:3])}, …) is one of skeleton "
            f"{skeleton.name!r}; names must agree, as 'left_knee' does"
        )
    return index


def fuse(own: Tensor | None, log_maps: Tensor, config: ImageModelConfig, index: Tensor) -> Tensor:
    """Image logits of both networks together.

    Args:
        own: (B, K, h, w) of the package's network; None where it is left out.
        log_maps: (B, K_model, h, w), from ``read_outputs``.
        config: weights of the sum.
        index: (K,) from ``rows_in_skeleton``. What the image model does not know is the package's alone.

    Returns:
        (B, K, h, w).
    """
    known = (index >= 0)[:, None, None]
    seen = config.sharpness * torch.where(known, log_maps[:, index.clamp_min(0)], 0.0)
    if own is None:
        return seen
    return seen + torch.where(known, config.own_weight, 1.0) * own


def normalise(crops: Tensor, normalisation: Normalisation) -> Tensor:
    """(B, h, w, 3) uint8 RGB crops → (B, 3, h, w) float32, as the network was trained with."""
    images = crops.permute(0, 3, 1, 2).float()
    if normalisation.channels == "bgr":
        images = images.flip(1)
    mean = torch.tensor(normalisation.mean, device=crops.device).view(3, 1, 1)
    std = torch.tensor(normalisation.std, device=crops.device).view(3, 1, 1)
    return (images - mean) / std
