"""What rebuilds a network: a frozen configuration that travels as JSON next to the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from posefix.choices import ALIGNMENTS, BACKBONES, OUTPUTS, PYRAMIDS
from posefix.deprecation import rename_keys
from posefix.exceptions import WeightsError
from posefix.geometry import CROP_MARGIN
from posefix.keypoints.codec import HeatmapCodec
from posefix.keypoints.skeleton import COCO
from posefix.messages import shown
from posefix.typed import check_fields, check_ranges, refuse_unknown

#: Every network here answers at a quarter of its input's resolution.
STRIDE = 4


@dataclass(frozen=True)
class Normalisation:
    """How an RGB crop in 0…255 becomes the network's input: (x[channels] − mean) / std per channel.

    Attributes:
        channels: ``"rgb"`` or ``"bgr"``, the order that the network reads.
        mean: three values in that order.
        std: three values in that order.
    """

    channels: str = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        check_fields(self, "normalisation.", WeightsError)
        if self.channels not in ("rgb", "bgr"):
            raise WeightsError(f"normalisation: channels must be 'rgb' or 'bgr', got {shown(self.channels)}")
        check_ranges(self, "normalisation.", WeightsError, mean=(-1e4, 1e4), std=(1e-4, 1e4))


#: The reference's pre-processing: BGR minus ImageNet's RGB means in array order, no scaling (as in the paper's code).
REFERENCE_NORMALISATION = Normalisation("bgr", (123.68, 116.78, 103.94), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class ModelConfig:
    """A network, up to its weights.

    Attributes:
        backbone: one of ``BACKBONES``.
        width: multiplies the channels of MobileNetV2's blocks.
        last_channels: of MobileNetV2's last block; 0 is its own number, 320 · width.
        pyramid: what follows MobileNetV2's blocks: ``"movenet"``, its makers' pyramid of 24 channels, or ``"wide"``,
            this library's, which also sees the place in the crop.
        input_hw: crop size (h, w), divisible by 32.
        num_keypoints: K.
        heatmap_std: Gaussian of the input heatmaps, in pixels of the crop; where the pose enters as ``"input"``.
        heatmap_scale: their height; likewise.
        pose_entry: where the pose enters: ``"input"``, its heatmaps concatenated with the image as in the paper;
            ``"correction"``, a small network that sees the pose and corrects what a larger one says of the
            image; or ``"none"``: the network sees the image alone, and the pose enters as the prior.
        pose_prior: whether the input pose is a prior over the output's heatmap pixels.
        adaptive_prior: whether its width and weight adapt to each person.
        uses_scores: whether adaptive prior and correction also see the estimator's scores.
        heatmap_offset: crop pixel of heatmap pixel c is 4 · c + heatmap_offset.
        antialias: whether crops that shrink the image average its pixels.
        crop_margin: growth of a person's box to the crop.
        normalisation: of the crop.

    Raises:
        WeightsError: an unknown value or a size that does not fit.
    """

    backbone: str = "mobilenet_v2"
    width: float = 1.0
    last_channels: int = 0
    pyramid: str = "movenet"
    input_hw: tuple[int, int] = (256, 192)
    num_keypoints: int = 17
    heatmap_std: float = 7.0
    heatmap_scale: float = 1.0
    pose_entry: str = "correction"
    pose_prior: bool = True
    adaptive_prior: bool = True
    uses_scores: bool = False
    heatmap_offset: float = 1.5
    antialias: bool = True
    crop_margin: float = CROP_MARGIN
    normalisation: Normalisation = field(default_factory=Normalisation)

    def __post_init__(self) -> None:
        check_fields(self, "model.", WeightsError)
        if self.backbone not in BACKBONES:
            raise WeightsError(f"model: backbone must be one of {', '.join(BACKBONES)}, got {shown(self.backbone)}")
        if self.pyramid not in PYRAMIDS:
            raise WeightsError(f"model: pyramid must be one of {', '.join(PYRAMIDS)}, got {shown(self.pyramid)}")
        if any(s % 32 for s in self.input_hw):
            raise WeightsError(f"model: input_hw must be (height, width), both divisible by 32, got {self.input_hw}")
        # Beyond these nothing was ever trained: a slip of the keyboard, or a file that is to fill the memory.
        check_ranges(
            self,
            "model.",
            WeightsError,
            input_hw=(32, 2048),
            width=(0.05, 8.0),
            last_channels=(0, 8192),
            num_keypoints=(1, 1024),
            heatmap_std=(0.1, 256.0),
            heatmap_scale=(1e-6, 1e6),
            crop_margin=(0.5, 4.0),
        )
        if self.pose_entry not in ("input", "correction", "none"):
            raise WeightsError(
                f"model: pose_entry must be 'input', 'correction' or 'none', got {shown(self.pose_entry)}"
            )
        if self.pose_entry == "none" and not self.pose_prior:
            raise WeightsError("model: the pose must enter the network (pose_entry) or be its prior (pose_prior)")
        if (self.pose_entry == "input") == self.is_mobilenet:
            raise WeightsError(f"model: {self.backbone} does not take the pose at {self.pose_entry!r}")
        if (self.width, self.last_channels, self.pyramid) != (1.0, 0, "movenet") and not self.is_mobilenet:
            raise WeightsError(f"model: width, last_channels and pyramid are MobileNetV2's, {self.backbone} has none")
        if self.uses_scores and not (self.pose_prior and self.adaptive_prior):
            raise WeightsError("model: uses_scores needs pose_prior and adaptive_prior, which read the scores")
        if not 0 <= self.heatmap_offset < STRIDE:
            raise WeightsError(f"model: expected heatmap_offset in [0, {STRIDE}), got {self.heatmap_offset}")

    @property
    def is_mobilenet(self) -> bool:
        """Whether the trunk is a MobileNetV2, which sees the image alone."""
        return self.backbone == "mobilenet_v2"

    @property
    def codec(self) -> HeatmapCodec:
        """Where the heatmaps' pixels lie in the crop."""
        return HeatmapCodec(STRIDE, self.heatmap_offset)

    @property
    def map_hw(self) -> tuple[int, int]:
        """Heatmap pixels (h, w) of the output."""
        return self.input_hw[0] // STRIDE, self.input_hw[1] // STRIDE

    @classmethod
    def paper(cls, depth: int = 152, input_hw: tuple[int, int] = (384, 288), num_keypoints: int = 17) -> ModelConfig:
        """The paper's network: a ResNet of the given depth, as in the paper's code."""
        return cls(
            backbone=f"resnet{depth}",
            input_hw=input_hw,
            num_keypoints=num_keypoints,
            heatmap_std=9.0 if input_hw[0] >= 384 else 7.0,
            heatmap_scale=255.0,
            pose_entry="input",
            pose_prior=False,
            adaptive_prior=False,
            heatmap_offset=0.0,
            antialias=False,
            normalisation=REFERENCE_NORMALISATION,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Rebuild from ``to_dict``; absent keys take their defaults.

        Raises:
            WeightsError: an unknown key or a value that does not fit.
        """
        return cls(**_values(cls, renamed("model", data, RENAMED), "model"))


#: Mean and standard deviation of ImageNet, which nearly every pose network is fed with.
IMAGENET = Normalisation("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
#: Crop pixel of heatmap pixel 0 of posefix's heatmaps.
HEATMAP_OFFSET = (STRIDE - 1) / 2


@dataclass(frozen=True)
class ImageModelConfig:
    """A top-down pose network, as far as posefix must know it.

    Attributes:
        family: what it is called in messages; for the known ones see ``FAMILIES``.
        file: its file in a weights folder; empty for one that is given as a function.
        input_hw: crop size (h, w) that it takes, divisible by 32.
        normalisation: of the crop.
        output: one of ``OUTPUTS``. ``"heatmaps"``: (B, K, h, w), about 1 where a keypoint is surely seen and 0 where
            nothing is. ``"logits"``: the same, as logarithms of probabilities. ``"simcc"``: (B, K, w) and (B, K, h).
        alignment: one of ``ALIGNMENTS``: UDP (ViTPose, PaddleDetection), the crop's corner (SimCC, HRNet and most of
            mmpose), or pixels that cover the crop without an offset.
        offset: (x, y) pixels of its crop by which it shows keypoints away from their labels. ``posefix
            calibrate`` measures it.
        keypoints: names of the output's first K keypoints, in order.
        crop_margin: growth of a person's box to the crop.
        sharpness: multiplies the logarithm of its output.
        own_weight: of the package's own network in the sum; 0 leaves it out.
        floor: lowest height of heatmaps and SimCC vectors that means something.

    Raises:
        WeightsError: an unknown value or a size that does not fit.
    """

    family: str = "custom"
    file: str = ""
    input_hw: tuple[int, int] = (256, 192)
    normalisation: Normalisation = field(default_factory=lambda: IMAGENET)
    output: str = "heatmaps"
    alignment: str = "udp"
    offset: tuple[float, float] = (0.0, 0.0)
    keypoints: tuple[str, ...] = COCO.keypoints
    crop_margin: float = 1.25
    sharpness: float = 4.0
    own_weight: float = 1.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self, "image model: ", WeightsError)
        for name, known in (("output", OUTPUTS), ("alignment", ALIGNMENTS)):
            if getattr(self, name) not in known:
                raise WeightsError(
                    f"image model: {name} must be one of {', '.join(known)}, got {shown(getattr(self, name))}"
                )
        check_ranges(
            self,
            "image model: ",
            WeightsError,
            input_hw=(32, 2048),
            offset=(-16.0, 16.0),
            crop_margin=(0.1, 10.0),
            sharpness=(1e-6, 1e6),
            floor=(1e-12, 1.0),
            own_weight=(0.0, 1e6),
        )
        if os.path.basename(self.file) != self.file or self.file in (".", ".."):
            raise WeightsError(f"image model: file must be a name in the weights folder, got {shown(self.file)}")
        if any(s % 32 for s in self.input_hw):
            raise WeightsError(
                f"image model: input_hw must be (height, width), both divisible by 32, got {self.input_hw}"
            )
        if not self.keypoints or len(set(self.keypoints)) != len(self.keypoints):
            raise WeightsError(f"image model: keypoints must be different names, got {self.keypoints}")

    @property
    def map_hw(self) -> tuple[int, int]:
        """Size (h, w) of posefix's heatmaps of its crop."""
        return self.input_hw[0] // STRIDE, self.input_hw[1] // STRIDE

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageModelConfig:
        """Rebuild from ``to_dict``; absent keys take their defaults.

        Raises:
            WeightsError: an unknown key or a value that does not fit.
        """
        return cls(**_values(cls, data, "image model"))


#: Old names of the configuration's keys.
RENAMED = {"scored": "uses_scores", "cell_offset": "heatmap_offset"}


def renamed(what: str, values: Any, names: dict[str, str]) -> Any:
    """``values`` with today's key names; whatever is no object comes back for ``refuse_unknown`` to name."""
    return rename_keys(values, names, what) if isinstance(values, dict) else values


def _values(cls: type, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a configuration from plain data."""
    refuse_unknown(data, cls, where, WeightsError)
    values = dict(data)
    if "normalisation" in values:
        refuse_unknown(values["normalisation"], Normalisation, "normalisation", WeightsError)
        values["normalisation"] = Normalisation(**values["normalisation"])
    return values
