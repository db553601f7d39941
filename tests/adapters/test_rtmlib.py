from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import StandIn, assert_same, image, needs, poses


def result(people: int = 2, count: int = 17) -> tuple[Any, Any]:
    data = poses(people, count)
    data[..., 2] += 0.3  # SimCC scores are not bounded by 1
    if people:
        data[0, 3] = (-20.0, -30.0, -0.1)
    return data[..., :2].copy(), data[..., 2].astype(np.float32)


def real_rtmpose(rng: np.random.Generator, count: int, to_openpose: bool = False, peak: float = 0.8) -> Any:
    """RTMPose's own pre- and post-processing around random SimCC answers; the weights are all that is not there."""
    rtmlib = needs("rtmlib")

    class WithoutWeights(rtmlib.RTMPose):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.model_input_size, self.to_openpose = (192, 256), to_openpose
            self.mean, self.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

        def inference(self, img: Any) -> Any:
            answers = [rng.uniform(-0.1, 0.1, (1, count, 2 * side)).astype(np.float32) for side in (192, 256)]
            for answer in answers:
                answer[0, np.arange(count), rng.integers(0, answer.shape[2], count)] = peak
                answer[0, 3] = -0.1  # a keypoint that is missing
            return answers

    return WithoutWeights()


def real_rtmo(rng: np.random.Generator, found: bool) -> Any:
    rtmlib = needs("rtmlib")

    class WithoutWeights(rtmlib.RTMO):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.model_input_size, self.to_openpose, self.mean, self.std = (640, 640), False, None, None
            self.nms_thr, self.score_thr = 0.45, 0.7

        def inference(self, img: Any) -> Any:
            boxes = np.array([[[10, 10, 100, 200, 0.9 if found else 0.1], [300, 10, 400, 200, 0.8 if found else 0.1]]])
            keypoints = rng.uniform(0.4, 400, (1, 2, 17, 3)).astype(np.float32)
            keypoints[..., 2] = rng.uniform(0.4, 1.0, (1, 2, 17))
            return boxes.astype(np.float32), keypoints

    return WithoutWeights()


@pytest.mark.parametrize(("count", "to_openpose"), [(17, False), (17, True), (26, False), (133, False), (133, True)])
def test_the_real_rtmpose(count: int, to_openpose: bool) -> None:
    rng = np.random.default_rng(0)
    boxes = [[10, 10, 200, 400], [200, 20, 400, 440]]
    output = real_rtmpose(rng, count, to_openpose)(image(), boxes)
    untouched = tuple(part.copy() for part in output)
    assert_same(StandIn()(image(), output), untouched)
    shift = StandIn(move=1.0, score=0.75)
    moved = shift(image(), output)
    nose, missing = 0, (output[1] <= 0)
    np.testing.assert_allclose(moved[0][:, nose], output[0][:, nose] + 1)
    assert missing.any()
    np.testing.assert_array_equal(moved[0][missing], output[0][missing])
    assert_same(output, untouched)
    # Left and right are where they are for COCO.
    left_wrist = 7 if to_openpose else 9
    np.testing.assert_array_equal(shift.keypoints[0][:, 9, :2], output[0][:, left_wrist])


def test_the_real_rtmpose_without_detection() -> None:
    """No person found: the whole image is taken for one person; doubtful people are left alone."""
    output = real_rtmpose(np.random.default_rng(0), 17, peak=0.15)(image(), [])
    assert output[0].shape == (1, 17, 2)
    assert_same(StandIn(move=1.0, score=0.75, fill=True)(image(), output), output)


@pytest.mark.parametrize("found", [True, False])
def test_the_real_rtmo(found: bool) -> None:
    output = real_rtmo(np.random.default_rng(0), found)(image())
    assert_same(StandIn()(image(), output), output)
    moved = StandIn(move=1.0, fill=True)(image(), output)
    np.testing.assert_allclose(moved[0], output[0] + found, rtol=1e-6)
    assert output[0].any() == found


@pytest.mark.parametrize("people", [0, 2])
def test_round_trip(people: int, identity: StandIn) -> None:
    output, untouched = result(people), result(people)
    assert_same(identity(image(), output), untouched)
    assert_same(output, untouched)


def test_missing_and_filled(fill: StandIn) -> None:
    keypoints, scores = fill(image(), result())
    assert keypoints[0, 3].tolist() == [12, 34]
    assert scores[0, 3] == 0.5
    assert scores.dtype == np.float32


def test_frames(identity: StandIn) -> None:
    output = [result(), result(0), result(1)]
    assert_same(identity([image()] * 3, output), [result(), result(0), result(1)])


def test_phantoms_are_left_alone(shift: StandIn) -> None:
    keypoints, scores = result()
    scores[1] = 0.1
    moved, new_scores = shift(image(), (keypoints, scores))
    np.testing.assert_array_equal(moved[1], keypoints[1])
    np.testing.assert_array_equal(new_scores[1], scores[1])
    assert (moved[0] != keypoints[0]).any()
