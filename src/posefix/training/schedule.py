"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from posefix.training.config import Optimisation


def learning_rate(step: int, optimisation: Optimisation) -> float:
    """Learning rate of a step (0-based): linear warm-up, then the schedule."""
    peak, steps = optimisation.learning_rate, optimisation.steps
    if step < optimisation.warmup:
        return peak * (step + 1) / optimisation.warmup
    if optimisation.schedule == "steps":
        return float(peak * 0.1 ** sum(step >= share * steps for share in optimisation.milestones))
    if optimisation.schedule == "trapezoid":
        return peak * min(1.0, (steps - step) / max(optimisation.cooldown, 1))
    done = (step - optimisation.warmup) / max(steps - optimisation.warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def average_decay(step: int, optimisation: Optimisation) -> float:
    """Decay of the weights' moving average after a step (0-based): it follows fast while there is little behind it."""
    return min(optimisation.average, (1 + step) / (10 + step))
