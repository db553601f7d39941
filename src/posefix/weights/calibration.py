"""How a network's answer is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from posefix.exceptions import WeightsError
from posefix.network.config import refuse_unknown

DECODERS = ("expected_similarity", "soft_argmax")
POLICIES = ("safe", "always")


@dataclass(frozen=True)
class Calibration:
    """How a network's answer is read; measured after training, travels with the weights.

    Attributes:
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        policy: ``"safe"`` leaves an input keypoint where it is unless the picture speaks clearly against it;
            ``"always"`` takes the network's answer, as the paper does.
        temperature: (K,) divides the logits where confidence is read from them; empty is 1 throughout.
        trust: power of the pose prior where the user's ``trust`` is 1. Training pictures and their labels are not
            those of the world, so how far to believe the pose is measured, too.
        usual_departure: share of the keypoints that the picture is sure of and the estimator has elsewhere, for which
            ``trust`` is right; others are trusted in inverse proportion (measured reliability). 0 trusts all alike.
        margin: (K,) ``"safe"`` keeps an input whose expected similarity is at least the best one's minus
            this; empty is 0 throughout.
    """

    decoder: str = "expected_similarity"
    policy: str = "safe"
    temperature: tuple[float, ...] = ()
    trust: float = 1.0
    margin: tuple[float, ...] = ()
    usual_departure: float = 0.0

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise WeightsError(f"calibration: decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        if self.policy not in POLICIES:
            raise WeightsError(f"calibration: policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        if not isinstance(self.trust, int | float) or not 0 < self.trust < float("inf"):
            raise WeightsError(f"calibration: trust must be a positive number, got {self.trust!r}")
        if not isinstance(self.usual_departure, int | float) or not 0 <= self.usual_departure < 1:
            raise WeightsError(f"calibration: usual_departure must be in [0, 1), got {self.usual_departure!r}")
        for name in ("temperature", "margin"):
            values = tuple(float(v) for v in getattr(self, name))
            if any(v <= 0 if name == "temperature" else v < 0 for v in values):
                raise WeightsError(f"calibration: {name} must hold positive numbers, got {values}")
            object.__setattr__(self, name, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Rebuild from ``to_dict``.

        Raises:
            WeightsError: an unknown key or a value that does not fit.
        """
        refuse_unknown("calibration", data, cls)
        return cls(**data)


#: The paper's reading: soft-argmax, taken as it is.
PAPER_CALIBRATION = Calibration(decoder="soft_argmax", policy="always")
