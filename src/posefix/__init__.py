"""Better keypoints from any 2D human pose estimator.

>>> from posefix import Refiner
>>> refiner = Refiner.from_pretrained()
>>> refined = refiner.refine(image, keypoints)  # (N, 17, 3) [x, y, score] → (N, 17, 3)
"""

from posefix.drawing.draw import draw, draw_comparison
from posefix.exceptions import (
    FileFormatError,
    ImageError,
    InputError,
    MissingDependencyError,
    PosefixError,
    SkeletonError,
    TrainingError,
    WeightsError,
)
from posefix.inference.refiner import Refiner
from posefix.io.images import load_image
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton

__version__ = "0.1.0"

__all__ = [
    "COCO",
    "CROWDPOSE",
    "MPII",
    "POSETRACK18",
    "FileFormatError",
    "ImageError",
    "InputError",
    "MissingDependencyError",
    "PosefixError",
    "Refiner",
    "Skeleton",
    "SkeletonError",
    "TrainingError",
    "WeightsError",
    "__version__",
    "draw",
    "draw_comparison",
    "load_image",
]
