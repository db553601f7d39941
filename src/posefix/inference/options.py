"""How to refine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from posefix.deprecation import warn_renamed
from posefix.exceptions import InputError
from posefix.keypoints.codec import DECODERS
from posefix.messages import shown
from posefix.typed import check_fields, check_ranges
from posefix.weights.calibration import MOST_PRIOR_WEIGHT, POLICIES

Policy = Literal["safe", "always"]
Decoder = Literal["expected_similarity", "soft_argmax"]
Color = Literal["rgb", "bgr"]
#: Larger ones are no decoder's.
MOST_OFFSET = 16.0


@dataclass(frozen=True)
class Options:
    """How to refine; None takes what the weights recommend.

    Attributes:
        policy: ``"safe"`` leaves a keypoint exactly where it is unless the image clearly contradicts it,
            ``"always"`` takes the network's output.
        decoder: ``"expected_similarity"`` or the paper's ``"soft_argmax"``.
        flip_test: also run the network on the mirrored image and average; twice the time.
        fill_missing: give missing keypoints the network's output where the image supports it: well inside it and
            with at least the weights' ``fill_threshold`` of confidence; else they stay missing.
        batch_size: people per pass through the network.
        prior_weight: weight of the input pose against the image; multiplies the weight of the pose prior. Below 1 for
            weak estimators, above 1 for strong ones. None measures the estimator's reliability: ``posefix refine``
            and ``refine_results`` on the whole results file, all else on the people of each image. Networks without
            a prior ignore it.
        offset: (x, y) pixels of a person's crop by which all keypoints are moved first, for estimators that put them
            all to one side. None measures it where ``prior_weight`` is measured on many images, else there is none;
            (0, 0) is none.

    Examples:
        >>> options = Options(policy="always", prior_weight=0.5)
        >>> refined = refiner.refine(image, keypoints, options=options)
    """

    policy: Policy | None = None
    decoder: Decoder | None = None
    flip_test: bool = False
    fill_missing: bool = True
    batch_size: int = 32
    prior_weight: float | None = None
    offset: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("decoder", DECODERS)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or value not in known):
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {shown(value)}")
        check_fields(self, "", InputError)
        check_ranges(self, "", InputError, batch_size=(1, 10**6))
        if self.prior_weight is not None:
            check_ranges(self, "", InputError, prior_weight=(0.0, MOST_PRIOR_WEIGHT))
        if self.offset is not None:
            check_ranges(self, "", InputError, offset=(-MOST_OFFSET, MOST_OFFSET))


_DEFAULT = Options()
_DEFAULTS = {f.name: f.default for f in fields(Options)}


def choose_options(options: Options | None = None, *, trust: float | None = None, **given: Any) -> Options:
    """``options`` (default ``Options()``) with the keywords that differ from the defaults.

    >>> choose_options(Options(batch_size=8), flip_test=True).batch_size
    8

    Args:
        options: where to start.
        trust: old name of ``prior_weight``.
        **given: fields of ``Options``.

    Raises:
        InputError: options of another type, or an unknown name or value.
    """
    if options is not None and not isinstance(options, Options):
        raise InputError(f"options: expected posefix.Options, got {type(options).__name__}")
    if trust is not None:
        warn_renamed("option 'trust'", "'prior_weight'", stacklevel=4)
        given.setdefault("prior_weight", trust)
        given["prior_weight"] = trust if given["prior_weight"] is None else given["prior_weight"]
    unknown = sorted(set(given) - set(_DEFAULTS))
    if unknown:
        raise InputError(f"unknown option {shown(unknown[0])}; known are {', '.join(_DEFAULTS)}")
    changed = {k: v for k, v in given.items() if v is not _DEFAULTS[k]}
    return replace(options or _DEFAULT, **changed) if changed else options or _DEFAULT


def make_options(**options: Any) -> Options:
    """``Options`` from keyword arguments, as ``choose_options`` does."""
    return choose_options(None, **options)
