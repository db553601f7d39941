"""Results files, streams and tables of an estimator that puts all keypoints to one side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from factories import make_weights
from posefix.batch import BatchRefiner, BatchSettings
from posefix.exceptions import InputError
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.inference.runner import View
from posefix.network.inputs import NetworkInput
from posefix.weights.calibration import Calibration

Floats = npt.NDArray[np.float64]
SIZE = 200
#: Crop pixels from the poses to where the image shows them.
OFFSET = np.array([1.8, -1.5])


def seeing(refiner: Refiner, offset: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the network see each keypoint ``offset`` beside where it was when its crop was seen first."""
    config, places = refiner.config, {}

    def forward(inputs: NetworkInput) -> View:
        noise = np.random.default_rng(len(places)).normal(0, 0.6, inputs.crop_points.shape)
        for crop, points, own in zip(inputs.crops, inputs.crop_points, noise, strict=True):
            places.setdefault(crop.tobytes(), points + offset + own)
        seen = torch.tensor(np.stack([places[crop.tobytes()] for crop in inputs.crops])).float()
        maps = config.codec.encode(seen, torch.as_tensor(inputs.valid), config.map_hw)
        return View(torch.log(maps + 1e-6), None, inputs.without_crops())

    monkeypatch.setattr(refiner.model, "forward", forward)


@pytest.fixture(params=["safe", "always"])
def refiner(request: pytest.FixtureRequest) -> Refiner:
    calibration = Calibration(policy=request.param, margin=(0.05,) * 17, reference_outlier_rate=0.02)
    weights = make_weights(calibration, pose_prior=True, adaptive_prior=False, uses_scores=False)
    return Refiner(weights, device="cpu", precision="float32", threads=2)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder of 36 images and one person in each."""
    folder, rng, found = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for index in range(36):
        name = f"{index:03d}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
        pose = np.concatenate([rng.uniform(30, 170, (17, 2)).round(2), np.full((17, 1), 0.9)], 1)
        pose[index % 17] = 0
        found.append({"image_id": index, "file_name": name, "score": 0.9, "keypoints": pose.ravel().tolist()})
    return folder, found


def poses(entries: list[dict[str, Any]]) -> Floats:
    return np.array([e["keypoints"] for e in entries]).reshape(-1, 17, 3)


def test_a_file_loses_its_offset(refiner: Refiner, entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, given = entries
    seeing(refiner, OFFSET, monkeypatch)
    refined, report = refine_results(refiner, given, folder, options=Options(fill_missing=False))
    np.testing.assert_allclose(report.offset, OFFSET, atol=0.3)
    there = poses(given)[..., 2] > 0
    scale = 320 / 1.25 / SIZE  # about: crop pixels of an image pixel
    moved = (poses(refined) - poses(given))[there][:, :2].mean(0)
    np.testing.assert_allclose(moved * scale, OFFSET, rtol=0.5)
    np.testing.assert_array_equal(poses(refined)[~there], 0)
    assert "--offset 0 0" in report.summary()
    # What was measured gives the same numbers when it is given, to the bit.
    known = Options(fill_missing=False, prior_weight=report.prior_weight, offset=report.offset)
    assert refine_results(refiner, given, folder, options=known)[0] == refined
    left, report = refine_results(refiner, given, folder, options=Options(fill_missing=False, offset=(0, 0)))
    assert report.offset == (0, 0)
    assert "--offset" not in report.summary()
    assert np.abs((poses(left) - poses(given))[there][:, :2].mean(0)).max() < np.abs(moved).max()


def test_without_an_offset_nothing_changes(refiner: Refiner, entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, given = entries
    seeing(refiner, np.zeros(2), monkeypatch)
    refined, report = refine_results(refiner, given, folder)
    assert report.offset == (0, 0)
    assert refine_results(refiner, given, folder, options=Options(offset=(0, 0)))[0] == refined


def test_streams_and_tables_are_measured_alike(refiner: Refiner, entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, given = entries
    seeing(refiner, OFFSET, monkeypatch)
    pairs = ((folder / e["file_name"], p[None]) for e, p in zip(given, poses(given), strict=True))
    stream = np.concatenate(list(refiner.refine_stream(pairs, fill_missing=False)))
    alone = refiner.refine(folder / given[0]["file_name"], poses(given)[:1], fill_missing=False)
    assert np.abs(alone[0] - stream[0]).max() > 0.1  # one image alone cannot tell
    told = refiner.predict(folder / given[0]["file_name"], poses(given)[:1], offset=(1, 2)).reliability
    assert told.offset == (1, 2)

    worker = BatchRefiner(BatchSettings(images=str(folder), fill_missing=False), refiner=refiner)
    pytest.importorskip("pyarrow", reason="needs the extra posefix[parquet]")
    from posefix.io.parquet import entries_to_table, people_schema

    table = entries_to_table(given, people_schema(17))
    found = worker.measure_reliability(table)
    np.testing.assert_allclose(found.offset, OFFSET, atol=0.3)
    settings = BatchSettings(
        images=str(folder), fill_missing=False, prior_weight=found.prior_weight, offset=found.offset
    )
    rows = BatchRefiner(settings, refiner=refiner)(table)["refined_keypoints"].to_pylist()
    np.testing.assert_allclose(np.array(rows).reshape(stream.shape)[..., :2], stream[..., :2], atol=0.01)


def test_offsets_that_cannot_be() -> None:
    for wrong in ((1, float("nan")), (1,), 3, (0, 99), "ab"):
        with pytest.raises(InputError, match="offset"):
            Options(offset=wrong)  # type: ignore[arg-type]
