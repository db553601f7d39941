"""What happened to the people of many parts: counts that add up, in memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posefix.io.parquet import STATUS, pose_array
from posefix.keypoints.poses import present

#: Edges of the histogram of distances, px: steps of 1 %, so percentiles are right to 1 %.
_EDGES = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 1621), [np.inf]])
#: Images that are named.
_NAMED = 10


@dataclass(frozen=True)
class Tally:
    """Counts over some people; two of them add up.

    Attributes:
        status: people by status.
        keypoints: of the refined people, those that were there before.
        moved: how many of them changed place.
        filled: keypoints that were missing before.
        distances: how many moved how far, by ``_EDGES``.
        errors: the first ten messages.
        seconds: that workers were busy, summed.
    """

    status: dict[str, int] = field(default_factory=dict)
    keypoints: int = 0
    moved: int = 0
    filled: int = 0
    distances: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64))
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        status = {s: self.status.get(s, 0) + other.status.get(s, 0) for s in STATUS}
        errors = tuple(dict.fromkeys(self.errors + other.errors))[:_NAMED]
        return replace(
            self,
            status=status,
            keypoints=self.keypoints + other.keypoints,
            moved=self.moved + other.moved,
            filled=self.filled + other.filled,
            distances=self.distances + other.distances,
            errors=errors,
            seconds=self.seconds + other.seconds,
        )

    @property
    def people(self) -> int:
        """All of them."""
        return sum(self.status.values())

    @property
    def refined(self) -> int:
        """Those that went through the network."""
        return self.status.get("refined", 0)

    def summary(self) -> str:
        """The counts as a few lines of text."""
        lines = [f"{self.refined} of {self.people} people refined"]
        if self.keypoints:
            line = f"{self.moved} of {self.keypoints} keypoints moved ({100 * self.moved / self.keypoints:.0f} %)"
            if self.moved:
                low, median, high = (self._percentile(share) for share in (0.25, 0.5, 0.95))
                line += f", by {median:.1f} px in the median (quarter below {low:.1f}, one in twenty above {high:.1f})"
            lines.append(line)
        if self.filled:
            lines.append(f"{self.filled} missing keypoints filled")
        texts = {
            "unread": "people of images that could not be read (poses unchanged)",
            "no_pose": "entries that are no such pose (unchanged)",
            "no_box": "people without a keypoint in the image (unchanged)",
            "failed": "people whose refinement failed (unchanged)",
        }
        lines += [f"{self.status[s]} {text}" for s, text in texts.items() if self.status.get(s)]
        lines += [f"  {error}" for error in self.errors]
        return "\n".join(lines)

    def _percentile(self, share: float) -> float:
        place = int(np.searchsorted(np.cumsum(self.distances), share * self.moved))
        return float(_EDGES[min(place + 1, len(_EDGES) - 2)])


def tally_of(table: Any, seconds: float = 0.0) -> Tally:
    """Counts over a table of refined people.

    Args:
        table: as ``BatchRefiner`` gives it.
        seconds: that it took.
    """
    status = np.array(table["status"].to_pylist(), object)
    size = table.schema.field("refined_keypoints").type.list_size // 3
    after, done = pose_array(table["refined_keypoints"], size)
    before = pose_array(table["keypoints"], size)[0][done]
    after = after[done]
    there = present(before)
    distance = np.linalg.norm(np.nan_to_num(after[..., :2] - before[..., :2]), axis=-1)
    moved = there & (distance > 0)
    texts = [e for e in table["error"].unique().to_pylist() if e is not None]
    return Tally(
        {s: int((status == s).sum()) for s in STATUS},
        int(there.sum()),
        int(moved.sum()),
        int((~there & present(after)).sum()),
        np.histogram(distance[moved], _EDGES)[0].astype(np.int64),
        tuple(texts[:_NAMED]),
        seconds,
    )
