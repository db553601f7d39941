"""The calls that users make: one keyword list everywhere, objects that tell what happened, streams."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from factories import make_weights, random_poses
from posefix import COCO, MPII, ImageError, InputError, Options, RefinedPoses, Refiner, SkeletonError
from posefix.cli.demo_pose import load_demo
from posefix.inference import stream
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.floating]
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    weights = make_weights(Calibration(policy="always", reference_outlier_rate=0.5), input_hw=(64, 64))
    return Refiner(weights, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    return RNG(0).integers(0, 256, (400, 400, 3), np.uint8)


@pytest.fixture
def poses() -> Floats:
    return random_poses(RNG(1), 3, COCO)


@pytest.mark.parametrize("name", ["refine", "refine_batch", "refine_output", "predict", "refine_stream", "__call__"])
def test_every_call_takes_the_options_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(Refiner, name)).parameters
    for field in fields(Options):
        assert parameters[field.name].default == field.default, field.name
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
    assert not [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    for other in ("options", "color", "skeleton"):
        assert other in parameters


def test_options_in_one_object_equal_keywords(refiner: Refiner, image: Any, poses: Floats) -> None:
    wanted = refiner.refine(image, poses, flip_test=True, prior_weight=0.5)
    given = Options(flip_test=True, prior_weight=0.5)
    np.testing.assert_array_equal(refiner.refine(image, poses, options=given), wanted)
    np.testing.assert_array_equal(
        refiner.refine(image, poses, options=Options(prior_weight=2.0), flip_test=True, prior_weight=0.5), wanted
    )
    with pytest.raises(InputError, match=r"options: expected posefix\.Options, got dict"):
        refiner.refine(image, poses, options={"flip_test": True})  # type: ignore[arg-type]


def test_old_names_still_work(refiner: Refiner, image: Any, poses: Floats) -> None:
    wanted = refiner.refine(image, poses, prior_weight=0.5)
    with pytest.warns(FutureWarning, match="'trust' is now called 'prior_weight'"):
        np.testing.assert_array_equal(refiner.refine(image, poses, trust=0.5), wanted)
    with pytest.warns(FutureWarning, match="measure_reliability"):
        assert refiner.measure_trust([image], [poses]) == refiner.measure_reliability([image], [poses])


def test_predict_tells_what_happened(refiner: Refiner, image: Any, poses: Floats) -> None:
    poses[1, 3] = 0
    result = refiner.predict(image, poses, person_scores=[0.9, 0.5, 0.1])
    assert isinstance(result, RefinedPoses)
    np.testing.assert_allclose(result.keypoints, refiner.refine(image, poses), atol=1e-6)
    there = poses[..., 2] > 0
    distance = np.linalg.norm(result.keypoints[..., :2] - poses[..., :2], axis=-1)
    np.testing.assert_allclose(result.moved[there], distance[there], atol=1e-5)
    assert result.filled[1, 3] == (result.confidence[1, 3] > 0)
    assert result.filled.sum() <= 1
    assert (result.scores <= [0.9, 0.5, 0.1]).all()
    assert len(result) == 3
    assert [len(person) for person in result] == [1, 1, 1]
    np.testing.assert_array_equal(result[-1].keypoints[0], result.keypoints[2])
    with pytest.raises(IndexError):
        result[3]
    entries = result.to_coco(7)
    assert [e["image_id"] for e in entries] == [7, 7, 7]
    assert len(entries[0]["keypoints"]) == 51
    assert result.plot(image).shape == image.shape
    assert len(refiner.predict(image, [])) == 0
    with pytest.raises(InputError, match=r"person_scores: expected \(3,\)"):
        refiner.predict(image, poses, person_scores=[1.0])


@pytest.mark.parametrize("name", ["refine", "predict", "__call__"])
def test_normalised_coordinates_are_refused(refiner: Refiner, image: Any, poses: Floats, name: str) -> None:
    shares = poses / np.array([*np.shape(image)[1::-1], 1.0])
    with pytest.raises(InputError, match="expected pixels of the image, got only coordinates in 0…1; multiply x by"):
        getattr(refiner, name)(image, np.clip(shares, 0.0, 1.0))


def test_a_person_twice_is_found(refiner: Refiner, image: Any, poses: Floats) -> None:
    twice = np.concatenate([poses, poses[:1]])
    result = refiner.predict(image, twice, person_scores=[0.9, 0.8, 0.7, 0.6])
    assert result.duplicates[3] > 0.9
    assert result.scores[3] < 0.1
    assert not result.duplicates[0]


def test_tensors_in_tensors_out(refiner: Refiner, image: Any, poses: Floats) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16):
        refined = refiner.refine(image, torch.from_numpy(poses).to(dtype))
        assert isinstance(refined, torch.Tensor)
        assert refined.dtype == dtype
    assert isinstance(refiner.refine(image, poses), np.ndarray)


def test_skeletons_by_name(refiner: Refiner, image: Any) -> None:
    other = random_poses(RNG(2), 2, MPII)
    by_name = refiner.refine(image, other, skeleton="mpii")
    np.testing.assert_array_equal(by_name, refiner.refine(image, other, skeleton=MPII))
    assert by_name.shape == (2, 16, 3)
    assert refiner.predict(image, other, skeleton="mpii").skeleton is MPII
    with pytest.raises(SkeletonError, match="expected a Skeleton or one of"):
        refiner.refine(image, other, skeleton="mpi")


def stream_of(count: int, people: int, seed: int = 0) -> list[tuple[Any, Floats]]:
    rng = RNG(seed)
    return [
        (rng.integers(0, 256, (480, 640, 3), np.uint8), random_poses(rng, people if i % 3 else 0, COCO))
        for i in range(count)
    ]


def test_a_stream_is_refined_in_order_and_lazily(
    refiner: Refiner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "MEASURED", 6)
    pairs = stream_of(12, 2)
    taken = []

    def source() -> Any:
        for index, pair in enumerate(pairs):
            taken.append(index)
            yield pair

    results = refiner.refine_stream(source(), batch_size=2, workers=1)
    first = [next(results) for _ in range(2)]
    assert len(taken) < 12
    rest = list(results)
    images, poses = zip(*pairs[:6], strict=True)
    with caplog.at_level(logging.WARNING):
        weight = refiner.measure(list(images), list(poses))
    assert "reliability measured on" in caplog.text
    for (image, pose), refined in zip(pairs, first + rest, strict=True):
        assert refined.shape == pose.shape
        if len(pose):
            np.testing.assert_allclose(refined, refiner.refine(image, pose, prior_weight=weight), atol=2e-3)


@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("measured", [4, 256])
def test_what_came_before_a_fault_comes_out_of_a_stream_first(
    refiner: Refiner, monkeypatch: pytest.MonkeyPatch, place: int, measured: int
) -> None:
    monkeypatch.setattr(stream, "MEASURED", measured)
    pairs = stream_of(8, 2)
    pairs[place] = ("absent.jpg", random_poses(RNG(1), 1))
    found: list[Any] = []
    with pytest.raises(ImageError, match="absent"):
        found.extend(refiner.refine_stream(pairs))
    assert [len(f) for f in found] == [len(poses) for _, poses in pairs[:place]]


def test_a_generator_of_images_is_told_of_the_stream(refiner: Refiner, image: Any, poses: Floats) -> None:
    with pytest.raises(InputError, match="refine_stream"):
        refiner.refine_batch((image for _ in range(2)), [poses, poses])  # type: ignore[arg-type]


def test_measuring_composes_with_every_input(refiner: Refiner, image: Any, poses: Floats) -> None:
    entries = [{"image_id": 1, "keypoints": p.ravel().tolist(), "score": 1.0} for p in poses]
    by_results = refiner.measure({1: image}, entries)
    assert by_results == refiner.measure([image], [poses]) == refiner.measure_reliability([image], [poses])


def test_another_device(refiner: Refiner) -> None:
    assert refiner.to("cpu").device == torch.device("cpu")
    assert refiner.to("cpu").weights is refiner.weights


@pytest.mark.slow
def test_a_users_script_type_checks(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from posefix import Options, Refiner, RefinedPoses\n"
        "refiner = Refiner.from_pretrained(device='cpu')\n"
        "result: RefinedPoses = refiner.predict(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 17, 3)), policy='safe')\n"
        "for person in result:\n"
        "    print(person.moved.max(), person.scores)\n"
        "refined = refiner.refine('a.jpg', np.zeros((1, 17, 3)), options=Options(flip_test=True), color='bgr')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_predict_tells_the_reliability_it_used() -> None:
    refiner = Refiner.from_pretrained(precision="float32")
    scene = load_demo()
    poses = refiner.predict(scene.image, scene.corrupted)
    assert 0 < poses.reliability.outliers <= poses.reliability.confident
    assert poses.reliability.prior_weight < 1
    assert poses[0].reliability == poses.reliability
    np.testing.assert_array_equal(poses.keypoints, refiner.refine(scene.image, scene.corrupted))
    given = refiner.predict(scene.image, scene.corrupted, prior_weight=1.3)
    assert given.reliability.prior_weight == 1.3
    assert repr(poses[0]).startswith("RefinedPoses(1 person, 17 keypoints: ")
