"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import golden_rule

# What is installed in addition to torch must not change what other tests test.
os.environ.setdefault("POSEFIX_BACKEND", "torch")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The numbers committed with the tests; see ``golden/README.md``."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def resnet50_variables(golden: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The golden weights as the authors' checkpoint names them; not to be changed."""
    variables = golden_rule.variables(golden, "resnet50")
    for value in variables.values():
        value.flags.writeable = False
    return variables


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
