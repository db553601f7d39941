"""Outputs of other estimators, taken apart into arrays and put together again."""

from posefix.adapters.base import Extracted
from posefix.adapters.registry import ADAPTERS, Adapter, Extract, adapt

__all__ = ["ADAPTERS", "Adapter", "Extract", "Extracted", "adapt"]
