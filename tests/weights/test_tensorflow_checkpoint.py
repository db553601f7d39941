"""A real TensorFlow checkpoint, written by the golden rule, converted, and the network's answer compared.

Needs TensorFlow (``pip install posefix[tensorflow]``), which the other tests do without.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from factories import network_input
from posefix.cli.main import main
from posefix.exceptions import WeightsError
from posefix.inference.refiner import Refiner
from posefix.keypoints.heatmaps import soft_argmax
from posefix.keypoints.skeleton import COCO
from posefix.network.config import STRIDE, ModelConfig
from posefix.network.model import RefinementNetwork
from posefix.weights.calibration import PAPER_CALIBRATION
from posefix.weights.tensorflow import convert, read_checkpoint

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="needs TensorFlow to write a checkpoint: pip install posefix[tensorflow]",
    ),
    # TensorFlow and what it imports warn about their own use of each other.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory, resnet50_variables: Any) -> Path:
    """A checkpoint as TensorFlow 1's Saver writes it, with what an optimiser leaves in one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

    v1: Any = tf.compat.v1
    prefix = tmp_path_factory.mktemp("official") / "snapshot_140.ckpt"
    with tf.Graph().as_default(), v1.Session() as session:
        network = []
        for name, value in resnet50_variables.items():
            network.append(v1.get_variable(name, value.shape, initializer=v1.zeros_initializer(), use_resource=False))
            network[-1].load(value, session)
        slots = [v1.get_variable(f"{v.op.name}/{slot}", v.shape) for v in network[-2:] for slot in ("Adam", "Adam_1")]
        others = [v1.get_variable(name, ()) for name in ("beta1_power", "beta2_power", "global_step")]
        session.run(v1.variables_initializer([*slots, *others]))
        v1.train.Saver([*network, *slots, *others]).save(session, str(prefix))
    return prefix


@torch.inference_mode()
def test_the_converted_network_answers_as_the_original(snapshot: Path, golden: Path) -> None:
    config, state = convert(snapshot, skeleton=COCO)
    assert config == ModelConfig.paper(50, (256, 192), 17)
    network = RefinementNetwork(config).eval()
    network.load_state_dict(state)
    with np.load(golden / "reference_network_resnet50_256x192.npz") as archive:
        data = {name: torch.from_numpy(archive[name].copy()) for name in archive.files}
    logits = network(network_input(data["image_bgr"].flip(-1), data["points"], data["valid"]))
    expected = data["logits"].permute(0, 3, 1, 2)
    assert float((logits - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(soft_argmax(logits) * STRIDE, data["refined_points"], atol=0.005, rtol=0)


def test_values_survive_and_training_leftovers_do_not(snapshot: Path, resnet50_variables: Any) -> None:
    read = read_checkpoint(snapshot)
    assert set(read) == set(resnet50_variables)
    for name, value in resnet50_variables.items():
        np.testing.assert_array_equal(read[name], value)


def test_any_of_the_files_may_be_named(snapshot: Path) -> None:
    names = sorted(p.name for p in snapshot.parent.glob(f"{snapshot.name}.*"))
    assert [n.removeprefix(snapshot.name) for n in names] == [".data-00000-of-00001", ".index", ".meta"]
    for name in names:
        assert "out/biases" in read_checkpoint(snapshot.parent / name)


def test_damaged_files_are_refused(snapshot: Path, tmp_path: Path) -> None:
    index = snapshot.with_name(snapshot.name + ".index").read_bytes()
    data = snapshot.with_name(snapshot.name + ".data-00000-of-00001")
    (tmp_path / "noise.ckpt.index").write_bytes(b"not an index at all" * 10)
    (tmp_path / "lonely.ckpt.index").write_bytes(index)
    (tmp_path / "short.ckpt.index").write_bytes(index)
    with data.open("rb") as file:
        (tmp_path / "short.ckpt.data-00000-of-00001").write_bytes(file.read(1000))
    for name in ("noise", "lonely", "short"):
        with pytest.raises(WeightsError, match=r"cannot read .* as a TensorFlow checkpoint") as caught:
            read_checkpoint(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(caught.value)


def test_from_checkpoint_to_refined_poses_by_commands(snapshot: Path, golden: Path, tmp_path: Path) -> None:
    """The whole way of a user: convert, load, refine; the same numbers as the reference's own test path."""
    command = ["convert", f"{snapshot}.index", "--backbone", "resnet50", "--input-size", "256x192"]
    done = CliRunner().invoke(main, [*command, "--skeleton", "coco", "--out", str(tmp_path / "weights")])
    assert done.exit_code == 0, done.output
    assert "resnet50, 256x192, skeleton coco" in done.output
    about = json.loads((tmp_path / "weights" / "config.json").read_text())["about"]
    assert "snapshot_140.ckpt" in about["origin"]
    assert str(snapshot.parent) not in str(about)

    refiner = Refiner.from_pretrained(tmp_path / "weights", device="cpu", precision="float32")
    assert refiner.weights.calibration == PAPER_CALIBRATION
    assert refiner.config.normalisation.channels == "bgr"
    people = sorted(json.loads((golden / "pipeline_input.json").read_text()), key=lambda r: -r["score"])
    with np.load(golden / "reference_pipeline_resnet50_256x192.npz") as archive:
        expected = archive["refined_plain"]
    poses = np.array([p["keypoints"] for p in people]).reshape(-1, 17, 3)
    refined = refiner.refine(golden / "pipeline_image.png", poses)
    np.testing.assert_allclose(refined[..., :2], expected, atol=0.3, rtol=0)

    image = cv2.imread(str(golden / "pipeline_image.png"))
    assert image is not None
    cv2.imwrite(str(tmp_path / "pipeline_image.png"), image)
    entries = [{**p, "image_id": 1, "file_name": "pipeline_image.png"} for p in people]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    command = ["refine", str(tmp_path / "results.json"), "--images", str(tmp_path), "--device", "cpu"]
    command += ["--weights", str(tmp_path / "weights"), "--out", str(tmp_path / "refined.json")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    written = np.array([e["keypoints"] for e in json.loads((tmp_path / "refined.json").read_text())])
    assert written.shape == (len(people), 51)


def test_the_command_refuses_in_one_line(snapshot: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--backbone", "resnet152"], "holds a resnet50"),
        (["--skeleton", "mpii"], "17 keypoints, skeleton 'mpii' has 16"),
        (["--input-size", "large"], "expected HEIGHTxWIDTH"),
        (["--input-size", "250x190"], "divisible by 32"),
    ):
        done = CliRunner().invoke(main, ["convert", str(snapshot), "--out", str(tmp_path / "weights"), *options])
        assert done.exit_code != 0
        assert message in done.output
        assert "Traceback" not in done.output
        assert not (tmp_path / "weights").exists()
