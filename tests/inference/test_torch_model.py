"""Numbers that are not finite do not reach a result."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from factories import make_weights, random_poses
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.keypoints.skeleton import COCO
from posefix.network.model import RefinementNetwork

RNG = np.random.default_rng
IMAGE = RNG(0).integers(0, 256, (480, 640, 3), np.uint8)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
def test_bfloat16_is_finite_and_near_float32_at_a_real_size(backbone: str) -> None:
    poses = random_poses(RNG(1), 2, COCO)
    entry = "correction" if backbone == "mobilenet_v2" else "input"
    weights = make_weights(backbone=backbone, input_hw=(256, 192), pose_entry=entry)
    exact, rough = (
        Refiner(weights, device="cpu", backend="torch", precision=p).refine(IMAGE, poses)
        for p in ("float32", "bfloat16")
    )
    assert np.isfinite(rough).all()
    assert np.median(np.abs(exact - rough)) < 0.5


def test_float32_takes_over_where_bfloat16_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As oneDNN does on CPUs with AMX for maps that are one column wide, in a third of the calls."""
    plain = RefinementNetwork.image_logits_and_peaks

    def faulty(self: RefinementNetwork, inputs: Any) -> Any:
        logits, peaks = plain(self, inputs)
        if next(self.parameters()).dtype == torch.bfloat16:
            logits[0, 3, 2, 1] = torch.nan
        return logits, peaks

    weights = make_weights(input_hw=(64, 32))
    poses = random_poses(RNG(1), 3, COCO)
    exact = Refiner(weights, device="cpu", backend="torch", precision="float32").refine(IMAGE, poses)
    monkeypatch.setattr(RefinementNetwork, "image_logits_and_peaks", faulty)
    refiner = Refiner(weights, device="cpu", backend="torch", precision="bfloat16")
    for _ in range(2):
        np.testing.assert_allclose(refiner.refine(IMAGE, poses), exact, atol=0.05)  # the prior is float32 in both
    assert len([r for r in caplog.records if "bfloat16" in r.getMessage()]) == 1


def test_who_gets_no_finite_numbers_stays_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = make_weights(input_hw=(64, 32), width=0.35)
    # Finite numbers, of which a network makes infinities.
    broken = replace(weights, state={k: v * 1e30 if v.is_floating_point() else v for k, v in weights.state.items()})
    poses = random_poses(RNG(1), 3, COCO)
    poses[1, 4] = 0
    refiner = Refiner(broken, device="cpu", backend="torch", precision="float32")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(refiner.refine(IMAGE, poses), poses)
    assert "not finite for 3 people" in caplog.text
    cv2.imwrite(str(tmp_path / "1.jpg"), IMAGE)
    entries = [
        {"image_id": 1, "file_name": "1.jpg", "category_id": 1, "keypoints": p.reshape(-1).tolist(), "score": 0.5}
        for p in poses
    ]
    after, report = refine_results(refiner, entries, tmp_path)
    assert after == entries
    assert (report.refined, len(report.skipped)) == (0, 3)
    assert "the network's numbers for this person are not finite" in report.summary()
