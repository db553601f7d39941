"""Filters in bfloat16 whose sums stay: with numpy alone, for every backend.

Some filters of single channels look for edges: large weights that add up to nothing, on channels that are never dark.
Each rounded by itself they no longer do, and the channel is shifted everywhere. Of what rounding the weights of the
package's network to bfloat16 does to its logits, the filters of the first block made three quarters.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: How much the errors of single weights count next to that of their sum, both squared: pixels next to each other are
#: much alike.
_SINGLE = 0.1


def rounded_filters(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Filters as bfloat16 holds them, each weight up or down so that the errors of a filter add up to almost nothing.

    Args:
        weights: (C, ...) one filter per channel.

    Returns:
        the same shape, float32 numbers that bfloat16 has.

    Examples:
        >>> rounded = rounded_filters(np.array([[1.003, 1.003, -2.006]], np.float32))
        >>> abs(float(rounded.sum())) < 0.001
        True
    """
    exact = np.ascontiguousarray(weights, np.float32).reshape(len(weights), math.prod(weights.shape[1:]))
    bits = exact.view(np.uint32)
    toward_zero = (bits & 0xFFFF0000).view(np.float32)
    away = ((bits & 0xFFFF0000) + np.where(bits & 0xFFFF, 0x10000, 0).astype(np.uint32)).view(np.float32)
    nearer = np.abs(away - exact) < np.abs(toward_zero - exact)
    error = np.where(nearer, away, toward_zero).astype(np.float64) - exact
    other = np.where(nearer, toward_zero, away).astype(np.float64) - exact
    # Turn the weight around that helps most, as long as one does.
    for _ in range(exact.shape[1]):
        total = error.sum(1, keepdims=True)
        change = (total + other - error) ** 2 - total**2 + _SINGLE * (other**2 - error**2)
        best = change.argmin(1, keepdims=True)
        rows = np.flatnonzero(np.take_along_axis(change, best, 1)[:, 0] < 0)
        if not len(rows):
            break
        columns = best[rows, 0]
        error[rows, columns], other[rows, columns] = other[rows, columns], error[rows, columns]
    return np.asarray(exact + error, np.float32).reshape(weights.shape)
