from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from posefix.exceptions import SkeletonError
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton, mirror_name, part_name

ALL = [COCO, MPII, POSETRACK18, CROWDPOSE]
every = pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)


def make(**changes: Any) -> Skeleton:
    values: dict[str, Any] = {
        "name": "toy",
        "keypoints": ("nose", "left_hand", "right_hand"),
        "sigmas": (0.1, 0.2, 0.2),
        "edges": (("nose", "left_hand"),),
    }
    return Skeleton(**{**values, **changes})


@every
def test_flip_is_its_own_inverse_and_exchanges_the_sides(skeleton: Skeleton) -> None:
    assert (skeleton.flip_indices[skeleton.flip_indices] == np.arange(len(skeleton))).all()
    for i, name in enumerate(skeleton.keypoints):
        assert skeleton.keypoints[skeleton.flip_indices[i]] == mirror_name(name)
    assert not any(name.startswith(("l_", "r_")) for name in skeleton.keypoints)


@every
def test_both_sides_share_part_and_sigma(skeleton: Skeleton) -> None:
    assert [skeleton.parts[i] for i in skeleton.flip_indices] == list(skeleton.parts)
    assert [skeleton.sigmas[i] for i in skeleton.flip_indices] == list(skeleton.sigmas)


@every
def test_limbs_are_symmetric_and_join_everything_annotated(skeleton: Skeleton) -> None:
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert len(edges) == len(skeleton.edges)
    assert {frozenset(map(mirror_name, edge)) for edge in edges} == edges
    assert {n for edge in edges for n in edge} == set(skeleton.keypoints) - skeleton.unannotated
    assert skeleton.edge_indices.shape == (len(edges), 2)


@every
def test_json_round_trip(skeleton: Skeleton) -> None:
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


@every
def test_index_is_the_inverse_of_keypoints(skeleton: Skeleton) -> None:
    assert [skeleton.index(k) for k in skeleton.keypoints] == list(range(len(skeleton)))
    with pytest.raises(SkeletonError, match="no keypoint 'tail'"):
        skeleton.index("tail")


@pytest.mark.parametrize("first", ALL, ids=lambda s: s.name)
@pytest.mark.parametrize("second", ALL, ids=lambda s: s.name)
def test_map_to_finds_names_and_goes_back(first: Skeleton, second: Skeleton) -> None:
    there, back = first.map_to(second), second.map_to(first)
    assert there.shape == (len(second),)
    for i, source in enumerate(there):
        if source >= 0:
            assert first.keypoints[source] == second.keypoints[i]
            assert back[source] == i
        else:
            assert second.keypoints[i] not in first.keypoints
    assert (there >= 0).sum() == (back >= 0).sum() == len(set(first.keypoints) & set(second.keypoints))


def test_what_the_sets_share() -> None:
    assert (COCO.map_to(COCO) == np.arange(17)).all()
    assert (COCO.map_to(MPII) >= 0).sum() == 12
    assert (COCO.map_to(CROWDPOSE)[:12] == np.arange(5, 17)).all()
    assert (COCO.map_to(POSETRACK18) == [0, -1, -1, 3, 4, *range(5, 17)]).all()
    assert MPII.map_to(POSETRACK18)[POSETRACK18.index("head_top")] == 9


def test_published_orders_and_sigmas() -> None:
    assert COCO.sigmas == (*(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
                           *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089))  # fmt: skip
    assert CROWDPOSE.sigmas == (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
                                0.079, 0.079)  # fmt: skip
    assert [len(s) for s in ALL] == [17, 16, 17, 14]
    assert MPII.keypoints[:6] == ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle")
    assert MPII.keypoints[6:10] == ("pelvis", "thorax", "upper_neck", "head_top")
    assert MPII.keypoints[10:13] == ("right_wrist", "right_elbow", "right_shoulder")
    assert MPII.keypoints[13:] == ("left_shoulder", "left_elbow", "left_wrist")
    assert POSETRACK18.keypoints[:5] == ("nose", "head_bottom", "head_top", "left_ear", "right_ear")
    assert POSETRACK18.unannotated == {"left_ear", "right_ear"}
    assert POSETRACK18.keypoints[5:] == COCO.keypoints[5:] == CROWDPOSE.keypoints[:12]


def test_names() -> None:
    assert [mirror_name(n) for n in ("left_knee", "right_knee", "nose", "head_top")] == [
        *("right_knee", "left_knee", "nose", "head_top")
    ]
    assert [part_name(n) for n in ("left_knee", "right_knee", "nose", "head_top")] == [
        *("knee", "knee", "nose", "head_top")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": (), "sigmas": (), "edges": ()}, "at least one keypoint"),
        ({"keypoints": ("nose", "nose", "chin")}, "twice: nose"),
        ({"sigmas": (0.1, 0.2)}, "expected 3 sigmas"),
        ({"sigmas": (0.1, 0.2, 0.0)}, "must be positive"),
        ({"sigmas": (0.1, 0.2, -1.0)}, "must be positive"),
        ({"sigmas": (0.1, 0.2, float("nan"))}, "must be positive"),
        ({"keypoints": ("nose", "left_hand", "hand")}, "no counterpart 'right_hand'"),
        ({"edges": (("nose", "tail"),)}, "unknown keypoint 'tail'"),
        ({"unannotated": {"tail"}}, "unknown keypoint 'tail'"),
    ],
)
def test_ill_defined_sets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SkeletonError, match=message) as caught:
        make(**changes)
    assert "'toy'" in str(caught.value)


def test_an_unannotated_keypoint_may_have_no_sigma() -> None:
    assert make(sigmas=(0.0, 0.2, 0.2), unannotated={"nose"}).sigmas[0] == 0.0


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"name": "toy", "keypoints": ["nose"]},
        {**make().to_dict(), "colour": 1},
        {**make().to_dict(), "sigmas": ["a", "b", "c"]},
        {**make().to_dict(), "sigmas": 3},
        {**make().to_dict(), "edges": [["nose", "left_hand", "right_hand"]]},
        {**make().to_dict(), "edges": [1]},
    ],
)
def test_from_dict_refuses_what_is_no_skeleton(data: Any) -> None:
    with pytest.raises(SkeletonError):
        Skeleton.from_dict(data)


def test_it_is_frozen_and_hashable() -> None:
    assert hash(make()) == hash(make())
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "other"  # type: ignore[misc]
