"""Who most likely gained by refinement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factories import FOUR
from posefix.drawing.ranking import likely_gains
from posefix.exceptions import InputError

STILL = ((10, 10, 1), (30, 10, 1), (10, 50, 1), (30, 50, 1))


def person(*points: tuple[float, float, float], score: Any = 1.0) -> dict[str, Any]:
    return {"image_id": 7, "keypoints": [float(v) for p in points for v in p], "score": score}


def moved(by: float, confidence: float = 1.0, score: Any = 1.0) -> dict[str, Any]:
    return person(*[(x + by, y, confidence) for x, y, _ in STILL], score=score)


def test_who_stays_gains_nothing() -> None:
    assert likely_gains([person(*STILL)], [person(*STILL)], FOUR).tolist() == [0.0]


def test_more_the_further_the_surer_and_the_better_scored() -> None:
    gains = likely_gains(
        [person(*STILL)] * 5, [moved(2), moved(8), moved(8, 0.5), moved(8, score=0.2), moved(8, 0.5, 0.2)], FOUR
    )
    near, far, doubtful, unlikely, both = gains
    assert 0 < both < doubtful < far < 1
    assert near < far
    np.testing.assert_allclose([unlikely, both], [0.2 * far, 0.2 * doubtful])
    assert doubtful < 0.5 * far  # confidence counts for the keypoint and for the person


def test_size_does_not_matter() -> None:
    large = [person(*[(10 * x, 10 * y, c) for x, y, c in STILL])]
    larger = [person(*[(10 * (x + 8), 10 * y, c) for x, y, c in STILL])]
    np.testing.assert_allclose(likely_gains(large, larger, FOUR), likely_gains([person(*STILL)], [moved(8)], FOUR))


def test_filled_keypoints_are_no_gain() -> None:
    missing = person(*STILL[:3], (0, 0, 0))
    assert likely_gains([missing], [person(*STILL)], FOUR).tolist() == [0.0]


def test_what_is_no_pose_gains_nothing() -> None:
    wrong = [
        {"image_id": 1},
        {"image_id": 1, "keypoints": [1.0]},
        {"image_id": 1, "keypoints": ["a"] * 12},
        person(*[(np.nan, 1, 1)] * 4),
    ]
    assert likely_gains(wrong, wrong, FOUR).tolist() == [0.0] * 4
    assert likely_gains([*wrong, person(*STILL)], [*wrong, moved(8)], FOUR)[-1] > 0
    with pytest.raises(InputError, match="expected the 4 people"):
        likely_gains(wrong, wrong[:1], FOUR)


@pytest.mark.parametrize("score", [None, "high", True, np.nan, -1.0])
def test_scores_that_are_none_count_as_one(score: Any) -> None:
    expected = likely_gains([person(*STILL)], [moved(8)], FOUR)
    np.testing.assert_array_equal(likely_gains([person(*STILL)], [moved(8, score=score)], FOUR), expected)
