"""Any argument of any type is a result or one sentence, not a traceback from inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from factories import make_weights, random_poses
from posefix.exceptions import PosefixError
from posefix.inference.refiner import Refiner
from posefix.keypoints.skeleton import COCO

IMAGE = np.zeros((48, 64, 3), np.uint8)
POSES = random_poses(np.random.default_rng(0), 2, COCO)
TRACKS = np.full((2, 1, 17, 3), 9.0)
BOX = [1.0, 2.0, 30.0, 40.0]
ODD: tuple[Any, ...] = (
    None, 3, -1, "x", {}, [], object(), b"x", float("nan"), float("inf"), True, set(), 10**400, 2**63, "\ud800",
    np.zeros(3), np.array(3.0), np.array([None, 1], object), np.zeros((2, 4), "M8[s]"), torch.zeros(2),
    torch.zeros(2, device="meta"), [None, BOX], [[1], [1, 2]], [torch.zeros(4), None],
)  # fmt: skip


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(input_hw=(32, 32), width=0.35), device="cpu", backend="torch")


def calls() -> dict[str, Callable[[Refiner, Any], Any]]:
    found: dict[str, Callable[[Refiner, Any], Any]] = {
        "image": lambda r, odd: r.refine(odd, POSES),
        "keypoints": lambda r, odd: r.refine(IMAGE, odd),
        "images": lambda r, odd: r.refine_batch(odd, [POSES]),
        "batch": lambda r, odd: r.refine_batch([IMAGE], odd),
        "boxes": lambda r, odd: r.refine_batch([IMAGE], [POSES], boxes_xyxy=odd),
        "output": lambda r, odd: r.refine_output(IMAGE, odd),
        "pairs": lambda r, odd: list(r.refine_stream(odd)),
        "pair": lambda r, odd: list(r.refine_stream([odd])),
        "frames": lambda r, odd: r.refine_video(odd, TRACKS),
        "tracks": lambda r, odd: r.refine_video([IMAGE] * 2, odd),
        "weights": lambda r, odd: Refiner(odd, device="cpu", backend="torch"),
        "pretrained": lambda r, odd: Refiner.from_pretrained(odd, backend="torch", local_files_only=True),
    }
    options = ("policy", "decoder", "flip_test", "fill_missing", "batch_size", "prior_weight", "options")
    for name in (*options, "color", "skeleton", "boxes_xyxy"):
        found[f"refine {name}"] = lambda r, odd, name=name: r.refine(IMAGE, POSES, **{name: odd})
    found["person_scores"] = lambda r, odd: r.predict(IMAGE, POSES, person_scores=odd)
    for name in ("use_boxes", "adapter", "workers"):
        found[f"stream {name}"] = lambda r, odd, name=name: list(r.refine_stream([(IMAGE, POSES)], **{name: odd}))
    for name in ("online", "delay", "max_gap", "repair_sides", "prior_weight", "batch_size", "workers", "unknown"):
        found[f"video {name}"] = lambda r, odd, name=name: r.refine_video([IMAGE] * 2, TRACKS, **{name: odd})
    for name in ("device", "precision", "backend", "threads"):
        found[f"refiner {name}"] = lambda r, odd, name=name: Refiner(r.weights, **{"backend": "torch", name: odd})
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", calls())
def test_a_result_or_one_sentence(name: str, refiner: Refiner) -> None:
    for odd in ODD:
        try:
            calls()[name](refiner, odd)
        except PosefixError as error:
            said = str(error)
            assert said.isprintable(), said


@pytest.mark.parametrize("none", [None, [np.nan] * 4, [3.0, 3.0, 3.0, 3.0]])
def test_a_missing_box_is_the_extent(refiner: Refiner, none: Any) -> None:
    both = refiner.refine(IMAGE, POSES, boxes_xyxy=[none, BOX])
    np.testing.assert_array_equal(both[:1], refiner.refine(IMAGE, POSES[:1], prior_weight=None))
    np.testing.assert_array_equal(both[1:], refiner.refine(IMAGE, POSES[1:], boxes_xyxy=[BOX]))
    np.testing.assert_array_equal(refiner.refine(IMAGE, POSES, boxes_xyxy=[None, None]), refiner.refine(IMAGE, POSES))
