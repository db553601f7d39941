"""Outputs of other estimators, taken apart and put together again."""

from posefix.adapters.registry import ADAPTERS, Adapter, BatchRefiner, Extract, adapt, refine_output

__all__ = ["ADAPTERS", "Adapter", "BatchRefiner", "Extract", "adapt", "refine_output"]
