"""MobileNetV2 with one of two feature pyramids to stride 4: the trunk of the embedded network.

Layers carry weight and bias and no batch norm: they start from weights with batch norm folded in (the layout
of ``movenet_lightning.npz``), where folding halves the memory traffic of training, and inference needs none.
"Same" padding is TensorFlow's: stride-2 layers pad bottom and right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Output channels, number of blocks, stride of the first, expansion (Sandler et al., CVPR 2018, table 2).
_GROUPS = (
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 2, 6),
    (320, 1, 1, 6),
)
#: Blocks after which the pyramid takes its features: stride 4, 8, 16.
_TAPS = (2, 5, 9)
#: Channels that the pyramid hands to the head.
FEATURES = 24


def channels(base: int, width: float) -> int:
    """``base`` · ``width`` to the nearest multiple of 8, never less than 9/10 of it (MobileNetV2's rule)."""
    wanted = base * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


class Conv(nn.Conv2d):
    """A convolution with bias, "same" padding and an activation: ``"relu6"``, ``"relu"`` or None."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: str | None = None
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        x = super().forward(x)
        if self.act == "relu6":
            return F.relu6(x, inplace=True)
        return F.relu(x, inplace=True) if self.act == "relu" else x


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = Conv(inputs, hidden, act="relu6") if expansion > 1 else None
        self.depthwise = Conv(hidden, hidden, 3, stride=stride, groups=hidden, act="relu6")
        self.project = Conv(hidden, outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        out: Tensor = x + y if self.shortcut else y
        return out


class Merge(nn.Module):
    """Upsample twofold, add the finer features, mix (half-pixel centres)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = Conv(inputs, inputs, 3, groups=inputs)
        self.pointwise = Conv(inputs, outputs, act="relu")

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        up = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.pointwise(self.depthwise(up + fine))
        return out


class MobileNet(nn.Module):
    """The blocks of MobileNetV2; those that inherit add a pyramid."""

    #: Channels of the pyramid's output.
    features: int

    def __init__(self, width: float = 1.0, last_channels: int = 0) -> None:
        """``width`` multiplies the blocks' channels, ``last_channels`` replaces those of the last block."""
        super().__init__()
        inputs = channels(32, width)
        self.stem = Conv(3, inputs, 3, stride=2, act="relu6")
        blocks: list[nn.Module] = []
        for base, count, stride, expansion in _GROUPS:
            outputs = channels(base, width)
            for i in range(count):
                blocks.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        if last_channels:
            blocks[-1] = InvertedResidual(channels(160, width), last_channels, 1, 6)
        self.blocks = nn.ModuleList(blocks)

    def stages(self, x: Tensor, after: tuple[int, ...]) -> list[Tensor]:
        """Outputs of these blocks, which end with the last."""
        x, taken = self.stem(x), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in after:
                taken.append(x)
        return taken

    def outputs(self, block: int) -> int:
        """Channels after a block."""
        return int(self.blocks[block].project.out_channels)  # type: ignore[union-attr, arg-type]


class MobileNetFpn(MobileNet):
    """MobileNetV2 and MoveNet's three-level pyramid.

    Input (B, 3, H, W); output (B, 24, H/4, W/4).
    """

    features = FEATURES

    def __init__(self, width: float = 1.0, last_channels: int = 0) -> None:
        super().__init__(width, last_channels)
        inputs = self.outputs(-1)
        fine, middle, coarse = (channels(c, width) for c in (24, 32, 64))
        self.lateral4, self.lateral8, self.lateral16 = Conv(fine, 24), Conv(middle, 32), Conv(coarse, 64)
        self.top = nn.Sequential(Conv(inputs, 1280, act="relu6"), Conv(1280, 64))
        self.merge16, self.merge8, self.merge4 = Merge(64, 32), Merge(32, 24), Merge(24, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse, last = self.stages(x, (*_TAPS, len(self.blocks) - 1))
        x = self.merge16(self.top(last), self.lateral16(coarse))
        x = self.merge8(x, self.lateral8(middle))
        out: Tensor = self.merge4(x, self.lateral4(fine))
        return out


class Mix(nn.Module):
    """Filter each channel over 5×5 places, mix through ``ratio`` times as many channels; with a shortcut."""

    def __init__(self, inputs: int, ratio: int) -> None:
        super().__init__()
        self.depthwise = Conv(inputs, inputs, 5, groups=inputs)
        self.expand = Conv(inputs, ratio * inputs, act="relu")
        self.project = Conv(ratio * inputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.project(self.expand(self.depthwise(x)))
        return out


class MobileNetWideFpn(MobileNet):
    """MobileNetV2 and a pyramid of four levels with more channels, which also sees the place in the crop.

    By the place it tells the person in the middle from the others. Input (B, 3, H, W); output (B, 48, H/4, W/4).
    """

    #: By level, fine to coarse (strides 4, 8, 16, 32): channels, number of mixes and their ratio.
    _LEVELS = ((48, 1, 2), (80, 2, 2), (128, 3, 4), (192, 3, 4))
    _AFTER = (2, 5, 12, 16)
    features = _LEVELS[0][0]

    def __init__(self, width: float = 1.0, last_channels: int = 0) -> None:
        super().__init__(width, last_channels)
        inputs = [self.outputs(i) for i in self._AFTER]
        inputs[-1] += 3
        sizes = [level[0] for level in self._LEVELS]
        self.laterals = nn.ModuleList(Conv(i, c) for i, c in zip(inputs, sizes, strict=True))
        self.downs = nn.ModuleList(Conv(sizes[i + 1], sizes[i]) for i in range(3))
        self.mixes = nn.ModuleList(nn.Sequential(*(Mix(c, r) for _ in range(n))) for c, n, r in self._LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        *stages, last = self.stages(x, self._AFTER)
        y: Tensor = self.mixes[3](self.laterals[3](torch.cat([last, _place(last)], dim=1)))
        for level in (2, 1, 0):
            up = F.interpolate(self.downs[level](y), scale_factor=2.0, mode="bilinear", align_corners=False)
            y = self.mixes[level](up + self.laterals[level](stages[level]))
        return y


def _place(x: Tensor) -> Tensor:
    """(B, 3, h, w): x and y from −1 to 1 over the crop, and their squared distance from the middle."""
    count, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
    rows, columns = rows.expand(count, 1, height, width), columns.expand(count, 1, height, width)
    return torch.cat([columns, rows, rows**2 + columns**2], dim=1)


#: By the name in ``ModelConfig.pyramid``.
TRUNKS = {"movenet": MobileNetFpn, "wide": MobileNetWideFpn}


class Head(nn.Sequential):
    """Features to one map of logits per keypoint."""

    def __init__(self, num_keypoints: int) -> None:
        super().__init__(
            Conv(FEATURES, FEATURES, 3, groups=FEATURES), Conv(FEATURES, 96, act="relu"), Conv(96, num_keypoints)
        )
