"""The golden numbers' weights, made by a rule instead of stored (``golden/README.md``)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def variable(name: str, shape: tuple[int, ...]) -> Floats:
    """The value of one checkpoint variable."""
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rsplit("/", 1)[1]
    if name == "out/weights":
        value = n * np.sqrt(2 / shape[2]) * 0.015
    elif name.startswith("up") and kind == "weights":
        value = n * np.sqrt(2 / (shape[0] * shape[1] * shape[3] / 4))
    elif kind == "weights":
        value = n * np.sqrt(2 / (shape[0] * shape[1] * shape[2]))
    elif kind == "gamma":
        value = (1 + 0.1 * n) * (0.3 if "conv3/" in name else 1.0)
    elif kind == "moving_variance":
        value = 1 + 0.5 * np.tanh(n)
    else:
        value = 0.1 * n
    return value.astype(np.float32)


def variables(golden: Path, backbone: str) -> dict[str, Floats]:
    """All variables of the authors' checkpoint of ``resnet50`` or ``resnet152``."""
    listed = json.loads((golden / f"checkpoint_variables_{backbone}.json").read_text())
    return {name: variable(name, tuple(shape)) for name, shape in listed}
