"""Bottleneck ResNet v1 with three transposed convolutions: the paper's network (as in the paper's code)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
#: Channels that the head hands on.
FEATURES = 256


def _norm(channels: int) -> nn.BatchNorm2d:
    # The reference's decay 0.99 is PyTorch's momentum 0.01; its eps is 1e-9.
    return nn.BatchNorm2d(channels, eps=1e-9, momentum=0.01)


class Bottleneck(nn.Module):
    """1×1, 3×3 with the stride, 1×1 with four times the channels, plus the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = _norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = _norm(outputs)
        project = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else None
        self.shortcut_norm = _norm(outputs) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return F.relu(x + y)


class ResNetUp(nn.Module):
    """ResNet to stride 32, transposed convolutions back to stride 4.

    Input (B, inputs, H, W), H and W divisible by 32; output (B, 256, H/4, W/4).
    """

    def __init__(self, name: str, inputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, 64, 7, 2, 3, bias=False)
        self.stem_norm = _norm(64)
        stages, channels = [], 64
        for i, depth in enumerate(DEPTHS[name]):
            width, stride = 64 * 2**i, 1 if i == 0 else 2
            units = []
            for unit in range(depth):
                units.append(Bottleneck(channels, width, stride if unit == 0 else 1))
                channels = 4 * width
            stages.append(nn.Sequential(*units))
        self.stages = nn.ModuleList(stages)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(channels if i == 0 else FEATURES, FEATURES, 4, 2, 1, bias=False) for i in range(3)
        )
        self.up_norm = nn.ModuleList(_norm(FEATURES) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        # The zero padding of the reference is not max-pooling's own (−∞), but after a ReLU both are the same.
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        for up, norm in zip(self.up, self.up_norm, strict=True):
            x = F.relu(norm(up(x)))
        return x

    def fold_batch_norm(self) -> None:
        """Fold every batch norm into the convolution before it, for inference; the function stays the same."""
        _fold(self, "stem", "stem_norm")
        for stage in self.stages:
            for unit in stage.children():
                for conv, norm in (("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")):
                    _fold(unit, conv, norm)
                _fold(unit, "shortcut", "shortcut_norm")
        for i, (up, batch_norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            if isinstance(batch_norm, nn.BatchNorm2d) and isinstance(up, nn.ConvTranspose2d):
                self.up[i] = fuse_conv_bn_eval(up, batch_norm, transpose=True)
                self.up_norm[i] = nn.Identity()


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    convolution, batch_norm = getattr(module, conv), getattr(module, norm)
    if isinstance(batch_norm, nn.BatchNorm2d):
        setattr(module, conv, fuse_conv_bn_eval(convolution, batch_norm))
        setattr(module, norm, nn.Identity())
