"""tools/teach.py, student.py and distil.py: the teacher's heatmaps reach the student where they belong."""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file

from factories import load_tool
from posefix.geometry import crop_affine, crop_rectangles, transform_points
from posefix.keypoints.heatmaps import draw_gaussians
from posefix.keypoints.skeleton import COCO

TOOLS = Path(__file__).resolve().parents[2] / "tools"
K = len(COCO)


@pytest.fixture(scope="module")
def distil() -> Any:
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("distil")
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def teach() -> Any:
    return load_tool("teach")


def write_targets(teach: Any, path: Path, people: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """A file as tools/teach.py writes it; returns the heatmaps."""
    rng = np.random.default_rng(seed)
    size = (teach.INPUT_HW[0] + 2 * teach.MARGIN, teach.INPUT_HW[1] + 2 * teach.MARGIN)
    images, maps = [], []
    for _ in range(people):
        smooth = cv2.resize(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8), size[::-1])
        images.append(cv2.imencode(".png", smooth)[1].tobytes())
        points = torch.from_numpy(rng.uniform(8, 40, (1, K, 2))).float()
        drawn = draw_gaussians(points, torch.ones(1, K, dtype=torch.bool), teach.MAP_HW, 2.0)[0]
        maps.append(np.rint(drawn.numpy() * 255).astype(np.uint8))
    (crops, crop_ends), (heat, map_ends) = teach.pack(images), teach.pack([zlib.compress(m.tobytes()) for m in maps])
    save_file({"crops": crops, "crop_ends": crop_ends, "maps": heat, "map_ends": map_ends}, path)
    return maps


def test_several_files_read_as_one(distil: Any, teach: Any, tmp_path: Path) -> None:
    first = write_targets(teach, tmp_path / "a.safetensors", 2)
    second = write_targets(teach, tmp_path / "b.safetensors", 3, seed=1)
    targets = distil.Targets((str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")))
    assert len(targets) == 5
    for index, wanted in enumerate([*first, *second]):
        image, maps = targets.read(index)
        assert image.shape == (336, 272, 3)
        np.testing.assert_array_equal(maps, wanted)


@pytest.mark.parametrize("seed", range(6))
def test_a_keypoint_comes_out_where_the_crop_shows_it(distil: Any, teach: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine, mirrored = distil.draw_affine(rng, distil.Augmentation())
    cells = rng.uniform(20, 30, (1, K, 2))
    heat = draw_gaussians(torch.from_numpy(cells).float(), torch.ones(1, K, dtype=torch.bool), teach.MAP_HW, 2.0)
    # The teacher's cell → its crop → the kept crop → the student's crop → the student's cell.
    kept = cells * teach.CROP_PER_HEATMAP + teach.MARGIN
    wanted = (transform_points(affine[None], kept) - distil.OFFSET) / distil.STRIDE
    warped = distil.warp_maps(heat, distil.cell_map(affine[None]))
    total = warped.sum((-1, -2))
    grid_y, grid_x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    found = torch.stack([(warped * g).sum((-1, -2)) / total for g in (grid_x, grid_y)], -1).numpy()
    inside = ((wanted > 8) & (wanted < (39, 55))).all(-1)
    assert inside.sum() > K / 2
    np.testing.assert_allclose(found[inside], wanted[inside], atol=0.06)
    assert mirrored == (np.linalg.det(affine[:, :2]) < 0)


def test_mirrored_samples_exchange_left_and_right(distil: Any, teach: Any, tmp_path: Path) -> None:
    write_targets(teach, tmp_path / "a.safetensors", 4)
    targets = distil.Targets((str(tmp_path / "a.safetensors"),))
    still = distil.Augmentation(scale=0, rotation=0, shift=0, mirror=0, colour=0)
    config = distil.Config(out="", targets=(), optimisation=distil.Optimisation(batch_size=4), augmentation=still)
    crops, heat = distil.make_batch(targets, config, 0)
    turned = replace(config, augmentation=replace(still, mirror=1))
    mirrored_crops, mirrored = distil.make_batch(targets, turned, 0)
    torch.testing.assert_close(mirrored_crops, crops.flip(2), atol=1.5, rtol=0)
    torch.testing.assert_close(mirrored, heat.flip(-1)[:, torch.from_numpy(COCO.flip_indices)], atol=1e-4, rtol=0)


def test_loss_is_zero_at_the_teacher_and_silent_where_it_sees_nothing(distil: Any) -> None:
    heat = torch.rand(2, 3, 8, 6) + 0.1
    heat[0, 1] = 0
    logits = torch.log(heat.clamp_min(1e-9)).requires_grad_()
    assert abs(float(distil.distillation_loss(logits, heat).detach())) < 1e-6
    other = torch.randn(2, 3, 8, 6, requires_grad=True)
    distil.distillation_loss(other, heat).backward()
    assert other.grad is not None
    assert float(other.grad[0, 1].abs().max()) == 0
    assert float(other.grad[0, 0].abs().max()) > 0
    half = distil.distillation_loss(other, heat * 0.5)
    torch.testing.assert_close(half, distil.distillation_loss(other, heat))


def test_student_begins_with_the_packages_answer(distil: Any) -> None:
    config = distil.Config(out="", targets=())
    student = distil.start_student(config).eval()
    crops = torch.randint(0, 255, (1, 256, 192, 3))
    with torch.inference_mode():
        images = crops.permute(0, 3, 1, 2).float() / 127.5 - 1
        torch.testing.assert_close(student(crops), student.head(student.trunk(images)))
    frozen = {n for n, p in student.named_parameters() if not p.requires_grad}
    assert "trunk.stem.weight" in frozen
    assert "trunk.blocks.5.project.weight" in frozen
    assert "trunk.blocks.6.expand.weight" not in frozen


@pytest.mark.slow
def test_resuming_changes_nothing(distil: Any, teach: Any, tmp_path: Path) -> None:
    write_targets(teach, tmp_path / "a.safetensors", 3)
    optimisation = distil.Optimisation(batch_size=2, micro_batch=1, steps=3, warmup=1, bfloat16="off", average=0.5)
    config = distil.Config(
        out=str(tmp_path / "whole"), targets=(str(tmp_path / "a.safetensors"),), optimisation=optimisation
    )
    whole = distil.train(config, resume=False)
    broken = replace(config, out=str(tmp_path / "broken"), checkpoint_minutes=0)
    real = distil.save_checkpoint

    def stop_after_two(path: Path, network: Any, average: Any, optimiser: Any, facts: dict[str, Any]) -> None:
        real(path, network, average, optimiser, facts)
        if facts["step"] == 2:
            raise KeyboardInterrupt

    distil.save_checkpoint = stop_after_two
    try:
        with pytest.raises(KeyboardInterrupt):
            distil.train(broken, resume=False)
    finally:
        distil.save_checkpoint = real
    with pytest.raises(SystemExit, match="--resume"):
        distil.train(broken, resume=False)
    resumed = distil.train(broken, resume=True)
    start = distil.start_student(config).state_dict()
    moved = 0
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
        moved += not torch.equal(tensor, start[name])
    assert moved > 100
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert steps == [3]


def test_configuration_names_what_it_needs(distil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEFIX_DATA", "/data")
    monkeypatch.setenv("POSEFIX_RUNS", "/runs")
    config = distil.read_config(TOOLS.parent / "configs" / "distil" / "student.yaml")
    assert config.out == "/runs/student"
    assert all(t.startswith("/runs/teach/") for t in config.targets)
    assert config.validation[0] == ("/data/coco/val.json", "/data/coco/val")
    assert config.optimisation.learning_rate > config.optimisation.learning_rate * config.trunk_rate > 0


class _Teacher:
    """Sees five keypoints at known places of the first image and no person in the second."""

    def __init__(self, cells: npt.NDArray[np.int64]) -> None:
        self._cells = cells

    def heatmaps(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        heat = np.zeros((len(crops), K, 64, 48), np.float32)
        for keypoint, (x, y) in enumerate(self._cells):
            heat[0, keypoint, y, x] = 0.8
        return heat


def test_who_is_found_in_a_whole_image(teach: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.full((100, 200, 3), 128, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    cells = np.array([[10, 30], [38, 30], [20, 34], [24, 28], [30, 33]])
    found = teach.find_people(tmp_path, _Teacher(cells), 0)
    assert [p.name for p, _ in found] == ["a.jpg"]
    box = np.array([[0, 0, 199, 99]], np.float64)
    affine = crop_affine(crop_rectangles(box, teach.INPUT_HW, 1.0), teach.INPUT_HW)
    back = transform_points(affine, found[0][1].reshape(1, 2, 2))[0] / teach.CROP_PER_HEATMAP
    # The box is the keypoints' extent, a tenth wider on either side.
    np.testing.assert_allclose(back, [[10 - 2.8, 28 - 0.6], [38 + 2.8, 34 + 0.6]], atol=0.01)
