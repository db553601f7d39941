"""Every backend gives the numbers of torch in float32, for every kind of network and option."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import FOUR, make_weights, random_poses
from posefix.exceptions import InputError, MissingDependencyError, WeightsError
from posefix.inference import backends, graph_model
from posefix.inference.refiner import Refiner
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.weights.calibration import Calibration
from posefix.weights.weights import Weights

#: Largest difference from torch in float32, crop pixels.
TOLERANCE = 0.02
CALIBRATION = Calibration(
    policy="always", temperature=(0.8,) * 17, prior_weight=1.2, margin=(0.01,) * 17, reference_outlier_rate=0.05
)
NETWORKS: dict[str, dict[str, Any]] = {
    "all": {"uses_scores": True},
    "no prior": {"pose_prior": False, "adaptive_prior": False},
    "no correction": {"pose_entry": "none"},
    "paper": {"backbone": "resnet50", "pose_entry": "input", "pose_prior": False, "adaptive_prior": False,
              "heatmap_offset": 0.0, "heatmap_scale": 255.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEFIX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[request.param])
    return str(request.param)


both = pytest.mark.parametrize("backend", ["onnx", "openvino"], indirect=True)


def sharp(calibration: Calibration = CALIBRATION, **model: Any) -> Weights:
    """Weights of a small network with some contrast in its maps."""
    weights = make_weights(calibration, input_hw=(64, 64), **model)
    if "correction.log_gain" in weights.state:
        weights.state["correction.log_gain"] += 4.0
    return weights


def scene() -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1) for _ in range(3)]
    poses = [random_poses(rng, n) for n in (3, 0, 2)]
    poses[0][1, 4:9, 2] = 0.0
    return images, poses


@both
@pytest.mark.parametrize("network", [n if n == "all" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_same_numbers_as_torch(backend: str, network: str) -> None:
    weights = sharp(**NETWORKS[network])
    images, poses = scene()
    expected = Refiner(weights, device="cpu", precision="float32")
    refiner = Refiner(weights, backend=backend, precision="float32", threads=2)
    for options in ({}, {"prior_weight": 0.7}, {"flip_test": True}, {"policy": "safe"}):
        for ours, theirs in zip(
            refiner.refine_batch(images, poses, **options), expected.refine_batch(images, poses, **options), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    assert refiner.measure_reliability(images, poses) == pytest.approx(expected.measure_reliability(images, poses))


@both
def test_same_tracks_as_torch(backend: str) -> None:
    rng = np.random.default_rng(8)  # of ten seeds one has a tie between two places, of which either may win
    weights = sharp(uses_scores=True)
    frames = rng.integers(0, 256, (6, 48, 64, 3)).astype(np.uint8).repeat(5, 1).repeat(5, 2)
    tracks = np.stack([random_poses(rng, 2) for _ in range(6)])
    expected = Refiner(weights, device="cpu", precision="float32").refine_video(frames, tracks)
    refiner = Refiner(weights, backend=backend, precision="float32", threads=2)
    for batch_size in (5, 32):
        np.testing.assert_allclose(
            refiner.refine_video(frames, tracks, batch_size=batch_size), expected, atol=TOLERANCE
        )


@both
def test_soft_argmax_and_a_shifted_mirror(backend: str) -> None:
    # An offset of 0 shifts the mirrored maps by three quarters of a pixel.
    weights = sharp(Calibration(decoder="soft_argmax", policy="always"), heatmap_offset=0.0)
    images, poses = scene()
    ours = Refiner(weights, backend=backend, precision="float32").refine(images[0], poses[0], flip_test=True)
    theirs = Refiner(weights, device="cpu", precision="float32").refine(images[0], poses[0], flip_test=True)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.slow
@both
def test_streams_agree_however_often_it_is_loaded(backend: str) -> None:
    images, poses = scene()
    weights = sharp(uses_scores=True)
    results = []
    for _ in range(4):
        refiner = Refiner(weights, backend=backend, threads=3)
        results += [refiner.refine(images[0], poses[0]) for _ in range(2)]
        results.append(np.concatenate([refiner.refine(images[0], poses[0][[i]], prior_weight=1.0) for i in range(3)]))
        np.testing.assert_array_equal(results[-1], refiner.refine(images[0], poses[0], prior_weight=1.0))
    for other in (results[1], results[3], results[-2]):
        np.testing.assert_array_equal(results[0], other)


@both
def test_other_keypoint_sets(backend: str) -> None:
    config = ModelConfig(input_hw=(64, 64), num_keypoints=4)
    state = make_weights(input_hw=(64, 64), num_keypoints=17).state
    small = {k: v[:4] if v.shape[:1] == (17,) else v for k, v in state.items()}
    with pytest.raises(WeightsError):  # the correction's inputs do not fit: nothing half-built comes back
        Refiner(Weights(config, FOUR, Calibration(), small), backend=backend)


@both
def test_the_choice_shows(backend: str) -> None:
    refiner = Refiner(sharp(), backend=backend, precision="float32", threads=2)
    assert f"backend {backend!r}, float32, device 'cpu', threads 2" in repr(refiner)
    assert refiner.computed_by == f"{backend}, float32, 2 threads"
    assert refiner.network.config.input_hw == (64, 64)  # for what only torch does


@both
def test_a_decoder_that_was_not_exported_is_refused(backend: str) -> None:
    images, poses = scene()
    with pytest.raises(InputError, match=r"decode by .expected_similarity., got .soft_argmax.; use from_pretrained"):
        Refiner(sharp(), backend=backend).refine(images[0], poses[0], decoder="soft_argmax")


def test_auto_takes_what_is_installed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("POSEFIX_BACKEND")
    installed = {"openvino", "onnxruntime"}
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert backends._fastest("auto", "auto") == ("openvino", "onnx", "torch")
    assert backends._fastest("cuda:1", "auto") == ("torch",)
    assert backends._fastest("cpu", "bfloat16") == ("openvino", "torch")
    installed.remove("openvino")
    assert backends._fastest("cpu", "auto") == ("onnx", "torch")
    installed.clear()
    assert backends._fastest("cpu", "auto") == ("torch",)
    monkeypatch.setattr(backends, "_fastest", lambda *_: ("openvino", "onnx", "torch"))

    def broken(*_: Any) -> Any:
        raise WeightsError("cannot be traced")

    monkeypatch.setattr(backends, "_graph_model", broken)
    with caplog.at_level(logging.WARNING):
        assert Refiner(sharp(), backend="auto").model.backend == "torch"
    assert "does not run this network" in caplog.text
    with pytest.raises(WeightsError, match="cannot be traced"):
        Refiner(sharp(), backend="onnx")


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="backend: expected one of auto, torch, openvino, onnx, got 'tensorrt'"):
        Refiner(sharp(), backend="tensorrt")
    with pytest.raises(InputError, match="precision: expected 'auto'"):
        Refiner(sharp(), backend="onnx", precision="int8")
    with pytest.raises(InputError, match="runs on 'cpu', got 'cuda'"):
        Refiner(sharp(), backend="onnx", device="cuda")
    with pytest.raises(InputError, match="ONNX Runtime computes in float32"):
        Refiner(sharp(), backend="onnx", precision="bfloat16")

    def gone(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", gone)
    with pytest.raises(MissingDependencyError, match=r"pip install 'posefix\[openvino\]'"):
        graph_model.OpenVino()


@both
def test_calls_at_the_same_time_each_compute_in_their_own_thread(backend: str) -> None:
    refiner = Refiner(sharp(), backend=backend, threads=1)
    assert isinstance(refiner.model, graph_model.GraphModel)
    session = refiner.model._session("network")
    people = [graph_model.sample_inputs(17, 16, 16) for _ in range(4)]
    for number, person in enumerate(people):
        person["crops"] = np.roll(person["crops"], 5 * number, 1)
    alone = [session.run(person) for person in people]
    start, used = threading.Barrier(4), [0.0] * 4

    def run(number: int) -> list[Any]:
        start.wait()
        before = time.thread_time()
        for _ in range(20):
            found = session.run(people[number])
        used[number] = time.thread_time() - before
        return found

    before = time.process_time()
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(run, range(4)), alone, strict=True):
            np.testing.assert_array_equal(found[0], expected[0])
    # But for making copies of a graph, which runtimes may do in threads of their own.
    assert sum(used) > 0.5 * (time.process_time() - before)
    assert not np.array_equal(alone[0][0], alone[1][0])


@pytest.mark.slow
def test_the_cache_is_used_and_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from posefix.inference import tracing

    weights = sharp()
    monkeypatch.setenv("POSEFIX_CACHE", str(tmp_path / "cache"))
    Refiner(weights, backend="onnx")
    made = list((tmp_path / "cache" / "graphs").iterdir())
    assert len(made) == 1
    assert {p.name for p in made[0].iterdir()} == {
        *(f"{name}.onnx" for name in graph_model.PARTS),
        graph_model.CHECK_NAME,
    }
    monkeypatch.setattr(tracing, "write_parts", lambda *_: pytest.fail("made again"))
    Refiner(weights, backend="onnx")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSEFIX_CACHE", str(tmp_path / "file"))
    images, poses = scene()
    assert Refiner(weights, backend="onnx").refine(images[0], poses[0]).shape == (3, len(COCO), 3)


@pytest.mark.parametrize("part", graph_model.PARTS)
@both
def test_a_part_that_computes_something_else_is_not_used(
    backend: str, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a runtime may that compiles a graph wrongly."""
    runtime = graph_model.OnnxRuntime if backend == "onnx" else graph_model.OpenVino
    load = runtime.load

    class Wrong:
        def __init__(self, session: graph_model.Session) -> None:
            self.session = session

        def run(self, inputs: graph_model.Arrays) -> list[Any]:
            first, *others = self.session.run(inputs)
            return [first[..., ::-1] * 2 + 2, *others]

    def loaded(self: Any, file: graph_model.GraphFile, *, reduced: bool) -> graph_model.Session:
        session = load(self, file, reduced=reduced)
        return Wrong(session) if file.path.stem == part else session

    monkeypatch.setattr(runtime, "load", loaded)
    monkeypatch.setenv("POSEFIX_BACKEND", "auto")
    monkeypatch.setattr(backends, "_fastest", lambda *_: (backend, "torch"))
    images, poses = scene()
    with pytest.raises(WeightsError, match=f"{backend} computes other numbers than torch did"):
        Refiner(sharp(), backend=backend).refine(images[0], poses[0], flip_test=True)
    if part != "decode_flip":
        with caplog.at_level(logging.WARNING):
            assert Refiner(sharp(), backend="auto").model.backend == "torch"
        assert "computes other numbers" in caplog.text


@pytest.mark.slow
@both
def test_what_the_parts_must_give_is_checked_too(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEFIX_CACHE", str(tmp_path))
    Refiner(sharp(), backend=backend)
    (check,) = tmp_path.glob(f"graphs/*/{graph_model.CHECK_NAME}")
    check.write_bytes(check.read_bytes()[:50])
    with pytest.raises(WeightsError, match="export the model again"):
        Refiner(sharp(), backend=backend)
    check.unlink()  # a folder that an earlier version wrote
    Refiner(sharp(), backend=backend)
