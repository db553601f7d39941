"""A pose corrupted on purpose, refined: what ``posefix demo`` shows, with an image that comes in the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from posefix.drawing.draw import draw_comparison
from posefix.html_report.people import Source
from posefix.inference.crops import prepare
from posefix.inference.refiner import Refiner
from posefix.io.coco import annotations_of
from posefix.io.images import load_image
from posefix.keypoints.mapping import share_keypoints
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import COCO
from posefix.network.inputs import NetworkInput
from posefix.pose_errors.report import make_report
from posefix.weights.weights import Weights

#: The keypoints that the image shows, marked by hand to a few pixels.
_MARKED = {
    "nose": (222, 118),
    "left_eye": (246, 103),
    "right_eye": (201, 101),
    "left_ear": (272, 120),
    "right_ear": (177, 118),
    "left_shoulder": (325, 285),
    "right_shoulder": (80, 280),
    "right_elbow": (48, 440),
}
#: Area of the person in the image, px².
_AREA = 110_000.0
#: Where a corrupted keypoint goes: shifts in px. Eyes are exchanged beforehand.
_SHIFTS = {"nose": (16, 14), "left_ear": (22, -14), "right_ear": (-16, 20), "left_shoulder": (38, 30)}


@dataclass(frozen=True)
class Demo:
    """The demo's image and poses.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        marked: (1, 17, 3) the pose marked by hand; what the image does not show is zero.
        corrupted: (1, 17, 3) the refiner's input.
    """

    image: npt.NDArray[np.uint8]
    marked: npt.NDArray[np.float64]
    corrupted: npt.NDArray[np.float64]


def load_demo() -> Demo:
    """Image and poses of the demo."""
    image = load_image((resources.files("posefix") / "assets" / "astronaut.jpg").read_bytes())
    marked = np.zeros((1, len(COCO), 3))
    for name, point in _MARKED.items():
        marked[0, COCO.index(name)] = (*point, 1.0)
    corrupted = marked.copy()
    eyes = [COCO.index("left_eye"), COCO.index("right_eye")]
    corrupted[0, eyes] = marked[0, eyes[::-1]]
    for name, shift in _SHIFTS.items():
        corrupted[0, COCO.index(name), :2] += shift
    return Demo(image, marked, corrupted)


def similarity_to_marked(demo: Demo, keypoints: npt.NDArray[np.floating]) -> float:
    """Mean keypoint similarity of a (1, 17, 3) pose to the marked one."""
    shown = demo.marked[0, :, 2] > 0
    similarity = keypoint_similarity(keypoints[0, :, :2], demo.marked[0, :, :2], _AREA, COCO.sigmas)
    return float(similarity[shown].mean())


def refine_demo(refiner: Refiner) -> tuple[Demo, npt.NDArray[np.floating], npt.NDArray[np.uint8]]:
    """The demo, its refined pose (1, 17, 3) and a before/after image."""
    demo = load_demo()
    refined = refiner.refine(demo.image, demo.corrupted)
    return demo, refined, draw_comparison(demo.image, demo.corrupted, refined)


@contextmanager
def demo_source(demo: Demo, refined: npt.NDArray[np.floating]) -> Iterator[Source]:
    """What the demo's report is made from; the image is on the disk meanwhile, also where the package is a zip."""
    height, width = demo.image.shape[:2]
    annotation = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": _AREA}
    truth = demo.marked[0] * [1.0, 1.0, 2.0]
    annotations = annotations_of(
        {
            "images": [{"id": 1, "file_name": "astronaut.jpg", "width": width, "height": height}],
            "annotations": [{**annotation, "id": 1, "keypoints": truth.reshape(-1).tolist()}],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
        },
        COCO,
    )
    person = {"image_id": 1, "category_id": 1, "score": 1.0, "file_name": "astronaut.jpg"}
    before, after = (
        [{**person, "keypoints": np.asarray(pose, np.float64).reshape(-1).tolist()}]
        for pose in (demo.corrupted, refined)
    )
    diagnosis = make_report(annotations, before, COCO, refined=after)
    with resources.as_file(resources.files("posefix") / "assets") as folder:
        yield Source(before, after, COCO, folder, annotations, diagnosis)


def demo_crops(weights: Weights, rng: np.random.Generator, people: int = 32) -> NetworkInput:
    """Crops of the demo's image with its pose moved about: real input for a comparison of networks.

    Args:
        weights: whose crops; of any keypoint set, which takes random points where the image's pose does not fit.
        rng: of the movements.
        people: crops.
    """
    image = load_image((resources.files("posefix") / "assets" / "astronaut.jpg").read_bytes())
    skeleton = weights.skeleton
    marked = np.zeros((len(skeleton), 3))
    for k, name in enumerate(skeleton.keypoints):
        x, y = _MARKED.get(name, rng.uniform((40, 60), (340, 440)))
        marked[k] = x, y, float(name in _MARKED or rng.uniform() < 0.5)
    poses = np.repeat(marked[None], people, axis=0)
    poses[..., :2] += rng.normal(0, 25, (people, 1, 2)) + rng.normal(0, 12, (people, len(skeleton), 2))
    poses[..., 2] *= rng.uniform(0.3, 1.0, (people, len(skeleton)))
    poses[:, 0, 2] = 0.9
    own = read_poses(poses, skeleton)
    return prepare(image, own, None, share_keypoints(skeleton, skeleton), weights.config).inputs
