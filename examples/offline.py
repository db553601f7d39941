"""What the examples show where there is no network and no image: ``--random-weights`` uses it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def drawn_image(height: int = 240, width: int = 320, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(height, width, 3) RGB: two stick figures on a noisy ground."""
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(140, 15, (height, width, 3)), 0, 255).astype(np.uint8)
    for x in (width // 3, 2 * width // 3):
        top, size = height // 5, height // 6
        cv2.circle(image, (x, top), size // 3, (230, 190, 160), -1)
        edges = ((0, 1, 0, 3), (0, 1, -1, 2), (0, 1, 1, 2), (0, 3, -1, 4), (0, 3, 1, 4))
        for x0, y0, x1, y1 in edges:
            ends = [(x + a * size // 2, top + b * size) for a, b in ((x0, y0 / 3), (x1, y1))]
            cv2.line(image, *[(int(a), int(b)) for a, b in ends], (60, 40, 160), max(size // 8, 1))
    return image
