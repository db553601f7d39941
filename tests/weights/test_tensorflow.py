from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import posefix.weights.tensorflow
from posefix.exceptions import MissingDependencyError, SkeletonError, WeightsError
from posefix.keypoints.skeleton import COCO, MPII
from posefix.network.config import ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.tensorflow import convert, infer_config, read_checkpoint, variables_to_state

Variables = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def shapes(golden: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Backbone → variable → shape, as in the authors' release."""
    return {
        name: {k: tuple(v) for k, v in json.loads((golden / f"checkpoint_variables_{name}.json").read_text())}
        for name in ("resnet50", "resnet152")
    }


def hollow(shapes: dict[str, tuple[int, ...]]) -> Variables:
    """Variables of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.fixture
def variables(shapes: dict[str, dict[str, tuple[int, ...]]]) -> Variables:
    return hollow(shapes["resnet50"])


# ---------------------------------------------------------------- mapping


@pytest.mark.parametrize("backbone", ["resnet50", "resnet152"])
def test_every_variable_finds_its_place(backbone: str, shapes: dict[str, dict[str, tuple[int, ...]]]) -> None:
    given = hollow(shapes[backbone])
    config = infer_config(given)
    assert config.backbone == backbone
    state = variables_to_state(given, config)
    with torch.device("meta"):
        network = RefinementNetwork(config)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert all(v.dtype == torch.float32 for k, v in state.items() if not k.endswith("num_batches_tracked"))
    # Nothing but the counters that TensorFlow does not have is made up.
    assert len(state) - sum(k.endswith("num_batches_tracked") for k in state) == len(given)


def test_layouts_are_turned(resnet50_variables: Variables) -> None:
    given = resnet50_variables
    state = variables_to_state(given, infer_config(given))
    convolution = given["resnet_v1_50/block2/unit_1/bottleneck_v1/conv2/weights"]
    assert float(state["trunk.stages.1.0.conv2.weight"][5, 7, 2, 1]) == convolution[2, 1, 7, 5]
    assert float(state["trunk.up.0.weight"][1000, 7, 2, 1]) == given["up1/weights"][2, 1, 7, 1000]
    np.testing.assert_array_equal(state["head.bias"].numpy(), given["out/biases"])
    np.testing.assert_array_equal(
        state["trunk.stages.3.2.norm3.running_var"].numpy(),
        given["resnet_v1_50/block4/unit_3/bottleneck_v1/conv3/BatchNorm/moving_variance"],
    )
    RefinementNetwork(infer_config(given)).load_state_dict(state)


def test_what_belongs_to_training_is_ignored(variables: Variables) -> None:
    clean = variables_to_state(variables, infer_config(variables))
    extra = {
        "global_step": np.int64(7),
        "beta1_power": np.float32(0.9),
        "beta2_power": np.float32(0.99),
        "Variable": np.float32(5e-4),
        "out/weights/Adam": np.zeros((1, 1, 256, 17), np.float32),
        "out/weights/Adam_1": np.zeros((1, 1, 256, 17), np.float32),
        "resnet_v1_50/conv1/BatchNorm/gamma/Momentum": np.zeros(64, np.float32),
        "up1/weights/ExponentialMovingAverage": np.zeros((4, 4, 256, 2048), np.float32),
    }
    given: Variables = {**variables, **{k: np.asarray(v) for k, v in extra.items()}}
    assert set(variables_to_state(given, infer_config(given))) == set(clean)


def test_every_problem_is_named_at_once(variables: Variables) -> None:
    config = infer_config(variables)
    for name in ("out/weights", "up2/BatchNorm/beta"):
        del variables[name]
    variables["resnet_v1_50/conv1/weights"] = np.zeros((7, 7, 3, 64), np.float32)
    variables["up1/weights"] = np.zeros((4, 4, 2048, 256), np.float32)
    variables["refine/weights"] = np.zeros((1, 1), np.float32)
    with pytest.raises(WeightsError) as caught:
        variables_to_state(variables, config)
    message = str(caught.value)
    for part in (
        "resnet50 with 17 keypoints",
        "2 missing",
        "out/weights",
        "up2/BatchNorm/beta",
        "1 not of this network: refine/weights",
        "2 of another shape",
        "resnet_v1_50/conv1/weights is (7, 7, 3, 64), expected (7, 7, 20, 64)",
        "up1/weights is (4, 4, 2048, 256), expected (4, 4, 256, 2048)",
    ):
        assert part in message


def test_only_the_papers_networks(variables: Variables) -> None:
    with pytest.raises(WeightsError, match="mobilenet_v2"):
        variables_to_state(variables, ModelConfig())


def test_nothing_is_shared_with_the_input(resnet50_variables: Variables) -> None:
    state = variables_to_state(resnet50_variables, infer_config(resnet50_variables))
    for value in state.values():
        value.zero_()
    assert all(value.any() for value in resnet50_variables.values())


# ---------------------------------------------------------------- recognition


def test_configuration_is_recognised(shapes: dict[str, dict[str, tuple[int, ...]]]) -> None:
    assert infer_config(hollow(shapes["resnet152"])) == ModelConfig.paper(152, (384, 288), 17)
    assert infer_config(hollow(shapes["resnet50"])) == ModelConfig.paper(50, (256, 192), 17)
    given = hollow(shapes["resnet50"])
    given["out/biases"] = np.zeros(14, np.float32)
    assert infer_config(given, backbone="resnet50", input_hw=(384, 288)) == ModelConfig.paper(50, (384, 288), 14)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"backbone": "resnet101"}, "holds a resnet50, not a resnet101"),
        ({}, {"backbone": "vgg16"}, "expected one of resnet50, resnet101, resnet152"),
        ({"resnet_v1_101/conv1/weights": (7, 7, 20, 64)}, {}, "not a PoseFix checkpoint"),
    ],
)
def test_recognition_refusals(
    changes: dict[str, tuple[int, ...]], arguments: dict[str, Any], message: str, variables: Variables
) -> None:
    with pytest.raises(WeightsError, match=message):
        infer_config({**variables, **hollow(changes)}, **arguments)


@pytest.mark.parametrize("names", [[], ["generator/conv1/w"], ["resnet_v1_50/conv1/weights"], ["resnet_v1_18/a"]])
def test_other_checkpoints_are_refused(names: list[str]) -> None:
    with pytest.raises(WeightsError, match="not a PoseFix checkpoint"):
        infer_config(hollow(dict.fromkeys(names, (1,))))


# ---------------------------------------------------------------- files


def test_without_tensorflow_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == "tensorflow":
            raise ImportError("no tensorflow here")
        return real(name, *rest, **keywords)

    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    (tmp_path / "snapshot_140.ckpt.index").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"pip install posefix\[tensorflow\]"):
        read_checkpoint(tmp_path / "snapshot_140.ckpt")


def test_missing_files_are_told_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected a file .*nowhere\.ckpt\.index"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    (tmp_path / "snapshot_140.ckpt.index").write_bytes(b"")
    for wrong in (tmp_path, tmp_path / "snapshot_99.ckpt", tmp_path / "snapshot_99.ckpt.data-00000-of-00001"):
        with pytest.raises(WeightsError, match=r"prefix of one of those in .*: snapshot_140\.ckpt"):
            read_checkpoint(wrong)
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="no TensorFlow checkpoint at"):
        read_checkpoint(tmp_path / "model.pth")


def test_convert_checks_the_skeleton(variables: Variables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posefix.weights.tensorflow, "read_checkpoint", lambda _: variables)
    config, state = convert("any", skeleton=COCO)
    assert config == ModelConfig.paper(50, (256, 192), 17)
    assert len(state) > len(variables)
    assert convert("any", input_hw=(384, 288), skeleton=COCO)[0].heatmap_std == 9.0
    with pytest.raises(SkeletonError, match="17 keypoints, skeleton 'mpii' has 16"):
        convert("any", skeleton=MPII)
