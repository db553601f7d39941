"""Keypoint sets as data: names, object-keypoint-similarity fall-offs and limbs; the rest is derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.exceptions import SkeletonError

_SIDES = {"left_": "right_", "right_": "left_"}


def mirror_name(name: str) -> str:
    """The name on the other side: ``left_knee`` ↔ ``right_knee``; unsided names map to themselves."""
    for side, other in _SIDES.items():
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def part_name(name: str) -> str:
    """The name without its side: ``left_knee`` → ``knee``."""
    return name.split("_", 1)[1] if name.startswith(tuple(_SIDES)) else name


@dataclass(frozen=True)
class Skeleton:
    """A keypoint set.

    Attributes:
        name: what messages and files call it.
        keypoints: K names in array order, sides spelled ``left_`` / ``right_``.
        sigmas: K fall-offs of object keypoint similarity (σ, not 2σ).
        limbs: pairs of keypoint names to draw as lines.
        unannotated: names that the data set lists but never annotates; their sigma may be 0.

    Raises:
        SkeletonError: duplicate names, a wrong number of sigmas, a sigma that is not positive, a left
            without its right, or a limb or unannotated name that is no keypoint.
    """

    name: str
    keypoints: tuple[str, ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[str, str], ...] = ()
    unannotated: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", tuple(self.keypoints))
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.sigmas))
        object.__setattr__(self, "limbs", tuple((str(a), str(b)) for a, b in self.limbs))
        object.__setattr__(self, "unannotated", frozenset(self.unannotated))
        known = set(self.keypoints)
        if not known:
            raise SkeletonError(f"skeleton {self.name!r}: expected at least one keypoint, got none")
        if len(known) != len(self.keypoints):
            twice = sorted({k for k in self.keypoints if self.keypoints.count(k) > 1})
            raise SkeletonError(f"skeleton {self.name!r}: keypoint names must differ, got twice: {', '.join(twice)}")
        if len(self.sigmas) != len(self.keypoints):
            raise SkeletonError(
                f"skeleton {self.name!r}: expected {len(self.keypoints)} sigmas, one per keypoint, "
                f"got {len(self.sigmas)}"
            )
        for keypoint, sigma in zip(self.keypoints, self.sigmas, strict=True):
            allowed = sigma == 0.0 and keypoint in self.unannotated
            if not (np.isfinite(sigma) and sigma > 0.0) and not allowed:
                raise SkeletonError(f"skeleton {self.name!r}: sigma of {keypoint!r} must be positive, got {sigma}")
            if mirror_name(keypoint) not in known:
                raise SkeletonError(
                    f"skeleton {self.name!r}: {keypoint!r} has no counterpart {mirror_name(keypoint)!r}"
                )
        stray = [n for limb in self.limbs for n in limb if n not in known]
        stray += [n for n in sorted(self.unannotated) if n not in known]
        if stray:
            raise SkeletonError(f"skeleton {self.name!r}: unknown keypoint {stray[0]!r} in limbs or unannotated")

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip(self) -> npt.NDArray[np.int64]:
        """(K,) permutation that exchanges left and right; its own inverse."""
        return np.array([self.keypoints.index(mirror_name(k)) for k in self.keypoints], dtype=np.int64)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """K names without their side, the key of rates and calibration: ``knee`` for both knees."""
        return tuple(part_name(k) for k in self.keypoints)

    @cached_property
    def limb_indices(self) -> npt.NDArray[np.int64]:
        """(L, 2) indices of the limbs' ends."""
        pairs = [[self.index(a), self.index(b)] for a, b in self.limbs]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def index(self, name: str) -> int:
        """Index of a keypoint.

        Raises:
            SkeletonError: there is no such keypoint.
        """
        try:
            return self.keypoints.index(name)
        except ValueError:
            raise SkeletonError(
                f"skeleton {self.name!r} has no keypoint {name!r}; it has {', '.join(self.keypoints)}"
            ) from None

    def map_to(self, other: Skeleton) -> npt.NDArray[np.int64]:
        """(K_other,) index into this skeleton of each of the other's keypoints by name, −1 where absent."""
        return np.array([self.keypoints.index(k) if k in self.keypoints else -1 for k in other.keypoints], np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``Skeleton.from_dict`` reads it back."""
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "sigmas": list(self.sigmas),
            "limbs": [list(limb) for limb in self.limbs],
            "unannotated": sorted(self.unannotated),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Skeleton:
        """Rebuild from ``to_dict``.

        Raises:
            SkeletonError: a key is missing or unknown, or the set is ill-defined.
        """
        expected = {"name", "keypoints", "sigmas", "limbs", "unannotated"}
        if not isinstance(data, dict) or not {"name", "keypoints", "sigmas"} <= set(data) <= expected:
            got = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise SkeletonError(f"skeleton: expected the keys {', '.join(sorted(expected))}, got {got}")
        return cls(
            name=data["name"],
            keypoints=tuple(data["keypoints"]),
            sigmas=tuple(data["sigmas"]),
            limbs=tuple((a, b) for a, b in data.get("limbs", ())),
            unannotated=frozenset(data.get("unannotated", ())),
        )


_BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

#: The 17 keypoints of COCO; sigmas of the COCO keypoint evaluation (cocodataset.org/#keypoints-eval).
COCO = Skeleton(
    name="coco",
    keypoints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        *(f"{side}_{part}" for part in _BODY for side in ("left", "right")),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    limbs=(
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_shoulder", "right_shoulder"),
        ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
        ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "right_hip"),
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
    ),
)
