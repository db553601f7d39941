from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import shared_dir
from image_model_files import spot, write_heatmap_onnx, write_simcc_onnx
from posefix.choices import ALIGNMENTS
from posefix.exceptions import InputError, MissingDependencyError, WeightsError
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ImageModelConfig, Normalisation
from posefix.weights.calibration import Calibration
from posefix.weights.image_models import describe_image_model, fused_calibration

PLACES = [(48.3, 60.8), (96.0, 128.0), (140.7, 201.1)]
#: So that a spot's height 255 is a heatmap's 1.
SIMPLE = Normalisation("rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def places_of(path: Path, **changes: object) -> torch.Tensor:
    """Where the file's network finds the spots, in pixels of the crop."""
    file = describe_image_model(path, normalisation=SIMPLE, **changes)
    model = file.load()
    hw = file.config.input_hw
    crops = torch.from_numpy(np.stack([spot(p, hw) for p in PLACES]))
    logs = file.config.sharpness * model.log_maps(crops)
    assert logs.shape == (3, 17, hw[0] // 4, hw[1] // 4)
    cells, _ = expected_similarity_argmax(heatmap_probabilities(logs), torch.full((3, 17), 2.0))
    return cells * 4 + 1.5


def expected() -> torch.Tensor:
    return torch.tensor(PLACES)[:, None].expand(3, 17, 2)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_onnx_heatmaps_are_read_in_their_frame(tmp_path: Path, alignment: str, batch: int | str) -> None:
    pytest.importorskip("onnxruntime")
    path = write_heatmap_onnx(tmp_path / "model.onnx", alignment, batch=batch, extra_output=True)
    found = places_of(path, output="heatmaps", alignment=alignment)
    torch.testing.assert_close(found, expected(), atol=0.1, rtol=0)


@pytest.mark.parametrize("ratio", [1, 2])
def test_onnx_simcc_is_read_in_its_frame(tmp_path: Path, ratio: int) -> None:
    pytest.importorskip("onnxruntime")
    path = write_simcc_onnx(tmp_path / "rtmpose-t.onnx", ratio=ratio)
    torch.testing.assert_close(places_of(path), expected(), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ["heatmaps", "simcc"])
def test_openvino_answers_as_onnx(tmp_path: Path, kind: str) -> None:
    openvino = pytest.importorskip("openvino")
    onnx = tmp_path / "model.onnx"
    write = {"heatmaps": lambda: write_heatmap_onnx(onnx, "udp"), "simcc": lambda: write_simcc_onnx(onnx)}
    write[kind]()
    openvino.save_model(openvino.convert_model(str(onnx)), str(tmp_path / "model.xml"))
    family = {"heatmaps": "vitpose", "simcc": "rtmpose"}[kind]
    found = [places_of(p, family=family) for p in (onnx, tmp_path / "model.xml")]
    torch.testing.assert_close(found[0], expected(), atol=0.1, rtol=0)
    torch.testing.assert_close(found[1], found[0], atol=0.02, rtol=0)


def test_what_a_file_tells_of_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    large = write_heatmap_onnx(tmp_path / "vitpose-b.onnx", "udp", input_hw=(384, 288), map_hw=(96, 72))
    found = describe_image_model(large).config
    assert (found.family, found.input_hw, found.output, found.alignment) == ("vitpose", (384, 288), "heatmaps", "udp")
    body26 = describe_image_model(write_simcc_onnx(tmp_path / "end2end.onnx", keypoints=26)).config
    assert (body26.family, body26.output, len(body26.keypoints)) == ("rtmpose", "simcc", 17)
    assert describe_image_model(write_heatmap_onnx(tmp_path / "pose_hrnet_w32.onnx", "corner")).config.alignment == (
        "corner"
    )


def test_a_file_that_does_not_tell_asks(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_heatmap_onnx(tmp_path / "model.onnx", "udp")
    with pytest.raises(WeightsError, match="name one of hrnet, rtmpose, tinypose, vitpose"):
        describe_image_model(path)
    assert describe_image_model(path, "tinypose").config.alignment == "udp"
    other = write_heatmap_onnx(tmp_path / "vitpose-mpii.onnx", "udp", keypoints=16)
    with pytest.raises(WeightsError, match="answers with 16 keypoints"):
        describe_image_model(other)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        describe_image_model(tmp_path / "absent.onnx")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.onnx or \.xml"):
        describe_image_model(tmp_path / "model.pth")
    with pytest.raises(InputError, match="family: expected one of"):
        describe_image_model(tmp_path / "absent.onnx", "resnet")
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    pytest.importorskip("onnxruntime")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        describe_image_model(tmp_path / "broken.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'posefix\[onnx\]'"):
        describe_image_model(tmp_path / "broken.onnx")


def test_broken_openvino_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "broken.xml").write_text("<net></net>")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        describe_image_model(tmp_path / "broken.xml")


def test_files_of_openvino_come_in_two(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnx = write_heatmap_onnx(tmp_path / "m.onnx", "udp")
    openvino.save_model(openvino.convert_model(str(onnx)), str(tmp_path / "m.xml"))
    file = describe_image_model(tmp_path / "m.xml", "tinypose")
    assert set(file.files()) == {"m.xml", "m.bin"}


def test_real_tinypose() -> None:
    pytest.importorskip("openvino")
    folder = shared_dir() / "weights" / "tinypose_256"
    file = describe_image_model(folder / "model.xml")
    assert file.config.family == "tinypose"
    assert file.config.input_hw == (256, 192)
    with np.load(folder / "golden.npz") as golden:
        crops, heatmaps = golden["crops"], golden["heatmaps"]
    logs = file.load().log_maps(torch.from_numpy(crops))
    assert logs.shape == (4, 17, 64, 48)
    # Where each map is highest, as the golden heatmaps say in their own frame, read independently.
    peak = heatmaps.reshape(4, 17, -1).argmax(-1)
    pixels = np.stack([peak % 48 * 191 / 47, peak // 48 * 255 / 63], -1) - file.config.offset
    cells, _ = expected_similarity_argmax(heatmap_probabilities(4 * logs), torch.full((4, 17), 1.0))
    confident = heatmaps.max((2, 3)) > 0.5
    distance = np.linalg.norm((cells * 4 + 1.5).numpy() - pixels, axis=-1)[confident]
    assert np.median(distance) < 2.0
    assert distance.max() < 8.0


def test_both_networks_have_a_reliability_of_their_own() -> None:
    own = Calibration(
        prior_weight=0.7,
        reference_outlier_rate=0.02,
        labelled_close_share=0.3,
        outlier_exponent=3.0,
        independent_close_share=0.6,
        margin=(0.02,) * 17,
    )
    other = replace(own, prior_weight=2.0, reference_outlier_rate=0.2, labelled_close_share=0.0)
    other = replace(other, outlier_exponent=1.0, independent_close_share=1.0)
    config, rows = ImageModelConfig(keypoints=COCO.keypoints), np.arange(17)
    together = fused_calibration(own, config, rows)
    # What was measured on the package's logits says nothing of the sum; the margin stays.
    assert together == fused_calibration(other, config, rows)
    assert together.margin == own.margin
    assert fused_calibration(replace(own, reference_outlier_rate=0.0), config, rows).reference_outlier_rate == 0
