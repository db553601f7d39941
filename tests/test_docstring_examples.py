"""Every public function has an example, and the examples run as written."""

from __future__ import annotations

import doctest
import enum
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import posefix
from factories import annotation_file, make_weights, random_poses, results_of
from posefix import Refiner, Skeleton

#: What ``Refiner`` has from its base, and docs/api.md names.
INHERITED = ("from_pretrained", "save_pretrained", "push_to_hub")


def documented() -> Iterator[tuple[str, Any]]:
    """Exported functions and classes, and the public methods of those classes."""
    for name in posefix.__all__:
        value = getattr(posefix, name)
        if isinstance(value, (str, Skeleton)) or (
            isinstance(value, type) and issubclass(value, posefix.PosefixError) and value is not posefix.PosefixError
        ):
            continue
        yield name, value
        if isinstance(value, type) and not issubclass(value, (enum.Enum, Exception)):
            for member in (*vars(value), *(INHERITED if value is Refiner else ())):
                method = getattr(value, member)
                if not member.startswith("_") and (inspect.isfunction(method) or inspect.ismethod(method)):
                    yield f"{name}.{member}", method


DOCUMENTED = dict(documented())
#: Explained by their class's example, or by that of another method; the last are old names.
WITHOUT = {
    *("ErrorRates.to_dict", "ErrorRates.from_dict", "ErrorRates.table", "Skeleton.index", "Skeleton.from_dict"),
    "Refiner.measure_trust",
}


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(), device="cpu", precision="float32")


@pytest.fixture
def names(refiner: Refiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What examples may use, without network and large weights."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Refiner, "from_pretrained", lambda *_, **__: refiner)
    monkeypatch.chdir(tmp_path)
    image, keypoints = rng.integers(0, 256, (480, 640, 3), np.uint8), random_poses(rng, 2)
    truth = annotation_file(rng, images=2, people=2)
    Path("images").mkdir()
    for name in ("photo.jpg", *(f"images/{i['id']:012d}.jpg" for i in truth["images"])):
        cv2.imwrite(name, image)
    Path("val.json").write_text(json.dumps(truth))
    Path("results.json").write_text(json.dumps(results_of(truth, rng)))
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    tracks = rng.uniform(8, 56, (4, 1, 17, 3))
    public = {n: getattr(posefix, n) for n in posefix.__all__}
    poses = refiner.predict(image, keypoints)
    own = {"image": image, "keypoints": keypoints, "frames": frames, "tracks": tracks}
    return {**public, **own, "np": np, "refiner": refiner, "poses": poses, "refined": poses.keypoints}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_run(name: str, names: dict[str, Any]) -> None:
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert test.examples or name in WITHOUT, f"{name} has no example"
    assert "Example:" not in text, "the site shows a section Examples as code, Example as running text"
    reported: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=reported.append)
    assert found.failed == 0, "".join(reported)
