from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from checks import StandIn, assert_same, image, needs

from posefix.exceptions import InputError
from posefix.keypoints.layouts import MEDIAPIPE
from posefix.keypoints.skeleton import COCO


def result(people: int = 2, visibility: bool = True) -> Any:
    containers = needs("mediapipe.tasks.python.components.containers.landmark")
    landmarker = needs("mediapipe.tasks.python.vision.pose_landmarker")
    rng = np.random.default_rng(0)

    def person(kind: Any) -> list[Any]:
        return [
            kind(*map(float, rng.uniform(0.1, 0.9, 3)), *(map(float, rng.uniform(0.1, 1, 2)) if visibility else ()))
            for _ in range(33)
        ]

    return landmarker.PoseLandmarkerResult(
        pose_landmarks=[person(containers.NormalizedLandmark) for _ in range(people)],
        pose_world_landmarks=[person(containers.Landmark) for _ in range(people)],
    )


def test_the_names_are_mediapipes() -> None:
    """Its own enumeration; foot is its foot index."""
    enum = needs("mediapipe.tasks.python.vision.pose_landmarker").PoseLandmark
    own = [m.name.lower().replace("_foot_index", "_foot") for m in sorted(enum, key=lambda m: m.value)]
    assert own == list(MEDIAPIPE)


@pytest.mark.parametrize("people", [0, 1, 2])
@pytest.mark.parametrize("visibility", [True, False])
def test_round_trip(people: int, visibility: bool, identity: StandIn) -> None:
    output, untouched = result(people, visibility), result(people, visibility)
    refined = identity(image(), output)
    assert refined == untouched
    assert output == untouched
    assert refined is not output
    assert identity(image(), output.pose_landmarks) == untouched.pose_landmarks
    if people:
        assert identity(image(), output.pose_landmarks[0]) == untouched.pose_landmarks[0]


def test_frame_and_rest(shift: StandIn) -> None:
    output = result()
    refined = shift(image(480, 640), output)
    for k, name in enumerate(MEDIAPIPE):
        new, old = refined.pose_landmarks[1][k], output.pose_landmarks[1][k]
        if name in COCO.keypoints:
            assert (new.x, new.y) == pytest.approx((old.x + 1 / 640, old.y + 1 / 480))
            assert new.visibility == 0.75
            sent = shift.keypoints[0][1, COCO.index(name), :2]
            np.testing.assert_allclose(sent, (old.x * 640, old.y * 480))
            assert (new.z, new.presence) == (old.z, old.presence)
        else:
            assert new == old
    assert refined.pose_world_landmarks == output.pose_world_landmarks
    assert sum(n in COCO.keypoints for n in MEDIAPIPE) == 17


def test_several_images(shift: StandIn) -> None:
    refined = shift([image(480, 640), image(240, 320)], [result(1), result(2)])
    assert refined[1].pose_landmarks[0][0].x == pytest.approx(result(2).pose_landmarks[0][0].x + 1 / 320)


def test_a_image_is_needed(identity: StandIn) -> None:
    with pytest.raises(InputError, match="relative to the image's size"):
        identity(None, result())


@dataclass
class OldLandmark:
    x: float
    y: float
    z: float
    visibility: float


@dataclass
class OldList:
    landmark: list[OldLandmark]


class OldResult(NamedTuple):
    pose_landmarks: Any
    pose_world_landmarks: Any = None
    segmentation_mask: Any = None


def old(seed: int = 0) -> OldResult:
    rng = np.random.default_rng(seed)
    return OldResult(OldList([OldLandmark(*rng.uniform(0.1, 0.9, 4).tolist()) for _ in range(33)]))


def test_older_solutions(shift: StandIn, identity: StandIn) -> None:
    """``mp.solutions.pose``, gone from today's package: one object with ``landmark``, or None without people."""
    output = old()
    assert_same(identity(image(), output), old())
    refined = shift(image(480, 640), output)
    assert refined.pose_landmarks.landmark[0].x == pytest.approx(output.pose_landmarks.landmark[0].x + 1 / 640)
    assert refined.pose_landmarks.landmark[1] == output.pose_landmarks.landmark[1]
    assert_same(output, old())
    assert identity(image(), OldResult(None)) == OldResult(None)


def test_missing(identity: StandIn) -> None:
    output = copy.deepcopy(old())
    output.pose_landmarks.landmark[0].visibility = 0.0
    StandIn(fill=True)(image(), output)
    identity(image(), output)
    assert identity.keypoints[0][0, 0, 2] == 0
