"""Small image models as files: what they answer is the crop itself, resized, so every frame can be checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

#: ONNX's names of what ``ImageModelConfig.alignment`` calls these.
ONNX_MODES = {"corner": "asymmetric", "half_pixel": "half_pixel", "udp": "align_corners"}


def write_heatmap_onnx(
    path: Path,
    alignment: str,
    *,
    keypoints: int = 17,
    input_hw: tuple[int, int] = (256, 192),
    map_hw: tuple[int, int] = (64, 48),
    batch: int | str = "batch",
    extra_output: bool = False,
) -> Path:
    """A network that answers each keypoint's map with its input's first channel, read at the cells' places."""
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Slice", ["image", "zero", "one", "axis"], ["channel"]),
        helper.make_node(
            "Resize",
            ["channel", "", "scales"],
            ["map"],
            mode="linear",
            coordinate_transformation_mode=ONNX_MODES[alignment],
        ),
        helper.make_node("Concat", ["map"] * keypoints, ["heatmaps"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info("heatmaps", tensor.FLOAT, [batch, keypoints, *map_hw])]
    if extra_output:
        nodes.append(helper.make_node("ReduceMax", ["heatmaps"], ["score"], axes=[2, 3], keepdims=0))
        outputs.append(helper.make_tensor_value_info("score", tensor.FLOAT, [batch, keypoints]))
    scales = np.array([1, 1, map_hw[0] / input_hw[0], map_hw[1] / input_hw[1]], np.float32)
    constants = {"zero": [0], "one": [1], "axis": [1]}
    initial = [onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()]
    initial.append(onnx.numpy_helper.from_array(scales, "scales"))
    given = [helper.make_tensor_value_info("image", tensor.FLOAT, [batch, 3, *input_hw])]
    return _save(path, helper.make_graph(nodes, "heatmaps", given, outputs, initial), onnx)


def write_simcc_onnx(
    path: Path, *, keypoints: int = 17, input_hw: tuple[int, int] = (256, 192), ratio: int = 2
) -> Path:
    """RTMPose's outputs: the greatest value of each column and of each row, ``ratio`` bins a pixel."""
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Slice", ["image", "zero", "one", "axis"], ["channel"])]
    outputs, initial = [], []
    for name, axis, size in (("x", 2, input_hw[1]), ("y", 3, input_hw[0])):
        nodes += [
            helper.make_node("ReduceMax", ["channel"], [f"{name}_values"], axes=[axis], keepdims=0),
            helper.make_node(
                "Resize",
                [f"{name}_values", "", f"{name}_scales"],
                [f"{name}_bins"],
                mode="linear",
                coordinate_transformation_mode="asymmetric",
            ),
            helper.make_node("Concat", [f"{name}_bins"] * keypoints, [f"simcc_{name}"], axis=1),
        ]
        initial.append(onnx.numpy_helper.from_array(np.array([1, 1, ratio], np.float32), f"{name}_scales"))
        outputs.append(helper.make_tensor_value_info(f"simcc_{name}", tensor.FLOAT, ["batch", keypoints, ratio * size]))
    constants = {"zero": [0], "one": [1], "axis": [1]}
    initial += [onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()]
    given = [helper.make_tensor_value_info("image", tensor.FLOAT, ["batch", 3, *input_hw])]
    return _save(path, helper.make_graph(nodes, "simcc", given, outputs, initial), onnx)


def _save(path: Path, graph: object, onnx: object) -> Path:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])  # type: ignore[attr-defined]
    model.ir_version = 8
    onnx.checker.check_model(model)  # type: ignore[attr-defined]
    onnx.save(model, str(path))  # type: ignore[attr-defined]
    return path


def spot(point: tuple[float, float], hw: tuple[int, int] = (256, 192), std: float = 8.0) -> npt.NDArray[np.uint8]:
    """(h, w, 3) a Gaussian spot on black, ``point`` in pixels whose centres are integers."""
    rows, columns = (np.arange(n) for n in hw)
    value = np.exp(-0.5 * ((columns - point[0]) ** 2 + (rows[:, None] - point[1]) ** 2) / std**2)
    return np.repeat(np.rint(255 * value).astype(np.uint8)[..., None], 3, axis=2)
