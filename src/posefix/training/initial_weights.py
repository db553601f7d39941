"""Where training starts: weights of other networks, brought into ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posefix.exceptions import WeightsError
from posefix.network.model import RefinementNetwork
from posefix.weights.weights import load_weights

logger = logging.getLogger(__name__)

_HEAD = {"depthwise": "0", "pointwise": "1", "logits": "2"}
_TOP = {"expand": "0", "project": "1"}


def _our_name(name: str) -> str:
    """``block03.expand.weight`` → ``trunk.blocks.3.expand.weight``."""
    if name.startswith("head."):
        return re.sub(r"^head\.(\w+)\.", lambda m: f"head.{_HEAD[m[1]]}.", name)
    if name.startswith("top."):
        return "trunk." + re.sub(r"^top\.(\w+)\.", lambda m: f"top.{_TOP[m[1]]}.", name)
    return "trunk." + re.sub(r"^block(\d+)", lambda m: f"blocks.{int(m[1])}", name)


def start_from_movenet(network: RefinementNetwork, path: str | Path) -> set[str]:
    """Fill trunk and head from MoveNet Lightning with batch norm folded (``movenet_lightning.npz``).

    The head's last layer is taken only if the network has 17 keypoints. A wide pyramid and its head start at random.

    Returns:
        the names of the tensors that were filled.

    Raises:
        WeightsError: the file is not of that layout or the network is not MobileNetV2's.
    """
    try:
        with np.load(path) as archive:
            arrays = {k: archive[k] for k in archive.files if not k.startswith("check.")}
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read the start weights {path}: {error}") from error
    state = {_our_name(k): torch.from_numpy(v) for k, v in arrays.items()}
    own = network.state_dict()
    if network.config.pyramid != "movenet":
        state = {k: v for k, v in state.items() if k.startswith(("trunk.stem.", "trunk.blocks."))}
    if network.config.num_keypoints != 17:
        state = {k: v for k, v in state.items() if "head.2." not in k}
    for name, tensor in state.items():
        if name not in own or own[name].shape != tensor.shape:
            raise WeightsError(f"start weights {path}: {name} {tuple(tensor.shape)} does not fit this network")
    network.load_state_dict(state, strict=False)
    return set(state)


def start_from_imagenet(network: RefinementNetwork, path: str | Path) -> None:
    """Fill the trunk of a ResNet from torchvision's ImageNet state saved as safetensors.

    Source: ``torchvision.models.resnetN(weights=...).state_dict()`` written with ``safetensors``. The first
    convolution's image channels are re-ordered and scaled to the network's own normalisation; the channels
    of the heatmaps start at zero.

    Raises:
        WeightsError: the file does not hold such a ResNet.
    """
    from safetensors.torch import load_file

    try:
        source = load_file(str(path))
    except Exception as error:
        raise WeightsError(f"cannot read the start weights {path}: {error}") from error
    own = network.state_dict()
    for name, tensor in source.items():
        ours = _resnet_name(name)
        if ours is None:
            continue
        if ours == "trunk.stem.weight" and tensor.shape[1:] == (3, *own[ours].shape[2:]):
            tensor = _adapt_stem(tensor, network, own[ours])
        if ours not in own or own[ours].shape != tensor.shape:
            raise WeightsError(f"start weights {path}: {name} {tuple(tensor.shape)} does not fit this network")
        own[ours] = tensor
    network.load_state_dict(own)


def start_from_weights(network: RefinementNetwork, sources: Sequence[str]) -> set[str]:
    """Go on from a refiner's weights, or from the average of several that were trained from one start.

    The prior, and head and correction for another keypoint set, start anew where they do not fit.

    Args:
        network: is filled.
        sources: weights folders, or ``"embedded"``.

    Returns:
        the names of the tensors that were filled.

    Raises:
        WeightsError: trunk or head are another network's, or only one of the two sees scores.
    """
    own = network.state_dict()
    loaded = [load_weights(None if s == "embedded" else s) for s in sources]
    fits: dict[str, Tensor] = {}
    for name, tensor in own.items():
        found = [w.state[name].float() for w in loaded if name in w.state and w.state[name].shape == tensor.shape]
        if len(found) == len(loaded):
            fits[name] = torch.stack(found).mean(0)
    # Half an adaptive prior is none.
    adaptive = ("prior.adapt.", "prior.listen.")
    if any(k.startswith(adaptive) and k not in fits for k in own):
        fits = {k: v for k, v in fits.items() if not k.startswith(adaptive)}
    for weights in loaded:
        same_set = weights.config.num_keypoints == network.config.num_keypoints
        anew = ("prior.",) if same_set else ("prior.", "head.", "correction.")
        missing = [k for k in own if k not in fits and not k.startswith(anew)]
        # A correction that was trained with scores must get them again.
        other_scores = same_set and weights.config.uses_scores != network.config.uses_scores
        if missing or other_scores or weights.config.backbone != network.config.backbone:
            names = ("backbone", "width", "last_channels", "pyramid", "pose_entry", "uses_scores")
            theirs = {n: getattr(weights.config, n) for n in names}
            differ = ", ".join(f"{n}: {v}" for n, v in theirs.items() if v != getattr(network.config, n))
            raise WeightsError(
                f"start.weights: {weights.origin} holds another network than the configuration"
                + (f"; to go on from it, set model: {{{differ}}}" if differ else f": {missing[0]} does not fit")
            )
    left = [k for k in own if k not in fits]
    if left:
        modules = sorted({".".join(k.split(".")[:2]) for k in left})
        logger.info("these start anew, they are not in %s: %s", ", ".join(sources), ", ".join(modules))
    network.load_state_dict(fits, strict=False)
    return set(fits)


def _resnet_name(name: str) -> str | None:
    if name.startswith("fc."):
        return None
    name = re.sub(r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.", name)
    name = re.sub(r"\.bn(\d)\.", r".norm\1.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut_norm.")
    name = re.sub(r"^bn1\.", "stem_norm.", re.sub(r"^conv1\.", "stem.", name))
    return "trunk." + name


def _adapt_stem(weight: Tensor, network: RefinementNetwork, own: Tensor) -> Tensor:
    """torchvision reads RGB in units of its std; ours reads ``normalisation.channels`` in units of ours."""
    torchvision_std = torch.tensor([0.229, 0.224, 0.225]) * 255.0
    scaled = weight / torchvision_std.view(1, 3, 1, 1)
    if network.config.normalisation.channels == "bgr":
        scaled = scaled.flip(1)
    scaled = scaled * network.std.view(1, 3, 1, 1)
    return torch.cat([scaled, torch.zeros_like(own[:, 3:])], dim=1)
