"""Feeding a GPU: packed sets are the sets, and crops made on the device are the crops made on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from factories import FOUR, annotation_file, draw_dots, load_tool
from posefix.exceptions import TrainingError
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.training import trainer
from posefix.training.config import Augmentation, Optimisation, SetConfig, TrainingConfig, read_config
from posefix.training.data.batches import fill_batch
from posefix.training.data.device import DeviceImages, images_for
from posefix.training.data.people import Images, People, read_people
from posefix.training.data.photometric import Corruption, distort, draw_distortion
from posefix.training.data.photometric_torch import distort_tensors
from posefix.training.data.sampling import Batch, plan_batch
from posefix.training.data.shards import read_shards

CPU = torch.device("cpu")


def make_batch(
    people: People, images: Any, model: ModelConfig, augmentation: Augmentation, count: int, seed: int
) -> Batch:
    plan = plan_batch(people, COCO, model, augmentation, count, np.random.default_rng(seed))
    return fill_batch(plan, people, images, model)


SMALL = ModelConfig(input_hw=(64, 64))
#: Everything but what is random noise, which no two devices draw alike.
MUCH = Augmentation(
    shift=0.1,
    colour=0.3,
    occlude=0.5,
    copy_paste=0.5,
    keypoint_dropout=0.5,
    input_box=0.5,
    severity=1.0,
    real_pose_prob=0.5,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tiny COCO set of smooth images, one estimator's results, and a configuration."""
    rng = np.random.default_rng(0)
    content = annotation_file(rng)
    estimates = []
    for image in content["images"]:
        texture = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (640, 480))
        cv2.imwrite(str(tmp_path / image["file_name"]), texture)
    for person in content["annotations"]:
        pose = np.array(person["keypoints"], float).reshape(-1, 3) + rng.normal(0, 5, (17, 3))
        estimates.append({k: person[k] for k in ("bbox", "image_id", "category_id")} | {"score": 1.0})
        estimates[-1]["keypoints"] = pose.reshape(-1).tolist()
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "estimates.json").write_text(json.dumps(estimates))
    (tmp_path / "config.yaml").write_text(
        "out: run\nmodel: {input_hw: [64, 64]}\naugmentation: {shift: 0.1, input_box: 0.5, real_pose_prob: 0.5}\n"
        "optimisation: {steps: 6, batch_size: 2, warmup: 2, bfloat16: 'off'}\nworkers: 1\n"
        "sets: [{annotations: train.json, images: ., estimates: [estimates.json], min_keypoints: 2, weight: 3}]"
    )
    return tmp_path


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    return load_tool("pack_shards")


def pack(tool: ModuleType, data: Path, *options: str) -> TrainingConfig:
    """The set, packed into ``data/packed``, as a configuration."""
    tool.main([str(data / "config.yaml"), str(data / "packed"), *options])
    return read_config(data / "packed" / "config.yaml")


def share_on_dots(batch: Batch) -> float:
    """Share of the targets at which the crop is white."""
    rows, keypoints = np.nonzero(batch.target_mask)
    assert len(rows) > 20
    x, y = np.round(batch.targets[rows, keypoints]).astype(int).T
    return float((np.asarray(batch.crops)[rows, y, x, 0] > 128).mean())


def test_shards_hold_the_same_people(data: Path, tool: ModuleType) -> None:
    whole = read_config(data / "config.yaml")
    config = pack(tool, data, "--side", "150")
    assert config.sets == (SetConfig(shards=str(data / "packed" / "set_0"), weight=3.0, min_keypoints=2),)
    assert replace(config, sets=whole.sets, out=whole.out) == whole
    before, after = read_people(whole.sets, COCO), read_people(config.sets, COCO)
    np.testing.assert_array_equal(after.overlap, before.overlap)
    np.testing.assert_allclose(after.share, before.share)
    np.testing.assert_array_equal(after.image, np.arange(len(before)))
    images = Images(after.paths, 1, after.codes)
    assert max(max(images[i].shape[:2]) for i in range(len(after))) == 150
    # One map per person takes every point of every kind from the old frame to the new.
    for name in ("ground_truth", "estimates", "others"):
        old, new = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(new[..., 2], old[..., 2])
        for i in range(len(before)):
            corners, moved = before.boxes_xyxy[i].reshape(2, 2), after.boxes_xyxy[i].reshape(2, 2)
            scale = (moved[1] - moved[0]) / (corners[1] - corners[0])
            assert after.area[i] == pytest.approx(before.area[i] * scale.prod(), rel=1e-3)
            there = np.isfinite(old[i]).all(-1) if name == "estimates" else old[i, ..., 2] > 0
            expected = (old[i][there][:, :2] - corners[0]) * scale + moved[0]
            np.testing.assert_allclose(new[i][there][:, :2], expected, atol=0.01)


def test_shards_share_the_frame_of_their_images(data: Path, tool: ModuleType) -> None:
    draw_dots(data)
    config = pack(tool, data, "--side", "300")
    people = read_people(config.sets, COCO)
    plain = Augmentation(shift=0.1, input_box=0.5)
    for images in (
        Images(people.paths, 1, people.codes),
        DeviceImages(people, ModelConfig(), CPU),
    ):
        batch = make_batch(people, images, ModelConfig(), plain, 8, 0)
        assert share_on_dots(batch) > 0.98


def test_packed_crops_show_what_whole_images_show(data: Path, tool: ModuleType) -> None:
    whole, packed = (read_people(c.sets, COCO) for c in (read_config(data / "config.yaml"), pack(tool, data)))
    turned = Augmentation(shift=0.1, scale=0.3, rotation_share=1.0)
    batches = [make_batch(p, Images(p.paths, 1, p.codes), SMALL, turned, 12, 1) for p in (whole, packed)]
    np.testing.assert_allclose(batches[1].targets, batches[0].targets, atol=0.3)
    assert np.abs(batches[1].crops.astype(float) - batches[0].crops).mean() < 2
    # Nothing that a crop shows was left out.
    assert ((batches[1].crops.max(-1) == 0) & (batches[0].crops.max(-1) > 20)).mean() < 1e-3


def test_shards_stay_below_their_limit(data: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    config = pack(tool, data, "--max-mb", "0.1", "--quality", "98")
    files = sorted((data / "packed" / "set_0").iterdir())
    assert len(files) > 1
    assert all(f.stat().st_size <= 100_000 for f in files)
    assert f"12 people of train.json, {len(files)} files" in capsys.readouterr().out
    assert len(read_people(config.sets, COCO)) == 12
    some = read_shards(str(data / "packed" / "set_0" / "000*"), COCO)
    assert 0 < len(some) < 12
    with pytest.raises(SystemExit, match="is not empty"):
        pack(tool, data)
    with pytest.raises(SystemExit, match="does not hold even one person"):
        tool.main([str(data / "config.yaml"), str(data / "self_input_prob"), "--max-mb", "0.018"])


def test_damaged_shards_are_refused(data: Path, tool: ModuleType) -> None:
    (one,) = pack(tool, data).sets
    (path,) = Path(one.shards).iterdir()
    sound = path.read_bytes()
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    with pytest.raises(TrainingError, match=r"no \.npz file matches"):
        read_shards(str(data / "nowhere"), COCO)
    with pytest.raises(TrainingError, match="not those of skeleton 'four'"):
        read_shards(one.shards, FOUR)
    with pytest.raises(TrainingError, match="no person has 18"):
        read_people([replace(one, min_keypoints=18)], COCO)
    for change, part in (
        ({"version": np.array(2)}, "pack the sets again"),
        ({"area": arrays["area"][1:]}, "area: expected"),
        ({"ends": arrays["ends"] + 1}, "do not end where they should"),
        ({"keypoints": np.array([{}], object)}, "damaged or no shard"),  # would be unpickled
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(TrainingError, match=part):
            read_shards(one.shards, COCO)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(TrainingError, match="damaged or no shard"):
        read_shards(one.shards, COCO)
    broken = arrays["codes"].copy()
    broken[: arrays["ends"][0]] = 0
    np.savez(path, **(arrays | {"codes": broken}))
    people = read_people([one], COCO)
    with pytest.raises(TrainingError, match="cannot read the training image person 0 of"):
        DeviceImages(people, SMALL, CPU)


def both_ways(people: People, model: ModelConfig, augmentation: Augmentation, count: int = 12) -> tuple[Batch, Batch]:
    cpu, device = Images(people.paths, 1, people.codes), DeviceImages(people, model, CPU)
    first, second = (make_batch(people, p, model, augmentation, count, 2) for p in (cpu, device))
    assert isinstance(second.crops, torch.Tensor)
    assert second.crops.dtype == torch.uint8
    return first, second


@pytest.mark.parametrize("input_hw", [(64, 64), (256, 192)])
@pytest.mark.parametrize("antialias", [False, True])
def test_device_crops_are_the_cpus(data: Path, input_hw: tuple[int, int], antialias: bool) -> None:
    people = read_people(read_config(data / "config.yaml").sets, COCO)
    model = replace(ModelConfig(), input_hw=input_hw, antialias=antialias)
    first, second = both_ways(people, model, MUCH)
    for name, value in vars(first).items():
        if name != "crops":
            np.testing.assert_array_equal(getattr(second, name), value, err_msg=name)
    off = np.abs(np.asarray(second.crops).astype(float) - first.crops)
    assert off.mean() < 1.0
    assert np.percentile(off, 99) < 12


def test_shrinking_images_does_not_skip_pixels(data: Path) -> None:
    # Stripes of one pixel are grey from afar; picking single pixels would keep them black and white.
    for path in data.glob("*.jpg"):
        stripes = np.zeros((480, 640, 3), np.uint8)
        stripes[:, ::2] = 255
        cv2.imwrite(str(path), stripes)
    people = read_people(read_config(data / "config.yaml").sets, COCO)
    still = Augmentation(scale=0.0, rotation_share=0.0, mirror=0.0)
    first, second = both_ways(people, ModelConfig(input_hw=(32, 32)), still)
    spread, expected = (np.asarray(b.crops).std((1, 2, 3)) for b in (second, first))
    assert np.percentile(spread, 90) < 2 * np.percentile(expected, 90)
    assert np.abs(np.asarray(second.crops).astype(float) - first.crops).mean() < 12


@pytest.mark.parametrize(
    ("corruption", "low", "high"),
    [(Corruption.BLUR, 0.6, 2.5), (Corruption.SMALL, 1.5, 5.0), (Corruption.JPEG, 15, 59)],
)
def test_device_damages_as_the_cpu(corruption: Corruption, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (10, 16, 12, 3)).astype(np.uint8).repeat(6, 1).repeat(8, 2)
    crops = np.clip(blocks + rng.normal(0, 10, blocks.shape), 0, 255).astype(np.uint8)
    decided = draw_distortion(10, (96, 96), Augmentation(), rng)
    strength = np.linspace(low, high, 10, dtype=np.float32)
    strength = np.floor(strength) if corruption == Corruption.JPEG else strength
    decided = replace(decided, corruption=np.full(10, corruption, np.int8), strength=strength)
    theirs = distort_tensors(torch.from_numpy(crops).float(), decided).numpy()
    ours = crops.copy()
    distort(ours, decided)
    change = np.abs(ours.astype(float) - crops).mean((1, 2, 3))
    off = np.abs(ours - theirs).mean((1, 2, 3))
    assert (off < 0.15 * change).all(), (off, change)


def test_noise_has_its_strength_on_the_device(data: Path) -> None:
    rng = np.random.default_rng(0)
    decided = draw_distortion(2, (64, 64), Augmentation(), rng)
    decided = replace(
        decided, corruption=np.array([Corruption.NOISE, Corruption.NONE], np.int8), strength=np.float32([10, 10])
    )
    grey = torch.full((2, 64, 64, 3), 128.0)
    one, again = (distort_tensors(grey.clone(), decided) for _ in range(2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert one[0].std() == pytest.approx(10, rel=0.05)
    assert one[1].std() == 0


def test_maps_without_inverse_give_black_crops(data: Path) -> None:
    people = read_people(read_config(data / "config.yaml").sets, COCO)
    plan = plan_batch(people, COCO, SMALL, Augmentation(), 4, np.random.default_rng(0))
    affine = plan.affine.copy()
    affine[0], affine[1, 0, 0], affine[2, 0, 2] = 0.0, np.nan, 1e9
    crops = DeviceImages(people, SMALL, CPU).paint(replace(plan, affine=affine))
    assert crops[:3].max() == 0
    assert crops[3].max() > 0


def test_choosing_the_feeding(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = read_people(read_config(data / "config.yaml").sets, COCO)

    def choose(feeding: str, device: str = "cpu", cache_gb: float = 1.0) -> DeviceImages | None:
        return images_for(people, SMALL, torch.device(device), feeding=feeding, cache_gb=cache_gb, workers=1)

    assert choose("auto") is None
    assert choose("cpu", "cuda") is None
    assert choose("device") is not None
    with caplog.at_level("INFO"):
        assert choose("auto", "cuda", cache_gb=1e-3) is None
    assert "feeding from the CPU" in caplog.text
    with pytest.raises(TrainingError, match="more than cache_gb"):
        choose("device", cache_gb=1e-3)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sets: [{shards: a, images: b}]", "give either shards or those"),
        ("sets: [{shards: a, estimates: [b]}]", "give either shards or those"),
        ("sets: [{weight: 1}]", "expected annotations and images, or shards"),
        ("sets: [{shards: $NOWHERE/a}]", "environment variable \\$NOWHERE"),
        ("sets: [{shards: a}]\nfeeding: gpu", "feeding: expected one of auto, cpu, device"),
    ],
)
def test_wrong_configurations(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=part):
        read_config(path)


def test_resumed_run_equals_unbroken_run_on_the_device(
    data: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = replace(MUCH, degrade=0.8)
    config = replace(pack(tool, data), feeding="device", checkpoint_minutes=0.0, augmentation=everything)
    whole = trainer.train(replace(config, out=str(data / "whole")), device="cpu", progress=False)
    records = [json.loads(line) for line in (data / "whole" / "log.jsonl").read_text().splitlines()]
    assert 0 <= records[-1]["wait"] <= 1
    broken = replace(config, out=str(data / "broken"))
    original = trainer.learning_rate

    def kill(step: int, optimisation: Optimisation) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return original(step, optimisation)

    monkeypatch.setattr(trainer, "learning_rate", kill)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(broken, device="cpu", progress=False)
    monkeypatch.setattr(trainer, "learning_rate", original)
    resumed = trainer.train(broken, resume=True, device="cpu", progress=False)
    for (name, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
