"""The strip below an image."""

from __future__ import annotations

import numpy as np
import pytest

from posefix.drawing.legend import add_legend


@pytest.mark.parametrize("width", [30, 200, 1000])
def test_the_image_stays_and_a_strip_follows(width: int) -> None:
    image = np.full((40, width, 3), 90, np.uint8)
    with_facts, alone = add_legend(image, ["score 0.50 -> 0.40", "confidence 0.71"]), add_legend(image)
    for found in (with_facts, alone):
        assert found.shape[1] == width
        np.testing.assert_array_equal(found[:40], image)
        assert (found[40:] < 100).any()
    assert len(with_facts) > len(alone) > 40


def test_what_does_not_fit_goes_to_the_next_line() -> None:
    narrow, wide = (add_legend(np.zeros((10, width, 3), np.uint8)) for width in (150, 1000))
    assert len(narrow) > len(wide)
