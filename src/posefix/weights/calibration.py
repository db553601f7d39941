"""How a network's output is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from posefix.exceptions import WeightsError
from posefix.keypoints.codec import DECODERS
from posefix.messages import shown
from posefix.network.config import renamed
from posefix.typed import check_fields, check_ranges, refuse_unknown

POLICIES = ("safe", "always")
#: Above it the pose alone decides, and beyond 10³⁸ float32 ends.
MOST_PRIOR_WEIGHT = 1e3
#: Old names of the calibration's keys.
RENAMED = {"trust": "prior_weight", "usual_departure": "reference_outlier_rate"}


@dataclass(frozen=True)
class Calibration:
    """How a network's output is read; measured after training, travels with the weights.

    Attributes:
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        policy: ``"safe"`` leaves an input keypoint where it is unless the image clearly contradicts it;
            ``"always"`` takes the network's output, as the paper does.
        temperature: (K,) divides the logits where confidence is read from them; empty is 1 throughout.
        prior_weight: weight of the pose prior where the user's ``prior_weight`` is 1; fitted on held-out images.
        reference_outlier_rate: share of outliers among the keypoints of which the image is confident, at which
            ``prior_weight`` is right. The weight of other estimators falls with their share; 0 gives
            all the same weight.
        outlier_exponent: the weight falls with this power of the share of outliers.
        independent_close_share: share of close keypoints that estimators reach at most whose errors have nothing to do
            with the image network's; closer ones share its errors, which then do not count as outliers. 1 where it is
            not known.
        labelled_close_share: share of close keypoints that labelled poses have, by which poses are recognised that
            are better than the image network; 0 where it is not known.
        presence: three coefficients of a logistic regression that tells from the peaks of the image's own heatmaps
            whether a keypoint is there at all: of its own peak, of the mean of the person's better half, and a
            constant. Confidences are multiplied by it. Empty is 1 throughout.
        fill_threshold: least confidence at which a missing keypoint is filled.
        margin: (K,) ``"safe"`` keeps an input whose expected similarity is at least the best one's minus
            this; empty is 0 throughout.
    """

    decoder: str = "expected_similarity"
    policy: str = "safe"
    temperature: tuple[float, ...] = ()
    prior_weight: float = 1.0
    margin: tuple[float, ...] = ()
    reference_outlier_rate: float = 0.0
    presence: tuple[float, ...] = ()
    fill_threshold: float = 0.0
    labelled_close_share: float = 0.0
    outlier_exponent: float = 1.5
    independent_close_share: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "calibration.", WeightsError)
        if self.decoder not in DECODERS:
            raise WeightsError(f"calibration: decoder must be one of {', '.join(DECODERS)}, got {shown(self.decoder)}")
        if self.policy not in POLICIES:
            raise WeightsError(f"calibration: policy must be one of {', '.join(POLICIES)}, got {shown(self.policy)}")
        # Wide of everything that was ever measured; beyond, soft-max and prior leave float32's range.
        check_ranges(
            self,
            "calibration.",
            WeightsError,
            temperature=(1e-3, 1e3),
            margin=(0.0, 1.0),
            prior_weight=(1e-3, MOST_PRIOR_WEIGHT),
            reference_outlier_rate=(0.0, 0.999),
            fill_threshold=(0.0, 1.0),
            labelled_close_share=(0.0, 1.0),
            outlier_exponent=(0.0, 10.0),
            independent_close_share=(0.0, 1.0),
            presence=(-1e3, 1e3),
        )
        if len(self.presence) not in (0, 3):
            raise WeightsError(f"calibration.presence: expected three numbers or none, got {len(self.presence)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Rebuild from ``to_dict``.

        Raises:
            WeightsError: an unknown key or a value that does not fit.
        """
        values = renamed("calibration", data, RENAMED)
        refuse_unknown(values, cls, "calibration", WeightsError)
        return cls(**values)


#: The paper's reading: soft-argmax, taken as it is.
PAPER_CALIBRATION = Calibration(decoder="soft_argmax", policy="always")
