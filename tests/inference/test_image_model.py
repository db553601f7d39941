"""The refiner with another network's eyes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import FOUR, make_weights, shared_dir
from image_model_files import spot, write_heatmap_onnx, write_simcc_onnx
from posefix import Refiner
from posefix.choices import ALIGNMENTS
from posefix.exceptions import InputError, WeightsError
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ImageModelConfig, Normalisation
from posefix.network.image_model import ImageModel
from posefix.weights.calibration import Calibration
from posefix.weights.image_models import describe_image_model
from posefix.weights.weights import load_weights, save_weights, with_image_model

PLACE = (331.4, 207.7)
SIMPLE = Normalisation("rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def scene() -> tuple[np.ndarray, np.ndarray]:
    """An image with a spot, and one person's pose around it, every keypoint 9 px off."""
    image = spot(PLACE, (480, 640), 9.0)
    pose = np.zeros((1, 17, 3), np.float32)
    pose[0, :, :2] = PLACE
    pose[0, :, 2] = 0.9
    pose[0, 0, :2] = (250.0, 100.0)
    pose[0, 16, :2] = (410.0, 310.0)
    return image, pose


def by_corner(crops: torch.Tensor) -> torch.Tensor:
    """Heatmaps whose pixel c is the crop's pixel 4 · c."""
    return (crops[:, ::4, ::4, 0].float() / 255)[:, None].expand(-1, 17, -1, -1)


def eyes_only(**changes: object) -> ImageModelConfig:
    """The image model alone, so that the answer is its own."""
    return ImageModelConfig(own_weight=0.0, alignment="corner", sharpness=8.0, floor=1e-4, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("input_hw", [(256, 192), (384, 288)])
def test_a_spot_in_the_image_comes_back_where_it_was(flip_test: bool, input_hw: tuple[int, int]) -> None:
    image, pose = scene()
    refiner = Refiner(image_model=ImageModel(by_corner, eyes_only(input_hw=input_hw)), device="cpu")
    found = refiner.refine(image, pose, policy="always", prior_weight=0.0, flip_test=flip_test)
    # The flip test reads by_corner's mirrored maps 4 · c from the other side: half a stride of 4 crop pixels at most.
    crop_pixel = 1.5 * 1.25 * 210 / input_hw[0]
    np.testing.assert_allclose(found[0, :, :2], np.tile(PLACE, (17, 1)), atol=0.1 * crop_pixel + 0.05)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_files_and_folders_see_alike(tmp_path: Path, alignment: str) -> None:
    pytest.importorskip("onnxruntime")
    image, pose = scene()
    path = write_heatmap_onnx(tmp_path / "eyes.onnx", alignment)
    file = describe_image_model(
        path, output="heatmaps", alignment=alignment, normalisation=SIMPLE, own_weight=0.0, sharpness=8.0, floor=1e-4
    )
    weights = with_image_model(make_weights(), file)
    found = Refiner(weights, device="cpu").refine(image, pose, prior_weight=0.0)
    np.testing.assert_allclose(found[0, :, :2], np.tile(PLACE, (17, 1)), atol=0.2)
    save_weights(tmp_path / "weights", weights)
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["config.json", "eyes.onnx", "model.safetensors"]
    path.unlink()
    loaded = load_weights(tmp_path / "weights")
    assert loaded.image_model is not None
    assert loaded.image_model.config == file.config
    np.testing.assert_array_equal(Refiner(loaded, device="cpu").refine(image, pose, prior_weight=0.0), found)


def test_rtmpose_file_by_name(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    refiner = Refiner.from_pretrained(write_simcc_onnx(tmp_path / "rtmpose-m.onnx"), device="cpu")
    assert refiner.config.input_hw == (256, 192)
    assert refiner.weights.image_model is not None
    assert refiner.weights.image_model.config.output == "simcc"
    image, pose = scene()
    assert np.isfinite(refiner.refine(image, pose)).all()


def test_openvino_weights_folder_has_both_files(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnx = write_heatmap_onnx(tmp_path / "m.onnx", "udp")
    openvino.save_model(openvino.convert_model(str(onnx)), str(tmp_path / "tinypose.xml"))
    refiner = Refiner.from_pretrained(tmp_path / "tinypose.xml", device="cpu")
    refiner.save_pretrained(tmp_path / "weights")
    assert {"tinypose.xml", "tinypose.bin", "README.md"} <= {p.name for p in (tmp_path / "weights").iterdir()}
    image, pose = scene()
    again = Refiner.from_pretrained(tmp_path / "weights", device="cpu")
    np.testing.assert_array_equal(again.refine(image, pose), refiner.refine(image, pose))


def test_batches_are_as_single_people() -> None:
    image, pose = scene()
    people = np.concatenate([pose, np.add(pose, [12.0, -7.0, 0.0]), np.multiply(pose, [1.02, 1.0, 1.0])]).astype(
        np.float32
    )
    refiner = Refiner(image_model=ImageModel(by_corner, ImageModelConfig(alignment="corner")), device="cpu")
    single = refiner.refine(image, people, batch_size=1, prior_weight=1.0)
    together = refiner.refine(image, people, batch_size=32, prior_weight=1.0)
    np.testing.assert_allclose(single, together, atol=0.05)


def test_own_network_alone_without_image_model_is_unchanged() -> None:
    image, pose = scene()
    weights = make_weights()
    np.testing.assert_array_equal(
        Refiner(weights, device="cpu").refine(image, pose),
        Refiner(replace(weights, image_model=None), device="cpu").refine(image, pose),
    )


def test_a_plain_function_is_enough() -> None:
    image, pose = scene()
    seen: list[tuple[int, ...]] = []

    def network(crops: torch.Tensor) -> torch.Tensor:
        assert crops.dtype == torch.uint8
        seen.append(tuple(crops.shape))
        return by_corner(crops)

    refined = Refiner(image_model=network, device="cpu").refine(image, pose)
    assert refined.shape == pose.shape
    assert seen == [(1, 256, 192, 3)]
    assert Refiner(image_model=network, device="cpu").refine(image, np.zeros((0, 17, 3))).shape == (0, 17, 3)


def test_keypoints_that_it_does_not_know_are_the_packages() -> None:
    image, pose = scene()
    some = ImageModelConfig(keypoints=COCO.keypoints[:5], alignment="corner")
    model = ImageModel(lambda crops: by_corner(crops)[:, :5], some)
    weights = load_weights()
    with_eyes = Refiner(with_image_model(weights, model, weights.calibration), device="cpu", precision="float32")
    config = replace(weights.config, input_hw=(256, 192))
    without = Refiner(replace(weights, config=config), device="cpu", precision="float32")
    options = {"policy": "always", "prior_weight": 0.0}
    a, b = with_eyes.refine(image, pose, **options), without.refine(image, pose, **options)
    np.testing.assert_allclose(a[0, 5:], b[0, 5:], rtol=1e-6, atol=1e-4)  # float32 at 300 px
    assert np.abs(a[0, :5, :2] - b[0, :5, :2]).max() > 1


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a function or an ImageModel, got int"):
        Refiner(image_model=3)  # type: ignore[arg-type]
    wrong = Refiner(image_model=lambda crops: crops[:, :16], device="cpu")
    image, pose = scene()
    with pytest.raises(InputError, match=r"expected heatmaps of shape \(1, K, h, w\) with K of at least 17, got"):
        wrong.refine(image, pose)
    with pytest.raises(WeightsError, match="cannot be stored; export it as ONNX"):
        wrong.save_pretrained(tmp_path)
    four = ImageModelConfig(keypoints=FOUR.keypoints)
    with pytest.raises(WeightsError, match="none of its keypoints"):
        Refiner(image_model=ImageModel(by_corner, four))
    paper = make_weights(Calibration(), heatmap_offset=0.0)
    with pytest.raises(WeightsError, match=r"heatmap_offset is 1\.5"):
        Refiner(paper, image_model=by_corner)


@pytest.mark.parametrize("file", ["../eyes.onnx", "/tmp/eyes.onnx", "", "a/b.onnx"])
def test_a_file_outside_its_folder_is_refused(tmp_path: Path, file: str) -> None:
    pytest.importorskip("onnxruntime")
    weights = with_image_model(
        make_weights(), describe_image_model(write_heatmap_onnx(tmp_path / "eyes.onnx", "udp"), "vitpose")
    )
    save_weights(tmp_path / "weights", weights)
    path = tmp_path / "weights" / "config.json"
    data = json.loads(path.read_text())
    data["image_model"]["file"] = file
    path.write_text(json.dumps(data))
    with pytest.raises(WeightsError, match="file must be a name in the weights"):
        load_weights(tmp_path / "weights")


@pytest.mark.slow
def test_real_tinypose_finds_what_annotators_found() -> None:
    """The real network through the whole library: people whose keypoints are shifted come back."""
    pytest.importorskip("openvino")
    shared = shared_dir()
    refiner = Refiner.from_pretrained(shared / "weights" / "tinypose_256" / "model.xml", device="cpu")
    data = json.loads((shared / "data" / "coco" / "val.json").read_text())
    names = {i["id"]: i["file_name"] for i in data["images"]}
    people = sorted((a for a in data["annotations"] if a["num_keypoints"] >= 15), key=lambda a: -a["area"])[:8]
    before, after = [], []
    for person in people:
        truth = np.array(person["keypoints"], float).reshape(1, 17, 3)
        shifted = truth.copy()
        shifted[..., :2] += 0.12 * np.sqrt(person["area"]) * np.array([0.7, -0.7])
        found = refiner.refine(shared / "data" / "coco" / "val" / names[person["image_id"]], shifted, prior_weight=0.3)
        seen = truth[0, :, 2] > 0
        before.append(np.linalg.norm(shifted - truth, axis=-1)[0, seen] / np.sqrt(person["area"]))
        after.append(np.linalg.norm((found - truth)[..., :2], axis=-1)[0, seen] / np.sqrt(person["area"]))
    assert np.median(np.concatenate(after)) < np.median(np.concatenate(before)) / 3
