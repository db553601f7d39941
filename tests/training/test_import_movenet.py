"""tools/import_movenet.py: TensorFlow.js files are read whole, and shrinking loses as little as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import load_tool


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("import_movenet")


def test_constants_of_both_precisions_are_read(tool: Any, tmp_path: Path) -> None:
    half, whole = np.arange(6, dtype=np.float16).reshape(1, 1, 2, 3), np.array([7, 8], np.int32)
    entries = [
        {"name": "a", "shape": [1, 1, 2, 3], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "b", "shape": [2], "dtype": "int32"},
        {"name": "c", "shape": [], "dtype": "int32"},
    ]
    (tmp_path / "m.json").write_text(json.dumps({"weightsManifest": [{"weights": entries}]}))
    (tmp_path / "m.bin").write_bytes(half.tobytes() + whole.tobytes() + np.int32(9).tobytes())
    constants = tool.read_tfjs(tmp_path / "m.json")
    np.testing.assert_array_equal(constants["a"], half)
    np.testing.assert_array_equal(constants["b"], whole)
    assert constants["c"] == 9
    (tmp_path / "m.bin").write_bytes(half.tobytes())
    with pytest.raises((SystemExit, ValueError)):
        tool.read_tfjs(tmp_path / "m.json")


@pytest.mark.parametrize("rank", [5, 8])
def test_shrinking_keeps_what_varies(tool: Any, rank: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"block16.project": (8, 12), "top.expand": (20, 8)}
    layers = {f"{n}.weight": rng.standard_normal((*s, 1, 1)).astype(np.float32) for n, s in shapes.items()}
    layers |= {f"{n}.bias": rng.standard_normal(s[0]).astype(np.float32) for n, s in shapes.items()}
    # Inputs that vary in 5 directions about a mean that is not zero.
    inputs = (rng.standard_normal((500, 5)) @ rng.standard_normal((5, 12)) + rng.standard_normal(12)).astype(np.float32)

    def run(layers: dict[str, Any]) -> Any:
        middle = inputs @ layers["block16.project.weight"][:, :, 0, 0].T + layers["block16.project.bias"]
        return middle @ layers["top.expand.weight"][:, :, 0, 0].T + layers["top.expand.bias"]

    before = run(layers)
    lost = tool.shrink(layers, inputs, rank)
    assert layers["block16.project.weight"].shape == (rank, 12, 1, 1)
    assert layers["top.expand.weight"].shape == (20, rank, 1, 1)
    assert abs(lost) < 1e-6
    np.testing.assert_allclose(run(layers), before, atol=1e-3)
    # One direction less than there are loses its share of the variance, no more and no less.
    lost = tool.shrink(layers, inputs, 4)
    after = run(layers)
    assert lost > 1e-4
    measured = np.square(after - before).sum() / np.square(before - before.mean(0)).sum()
    assert measured == pytest.approx(lost, rel=0.02)
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=1e-3)
