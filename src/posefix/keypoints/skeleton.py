"""Keypoint sets as data: names, object-keypoint-similarity fall-offs and edges; the rest is derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posefix.deprecation import rename_keys, warn_renamed
from posefix.exceptions import SkeletonError
from posefix.messages import shown
from posefix.typed import checked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Beyond these a file is damaged, or made to fill the memory: whole bodies with hands and face have 133.
_MOST_KEYPOINTS = 1024
_LARGEST_SIGMA = 10.0
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
        edges: pairs of keypoint names to draw as lines.
        unannotated: names that the data set lists but never annotates; their sigma may be 0.

    Raises:
        SkeletonError: duplicate names, a wrong number of sigmas, a sigma that is not positive, a left
            without its right, or an edge or unannotated name that is no keypoint.

    Examples:
        >>> kite = Skeleton("kite", ("top", "left_wing", "right_wing"), (0.05, 0.05, 0.05))
        >>> kite.flip_indices.tolist()
        [0, 2, 1]
    """

    name: str
    keypoints: tuple[str, ...]
    sigmas: tuple[float, ...]
    edges: tuple[tuple[str, str], ...] = ()
    unannotated: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", tuple(self.keypoints))
        object.__setattr__(self, "sigmas", tuple(float(s) for s in self.sigmas))
        object.__setattr__(self, "edges", tuple((str(a), str(b)) for a, b in self.edges))
        object.__setattr__(self, "unannotated", frozenset(self.unannotated))
        known = set(self.keypoints)
        if not known:
            raise SkeletonError(f"skeleton {self.name!r}: expected at least one keypoint, got none")
        for text in (self.name, *self.keypoints):
            if not text.isprintable():
                raise SkeletonError(f"skeleton: expected names without control characters, got {shown(text)}")
        if len(self.keypoints) > _MOST_KEYPOINTS:
            raise SkeletonError(
                f"skeleton {self.name!r}: expected at most {_MOST_KEYPOINTS} keypoints, got {len(self.keypoints)}"
            )
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
            if not 0.0 < sigma <= _LARGEST_SIGMA and not allowed:
                raise SkeletonError(
                    f"skeleton {self.name!r}: sigma of {keypoint!r} must be positive and at most {_LARGEST_SIGMA:g}, "
                    f"got {sigma}"
                )
            if mirror_name(keypoint) not in known:
                raise SkeletonError(
                    f"skeleton {self.name!r}: {keypoint!r} has no counterpart {mirror_name(keypoint)!r}"
                )
        stray = [n for edge in self.edges for n in edge if n not in known]
        stray += [n for n in sorted(self.unannotated) if n not in known]
        if stray:
            raise SkeletonError(f"skeleton {self.name!r}: unknown keypoint {stray[0]!r} in edges or unannotated")

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip_indices(self) -> npt.NDArray[np.int64]:
        """(K,) permutation that exchanges left and right; its own inverse."""
        import numpy as np

        return np.array([self.keypoints.index(mirror_name(k)) for k in self.keypoints], dtype=np.int64)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """K names without their side, the key of rates and calibration: ``knee`` for both knees."""
        return tuple(part_name(k) for k in self.keypoints)

    @cached_property
    def edge_indices(self) -> npt.NDArray[np.int64]:
        """(L, 2) indices of the edges' ends."""
        import numpy as np

        pairs = [[self.index(a), self.index(b)] for a, b in self.edges]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @property
    def limbs(self) -> tuple[tuple[str, str], ...]:
        """Old name of ``edges``."""
        warn_renamed("Skeleton.limbs", "edges")
        return self.edges

    @property
    def flip(self) -> npt.NDArray[np.int64]:
        """Old name of ``flip_indices``."""
        warn_renamed("Skeleton.flip", "flip_indices")
        return self.flip_indices

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
        """(K_other,) index into this skeleton of each of the other's keypoints by name, −1 where absent.

        Examples:
            >>> COCO.map_to(CROWDPOSE)[:2].tolist()  # where COCO has CrowdPose's first two, both shoulders
            [5, 6]
        """
        import numpy as np

        return np.array([self.keypoints.index(k) if k in self.keypoints else -1 for k in other.keypoints], np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``Skeleton.from_dict`` reads it back.

        Examples:
            >>> Skeleton.from_dict(COCO.to_dict()) == COCO
            True
        """
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "sigmas": list(self.sigmas),
            "edges": [list(edge) for edge in self.edges],
            "unannotated": sorted(self.unannotated),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Skeleton:
        """Rebuild from ``to_dict``.

        Raises:
            SkeletonError: a key is missing or unknown, a value has the wrong type, or the set is ill-defined.
        """
        if isinstance(data, dict):
            data = rename_keys(data, {"limbs": "edges"}, "skeleton")
        expected = {"name", "keypoints", "sigmas", "edges", "unannotated"}
        if not isinstance(data, dict) or not {"name", "keypoints", "sigmas"} <= set(data) <= expected:
            got = shown(list(data) if isinstance(data, dict) else data)
            raise SkeletonError(f"skeleton: expected the keys {', '.join(sorted(expected))}, got {got}")
        kinds = {
            "name": str,
            "keypoints": tuple[str, ...],
            "sigmas": tuple[float, ...],
            "edges": tuple[tuple[str, str], ...],
            "unannotated": tuple[str, ...],
        }
        return cls(**{k: checked(v, kinds[k], f"skeleton.{k}", SkeletonError) for k, v in data.items()})


#: σ by body part. COCO's keypoint evaluation (cocodataset.org/#keypoints-eval) measured nose … ankle;
#: CrowdPose's evaluation (Li et al., CVPR 2019) gives neck and head top 0.079 and all others as COCO.
#: The rest is not published, and MPII and PoseTrack themselves score by PCKh, without sigmas: here
#: PoseTrack's head bottom and MPII's upper neck and thorax take CrowdPose's neck, the pelvis COCO's hip.
_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
    "neck": 0.079,
    "head_top": 0.079,
    "head_bottom": 0.079,
    "upper_neck": 0.079,
    "thorax": 0.079,
    "pelvis": 0.107,
}


def _sigmas(keypoints: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(_SIGMAS[part_name(k)] for k in keypoints)


#: Left before right, from the shoulders down: the order that COCO, PoseTrack and CrowdPose share.
_BODY = tuple(
    f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
)
_ARMS = tuple(
    (f"{side}_{upper}", f"{side}_{lower}")
    for side in ("left", "right")
    for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist"))
)
_LEGS = tuple(
    (f"{side}_{upper}", f"{side}_{lower}")
    for side in ("left", "right")
    for upper, lower in (("hip", "knee"), ("knee", "ankle"))
)
_TRUNK = (
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_hip", "right_hip"),
)
_COCO_KEYPOINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *_BODY)
_POSETRACK_KEYPOINTS = ("nose", "head_bottom", "head_top", "left_ear", "right_ear", *_BODY)
_CROWDPOSE_KEYPOINTS = (*_BODY, "head_top", "neck")
_MPII_KEYPOINTS = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("pelvis", "thorax", "upper_neck", "head_top"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
)

#: The 17 keypoints of COCO.
COCO = Skeleton(
    name="coco",
    keypoints=_COCO_KEYPOINTS,
    sigmas=_sigmas(_COCO_KEYPOINTS),
    edges=(
        *(("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear")),
        *_TRUNK,
        *_ARMS,
        *_LEGS,
    ),
)

#: The 16 keypoints of MPII Human Pose (Andriluka et al., CVPR 2014).
MPII = Skeleton(
    name="mpii",
    keypoints=_MPII_KEYPOINTS,
    sigmas=_sigmas(_MPII_KEYPOINTS),
    edges=(
        *(("head_top", "upper_neck"), ("upper_neck", "thorax"), ("thorax", "pelvis")),
        *(("thorax", "left_shoulder"), ("thorax", "right_shoulder"), ("pelvis", "left_hip"), ("pelvis", "right_hip")),
        *_ARMS,
        *_LEGS,
    ),
)

#: The 17 keypoints of PoseTrack 2018 (Andriluka et al., CVPR 2018) in its own order; its ears are never labelled.
POSETRACK18 = Skeleton(
    name="posetrack18",
    keypoints=_POSETRACK_KEYPOINTS,
    sigmas=_sigmas(_POSETRACK_KEYPOINTS),
    edges=(("head_top", "nose"), ("nose", "head_bottom"), *_TRUNK, *_ARMS, *_LEGS),
    unannotated=frozenset({"left_ear", "right_ear"}),
)

#: The 14 keypoints of CrowdPose (Li et al., CVPR 2019); its head is the head's top, named as elsewhere here.
CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoints=_CROWDPOSE_KEYPOINTS,
    sigmas=_sigmas(_CROWDPOSE_KEYPOINTS),
    edges=(
        *(("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
        *(("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), ("left_hip", "right_hip")),
        *_ARMS,
        *_LEGS,
    ),
)

#: The built-in keypoint sets by name.
SKELETONS = {s.name: s for s in (COCO, CROWDPOSE, MPII, POSETRACK18)}


def skeleton_of(skeleton: Skeleton | str) -> Skeleton:
    """A keypoint set, or the built-in one of that name.

    >>> skeleton_of("mpii") is MPII
    True

    Raises:
        SkeletonError: there is none of that name.
    """
    if isinstance(skeleton, Skeleton):
        return skeleton
    try:
        return SKELETONS[skeleton]
    except (KeyError, TypeError):
        raise SkeletonError(
            f"skeleton: expected a Skeleton or one of {', '.join(SKELETONS)}, got {shown(skeleton)}"
        ) from None
