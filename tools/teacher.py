"""The teacher of tools/distil.py: an OpenVINO graph run in torch, shown each person in several views."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pack_crops import INPUT_HW, KEPT_HW, MARGIN
from torch import Tensor, nn
from torch.nn import functional as F

from posefix.geometry import invert_affine
from posefix.keypoints.heatmaps import mirror_maps
from posefix.keypoints.skeleton import COCO

Doubles = npt.NDArray[np.float64]

#: Input and heatmaps of the teacher, (h, w). The first heatmap pixel lies on the first pixel, the last on the last.
TEACHER_HW, TEACHER_MAP_HW = (256, 192), (64, 48)
#: Heatmaps of what is kept of a crop, (h, w), at the student's stride.
KEPT_MAP_HW = (KEPT_HW[0] // 4, KEPT_HW[1] // 4)
_MEAN, _STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def diagonal(scale: tuple[float, float], constant: tuple[float, float]) -> Doubles:
    """(1, 2, 3) map that scales and shifts x and y."""
    return np.array([[[scale[0], 0, constant[0]], [0, scale[1], constant[1]]]])


#: Pixel of the student's crop → pixel of what is kept.
KEPT = diagonal((1, 1), (MARGIN, MARGIN))
#: Heatmap pixel → pixel of the crop, also of what is kept.
CELL = diagonal((4, 4), (1.5, 1.5))
_TEACHER_CELL = diagonal((191 / 47, 255 / 63), (0, 0))


def compose(outer: Doubles, inner: Doubles) -> Doubles:
    """(N, 2, 3) map of ``inner``, then ``outer``; one of them may be a single map."""
    linear = outer[..., :2] @ inner[..., :2]
    return np.concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], axis=-1)


def centred(
    scale: npt.ArrayLike,
    degrees: npt.ArrayLike,
    shift: npt.ArrayLike,
    source_hw: tuple[int, int],
    target_hw: tuple[int, int] = INPUT_HW,
    mirror: npt.ArrayLike = False,
) -> Doubles:
    """(N, 2, 3) maps between two frames: mirror, scale and turn about their centres, then shift by (N, 2) pixels."""
    angle, side = np.deg2rad(degrees), np.where(mirror, -1.0, 1.0)
    side, cosine, sine = np.broadcast_arrays(side, scale * np.cos(angle), scale * np.sin(angle))
    linear = np.stack([side * cosine, -sine, side * sine, cosine], axis=-1).reshape(-1, 2, 2)
    source, target = ((np.array(hw[::-1], float) - 1) / 2 for hw in (source_hw, target_hw))
    return np.concatenate([linear, (target + np.asarray(shift) - linear @ source)[..., None]], axis=-1)


def sample(source: Tensor, affine: Doubles, output_hw: tuple[int, int]) -> Tensor:
    """Read images bilinearly, 0 outside.

    Args:
        source: (B, C, H, W) floats.
        affine: (B or 1, 2, 3) output pixel → source pixel.
        output_hw: (h, w).

    Returns:
        (B, C, h, w).
    """
    height, width = source.shape[-2:]
    a = torch.from_numpy(affine).to(source)[:, None, None]
    y, x = (torch.arange(n, device=source.device, dtype=source.dtype) for n in output_hw)
    # No matrix product: on a GPU it may round coordinates to 11 bits.
    points = a[..., 0] * x[:, None] + a[..., 1] * y[:, None, None] + a[..., 2]
    grid = points * 2 / torch.tensor([width - 1.0, height - 1.0]).to(source) - 1
    return F.grid_sample(source, grid.expand(len(source), -1, -1, -1), padding_mode="zeros", align_corners=True)


class Teacher(nn.Module):
    """The heatmaps of a network stored as OpenVINO IR (``model.xml``, ``model.bin``): the operations of PP-TinyPose.

    The file's shapes are for one person; here the first dimension is that of the input.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        root = ET.parse(Path(folder) / "model.xml").getroot()
        raw = (Path(folder) / "model.bin").read_bytes()
        layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        ports = {i: [p.attrib["id"] for p in layer.iterfind("output/port")] for i, layer in layers.items()}
        sources: dict[str, list[_Key]] = {i: [] for i in layers}
        for edge in sorted(root.iterfind("edges/edge"), key=lambda e: int(e.attrib["to-port"])):
            start = edge.attrib["from-layer"]
            sources[edge.attrib["to-layer"]].append((start, ports[start].index(edge.attrib["from-port"])))
        self._steps: list[tuple[str, list[_Key], _Operation]] = []
        self._result: _Key = ("", 0)
        # In the file every layer comes after its inputs. What computes shapes is left out: the file has those, too.
        known: set[_Key] = set()
        integers: dict[_Key, list[int]] = {}
        for index, layer in layers.items():
            kind, inputs = layer.attrib["type"], sources[index]
            element = layer.find("data")
            data = {} if element is None else element.attrib
            if kind == "Const":
                part = raw[int(data["offset"]) : int(data["offset"]) + int(data["size"])]
                letter, bits = data["element_type"][0], int(data["element_type"][1:])
                values = np.frombuffer(part, f"<{letter}{bits // 8}").reshape(_integers(data["shape"]))
                if letter != "f":
                    integers[index, 0] = values.reshape(-1).tolist()
                    continue
                self.register_buffer(index, torch.from_numpy(values.astype(np.float32)))
            elif kind == "Result":
                self._result = inputs[0] if len(layer.findall("input/port/dim")) == 4 else self._result
                continue
            elif kind != "Parameter":
                shapes = [[int(d.text or 0) for d in p.iterfind("dim")] for p in layer.iterfind("output/port")]
                order = integers.get(inputs[-1], [])
                inputs = inputs[:1] if kind in _SHAPED else inputs
                operation = _operation(kind, data, shapes, order)
                if operation is None or not inputs or not known.issuperset(inputs):
                    continue
                self._steps.append((index, inputs, operation))
            known |= {(index, port) for port in range(len(ports[index]))}
        if self._result not in known:
            raise SystemExit(f"{folder}: the heatmaps of this graph need operations that are not known here")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 256, 192) normalised RGB → (B, K, 64, 48), about 1 where a keypoint is surely seen."""
        values: dict[_Key, Tensor] = {("0", 0): x} | {(n, 0): b for n, b in self.named_buffers()}
        for index, inputs, operation in self._steps:
            found = operation(*(values[i] for i in inputs))
            values |= {(index, port): y for port, y in enumerate([found] if isinstance(found, Tensor) else found)}
        return values[self._result]


_Key = tuple[str, int]  # of a tensor: its layer and which of the layer's outputs
_Operation = Callable[..., Tensor | Sequence[Tensor]]
#: What follows the first input of these is a shape or an axis.
_SHAPED = ("Reshape", "Interpolate", "Split", "Transpose")


def _integers(text: str) -> list[int]:
    return [int(v) for v in text.split(",") if v.strip()]


def _operation(kind: str, data: dict[str, str], shapes: list[list[int]], order: list[int]) -> _Operation | None:
    """A layer as a function of its tensors; None for one that is not known."""
    if kind in ("Convolution", "GroupConvolution"):
        stride, padding, dilation = (_integers(data[k]) for k in ("strides", "pads_begin", "dilations"))
        if kind == "Convolution":
            return lambda x, w: F.conv2d(x, w, None, stride, padding, dilation)
        return lambda x, w: F.conv2d(x, w.flatten(0, 1), None, stride, padding, dilation, groups=len(w))
    if kind == "Interpolate" and data["mode"] == "nearest":
        return lambda x: F.interpolate(x, shapes[0][2:])
    if kind == "Interpolate":
        corners = data["coordinate_transformation_mode"] == "align_corners"
        return lambda x: F.interpolate(x, shapes[0][2:], mode="bilinear", align_corners=corners)
    known: dict[str, _Operation] = {
        "Add": torch.add,
        "ReLU": F.relu,
        "Convert": lambda x: x,
        "Concat": lambda *x: torch.cat(x, int(data["axis"])),
        "Reshape": lambda x: x.reshape(len(x), *shapes[0][1:]),
        "Transpose": lambda x: x.permute(order),
        "Split": lambda x: x.chunk(len(shapes), 1),
    }
    return known.get(kind)


@torch.no_grad()
def mean_heatmaps(teacher: nn.Module, crops: Tensor, views: Sequence[Sequence[float]]) -> Tensor:
    """The teacher's answer, averaged over views, each also mirrored.

    Args:
        teacher: (B, 3, 256, 192) normalised RGB → (B, K, 64, 48).
        crops: (B, 3, 400, 304) RGB in 0…255, what is kept.
        views: zoom, shift in x and y (pixels of the student's crop) and turn (degrees) of each.

    Returns:
        (B, K, 100, 76) float32.
    """
    total = torch.zeros(())
    flip = torch.from_numpy(COCO.flip_indices).to(crops.device)
    for zoom, x, y, degrees in views:
        view = compose(KEPT, centred(INPUT_HW[0] / TEACHER_HW[0] / zoom, degrees, [[x, y]], TEACHER_HW))
        images = (sample(crops, view, TEACHER_HW) / 255 - _MEAN.to(crops)) / _STD.to(crops)
        heat = (teacher(images) + mirror_maps(teacher(images.flip(3)), flip, 0.0)) / 2
        cells = compose(invert_affine(compose(view, _TEACHER_CELL)), CELL)
        total = total.to(heat) + sample(heat.float(), cells, KEPT_MAP_HW)
    return total / len(views)
