"""MobileNetV2 with a feature pyramid to stride 4: the trunk of the embedded network.

Layers carry weight and bias and no batch norm: they start from weights with batch norm folded in (the layout
of ``movenet_lightning.npz``), where folding halves the memory traffic of training, and inference needs none.
"Same" padding is TensorFlow's: stride-2 layers pad bottom and right.
"""

from __future__ import annotations

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


class MobileNetFpn(nn.Module):
    """MobileNetV2 and a three-level pyramid.

    Input (B, 3, H, W); output (B, 24, H/4, W/4).
    """

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
            inputs = last_channels
        self.blocks = nn.ModuleList(blocks)
        fine, middle, coarse = (channels(c, width) for c in (24, 32, 64))
        self.lateral4, self.lateral8, self.lateral16 = Conv(fine, 24), Conv(middle, 32), Conv(coarse, 64)
        self.top = nn.Sequential(Conv(inputs, 1280, act="relu6"), Conv(1280, 64))
        self.merge16, self.merge8, self.merge4 = Merge(64, 32), Merge(32, 24), Merge(24, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x, taps = self.stem(x), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _TAPS:
                taps.append(x)
        x = self.merge16(self.top(x), self.lateral16(taps[2]))
        x = self.merge8(x, self.lateral8(taps[1]))
        out: Tensor = self.merge4(x, self.lateral4(taps[0]))
        return out


class Head(nn.Sequential):
    """Features to one map of logits per keypoint."""

    def __init__(self, num_keypoints: int) -> None:
        super().__init__(
            Conv(FEATURES, FEATURES, 3, groups=FEATURES), Conv(FEATURES, 96, act="relu"), Conv(96, num_keypoints)
        )
