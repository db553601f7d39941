"""Which way up an image is read: as its pixels are stored, or as its EXIF orientation turns them.

COCO's annotations, and what is evaluated against them, have the coordinates of stored pixels. Estimators that read
images with ``cv2.imread`` (OpenPose, AlphaPose and most others) have those of upright images. Where the recorded
width and height fit only one of both, they decide; else the format of the results does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posefix.choices import EXIF_MODES
from posefix.exceptions import ImageError, InputError
from posefix.io.coco import Annotations, Entry
from posefix.io.images import Image, exif_orientation, load_image, turn
from posefix.messages import shown


@dataclass(frozen=True)
class ExifRule:
    """How images with an EXIF orientation are read.

    Attributes:
        mode: one of ``EXIF_MODES``.
        upright: whether results of this format have the coordinates of upright images.
    """

    mode: str = "auto"
    upright: bool = False

    def __post_init__(self) -> None:
        if self.mode not in EXIF_MODES:
            raise InputError(f"exif: expected one of {', '.join(EXIF_MODES)}, got {shown(self.mode)}")

    def load_for(self, path: str | Path, entry: Entry, annotations: Annotations | None) -> tuple[Image, str | None]:
        """``load`` for a person of a results file, whose image the annotations may know.

        Raises:
            ImageError: as ``load_image``.
            FileFormatError: an image that may be any of several recorded ones.
        """
        info = annotations.find(entry["image_id"]) if annotations is not None else None
        return self.load(path, (info.width, info.height) if info else (None, None))

    def load(
        self, path: str | Path | bytes, recorded_wh: tuple[int | None, int | None] = (None, None)
    ) -> tuple[Image, str | None]:
        """Open an image the way its people's coordinates are meant.

        Args:
            path: of the file, or its content.
            recorded_wh: width and height as recorded, None where that is not known.

        Returns:
            (H, W, 3) uint8 RGB, and what there is to warn of: a size that is not the recorded one, an orientation
            that was decided against the format's habit, or by habit alone.

        Raises:
            ImageError: as ``load_image``.
        """
        stored = load_image(path, ignore_orientation=True)
        tag = orientation_of(path)
        height, width = stored.shape[:2]
        upright_wh = (height, width) if tag >= 5 else (width, height)
        apply, by_size = self.upright if self.mode == "auto" else self.mode == "apply", False
        if self.mode == "auto" and (width, height) != upright_wh and recorded_wh in ((width, height), upright_wh):
            apply, by_size = recorded_wh == upright_wh, True
        image = turn(stored, tag) if apply else stored
        found = upright_wh if apply else (width, height)
        remark = None
        done = f"EXIF orientation {tag} {'applied' if apply else 'ignored'}"
        if by_size and apply != self.upright:
            remark = f"{done}, as the recorded size says; results of this format usually have it otherwise"
        elif None not in recorded_wh and recorded_wh != found:
            remark = f"is {found[0]} × {found[1]}, recorded as {recorded_wh[0]} × {recorded_wh[1]}; nothing is rescaled"
        elif self.mode == "auto" and tag > 1 and not by_size:
            remark = decided_by_habit(tag, apply)
        return image, remark


def orientation_of(source: str | Path | bytes) -> int:
    """The EXIF orientation 1–8 of an image's file or of its bytes.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return exif_orientation(source if isinstance(source, bytes) else Path(source).read_bytes())
    except OSError as error:
        raise ImageError(f"image {str(source)!r}: cannot be opened: {error.strerror}") from None


def decided_by_habit(tag: int, apply: bool) -> str:
    """What there is to warn of where nothing but the format says whether an orientation is applied."""
    done, other = ("applied", "ignore") if apply else ("ignored", "apply")
    return f"EXIF orientation {tag} {done}, as results of this format usually have it; --exif {other} if not"


#: The default: the recorded size decides, else images are read as stored.
AUTO = ExifRule()
