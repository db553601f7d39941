from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from posefix.choices import ALIGNMENTS
from posefix.exceptions import InputError, WeightsError
from posefix.keypoints.heatmaps import expected_similarity_argmax, heatmap_probabilities, soft_argmax
from posefix.keypoints.skeleton import COCO, MPII
from posefix.network.config import IMAGENET, ImageModelConfig, Normalisation
from posefix.network.image_model import (
    ImageModel,
    fuse,
    normalise,
    read_outputs,
    rows_in_skeleton,
)

PLACES = [(48.3, 60.8), (96.0, 128.0), (140.7, 201.1), (46.2, 50.6)]
NAMES = tuple(f"left_{i}" for i in range(len(PLACES)))


def cells_of(size: int, pixels: int, alignment: str) -> np.ndarray:
    """Pixel of each of ``size`` cells, written down anew from what the conventions say."""
    c = np.arange(size)
    return {
        "udp": c * (pixels - 1) / (size - 1),
        "corner": c * pixels / size,
        "half_pixel": (c + 0.5) * pixels / size - 0.5,
    }[alignment]


def gaussian(point: float, size: int, pixels: int, alignment: str, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((cells_of(size, pixels, alignment) - point) / std) ** 2)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("size", [(64, 48), (32, 24), (128, 96)])
@pytest.mark.parametrize("input_hw", [(256, 192), (384, 288)])
def test_heatmap_comes_back_where_it_was(alignment: str, size: tuple[int, int], input_hw: tuple[int, int]) -> None:
    std = max(8.0, 1.5 * input_hw[0] / size[0])  # networks are trained with Gaussians of 1.5 to 3 cells
    along = [
        np.stack([gaussian(p[axis], size[1 - axis], input_hw[1 - axis], alignment, std) for p in PLACES])
        for axis in (0, 1)
    ]
    maps = along[1][:, :, None] * along[0][:, None, :]
    config = ImageModelConfig(input_hw=input_hw, alignment=alignment, keypoints=NAMES, floor=1e-9)
    logs = read_outputs([torch.tensor(maps[None], dtype=torch.float32)], config, 1)
    assert logs.shape == (1, 4, input_hw[0] // 4, input_hw[1] // 4)
    cells, _ = expected_similarity_argmax(heatmap_probabilities(config.sharpness * logs), torch.full((1, 4), std / 4))
    torch.testing.assert_close(cells[0] * 4 + 1.5, torch.tensor(PLACES), atol=0.1, rtol=0)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("std", [3.0, 6.0])
def test_simcc_comes_back_where_it_was(alignment: str, ratio: int, std: float) -> None:
    along = [
        np.stack([gaussian(p[axis], ratio * pixels, pixels, alignment, std) for p in PLACES])
        for axis, pixels in ((0, 192), (1, 256))
    ]
    config = ImageModelConfig(output="simcc", alignment=alignment, keypoints=NAMES, floor=1e-9)
    logs = read_outputs([torch.tensor(a[None], dtype=torch.float32) for a in along], config, 1)
    torch.testing.assert_close(soft_argmax(logs)[0] * 4 + 1.5, torch.tensor(PLACES), atol=0.1, rtol=0)


def test_simcc_is_the_sum_of_its_axes() -> None:
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.random((2, 3, n)), dtype=torch.float32) for n in (48, 64))
    config = ImageModelConfig(output="simcc", alignment="half_pixel", keypoints=NAMES[:3], floor=0.2)
    logs = read_outputs([x, y], config, 2)
    expected = y.clamp_min(0.2).log()[..., :, None] + x.clamp_min(0.2).log()[..., None, :]
    torch.testing.assert_close(logs, expected)


def test_logits_are_taken_as_they_are() -> None:
    logits = torch.randn(1, 4, 64, 48, generator=torch.Generator().manual_seed(0))
    config = ImageModelConfig(output="logits", alignment="half_pixel", keypoints=NAMES)
    torch.testing.assert_close(read_outputs([logits], config, 1), logits)


def test_more_outputs_than_names_keep_the_first() -> None:
    maps = torch.rand(1, 26, 64, 48, generator=torch.Generator().manual_seed(0))
    config = ImageModelConfig(alignment="half_pixel")
    torch.testing.assert_close(read_outputs([maps], config, 1), maps[:, :17].clamp_min(config.floor).log())


@pytest.mark.parametrize(
    ("shapes", "output"),
    [
        ([(1, 16, 64, 48)], "heatmaps"),
        ([(2, 17, 64, 48)], "heatmaps"),
        ([(1, 17, 64)], "heatmaps"),
        ([(1, 17, 64, 48), (1, 17, 64, 48)], "heatmaps"),
        ([(1, 17, 384)], "simcc"),
        ([(1, 17, 64, 48)], "simcc"),
        ([], "heatmaps"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]], output: str) -> None:
    with pytest.raises(InputError, match=f"expected {output} of shape"):
        read_outputs([torch.zeros(s) for s in shapes], ImageModelConfig(output=output), 1)


def test_fuse_weighs_both_and_leaves_unknown_keypoints_to_the_package() -> None:
    own = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logs = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    config = ImageModelConfig(sharpness=3.0, own_weight=0.25, keypoints=("left_a", "right_a"))
    fused = fuse(own, logs, config, torch.tensor([1, -1, 0]))
    torch.testing.assert_close(fused[:, 0], 3 * logs[:, 1] + 0.25 * own[:, 0])
    torch.testing.assert_close(fused[:, 1], own[:, 1])
    torch.testing.assert_close(fused[:, 2], 3 * logs[:, 0] + 0.25 * own[:, 2])
    alone = fuse(None, logs, config, torch.tensor([1, -1, 0]))
    torch.testing.assert_close(alone[:, 0], 3 * logs[:, 1])
    assert not alone[:, 1].any()


def test_rows_by_name() -> None:
    assert rows_in_skeleton(ImageModelConfig(), COCO).tolist() == list(range(17))
    mpii = rows_in_skeleton(ImageModelConfig(keypoints=MPII.keypoints), COCO)
    assert mpii[COCO.index("left_knee")] == MPII.index("left_knee")
    assert mpii[COCO.index("nose")] == -1
    with pytest.raises(WeightsError, match="none of its keypoints"):
        rows_in_skeleton(ImageModelConfig(keypoints=("thumb",)), COCO)


def test_normalise_orders_and_scales() -> None:
    crops = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    rgb = normalise(crops, Normalisation("rgb", (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)))
    assert rgb.flatten().tolist() == [9.0, 9.0, 9.0]
    bgr = normalise(crops, Normalisation("bgr", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0)))
    assert bgr.flatten().tolist() == [29.0, 18.0, 7.0]
    assert normalise(crops, IMAGENET).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_a_function_may_answer_tensors_or_arrays(kind: type) -> None:
    def run(crops: torch.Tensor) -> object:
        maps = crops[..., 0].float()[:, None, ::4, ::4].expand(-1, 17, -1, -1) / 255
        return maps if kind is torch.Tensor else maps.numpy()

    model = ImageModel(run, ImageModelConfig(alignment="corner"))
    crops = torch.randint(0, 255, (2, 256, 192, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert model.log_maps(crops).shape == (2, 17, 64, 48)


def test_nobody() -> None:
    def run(crops: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called without people")

    assert ImageModel(run).log_maps(torch.zeros(0, 256, 192, 3, dtype=torch.uint8)).shape == (0, 17, 64, 48)


def test_config_survives_json() -> None:
    config = ImageModelConfig(family="x", input_hw=(384, 288), keypoints=("left_a", "right_a"), own_weight=0.0)
    assert ImageModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "points"}, "output must be one of"),
        ({"alignment": "left"}, "alignment must be one of"),
        ({"input_hw": (250, 192)}, "divisible by 32"),
        ({"keypoints": ("a", "a")}, "different names"),
        ({"sharpness": 0}, "sharpness: expected a number in"),
        ({"own_weight": -1}, "own_weight: expected a number in"),
        ({"floor": 0}, "floor: expected a number in"),
        ({"weight": 1}, "unknown key 'weight'"),
        ({"input_hw": 3}, "input_hw: expected a list"),
    ],
)
def test_a_wrong_configuration_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        ImageModelConfig.from_dict({**ImageModelConfig().to_dict(), **change})
