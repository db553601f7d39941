"""The size of a head, the unit of length of MPII's and PoseTrack's measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posefix.exceptions import FileFormatError
from posefix.geometry import Doubles
from posefix.io.json import is_number
from posefix.messages import shown

#: Head size per diagonal of the head's box (MPII's evaluation code; poseval).
HEAD_PER_DIAGONAL = 0.6


def head_sizes(people: Sequence[Mapping[str, Any]], source: str = "annotations") -> Doubles:
    """(N,) px: 0.6 × the diagonal of ``bbox_head`` [x, y, width, height].

    Raises:
        FileFormatError: a person has no such box, or an empty one.
    """
    sizes = np.zeros(len(people))
    for index, person in enumerate(people):
        box = person.get("bbox_head")
        if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
            raise FileFormatError(
                f"{source}: annotation {index}: expected [x, y, width, height] as 'bbox_head', got {shown(box)}; "
                "distances are measured in head sizes"
            )
        sizes[index] = HEAD_PER_DIAGONAL * float(np.hypot(box[2], box[3]))
        if sizes[index] <= 0:
            raise FileFormatError(f"{source}: annotation {index}: the head's box is empty: {shown(box)}")
    return sizes
