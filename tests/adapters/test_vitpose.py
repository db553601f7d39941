"""ViTPose of the transformers library, randomly initialised, as the refiner's image model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import needs

from posefix import Refiner
from posefix.exceptions import WeightsError
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities
from posefix.network.image_model import read_outputs
from posefix.weights.image_models import describe_image_model


@pytest.fixture(scope="module", params=[1, 6], ids=["ViTPose", "ViTPose++"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has them: config.json and model.safetensors."""
    vitpose = needs("transformers")
    torch.manual_seed(0)
    backbone = vitpose.VitPoseBackboneConfig(
        image_size=[256, 192],
        patch_size=[16, 16],
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=request.param,
        part_features=6,
    )
    model = vitpose.VitPoseForPoseEstimation(vitpose.VitPoseConfig(backbone_config=backbone, num_labels=17))
    target = tmp_path_factory.mktemp("vitpose")
    model.save_pretrained(target)
    return target


def reference(folder: Path, crops: np.ndarray) -> Any:
    """Heatmaps by transformers itself, from crops that its processor need not warp."""
    vitpose = needs("transformers")
    model = vitpose.VitPoseForPoseEstimation.from_pretrained(str(folder)).eval()
    mean, std = (np.array(v, np.float32) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = torch.from_numpy(((crops / np.float32(255)) - mean) / std).permute(0, 3, 1, 2).float()
    experts = {} if model.config.backbone_config.num_experts == 1 else {"dataset_index": torch.zeros(len(crops)).long()}
    with torch.no_grad():
        return model(pixels, **experts).heatmaps


def test_heatmaps_are_those_of_transformers(folder: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 255, (2, 256, 192, 3)).astype(np.uint8)
    model = describe_image_model(folder, floor=1e-9).load()
    assert model.config.alignment == "udp"
    heatmaps = model.run(torch.from_numpy(crops))
    torch.testing.assert_close(heatmaps, reference(folder, crops), atol=1e-5, rtol=1e-4)


def test_frame_is_that_of_its_post_processing(folder: Path) -> None:
    """A drawn Gaussian comes back where transformers' own decoder puts it, to 0.1 px of the crop."""
    vitpose = needs("transformers")
    processor = vitpose.VitPoseImageProcessor()
    rng = np.random.default_rng(1)
    places = rng.uniform([8, 8], [39, 55], (17, 2))
    rows, columns = np.arange(64)[:, None], np.arange(48)
    maps = np.stack([np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0) for x, y in places])[None]
    heatmaps = torch.from_numpy(maps).float()
    output = type("Output", (), {"heatmaps": heatmaps.clone()})()
    # A box whose crop is the image itself: 192 × 256 px without its growth of 1.25.
    box = [[19.2, 25.6, 153.6, 204.8]]
    decoded = processor.post_process_pose_estimation(output, boxes=[box])[0][0]["keypoints"].numpy()
    model = describe_image_model(folder, floor=1e-6)
    logits = model.config.sharpness * read_outputs([heatmaps], model.config, 1)
    points, _ = expected_similarity_argmax(heatmap_probabilities(logits), torch.full((1, 17), 2.0))
    ours = points[0].numpy() * 4 + 1.5
    np.testing.assert_allclose(ours, places * [191 / 47, 255 / 63], atol=0.1)
    # Its crop maps the box onto pixels 0 … 191, posefix's onto 192: the same places of the image within that.
    np.testing.assert_allclose(ours, decoded, atol=1.1)


def test_refiner_loads_stores_and_loads_again(folder: Path, tmp_path: Path) -> None:
    refiner = Refiner.from_pretrained(folder, device="cpu")
    assert refiner.config.input_hw == (256, 192)
    image = np.random.default_rng(2).integers(0, 255, (240, 200, 3)).astype(np.uint8)
    pose = np.random.default_rng(3).uniform(30, 160, (2, 17, 3))
    found = refiner.refine(image, pose)
    refiner.save_pretrained(tmp_path / "weights")
    names = {p.name for p in (tmp_path / "weights").iterdir()}
    assert {"config.json", "model.safetensors", "vitpose.safetensors", "vitpose.json"} <= names
    np.testing.assert_array_equal(
        Refiner.from_pretrained(tmp_path / "weights", device="cpu").refine(image, pose), found
    )


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop(sorted(state)[0])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="does not fit its configuration"):
        Refiner.from_pretrained(tmp_path, device="cpu")
