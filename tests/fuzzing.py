"""Every door of the library and inputs for it that are wrong in a random, repeatable way.

A door takes a generator of random numbers, makes one input and opens. Whatever the input, what may come out is an
answer or a PosefixError. ``python tests/fuzzing.py --inputs 1000000`` runs all of them (``make fuzz``), and
``tests/test_fuzz.py`` some hundreds of each in every run of the tests.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from factories import FOUR, annotation_file, make_weights, random_poses, results_of
from posefix.adapters.files import read_any
from posefix.adapters.registry import adapt
from posefix.adapters.track_files import read_track_file
from posefix.batch import BatchRefiner, BatchSettings
from posefix.evaluation.coco_ap import evaluate
from posefix.exceptions import PosefixError
from posefix.inference.options import make_options
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import annotations_of, check_entries, read_annotations, read_results
from posefix.io.images import load_image
from posefix.io.json_stream import iterate_entries
from posefix.io.parquet_files import json_to_parquet, parquet_to_json
from posefix.io.posetrack import read_posetrack
from posefix.keypoints.poses import read_poses
from posefix.keypoints.skeleton import COCO, POSETRACK18, Skeleton
from posefix.network.config import ModelConfig
from posefix.pose_errors.rates import error_rates_from_results
from posefix.pose_errors.report import diagnose_results
from posefix.pose_errors.synthesis import ErrorRates
from posefix.training.config import read_config
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights, load_weights, save_weights

Rng = np.random.Generator

#: Doors that take a tenth of a second for some inputs get fewer: one in so many.
SLOW = {
    "diagnosis": 20,
    "training_config": 20,
    "weights": 20,
    "parquet": 20,
    "batch_rows": 20,
    "image_file": 10,
    "any_format": 4,
    "track_file": 4,
}

#: What may stand anywhere in a file.
NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e38, 1e300, -1e300, 10**18, 2**31, 2**63, 10**30, 10**400,
    math.nan, math.inf, -math.inf, "", "0", "nan", "a", "../x", "/etc/passwd", "\x1b[2J", "\ud800", "\0", "é" * 300,
    [], {}, [None], [[]], [0, 0, 0], [math.nan] * 4, [1e300] * 51, ["x"] * 51, {"id": 1}, [[1, 2, 3]] * 17,
)  # fmt: skip


def containers(data: Any) -> list[Any]:
    """Every list and object of plain data, itself included."""
    found, queue = [], [data]
    while queue:
        value = queue.pop()
        if isinstance(value, (dict, list)):
            found.append(value)
            queue += value.values() if isinstance(value, dict) else value
    return found


def spoiled(data: Any, rng: Rng) -> Any:
    """Plain data with one to three places changed: replaced, removed, doubled, exchanged."""
    data = copy.deepcopy(data)
    for _ in range(int(rng.integers(1, 4))):
        # Few large lists of numbers, many small objects: every depth gets its share.
        where = [c for c in containers(data) if len(c)]
        if not where:
            return NASTY[rng.integers(len(NASTY))]
        place = where[int(rng.integers(min(len(where), 8)) if rng.random() < 0.5 else rng.integers(len(where)))]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[rng.integers(len(keys))]
        action = rng.integers(8)
        if action == 0:
            del place[key]
        elif action == 1 and isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        elif action == 2 and isinstance(place, dict):
            place[str(NASTY[rng.integers(20)])] = place[key]
        elif action == 3:
            other = where[rng.integers(len(where))]
            place[key] = copy.deepcopy(other) if len(str(other)) < 5000 else None
        elif action == 4 and isinstance(place[key], (int, float)) and not isinstance(place[key], bool):
            place[key] = -place[key] if abs(place[key]) > 1e18 else place[key] * [-1, 1e3, 1e-3, 1e30][rng.integers(4)]
        else:
            place[key] = copy.deepcopy(NASTY[rng.integers(len(NASTY))])
    return data


def spoiled_bytes(raw: bytes, rng: Rng) -> bytes:
    """A file that was cut, overwritten in places, or lengthened."""
    action = rng.integers(6)
    if action == 0:
        return raw[: int(rng.integers(len(raw) + 1))]
    if action == 1:
        place = int(rng.integers(len(raw) + 1))
        return raw[:place] + rng.bytes(int(rng.integers(1, 9))) + raw[place:]
    values = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        # Headers are where sizes stand.
        limit = len(values) if rng.random() < 0.5 else min(len(values), 64)
        values[rng.integers(limit)] = int(rng.integers(256))
    return bytes(values)


def text_of(data: Any, rng: Rng) -> bytes:
    """JSON as files have it, now and then damaged as text."""
    raw = json.dumps(data).encode()
    if rng.random() < 0.1:
        return raw.decode().encode(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"][rng.integers(4)])
    return spoiled_bytes(raw, rng) if rng.random() < 0.1 and raw else raw


# ---------------------------------------------------------------- what is spoiled


@cache
def corpus() -> dict[str, Any]:
    """Valid content of every format."""
    rng = np.random.default_rng(7)
    annotations = annotation_file(rng, images=2, people=2)
    results = results_of(annotations, rng)
    for entry in results:
        entry["bbox"] = [10.0, 20.0, 50.0, 60.0]
    alphapose = [{**e, "image_id": f"{e['image_id']}.jpg", "box": e["bbox"], "idx": 1} for e in results]
    flat = random_poses(rng, 2, COCO).reshape(2, -1).tolist()
    body25 = rng.uniform(1, 99, (2, 75)).round(2).tolist()
    frame = {"version": 1.3, "people": [{"pose_keypoints_2d": b, "hand_left_keypoints_2d": []} for b in body25]}
    posetrack = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [
            {"image_id": i + 1, "track_id": i, "keypoints": f, "scores": [0.5] * 17, "category_id": 1}
            for i, f in enumerate(flat)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(POSETRACK18.keypoints)}],
    }
    instances = [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist(), "track_id": 1}
                 for p in random_poses(rng, 2, COCO)]  # fmt: skip
    mmpose = {"meta_info": {}, "instance_info": [{"frame_id": t, "instances": [p]} for t, p in enumerate(instances, 1)]}
    yaml_config = {
        "sets": [{"annotations": "a.json", "images": "i", "weight": 1.0, "estimates": ["r.json"]}],
        "out": "runs/x",
        "model": ModelConfig().to_dict(),
        "skeleton": "coco",
        "augmentation": {"scale": 0.3, "person_area": True, "copy_paste": 0.1},
        "optimisation": {"steps": 10, "learning_rate": "1e-4", "milestones": [0.5]},
        "validation": {"results": ["a.json"]},
        "start": {"weights": ["embedded"]},
        "rates": ErrorRates().to_dict(),
        "seed": 1,
        "cache_gb": 1,
    }
    return {
        "annotations": annotations, "results": results, "alphapose": alphapose, "openpose": frame,
        "posetrack": posetrack, "mmpose": mmpose, "yaml": json.loads(json.dumps(yaml_config)),
    }  # fmt: skip


@cache
def tiny_refiner() -> Refiner:
    return Refiner(make_weights(input_hw=(32, 32), width=0.35), device="cpu")


@cache
def weights_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="posefix-fuzz-"))
    made = make_weights(input_hw=(32, 32), width=0.35)
    save_weights(folder, Weights(made.config, made.skeleton, made.calibration, {"a": torch.zeros(3)}, {}, "test"))
    return folder


@cache
def encoded_images() -> tuple[bytes, ...]:
    image = np.random.default_rng(0).integers(0, 255, (24, 16, 3), np.uint8)
    return tuple(cv2.imencode(e, image)[1].tobytes() for e in (".jpg", ".png", ".webp", ".bmp", ".tiff"))


class Doors:
    """One method per door; each makes one input from ``rng`` and opens. Files go through ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "input.json"

    def names(self) -> list[str]:
        return [n for n in dir(self) if not n.startswith("_") and n not in ("folder", "file", "names")]

    def _json(self, name: str, rng: Rng) -> Path:
        self.file.write_bytes(text_of(spoiled(corpus()[name], rng), rng))
        return self.file

    def results(self, rng: Rng) -> None:
        read = read_results(self._json("results", rng))
        read.keypoints(COCO)

    def streamed_results(self, rng: Rng) -> None:
        list(iterate_entries(self._json("results", rng)))

    def annotations(self, rng: Rng) -> None:
        read_annotations(self._json("annotations", rng), COCO if rng.random() < 0.8 else FOUR)

    def parquet(self, rng: Rng) -> None:
        table, back = self.folder / "people.parquet", self.folder / "people.json"
        json_to_parquet(self._json("results", rng), table)
        parquet_to_json(table, back)
        assert _spelled(iterate_entries(back)) == _spelled(iterate_entries(self.file)), "something was lost"

    def batch_rows(self, rng: Rng) -> None:
        rows = spoiled(corpus()["results"], rng)
        after = BatchRefiner(BatchSettings(images=str(self.folder), workers=1), refiner=tiny_refiner())(rows)
        assert len(after) == len(rows)

    def posetrack(self, rng: Rng) -> None:
        read = read_posetrack(self._json("posetrack", rng))
        read.entries()
        read.annotations()

    def any_format(self, rng: Rng) -> None:
        kinds = ("results", "alphapose", "openpose", "posetrack")
        opened = read_any(self._json(kinds[rng.integers(len(kinds))], rng), COCO)
        opened.write(self.folder / "out.json", opened.entries)

    def track_file(self, rng: Rng) -> None:
        kinds = ("results", "alphapose", "posetrack", "mmpose")
        opened = read_track_file(self._json(kinds[rng.integers(len(kinds))], rng), COCO)
        opened.write(self.folder / "out.json", opened.tracks)

    def evaluation(self, rng: Rng) -> None:
        found, truth = corpus()["results"], corpus()["annotations"]
        first = rng.random() < 0.5
        evaluate(truth if first else spoiled(truth, rng), spoiled(found, rng) if first else found, COCO)

    def diagnosis(self, rng: Rng) -> None:
        found, truth = corpus()["results"], corpus()["annotations"]
        first = rng.random() < 0.5
        diagnose_results(truth if first else spoiled(truth, rng), spoiled(found, rng) if first else found, COCO)
        error_rates_from_results(truth, spoiled(found, rng), COCO)

    def refined_file(self, rng: Rng) -> None:
        # No image is there, so all people pass through: all but the network.
        entries = check_entries(spoiled(corpus()["results"], rng))
        before = json.dumps(entries)
        named = annotations_of(spoiled(corpus()["annotations"], rng)) if rng.random() < 0.3 else None
        after, report = refine_results(tiny_refiner(), entries, self.folder, annotations=named, use_boxes=True)
        report.summary().encode()
        assert json.dumps(entries) == before, "the input was changed"
        assert [e.get("image_id") for e in after] == [e.get("image_id") for e in entries]

    def model_config(self, rng: Rng) -> None:
        ModelConfig.from_dict(spoiled(ModelConfig().to_dict(), rng))

    def calibration(self, rng: Rng) -> None:
        full = Calibration(temperature=(1.0,) * 17, margin=(0.1,) * 17)
        Calibration.from_dict(spoiled(json.loads(json.dumps(full.to_dict())), rng))

    def skeleton(self, rng: Rng) -> None:
        Skeleton.from_dict(spoiled(COCO.to_dict(), rng))

    def error_rates(self, rng: Rng) -> None:
        ErrorRates.from_dict(spoiled(ErrorRates().to_dict(), rng))

    def training_config(self, rng: Rng) -> None:
        text = yaml.safe_dump(json.loads(json.dumps(spoiled(corpus()["yaml"], rng))), allow_unicode=True)
        raw = text.encode(errors="surrogatepass")
        self.file.write_bytes(spoiled_bytes(raw, rng) if rng.random() < 0.3 else raw)
        read_config(self.file)

    def weights(self, rng: Rng) -> None:
        # The tensors belong to another model, so a configuration that is believed is refused in ``build``.
        source = weights_folder()
        for name in ("config.json", "model.safetensors"):
            raw = (source / name).read_bytes()
            (self.folder / name).write_bytes(spoiled_bytes(raw, rng) if rng.random() < 0.5 else raw)
        if rng.random() < 0.5:
            data = spoiled(json.loads((source / "config.json").read_bytes()), rng)
            (self.folder / "config.json").write_bytes(text_of(data, rng))
        load_weights(self.folder).build()

    def options(self, rng: Rng) -> None:
        known = ("policy", "decoder", "flip_test", "fill_missing", "batch_size", "prior_weight", "x")
        make_options(**{known[rng.integers(len(known))]: NASTY[rng.integers(len(NASTY))]})

    def image_file(self, rng: Rng) -> None:
        kinds = encoded_images()
        raw = spoiled_bytes(kinds[rng.integers(len(kinds))], rng)
        image = load_image(raw, ignore_orientation=bool(rng.integers(2)), max_pixels=10**6)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3

    def image_array(self, rng: Rng) -> None:
        image = load_image(random_array(rng, (1, 2, 3, 4, 5, 8)), color=("rgb", "bgr", "x")[rng.integers(3)])
        assert image.flags.c_contiguous
        assert image.dtype == np.uint8

    def pose_array(self, rng: Rng) -> None:
        poses = read_poses(random_array(rng, (0, 1, 2, 3, 4, 17)), COCO)
        assert poses.points.shape == (*poses.valid.shape, 2)
        assert np.isfinite(poses.points).all()
        assert np.isfinite(poses.scores).all()

    def estimators(self, rng: Rng) -> None:
        given = estimator_output(rng)
        found = adapt(given, COCO, np.zeros((8, 8, 3), np.uint8) if rng.random() < 0.7 else None)
        assert all(k.shape[1:] == (17, 3) for k in found.keypoints)
        found.rebuild([k.astype(np.float32) if rng.random() < 0.5 else k for k in found.keypoints])


def _spelled(entries: Iterator[dict[str, Any]]) -> list[str]:
    """JSON of each, to be compared: NaN equals itself, and 1 is 1.0."""
    return [json.dumps(json.loads(json.dumps(e), parse_int=float), sort_keys=True) for e in entries]


def random_array(rng: Rng, sizes: tuple[int, ...]) -> Any:
    """An array, tensor or list of any type and shape, of sensible values and others."""
    kinds = ("f8", "f4", "f2", "u1", "u2", "i8", "?", "c8", "O", "U3", "M8[s]", ">f4")
    dims = int(rng.integers(0, 5))
    shape = tuple(int(sizes[rng.integers(len(sizes))]) for _ in range(dims))
    if rng.random() < 0.5:
        shape = [(int(rng.integers(4)), 17, int(rng.integers(2, 4))), (5, 4, 3)][rng.integers(2)]
    values = rng.choice([0.0, 0.5, 1.0, 40.0, 200.0, 255.0, 300.0, -1.0], shape)
    if rng.random() < 0.3 and values.size:
        values.reshape(-1)[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-320])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = values.astype(kinds[rng.integers(len(kinds))])
        except (ValueError, OverflowError):
            array = values
        form = rng.integers(8)
        if form == 0:
            return array.tolist()
        if form == 1:
            return spoiled(array.tolist(), rng) if array.ndim and array.size < 500 else array
        if form == 2:
            return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
        if form == 3:
            tensor = torch.from_numpy(np.ascontiguousarray(values))
            return [tensor, tensor.to_sparse(), tensor.to("meta"), tensor.to(torch.complex64)][rng.integers(4)]
        if form == 4:
            return np.ma.masked_array(array)
        if form == 5:
            return array[::-1] if array.ndim else array
    return array


def estimator_output(rng: Rng) -> Any:
    """What adapters may be handed: outputs of the right form, spoiled."""
    kind = rng.integers(8)
    if kind < 4:
        name = ("results", "alphapose", "openpose", "annotations")[kind]
        return spoiled(corpus()[name], rng)
    points = random_poses(rng, int(rng.integers(0, 3)), COCO)
    pick: Callable[[], Any] = lambda: random_array(rng, (0, 1, 2, 3, 17))  # noqa: E731
    if kind == 4:
        good = {"keypoints": torch.tensor(points[0, :, :2]) if len(points) else torch.zeros(0, 2)}
        good |= {"scores": torch.ones(len(good["keypoints"])), "labels": torch.arange(len(good["keypoints"]))}
        good[("keypoints", "scores", "labels")[rng.integers(3)]] = pick()
        return [good]
    if kind == 5:
        return {"boxes": pick(), "keypoints": torch.tensor(points), "keypoints_scores": pick()}
    if kind == 6:
        person = {"keypoints": points[0, :, :2].tolist() if len(points) else [], "keypoint_scores": [0.5] * 17}
        return {"predictions": [spoiled([person], rng)]}
    return [pick(), (pick(), pick()), [pick()], ([], []), (points[..., :2], points[..., 2])][rng.integers(5)]


# ---------------------------------------------------------------- running them


def failures(doors: Doors, name: str, seed: int, count: int) -> Iterator[tuple[int, BaseException]]:
    """The inputs of a door, ``count`` from ``seed`` on, to which the answer is another exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(seed, seed + count):
            try:
                getattr(doors, name)(np.random.default_rng([number, sum(name.encode())]))
            except PosefixError as error:
                text = str(error)
                if len(text) > 2100 or text != text.encode(errors="replace").decode():  # no half characters
                    yield number, error
            except Exception as error:
                yield number, error


def place(error: BaseException) -> str:
    """The last line of the library that an exception went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "posefix" in f.filename]
    own = [f for f in frames if "/src/" in f.filename or "site-packages" in f.filename] or frames
    return f"{own[-1].filename.rpartition('posefix/')[2]}:{own[-1].lineno}" if own else "?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all doors together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", help="only these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="posefix-fuzz-") as folder:
        doors = Doors(Path(folder))
        names = given.door or doors.names()
        unit = given.inputs / sum(1 / SLOW.get(name, 1) for name in names)
        total = 0
        for name in names:
            start = time.perf_counter()
            each = max(round(unit / SLOW.get(name, 1)), 1)
            total += each
            for number, error in failures(doors, name, given.seed, each):
                key = (name, f"{place(error)} {type(error).__name__}")
                found.setdefault(key, []).append(f"--door {name} --seed {number} --inputs 1: {str(error)[:150]!r}")
            seconds = time.perf_counter() - start
            print(f"{name:18} {each:8} inputs {seconds:7.1f} s", flush=True)
    for (name, what), where in sorted(found.items()):
        print(f"{len(where):6} × {name}: {what}\n         {where[0]}")
    print(f"{len(found)} faults in {total} inputs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
