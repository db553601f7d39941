"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def golden() -> Path:
    """The numbers committed with the tests; see ``golden/README.md``."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
