"""The adapter that docs/adapters.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from checks import StandIn, assert_same, image, poses

from posefix.adapters import ADAPTERS

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")


def test_the_example() -> None:
    code = next(c for c in re.findall(r"```python\n(.*?)```", DOCS, re.S) if "def extract" in c)
    names: dict[str, Any] = {}
    exec(code.split("refined = refiner(")[0], names)
    data = poses()
    output = {"joints": (data[..., :2] / 1000).astype(np.float32), "certainty": data[..., 2].astype(np.float32)}
    output["joints"][0, 3] = -1
    assert_same(StandIn()(image(), output, adapter=names["extract"]), output)
    moved = StandIn(move=1.0)(image(), output, adapter=names["extract"])
    np.testing.assert_allclose(moved["joints"][1], output["joints"][1] + 0.001, rtol=1e-5)
    assert moved["joints"][0, 3].tolist() == [-1, -1]


def test_every_adapter_is_listed() -> None:
    for adapter in ADAPTERS:
        assert adapter.name.split()[0].lower() in DOCS.lower(), adapter.name
