"""A large JSON results file takes no more memory than a small one; the network is a stub, for it would take hours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from factories import make_weights
from posefix.weights.weights import save_weights

pytest.importorskip("pyarrow", reason="runs in parts need the extra posefix[parquet]")

PEOPLE_PER_IMAGE = 4
#: A file system links a file only so often.
MOST_IMAGES = 20_000
#: The command with a model that answers at once; prints the seconds and the peak of memory in MiB.
SCRIPT = """
import resource, sys, time
import numpy as np
from contextlib import nullcontext
from posefix.cli import refine_parts
from posefix.cli.main import main
from posefix.inference import engine
from posefix.inference.crops import Prediction
from posefix.inference.runner import View

class Stub:
    backend, precision, device = "stub", "float32", "cpu"
    starting_threads = staticmethod(nullcontext)
    def enter_thread(self):
        pass
    def forward(self, inputs):
        return View(None, None, inputs.without_crops())
    def count(self, view):
        return np.full((3, len(view.inputs)), 5) * [[3], [1], [1]]
    def decode(self, views, prior_weight, decoder):
        points, k = views[0].inputs.crop_points + 1.0, views[0].inputs.valid.shape
        return Prediction(points.astype(float), np.full(k, 0.9), np.full(k, 0.1), np.ones(k))

engine.load_model = lambda *args, **kwargs: Stub()
refine_parts.LARGE = 1
start = time.perf_counter()
main(sys.argv[1:], standalone_mode=False)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def refine(folder: Path, people: int) -> tuple[float, float]:
    """Seconds and MiB of refining so many people."""
    rng, images = np.random.default_rng(0), folder / f"images{people}"
    images.mkdir()
    cv2.imwrite(str(folder / "image.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    with (folder / f"{people}.json").open("w") as file:
        size = max(PEOPLE_PER_IMAGE, people // MOST_IMAGES)
        for index in range(people):
            name = f"{index // size:09d}.png"
            if index % size == 0:
                (images / name).hardlink_to(folder / "image.png")
            pose = np.round(np.append(rng.uniform(5, 40, (17, 2)), np.ones((17, 1)), 1), 3).ravel().tolist()
            entry = {"image_id": index // size, "file_name": name, "keypoints": pose, "score": 0.5}
            file.write(("," if index else "[") + json.dumps(entry))
        file.write("]")
    arguments = [str(folder / f"{people}.json"), "--images", str(images), "--out", str(folder / f"{people}_out.json")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "refine", *arguments, "--weights", str(folder / "weights"), "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{people} of {people} people refined" in done.stdout
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights", make_weights(input_hw=(64, 64), width=0.35))
    few, many = 8_000, 32_000
    (short, little), (long, much) = refine(tmp_path, few), refine(tmp_path, many)
    print(f"\n{few} people: {short:.1f} s, {little:.0f} MiB; {many} people: {long:.1f} s, {much:.0f} MiB")
    # 180 MiB if all people were held at once. The memory of two equal runs differs by up to 10 MiB.
    assert much - little < 20
    assert long / many < 1.5 * short / few
