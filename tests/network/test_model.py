from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from factories import network_input as given
from factories import shared_dir
from posefix.choices import BACKBONES
from posefix.exceptions import WeightsError
from posefix.network.config import REFERENCE_NORMALISATION, ModelConfig, Normalisation
from posefix.network.correction import Correction
from posefix.network.mobilenet import MobileNetWideFpn
from posefix.network.model import RefinementNetwork
from posefix.training.initial_weights import start_from_movenet
from posefix.weights.weights import load_weights


def inputs(config: ModelConfig, people: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random crops, poses inside them, everything valid, a std of 8 px."""
    height, width = config.input_hw
    keypoints = config.num_keypoints
    crops = torch.randint(0, 256, (people, height, width, 3), dtype=torch.uint8)
    points = torch.rand(people, keypoints, 2) * torch.tensor([width, height])
    return crops, points, torch.ones(people, keypoints, dtype=torch.bool), torch.full((people, keypoints), 8.0)


def small(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"input_hw": (64, 32), "num_keypoints": 5, **changes})


def paper(**changes: Any) -> ModelConfig:
    values = ModelConfig.paper(50, (64, 32), 5).to_dict()
    return ModelConfig.from_dict({**values, **changes})


@pytest.fixture(scope="module")
def networks() -> dict[str, RefinementNetwork]:
    """One of each kind with random weights that let the pose through."""
    torch.manual_seed(1)
    both = {
        "mobilenet": RefinementNetwork(small()).eval(),
        "wide": RefinementNetwork(small(pyramid="wide")).eval(),
        "resnet": RefinementNetwork(paper()).eval(),
    }
    correction = both["mobilenet"].correction
    assert correction is not None
    torch.nn.init.normal_(correction.out.weight, std=0.1)
    torch.nn.init.normal_(both["resnet"].head.weight, std=0.1)  # type: ignore[arg-type]
    return both


each = pytest.mark.parametrize("kind", ["mobilenet", "wide", "resnet"])


# ---------------------------------------------------------------- the networks


@each
@torch.inference_mode()
def test_people_of_a_batch_do_not_see_each_other(kind: str, networks: dict[str, RefinementNetwork]) -> None:
    network = networks[kind]
    batch = inputs(network.config, 3)
    together = network(given(*batch))
    assert together.shape == (3, 5, 16, 8)
    assert together.dtype == torch.float32
    for i in (2, 0, 1):
        alone = network(given(*(t[i : i + 1] for t in batch)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)


@each
@torch.inference_mode()
def test_missing_keypoints_coordinates_do_not_matter(kind: str, networks: dict[str, RefinementNetwork]) -> None:
    network = networks[kind]
    crops, points, valid, std = inputs(network.config)
    valid[0, 2] = False
    clean = network(given(crops, points, valid, std))
    assert torch.isfinite(clean).all()
    for rubbish in (float("nan"), float("inf"), -1e6):
        points[0, 2] = rubbish
        assert torch.equal(network(given(crops, points, valid, std)), clean)


@each
@torch.inference_mode()
def test_the_pose_matters_and_nobody_is_an_answer(kind: str, networks: dict[str, RefinementNetwork]) -> None:
    network = networks[kind]
    crops, points, valid, std = inputs(network.config)
    assert not torch.allclose(
        network(given(crops, points, valid, std)),
        network(given(crops, points + 9, valid, std)),
        atol=1e-3,
    )
    assert network(given(*(t[:0] for t in (crops, points, valid, std)))).shape == (0, 5, 16, 8)


@each
@torch.inference_mode()
def test_float_crops_are_the_same_as_bytes(kind: str, networks: dict[str, RefinementNetwork]) -> None:
    network = networks[kind]
    crops, *rest = inputs(network.config)
    assert torch.equal(network(given(crops.float(), *rest)), network(given(crops, *rest)))


@each
@torch.inference_mode()
def test_bf16_is_near_float32(kind: str, networks: dict[str, RefinementNetwork]) -> None:
    network = networks[kind]
    batch = inputs(network.config)
    exact = network(given(*batch))
    half = RefinementNetwork(network.config).eval()
    half.load_state_dict(network.state_dict())
    rough = half.to(torch.bfloat16)(given(*batch))
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.05


@each
def test_every_parameter_learns_although_keypoints_are_missing(kind: str) -> None:
    configs = {"mobilenet": small(), "wide": small(pyramid="wide"), "resnet": paper()}
    network = RefinementNetwork(configs[kind])
    crops, points, valid, std = inputs(network.config)
    valid[0, 2], points[0, 2] = False, float("nan")
    valid[1] = False
    network(given(crops, points, valid, std)).logsumexp((-1, -2)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_embedded_network_is_small() -> None:
    network = RefinementNetwork(load_weights().config)
    # 14 MB in float16.
    assert sum(p.numel() for p in network.parameters()) < 7_000_000
    assert all(b.numel() <= 3 for b in network.buffers())


def test_the_papers_network_has_its_size() -> None:
    with torch.device("meta"):
        count = {depth: sum(p.numel() for p in RefinementNetwork(ModelConfig.paper(depth)).parameters()) / 1e6
                 for depth in (50, 101, 152)}  # fmt: skip
    assert count[50] == pytest.approx(34, abs=0.3)
    assert count[152] == pytest.approx(68.6, abs=0.3)
    assert count[50] < count[101] < count[152]


@torch.inference_mode()
def test_channel_order_and_normalisation() -> None:
    """Reading BGR is the same as reading RGB through a stem whose channels are exchanged."""
    rgb = RefinementNetwork(small()).eval()
    bgr = RefinementNetwork(small(normalisation=Normalisation("bgr"))).eval()
    state = rgb.state_dict()
    state["trunk.stem.weight"] = state["trunk.stem.weight"].flip(1)
    bgr.load_state_dict(state)
    batch = inputs(rgb.config)
    torch.testing.assert_close(bgr(given(*batch)), rgb(given(*batch)), atol=1e-4, rtol=1e-4)


def test_a_frozen_trunk_gets_no_gradient() -> None:
    network = RefinementNetwork(small())
    network.frozen = True
    network(given(*inputs(network.config))).logsumexp((-1, -2)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(("trunk.", "head.")), name


@pytest.mark.parametrize("people", [1, 4, 5, 9])
def test_the_trunk_takes_a_few_crops_at_a_time(people: int, networks: dict[str, RefinementNetwork]) -> None:
    network = networks["mobilenet"]
    batch = inputs(network.config, people)
    with torch.inference_mode():
        parts = network(given(*batch))
    torch.testing.assert_close(parts, network(given(*batch)).detach(), atol=1e-4, rtol=1e-4)


def test_width_and_last_channels() -> None:
    wide = RefinementNetwork(small(width=1.75)).trunk
    narrow = RefinementNetwork(small(width=1.75, last_channels=72)).trunk
    # MobileNetV2 1.75: every number of channels is a multiple of 8 near 1.75 times the base's.
    outputs = [b.project.out_channels for b in wide.blocks]  # type: ignore[union-attr]
    assert [outputs[i] for i in (0, 2, 5, 9, 12, 15, 16)] == [32, 40, 56, 112, 168, 280, 560]
    assert wide.stem.out_channels == 56  # type: ignore[union-attr]
    assert narrow.blocks[-1].project.out_channels == narrow.top[0].in_channels == 72  # type: ignore[union-attr, index]
    with pytest.raises(WeightsError, match=r"model\.width: expected a number in"):
        small(width=0)
    with pytest.raises(WeightsError, match="resnet50 has none"):
        replace(ModelConfig.paper(50), last_channels=8)


@torch.inference_mode()
def test_the_start_weights_reproduce_their_original() -> None:
    path = shared_dir() / "weights" / "movenet_lightning.npz"
    network = RefinementNetwork(ModelConfig(input_hw=(192, 192), pose_prior=False)).eval()
    start_from_movenet(network, path)
    with np.load(path) as archive:
        image, expected = torch.from_numpy(archive["check.image_rgb"]), torch.from_numpy(archive["check.logits"])
    nothing = torch.zeros(1, 17, dtype=torch.bool)
    logits = network(given(image[None], torch.zeros(1, 17, 2), nothing, torch.ones(1, 17)))[0].permute(1, 2, 0)
    # The original runs in 8 bits, these weights in float32: about 7 % apart in norm.
    assert float((logits - expected).norm() / expected.norm()) < 0.075


def test_the_start_weights_fit_other_keypoint_sets_but_no_other_network(tmp_path: Any) -> None:
    path = shared_dir() / "weights" / "movenet_lightning.npz"
    network = RefinementNetwork(small())
    last = network.state_dict()["head.2.weight"].clone()
    start_from_movenet(network, path)
    assert torch.equal(network.state_dict()["head.2.weight"], last)
    wide = RefinementNetwork(small(pyramid="wide"))
    assert all(name.startswith(("trunk.stem.", "trunk.blocks.")) for name in start_from_movenet(wide, path))
    assert torch.equal(
        wide.state_dict()["trunk.blocks.3.expand.weight"], network.state_dict()["trunk.blocks.3.expand.weight"]
    )
    with pytest.raises(WeightsError, match="does not fit"):
        start_from_movenet(RefinementNetwork(paper()), path)
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot read"):
        start_from_movenet(network, tmp_path / "broken.npz")


@torch.inference_mode()
def test_the_wide_pyramid_sees_the_place_in_the_crop() -> None:
    network = RefinementNetwork(small(pyramid="wide")).eval()
    assert isinstance(network.trunk, MobileNetWideFpn)
    features = network.trunk(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, network.trunk.features, 16, 16)
    network.trunk.laterals[3].weight[:, -3:].zero_()
    blind = network.trunk(torch.zeros(1, 3, 64, 64))
    assert float((features - blind).abs().max()) > 1e-4


# ---------------------------------------------------------------- the correction


@torch.inference_mode()
def test_the_correction_starts_as_nothing() -> None:
    network = RefinementNetwork(small()).eval()
    alone = RefinementNetwork(small(pose_entry="none")).eval()
    alone.load_state_dict(network.state_dict(), strict=False)
    crops, points, valid, _ = inputs(network.config)
    torch.testing.assert_close(
        network.image_logits(given(crops, points, valid)),
        alone.image_logits(given(crops, points, valid)),
    )


@torch.inference_mode()
def test_the_correction_moves_with_the_image_and_the_pose() -> None:
    correction = Correction(24, 5).eval()
    torch.nn.init.normal_(correction.out.weight, std=0.1)
    features, image_logits = torch.randn(1, 24, 80, 80), torch.randn(1, 5, 80, 80)
    points, valid = torch.rand(1, 5, 2) * 8 + 36, torch.ones(1, 5, dtype=torch.bool)
    before = correction(features, image_logits, points, valid)
    moved = correction(features.roll(4, -1), image_logits.roll(4, -1), points + torch.tensor([4.0, 0.0]), valid)
    # Far from the border, where rolled pixels come back in.
    torch.testing.assert_close(moved[..., 39:42, 41:46], before[..., 39:42, 37:42], atol=1e-4, rtol=1e-4)


def test_a_network_without_pose_entry_hears_of_the_pose_as_prior() -> None:
    network = RefinementNetwork(small(pose_entry="none")).eval()
    crops, points, valid, std = inputs(network.config)
    assert torch.equal(
        network.image_logits(given(crops, points, valid)),
        network.image_logits(given(crops, points + 9, valid)),
    )
    assert not torch.allclose(
        network(given(crops, points, valid, std)),
        network(given(crops, points + 9, valid, std)),
        atol=1e-3,
    )
    with pytest.raises(WeightsError, match="must enter the network"):
        small(pose_entry="none", pose_prior=False)


@torch.inference_mode()
def test_trust_is_the_power_of_the_prior() -> None:
    network = RefinementNetwork(small()).eval()
    crops, points, valid, std = inputs(network.config)
    image_logits, full = (
        network.image_logits(given(crops, points, valid)),
        network(given(crops, points, valid, std)),
    )
    torch.testing.assert_close(network(given(crops, points, valid, std), prior_weight=0.0), image_logits)
    half = network(given(crops, points, valid, std), prior_weight=0.5)
    torch.testing.assert_close(half, (image_logits + full) / 2, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_only_a_scored_network_sees_scores() -> None:
    for scored in (False, True):
        torch.manual_seed(0)
        network = RefinementNetwork(small(uses_scores=scored)).eval()
        assert network.correction is not None
        torch.nn.init.normal_(network.correction.out.weight, std=0.1)
        batch = inputs(network.config)
        scores = torch.rand(2, 5)
        assert torch.equal(network(given(*batch, torch.ones(2, 5))), network(given(*batch)))
        assert torch.equal(network(given(*batch, scores)), network(given(*batch))) != scored


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig.paper(),
        ModelConfig.paper(50, (256, 192), 14),
        ModelConfig(input_hw=(128, 96), pose_prior=False, heatmap_offset=0.0, normalisation=REFERENCE_NORMALISATION),
    ],
)
def test_config_round_trip(config: ModelConfig) -> None:
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert again.map_hw == (config.input_hw[0] // 4, config.input_hw[1] // 4)


def test_the_papers_settings() -> None:
    large, little = ModelConfig.paper(), ModelConfig.paper(50, (256, 192))
    assert (large.heatmap_std, little.heatmap_std) == (9.0, 7.0)
    assert large.heatmap_scale == little.heatmap_scale == 255.0
    assert large.heatmap_offset == 0.0
    assert not large.pose_prior
    assert not large.antialias
    assert large.normalisation == Normalisation("bgr", (123.68, 116.78, 103.94), (1, 1, 1))
    assert {large.backbone, little.backbone} <= set(BACKBONES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "backbone"),
        ({"pyramid": "deep"}, "pyramid must be one of movenet, wide"),
        ({"input_hw": [100, 64]}, "divisible by 32"),
        ({"input_hw": [0, 64]}, "input_hw: expected an integer in 32…2,048, got 0"),
        ({"input_hw": [64]}, "input_hw: expected 2 values"),
        ({"input_hw": "large"}, "input_hw: expected a list"),
        ({"input_hw": None}, "input_hw: expected a list"),
        ({"input_hw": [32768, 32]}, "input_hw: expected an integer in"),
        ({"width": float("nan")}, "width: expected a finite number"),
        ({"pose_prior": "false"}, "pose_prior: expected true or false"),
        ({"heatmap_offset": float("inf")}, "heatmap_offset: expected a finite number"),
        ({"normalisation": {"std": [1, float("nan"), 1]}}, "normalisation.std: expected a finite number"),
        ({"pose_entry": "output"}, "pose_entry"),
        ({"pose_entry": "input"}, "does not take the pose"),
        ({"backbone": "resnet50"}, "does not take the pose"),
        ({"num_keypoints": 0}, "num_keypoints"),
        ({"num_keypoints": "all"}, "num_keypoints: expected an integer"),
        ({"num_keypoints": 2**31}, "num_keypoints: expected an integer in 1…1,024"),
        ({"heatmap_std": 0}, "heatmap_std"),
        ({"heatmap_offset": 4}, "heatmap_offset"),
        ({"uses_scores": True, "adaptive_prior": False}, "uses_scores needs"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"normalisation": {"mean": [1, 2]}}, "mean: expected 3 values"),
        ({"normalisation": {"std": [1, 0, 1]}}, "std: expected a number in"),
        ({"normalisation": {"channels": "hsv"}}, "hsv"),
        ({"normalisation": {"gamma": 1}}, "unknown key 'gamma'"),
        ({"normalisation": 3}, "normalisation: expected an object"),
    ],
)
def test_config_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        ModelConfig.from_dict({**ModelConfig().to_dict(), **changes})


def test_config_of_something_else() -> None:
    with pytest.raises(WeightsError):
        ModelConfig.from_dict([1, 2])  # type: ignore[arg-type]
