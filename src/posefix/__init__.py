"""Better keypoints from any 2D human pose estimator.

>>> from posefix import Refiner
>>> refiner = Refiner.from_pretrained()
>>> refined = refiner.refine(image, keypoints)  # (N, 17, 3) [x, y, score] → (N, 17, 3)
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers see; at run time ``__getattr__`` imports each name when it is asked for
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

_MODULES = {
    "adapters.files": ("read_any",),
    "drawing.draw": ("draw", "draw_comparison"),
    "evaluation.coco_ap": ("evaluate",),
    "exceptions": (
        *("FileFormatError", "ImageError", "InputError", "MissingDependencyError"),
        *("PosefixError", "SkeletonError", "TrainingError", "WeightsError"),
    ),
    "inference.options": ("Options",),
    "inference.refined_poses": ("RefinedPoses",),
    "inference.refiner": ("Refiner",),
    "inference.results": ("refine_results",),
    "io.images": ("load_image",),
    "keypoints.skeleton": ("COCO", "CROWDPOSE", "MPII", "POSETRACK18", "Skeleton"),
    "pose_errors.diagnosis": ("diagnose_results",),
    "pose_errors.synthesis": ("ErrorRates", "PoseError", "synthesize"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"posefix.{module}"), name)
            return value
    if not name.startswith("_") and importlib.util.find_spec(f"posefix.{name}") is not None:
        return importlib.import_module(f"posefix.{name}")
    raise AttributeError(f"module 'posefix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
