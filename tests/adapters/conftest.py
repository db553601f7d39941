"""Stand-in refiners, and what the real packages need in order to run here."""

from __future__ import annotations

import os

import pytest
import torchvision_operators
from checks import StandIn

# No package looks for updates, sends statistics or asks a hub.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
torchvision_operators.register()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors, except those that the packages themselves give rise to."""
    for item in items:
        if "adapters" in item.path.parts and item.path.parent.name == "adapters":
            for package in ("supervision", "ultralytics", "torchvision", "transformers", "mmengine", "mmcv", "mmpose"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:::{package}"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning"))


@pytest.fixture
def identity() -> StandIn:
    return StandIn()


@pytest.fixture
def shift() -> StandIn:
    """One pixel right and down, confidence 0.75."""
    return StandIn(move=1.0, score=0.75)


@pytest.fixture
def fill() -> StandIn:
    """Missing keypoints of people who have any get (12, 34, 0.5)."""
    return StandIn(fill=True)
