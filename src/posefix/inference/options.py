"""How to refine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from posefix.exceptions import InputError
from posefix.weights.calibration import DECODERS, POLICIES


@dataclass(frozen=True)
class Options:
    """How to refine; None takes what the weights recommend.

    Attributes:
        policy: ``"safe"`` leaves a keypoint exactly where it is unless the picture speaks clearly against it,
            ``"always"`` takes the network's answer.
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        flip_test: also look at the mirrored picture and average; twice the time.
        fill_missing: give missing keypoints the network's answer; else they stay missing.
        batch_size: people per pass through the network.
        trust: how far the input pose is trusted: multiplies the power of the pose prior. Below 1 for weak estimators,
            above 1 for strong ones. None measures it: ``posefix refine`` and ``refine_entries`` on
            the whole results file, all else on the people of each picture. Networks without a prior know no trust.
    """

    policy: str | None = None
    decoder: str | None = None
    flip_test: bool = False
    fill_missing: bool = True
    batch_size: int = 32
    trust: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("decoder", DECODERS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, got {self.batch_size!r}")
        trust = self.trust
        if trust is not None and (not isinstance(trust, int | float) or not 0 <= trust < float("inf")):
            raise InputError(f"trust: expected a number of at least 0, or None to measure it, got {trust!r}")


def make_options(**options: Any) -> Options:
    """``Options`` from keyword arguments.

    Raises:
        InputError: an unknown name or value.
    """
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        known = ", ".join(f.name for f in fields(Options))
        raise InputError(f"unknown option {unknown[0]!r}; known are {known}")
    return replace(Options(), **options)
