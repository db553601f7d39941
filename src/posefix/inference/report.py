"""What happened to a results file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from posefix.messages import one_line

#: What ``odd_scores`` says of a person without a score.
NO_SCORE = "it has none"


@dataclass(frozen=True)
class Report:
    """What happened to a results file.

    Attributes:
        people: entries in the file.
        refined: people that went through the network.
        keypoints: of the refined people, those that were there before.
        moved: how many of them changed place.
        distance: (moved,) px each of them moved.
        filled: keypoints that were missing before.
        lowered: people whose score was lowered because their pose repeats a better-scored one.
        prior_weight: weight of the file's poses, given or measured; None where neither, or the network has no prior.
        offset: (x, y) pixels of a person's crop by which all keypoints were moved, given or measured.
        confident: keypoints on which it was measured, those that the image shows clearly; 0 where it was not.
        outliers: how many of them the poses had elsewhere.
        alike: see ``Reliability``.
        computed_by: backend, precision and device of the network.
        unread: images that could not be read, with the reason; their poses are unchanged.
        skipped: entries that are no pose of this skeleton or of which no keypoint is there, with the reason; they are
            unchanged.
        odd_scores: scores that are no number ≥ 0, by entry; they are unchanged, those of the others are not.
        negative: keypoints that count as missing because their score is below 0, but for -1.
        odd_images: images of another size than recorded, or whose EXIF orientation had to be guessed, with the reason.
        odd_boxes: boxes that are no [x, y, width, height] with an area around the keypoints, by entry, where boxes were
            to be used.
    """

    people: int
    refined: int
    keypoints: int
    moved: int
    distance: npt.NDArray[np.float64]
    filled: int
    lowered: int = 0
    negative: int = 0
    prior_weight: float | None = None
    offset: tuple[float, float] = (0.0, 0.0)
    confident: int = 0
    outliers: int = 0
    alike: bool = False
    computed_by: str = ""
    unread: dict[str, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    odd_scores: dict[int, str] = field(default_factory=dict)
    odd_boxes: dict[int, str] = field(default_factory=dict)
    odd_images: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all people could be refined."""
        return self.refined == self.people

    def summary(self) -> str:
        """The report as a few lines of text."""
        lines = [f"{self.refined} of {self.people} people refined"]
        if self.keypoints:
            share = 100 * self.moved / self.keypoints
            line = f"{self.moved} of {self.keypoints} keypoints moved ({share:.0f} %)"
            if self.moved:
                low, median, high = np.percentile(self.distance, [25, 50, 95])
                line += f", by {median:.1f} px in the median (quarter below {low:.1f}, one in twenty above {high:.1f})"
            lines.append(line)
        if self.filled:
            lines.append(f"{self.filled} missing keypoints filled")
        if self.negative:
            lines.append(
                f"{self.negative} keypoints have a score below 0 and count as missing; if scores are logits, write "
                "their sigmoids"
            )
        if self.prior_weight is not None and self.refined:
            lines.append(reliability_line(self.prior_weight, self.confident, self.outliers, self.alike))
        if any(self.offset):
            lines.append(offset_line(self.offset))
        if self.lowered:
            one = self.lowered == 1
            who = "1 person repeats" if one else f"{self.lowered} people repeat"
            whose = "the score was" if one else "their scores were"
            lines.append(f"{who} a better-scored one, so {whose} lowered (--no-soft-nms keeps scores)")
        if self.computed_by and self.refined:
            lines.append(f"computed by {self.computed_by}")
        scores = self.odd_scores
        if len(scores) > 1 and len(scores) == self.refined and set(scores.values()) == {NO_SCORE}:
            lines.append("no person has a score, and none gets one")
            scores = {}
        lines += _listed("image", "that could not be read (poses unchanged)", self.unread)
        lines += _listed("image", "whose size or orientation is doubtful", self.odd_images)
        for what, remark, entries in (
            ("entry", "not refined (unchanged)", self.skipped),
            ("person", "with a score that is no number ≥ 0 (it stays)", scores),
            ("box", "not used (cropped around the keypoints)", self.odd_boxes),
        ):
            lines += _listed(what, remark, {f"entry {k}": v for k, v in entries.items()})
        return "\n".join(lines)


def reliability_line(prior_weight: float, confident: int, outliers: int, alike: bool = False) -> str:
    """What was measured of the estimator, and what follows, in one sentence.

    Args:
        prior_weight: as measured or given.
        confident: keypoints on which it was measured; 0 where it was given.
        outliers: how many of them the estimator has elsewhere.
        alike: see ``Reliability``.
    """
    if not confident:
        return f"prior weight {prior_weight:.2f} (1 suits a usual estimator)"
    looks, done = (
        ("much like the network itself, which may make the same errors", "boldly")
        if prior_weight < 0.8 and alike
        else ("weak", "boldly")
        if prior_weight < 0.8
        else ("strong", "with care")
        if prior_weight > 1.25
        else ("of usual strength", "as usual")
    )
    return (
        f"this estimator looks {looks}: {outliers} of {confident} keypoints that the image shows clearly are elsewhere "
        f"in its poses (reliability {prior_weight:.2f} of usual), so they are corrected {done}; --prior-weight sets it"
    )


def offset_line(offset: tuple[float, float]) -> str:
    """What was done about a decoder that puts all keypoints to one side, in one sentence.

    Args:
        offset: (x, y) as in ``Options``.
    """
    return (
        f"all keypoints were moved by ({offset[0]:+.2f}, {offset[1]:+.2f}) px of the person's crop first, for the "
        "estimator puts them all to one side (--offset 0 0 leaves them)"
    )


_SEVERAL = {"image": "images", "entry": "entries", "person": "people", "box": "boxes"}


def _listed(what: str, remark: str, items: dict[str, str], most: int = 10) -> list[str]:
    if not items:
        return []
    lines = [f"{len(items)} {what if len(items) == 1 else _SEVERAL[what]} {remark}:"] + [
        f"  {one_line(name)}: {one_line(why)}" for name, why in list(items.items())[:most]
    ]
    return lines + ([f"  … and {len(items) - most} more"] if len(items) > most else [])
