"""Better keypoints from any 2D human pose estimator.

>>> from posefix import Refiner
>>> refiner = Refiner.from_pretrained()
>>> refined = refiner.refine(image, keypoints)  # (N, 17, 3) [x, y, score] → (N, 17, 3)
"""

from posefix.adapters.files import read_any
from posefix.drawing.draw import draw, draw_comparison
from posefix.evaluation.coco_ap import evaluate
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
from posefix.inference.options import Options
from posefix.inference.refined_poses import RefinedPoses
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.images import load_image
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton
from posefix.pose_errors.diagnosis import diagnose_results
from posefix.pose_errors.synthesis import ErrorRates, PoseError, synthesize

__version__ = "0.1.0"

__all__ = [
    "COCO",
    "CROWDPOSE",
    "MPII",
    "POSETRACK18",
    "ErrorRates",
    "FileFormatError",
    "ImageError",
    "InputError",
    "MissingDependencyError",
    "Options",
    "PoseError",
    "PosefixError",
    "RefinedPoses",
    "Refiner",
    "Skeleton",
    "SkeletonError",
    "TrainingError",
    "WeightsError",
    "__version__",
    "diagnose_results",
    "draw",
    "draw_comparison",
    "evaluate",
    "load_image",
    "read_any",
    "refine_results",
    "synthesize",
]
