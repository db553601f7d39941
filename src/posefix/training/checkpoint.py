"""Checkpoints: weights, optimiser and step in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from posefix.exceptions import InputError, TrainingError
from posefix.io.atomic import write_file
from posefix.io.json import parse_json


def save_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: file.
        network: the weights being trained.
        average: their moving average.
        optimiser: its state goes along, parameter by parameter.
        facts: plain data (step, configuration, history). Randomness needs no state: batch s is a function of
            the seed and s.

    Raises:
        TrainingError: it cannot be written (a full disk); the last one stays.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("network", network), ("average", average)):
        tensors |= {f"{prefix}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v).cpu().contiguous() for k, v in state.items()}
    tensors = {k: v.clone() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save(tensors, metadata={"facts": json.dumps(facts)})
    try:
        write_file(path, content)
    except InputError as error:
        last = f"the last one ({path}) is whole" if path.exists() else "there is none before it"
        raise TrainingError(
            f"step {facts.get('step')}: the checkpoint: {error}; {last}: make room and continue with --resume"
        ) from error


def load_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore what ``save_checkpoint`` wrote; returns the facts.

    Raises:
        TrainingError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = parse_json(file.metadata()["facts"].encode(), source="facts")
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"cannot read the checkpoint {path}: {error}") from error
    try:
        for prefix, module in (("network", network), ("average", average)):
            own = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
            module.load_state_dict(own)
    except RuntimeError as error:
        raise TrainingError(f"the checkpoint {path} belongs to another network; train into a new folder") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts
