"""tools/pack_crops.py, teacher.py, distil.py and student.py: what the teacher sees reaches the student in its place."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from factories import shared_dir
from posefix.geometry import invert_affine, transform_points
from posefix.keypoints.heatmaps import draw_gaussians
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.training.config import Start, read_yaml
from posefix.training.initial_weights import start_from_weights
from posefix.weights.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]
K = len(COCO)
NAMES = ("pack_crops", "teacher", "distil", "student")


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(ROOT / "tools"))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(ROOT / "tools"))
    for name in NAMES:
        del sys.modules[name]


def run(tool: Any, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", [tool.__name__, *map(str, arguments)])
    tool.main()


@pytest.fixture
def crops(tools: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight people, two to an image, of whom the file keeps seven; a white dot on the nose of each."""
    rng = np.random.default_rng(0)
    images, people = [], []
    for image in range(4):
        pixels = cv2.resize(rng.integers(0, 150, (6, 8, 3), dtype=np.uint8), (400, 300))
        for left in (20, 210):
            keypoints = np.concatenate([rng.uniform((left, 20), (left + 120, 280), (K, 2)), np.full((K, 1), 2)], 1)
            cv2.circle(pixels, np.rint(keypoints[0, :2]).astype(int).tolist(), 4, (255, 255, 255), -1)
            box = [left, 10, 130, 280]
            person = {"id": len(people) + 1, "image_id": 3 - image, "category_id": 1, "iscrowd": 0, "bbox": box}
            people.append({**person, "keypoints": keypoints.reshape(-1).tolist(), "num_keypoints": K, "area": 9e3})
        cv2.imwrite(str(tmp_path / f"{image}.png"), pixels)
        images.append({"id": 3 - image, "file_name": f"{image}.png", "width": 400, "height": 300})
    people[-1]["bbox"] = [210, 10, 8, 8]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}]
    data = {"images": images, "annotations": people, "categories": categories}
    (tmp_path / "people.json").write_text(json.dumps(data))
    run(tools["pack_crops"], monkeypatch, tmp_path / "people.json", tmp_path, tmp_path / "crops.npz", "--labels")
    return tmp_path / "crops.npz"


class DotTeacher(torch.nn.Module):
    """Heatmaps of every keypoint are the image's brightness above what noise reaches."""

    def __init__(self, folder: str = "") -> None:
        super().__init__()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        heat = F.interpolate(
            (images.mean(1, keepdim=True) - 1).clamp(0, 1), (64, 48), mode="bilinear", align_corners=True
        )
        return heat.expand(-1, K, -1, -1)


@pytest.fixture
def config(tools: dict[str, Any], crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tools["distil"], "Teacher", DotTeacher)
    monkeypatch.setattr(tools["distil"], "start_from_movenet", lambda network, path: set())
    monkeypatch.setenv("POSEFIX_RUNS", str(tmp_path))
    read = tools["distil"].read_config(ROOT / "configs" / "distil" / "student.yaml")
    model = ModelConfig(width=0.25, pyramid="wide", input_hw=(320, 224), uses_scores=True)
    return replace(read, model=model, crops={str(crops): 1}, steps=3, stop=0, batch_size=4, warmup=1, average=0.5)


def test_crops_and_labels_of_a_file(tools: dict[str, Any], crops: Path) -> None:
    images, people = tools["distil"].read_crops(str(crops))
    assert images.shape == (7, 3, 400, 304)
    assert people["ids"].tolist() == [7, 5, 6, 3, 4, 1, 2]
    # The nose is where the dot is, and the map leads back to the annotation.
    x, y = (people["labels"][0, 0, :2] + 40).round().astype(int)
    assert images[0, :, y, x].min() > 200
    data = json.loads((crops.parent / "people.json").read_text())
    back = transform_points(invert_affine(people["mats"]), people["labels"][..., :2])
    wanted = np.reshape(data["annotations"][6]["keypoints"], (K, 3))[:, :2]
    np.testing.assert_allclose(back[0], wanted, atol=1e-3)
    assert people["areas"][0] == pytest.approx(9e3 * people["mats"][0, 0, 0] ** 2)


def test_the_graph_computes_what_openvino_does(tools: dict[str, Any]) -> None:
    folder = shared_dir() / "weights" / "tinypose_256"
    with np.load(folder / "golden.npz") as golden:
        crops, heatmaps = golden["crops"], torch.from_numpy(golden["heatmaps"])
    teacher = tools["teacher"].Teacher(folder).eval()
    images = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - tools["teacher"]._MEAN) / tools["teacher"]._STD
    with torch.inference_mode():
        torch.testing.assert_close(teacher(images), heatmaps, atol=1e-5, rtol=0)


def test_all_views_see_a_dot_at_the_same_place(tools: dict[str, Any], config: Any) -> None:
    place = torch.tensor([[[60.0, 40.0]]])
    dot = draw_gaussians(place * 4 + 1.5, torch.ones(1, 1, dtype=torch.bool), tools["pack_crops"].KEPT_HW, 8.0)
    for view in config.views:
        heat = tools["teacher"].mean_heatmaps(DotTeacher(), dot.expand(-1, 3, -1, -1) * 255, [view])
        assert heat.shape == (1, K, 100, 76)
        total = heat.sum((-1, -2))
        x, y = ((heat.sum(d) * torch.arange(n)).sum(-1) / total for d, n in ((-2, 76), (-1, 100)))
        torch.testing.assert_close(torch.stack([x, y], -1), place.expand(1, K, 2), atol=0.2, rtol=0)


@pytest.mark.parametrize("step", range(4))
def test_a_target_comes_out_where_the_crop_shows_it(
    tools: dict[str, Any], config: Any, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    distil = tools["distil"]
    monkeypatch.setattr(distil, "change_light", lambda images, *_: images)
    points = torch.rand(6, K, 2) * torch.tensor([48.0, 72.0]) + 14
    all_valid = torch.ones(6, K, dtype=torch.bool)
    maps = (draw_gaussians(points, all_valid, (100, 76), 2.0) * 255).round().byte()
    # Red is the left shoulder, green the right one.
    dots = draw_gaussians(points[:, 5:8] * 4 + 1.5, all_valid[:, :3], (400, 304), 8.0)
    people = distil.People((dots * 255).byte(), maps, torch.rand(6, K), torch.rand(6, K), np.full(6, 1 / 6))
    images, targets, weights, heights = distil.make_batch(people, replace(config, batch_size=16), step)
    inside = targets.flatten(2).amax(-1) > 0.5
    assert 0 < inside.float().mean() < 1
    assert ((weights > 0) == inside).all()
    assert ((heights > 0) == inside).all()
    shown = F.avg_pool2d((images[:, :2] + 1) / 2, 4)
    _, mirrored = distil.draw_affines(_after_choice(config.seed, step, people.shares), 16, config.augmentation)
    assert 0 < mirrored.sum() < 16
    for row, side in enumerate(mirrored):
        for channel, keypoint in enumerate((6, 5) if side else (5, 6)):
            if weights[row, keypoint] > 0:
                assert float((shown[row, channel] - targets[row, keypoint]).abs().max()) < 0.12


def _after_choice(seed: int, step: int, shares: Any) -> np.random.Generator:
    rng = np.random.default_rng((seed, step))
    rng.choice(len(shares), 16, p=shares)
    return rng


def test_labels_decide_between_two_places(tools: dict[str, Any], config: Any) -> None:
    distil = tools["distil"]
    everyone = torch.ones(1, K, dtype=torch.bool)
    dots = sum(draw_gaussians(torch.full((1, K, 2), p), everyone, (400, 304), 8.0) for p in (121.5, 201.5))
    labels = torch.tensor([161.5, 161.5, 2.0]).repeat(1, K, 1)
    labels[0, 0, 2] = 0
    nothing = torch.nn.Conv2d(3, K, 1, stride=4)
    torch.nn.init.zeros_(nothing.weight)
    targets, weights, heights = distil.make_targets(
        (dots[:, :3] * 255).byte(),
        labels,
        torch.full((1, K), 20.0),
        teacher=DotTeacher(),
        movenet=nothing,
        config=config,
    )
    first, second = targets[0, :, 30, 30].int(), targets[0, :, 50, 50].int()
    assert min(first[0], second[0]) > 150
    assert second[1:].min() == 255
    assert first[1:].max() < 5
    assert weights[0, 0] == heights[0, 0]
    assert weights[0, 1:].min() >= 0.6


def test_loss_is_zero_at_the_targets_and_silent_without_weight(tools: dict[str, Any]) -> None:
    losses = tools["distil"].losses
    targets, weights = torch.rand(2, 3, 8, 6) + 0.1, torch.rand(2, 3)
    weights[0, 1] = 0
    logits = torch.log(targets)
    assert abs(float(losses(logits, targets, weights, weights)[0])) < 1e-6
    other = torch.randn(2, 3, 8, 6, requires_grad=True)
    losses(other, targets, weights, weights)[0].backward()
    assert other.grad is not None
    assert float(other.grad[0, 1].abs().max()) == 0
    assert float(other.grad[0, 0].abs().max()) > 0
    high, low = (losses(logits.log_softmax(-1) + c, targets, weights, torch.full((2, 3), 0.9))[1] for c in (5, -5))
    assert high < low


def test_light_changes_every_sample_and_nothing_moves(tools: dict[str, Any], config: Any) -> None:
    images = torch.full((12, 3, 64, 48), 100.0)
    changed = tools["distil"].change_light(images, config.augmentation, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert 0 <= changed.min() < changed.max() <= 255
    assert ((changed - images).abs().amax((1, 2, 3)) > 1).all()
    none = replace(config.augmentation, **dict.fromkeys(vars(config.augmentation), 0.0))
    same = tools["distil"].change_light(images, none, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, images)


def test_resuming_changes_nothing_and_the_student_becomes_a_start(
    tools: dict[str, Any], config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distil, cpu = tools["distil"], torch.device("cpu")
    begin = distil.start_student(config).state_dict()
    whole = distil.train(replace(config, out=str(tmp_path / "whole")), cpu, resume=False)
    broken = replace(config, out=str(tmp_path / "broken"), checkpoint_minutes=0)
    real = distil.save_checkpoint

    def stop_after_two(path: Path, network: Any, average: Any, optimiser: Any, facts: dict[str, Any]) -> None:
        real(path, network, average, optimiser, facts)
        if facts["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distil, "save_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            distil.train(broken, cpu, resume=False)
    with pytest.raises(SystemExit, match="--resume"):
        distil.train(broken, cpu, resume=False)
    monkeypatch.setattr(distil, "read_config", lambda path: broken)
    run(distil, monkeypatch, "student.yaml", "--resume", "--device", "cpu")
    student = distil.start_student(replace(config, student=str(tmp_path / "broken" / "student.safetensors")))
    moved = 0
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor.half().float(), rtol=1e-3, atol=1e-5)
        moved += not torch.equal(tensor, begin[name])
    assert moved > 100
    log = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [3]

    monkeypatch.setattr(tools["student"], "read_config", lambda path: config)
    file, folder = tmp_path / "broken" / "student.safetensors", tmp_path / "start"
    run(tools["student"], monkeypatch, "student.yaml", file, "--weights", folder)
    network = distil.RefinementNetwork(config.model)
    assert start_from_weights(network, Start(weights=(str(folder),)).weights) == set(network.state_dict())
    crop = torch.rand(1, 3, 320, 224)
    torch.testing.assert_close(distil.image_network(network)(crop), student(crop))


def test_ap_of_a_student_that_knows_the_labels(
    tools: dict[str, Any], crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, people = tools["distil"].read_crops(str(crops))
    cells = torch.from_numpy((people["labels"][..., :2] - 1.5) / 4).float()
    known = torch.log(draw_gaussians(cells, torch.ones(7, K, dtype=torch.bool), (80, 56), 1.0).clamp_min(1e-6))

    class Student(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[1:] == (3, 320, 224)
            return known[: len(images)]

    monkeypatch.setattr(tools["student"], "image_network", lambda network: Student())
    data = json.loads((tmp_path / "people.json").read_text())
    data["annotations"].pop()
    (tmp_path / "people.json").write_text(json.dumps(data))
    assert tools["student"].measure(None, str(crops), str(tmp_path / "people.json")) == pytest.approx(1)
    known = known.flip(0)
    assert tools["student"].measure(None, str(crops), str(tmp_path / "people.json")) < 0.5


def test_the_second_configuration_differs_from_the_first_where_it_says_so(tools: dict[str, Any]) -> None:
    folder = ROOT / "configs" / "distil"
    first, second = (tools["distil"].read_config(folder / f"{n}.yaml") for n in ("student", "student_longer"))
    own = set(read_yaml(folder / "student_longer.yaml")) - {"extends"}
    assert {k for k in vars(first) if getattr(first, k) != getattr(second, k)} == own
    assert second.student == f"{first.out}/student.safetensors"
    assert ModelConfig.from_dict(read_yaml(ROOT / "configs" / "embedded.yaml")["model"]) == first.model


def test_no_start_is_left_out(tools: dict[str, Any], config: Any, tmp_path: Path) -> None:
    state = tools["distil"].start_student(config).state_dict()
    save_file({k: v for k, v in state.items() if k != "head.bias"}, tmp_path / "less.safetensors")
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        tools["student"].whole_network(str(tmp_path / "less.safetensors"), config.model, 1)
    assert load_weights(None).config.input_hw == config.model.input_hw
