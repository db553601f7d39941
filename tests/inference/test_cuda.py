"""On a GPU: the CPU's numbers, whichever way people come in, and training that resumes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from click.testing import CliRunner

from posefix.cli.demo_pose import load_demo
from posefix.cli.main import main
from posefix.inference.full_batches import refine_in_full_batches
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.training import trainer
from training_runs import make_config, write_data

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, torch's default for float32 convolutions on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def on_cpu() -> Refiner:
    return Refiner(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def on_gpu() -> Refiner:
    return Refiner(device=DEVICE, precision="float32")


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    return load_demo().image


@pytest.fixture(scope="module")
def people() -> npt.NDArray[np.float64]:
    """(10, 17, 3) an astronaut's pose, as ten estimators might have seen it."""
    demo, rng = load_demo(), np.random.default_rng(0)
    poses = np.repeat(demo.marked, 9, 0)
    poses[..., :2] += rng.normal(0, 10, poses[..., :2].shape) * (poses[..., 2:] > 0)
    return np.concatenate([demo.corrupted, poses])


def farthest(ours: Any, theirs: Any) -> float:
    """Largest distance in px."""
    return float(np.linalg.norm(np.asarray(ours)[..., :2] - np.asarray(theirs)[..., :2], axis=-1).max())


@pytest.mark.parametrize(
    "options",
    [{}, {"policy": "always", "prior_weight": 1.0}, {"flip_test": True}, {"decoder": "soft_argmax"}, {"batch_size": 3}],
    ids=str,
)
def test_the_points_of_the_cpu(
    on_cpu: Refiner, on_gpu: Refiner, image: Any, people: Any, options: dict[str, Any]
) -> None:
    ours, theirs = on_gpu.refine(image, people, **options), on_cpu.refine(image, people, **options)
    assert farthest(theirs, people) > 10
    assert farthest(ours, theirs) < 0.05
    np.testing.assert_allclose(ours[..., 2], theirs[..., 2], atol=1e-3)


def test_tf32_moves_little(
    on_cpu: Refiner, on_gpu: Refiner, image: Any, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert farthest(on_gpu.refine(image, people), on_cpu.refine(image, people)) < 0.5


def test_bfloat16(on_cpu: Refiner, image: Any, people: Any) -> None:
    refiner = Refiner(device=DEVICE, precision="bfloat16")
    options: dict[str, Any] = {"policy": "always", "fill_missing": False}
    ours, theirs = refiner.refine(image, people, **options), on_cpu.refine(image, people, **options)
    assert np.isfinite(ours).all()
    assert refiner.model.precision == "bfloat16"
    moved = np.linalg.norm(ours - theirs, axis=-1)[people[..., 2] > 0]
    assert np.median(moved) < 1
    assert (moved < 10).mean() > 0.95


def test_batches_and_streams(on_gpu: Refiner, image: Any, people: Any) -> None:
    counts = [3, 0, 1, 6, 0]
    poses = np.split(people, np.cumsum(counts)[:-1])
    images = [image] * len(poses)
    expected = [on_gpu.refine(image, p, prior_weight=1.0) for p in poses]
    streamed = on_gpu.refine_stream(zip(images, poses, strict=True), prior_weight=1.0, batch_size=4)
    for found in (
        list(streamed),
        *(on_gpu.refine_batch(images, poses, prior_weight=1.0, batch_size=size) for size in (1, 4, 32)),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=0.05)
    assert len(list(on_gpu.refine_stream(zip(images, poses, strict=True)))) == len(images)
    assert on_gpu.refine_batch([], []) == []
    assert on_gpu.refine(image, people[:0]).shape == (0, 17, 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_numbers_do_not_depend_on_the_company(precision: str, image: Any, people: Any) -> None:
    refiner = Refiner(device=DEVICE, precision=precision)
    prepared, options = [refiner.prepare(image, people[i : i + 1]) for i in range(len(people))], Options(batch_size=4)
    whole = list(refine_in_full_batches(refiner, prepared, options))
    for cut in (1, 6):
        parts = [*refine_in_full_batches(refiner, prepared[:cut], options)]
        parts += refine_in_full_batches(refiner, prepared[cut:], options)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_tensors_stay_where_they_are(on_gpu: Refiner, image: Any, people: Any) -> None:
    given = torch.tensor(people, device=DEVICE)
    refined = on_gpu.refine(image, given)
    assert refined.device == given.device
    np.testing.assert_allclose(refined.cpu().numpy(), on_gpu.refine(image, people), atol=0.05)


def test_copies_in_other_places(on_gpu: Refiner, on_cpu: Refiner, image: Any, people: Any) -> None:
    again = pickle.loads(pickle.dumps(on_gpu))
    assert torch.device(again.device).type == DEVICE
    np.testing.assert_allclose(again.refine(image, people), on_gpu.refine(image, people), atol=0.05)


def test_an_image_model_gets_crops_on_the_device(image: Any, people: Any) -> None:
    seen = set()

    def model(crops: torch.Tensor) -> torch.Tensor:
        seen.add(crops.device.type)
        return torch.rand(len(crops), 17, 64, 48, device=crops.device)

    refined = Refiner(image_model=model, device=DEVICE).refine_batch([image, image], [people, people])
    assert seen == {DEVICE}
    assert np.isfinite(refined).all()


def test_video(on_gpu: Refiner, on_cpu: Refiner, image: Any, people: Any) -> None:
    tracks = people[1:9].reshape(4, 2, 17, 3).copy()
    tracks[tracks[..., 2] <= 0] = np.nan
    ours, theirs = (r.refine_video([image] * 4, tracks, batch_size=3) for r in (on_gpu, on_cpu))
    np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_the_command(tmp_path: Path, image: Any, people: Any) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        assert cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image[..., ::-1])
    entries = [
        {"image_id": i % 3, "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5}
        for i, p in enumerate(people)
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(entries))
    found = []
    for device in ("cpu", DEVICE):
        out = tmp_path / f"{device}-refined.json"
        arguments = ["refine", str(file), "--images", str(tmp_path / "images"), "--out", str(out), "--device", device]
        result = CliRunner().invoke(main, [*arguments, "--backend", "torch"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"torch, {'' if device == 'cpu' else 'bfloat16, ' + device}" in result.output
        found.append([np.reshape(e["keypoints"], (17, 3)) for e in json.loads(out.read_text())])
    assert len(found[0]) == len(found[1]) == len(people)
    assert np.median(np.linalg.norm(np.subtract(*found)[..., :2], axis=-1)) < 1


@pytest.mark.parametrize("feeding", ["cpu", "device"])
@pytest.mark.parametrize("bfloat16", ["off", "auto"])
def test_training_resumes(feeding: str, bfloat16: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_config(write_data(tmp_path), bfloat16=bfloat16, steps=4).to_dict() | {"feeding": feeding}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    rate = trainer.learning_rate

    def kill(step: int, optimisation: Any) -> float:
        if step == 2:
            raise RuntimeError("killed")
        return rate(step, optimisation)

    def run(*options: str) -> Iterator[dict[str, Any]]:
        arguments = ["train", str(config), "--device", DEVICE, *options]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        yield from map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())

    monkeypatch.setattr(trainer, "learning_rate", kill)
    with pytest.raises(RuntimeError, match="killed"):
        list(run())
    monkeypatch.setattr(trainer, "learning_rate", rate)
    records = list(run("--resume"))
    assert records[-1]["step"] == 4
    assert np.isfinite(records[-1]["loss"])
    assert Refiner.from_pretrained(tmp_path / "run" / "weights", device=DEVICE).config.input_hw == (64, 64)
