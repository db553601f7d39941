"""A network that learns a teacher's heatmaps: the package's trunk and a wider decoder on top.

The trunk's own pyramid ends in 24 channels, which hold whose joints are meant no better than MoveNet needs. Here its
stages are merged again with more channels, and with the place in the crop, which distinguishes the person in
the middle from the others. The decoder starts at zero and is added to MoveNet's own answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posefix.network.mobilenet import Conv, Head, MobileNetFpn

#: Blocks after which the decoder takes features, and their strides: 4, 8, 16, 32.
_TAPS = (2, 5, 12, 16)


class Mix(nn.Module):
    """Filter each channel over 5×5 pixels, mix through twice as many channels; with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = Conv(channels, channels, 5, groups=channels)
        self.expand = Conv(channels, 2 * channels, act="relu")
        self.project = Conv(2 * channels, channels)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.project(self.expand(self.depthwise(x)))
        return out


class Student(nn.Module):
    """Crops → heatmap logits (stride 4)."""

    def __init__(
        self,
        width: float = 1.75,
        last_channels: int = 400,
        num_keypoints: int = 17,
        channels: tuple[int, ...] = (48, 80, 128, 160),
        mixes: tuple[int, ...] = (2, 2, 2, 1),
        frozen_blocks: int = 6,
    ) -> None:
        """``channels`` and ``mixes`` of the decoder are by stride: 4, 8, 16, 32."""
        super().__init__()
        self.trunk, self.head = MobileNetFpn(width, last_channels), Head(num_keypoints)
        self.frozen_blocks = frozen_blocks
        taps = [self._outputs(i) for i in _TAPS]
        taps[-1] += 3
        self.laterals = nn.ModuleList(Conv(t, c) for t, c in zip(taps, channels, strict=True))
        self.downs = nn.ModuleList(Conv(channels[i + 1], channels[i]) for i in range(3))
        self.mixes = nn.ModuleList(
            nn.Sequential(*(Mix(c) for _ in range(n))) for c, n in zip(channels, mixes, strict=True)
        )
        self.own = Conv(24, channels[0])
        self.logits = Conv(channels[0], num_keypoints)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.gain = nn.Parameter(torch.ones(num_keypoints, 1, 1))

    def _outputs(self, block: int) -> int:
        return self.trunk.blocks[block].project.out_channels  # type: ignore[union-attr, return-value]

    def forward(self, crops: Tensor) -> Tensor:
        """(B, H, W, 3) RGB in 0…255 → (B, K, H/4, W/4) float32 logits."""
        trunk, taps, pyramid = self.trunk, [], []
        x = crops.permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_blocks):
            x = trunk.stem(x)
        for i, block in enumerate(trunk.blocks):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= self.frozen_blocks):
                x = block(x)
            if i in _TAPS:
                taps.append(x)
            if i in (2, 5, 9):
                pyramid.append(x)
        y = trunk.merge16(trunk.top(x), trunk.lateral16(pyramid[2]))
        y = trunk.merge8(y, trunk.lateral8(pyramid[1]))
        y = trunk.merge4(y, trunk.lateral4(pyramid[0]))
        taps[-1] = torch.cat([taps[-1], _place(taps[-1])], dim=1)
        z = self.mixes[3](self.laterals[3](taps[3]))
        for level in (2, 1, 0):
            up = F.interpolate(self.downs[level](z), size=taps[level].shape[-2:], mode="bilinear", align_corners=False)
            z = up + self.laterals[level](taps[level])
            if level == 0:
                z = z + self.own(y)
            z = self.mixes[level](z)
        out: Tensor = self.gain * self.head(y).float() + self.logits(z).float()
        return out


def _place(x: Tensor) -> Tensor:
    """(B, 3, h, w): x and y from −1 to 1 over the crop, and their squared distance from the middle."""
    count, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
    rows, columns = rows.expand(count, 1, height, width), columns.expand(count, 1, height, width)
    return torch.cat([columns, rows, rows**2 + columns**2], dim=1)
