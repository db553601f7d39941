"""How to refine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from posefix.deprecation import warn_renamed
from posefix.exceptions import InputError
from posefix.keypoints.codec import DECODERS
from posefix.weights.calibration import POLICIES


@dataclass(frozen=True)
class Options:
    """How to refine; None takes what the weights recommend.

    Attributes:
        policy: ``"safe"`` leaves a keypoint exactly where it is unless the image clearly contradicts it,
            ``"always"`` takes the network's output.
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        flip_test: also run the network on the mirrored image and average; twice the time.
        fill_missing: give missing keypoints the network's output where the image supports it: inside the image and
            with at least the weights' ``fill_threshold`` of confidence; else they stay missing.
        batch_size: people per pass through the network.
        prior_weight: weight of the input pose against the image; multiplies the power of the pose prior. Below 1 for
            weak estimators, above 1 for strong ones. None measures the estimator's reliability: ``posefix refine``
            and ``refine_entries`` on the whole results file, all else on the people of each image. Networks without
            a prior ignore it.
    """

    policy: str | None = None
    decoder: str | None = None
    flip_test: bool = False
    fill_missing: bool = True
    batch_size: int = 32
    prior_weight: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("decoder", DECODERS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, got {self.batch_size!r}")
        prior_weight = self.prior_weight
        if prior_weight is not None and (
            not isinstance(prior_weight, int | float) or not 0 <= prior_weight < float("inf")
        ):
            raise InputError(
                f"prior_weight: expected a number of at least 0, or None to measure it, got {prior_weight!r}"
            )


def make_options(**options: Any) -> Options:
    """``Options`` from keyword arguments.

    Raises:
        InputError: an unknown name or value.
    """
    if "trust" in options and "prior_weight" not in options:
        warn_renamed("option 'trust'", "'prior_weight'", stacklevel=4)
        options["prior_weight"] = options.pop("trust")
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        known = ", ".join(f.name for f in fields(Options))
        raise InputError(f"unknown option {unknown[0]!r}; known are {known}")
    return replace(Options(), **options)
