"""New person scores, by plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factories import random_poses
from posefix.choices import RANKINGS
from posefix.inference.rescoring import can_be_weighed, duplicates, person_scores, rescore
from posefix.keypoints.skeleton import COCO

SIGMAS = np.array(COCO.sigmas)
ODD: tuple[Any, ...] = (None, "0.5", True, float("nan"), float("inf"), -0.1, 10**400, 1e300, [0.5], {})


@pytest.mark.parametrize("ranking", RANKINGS)
def test_each_ranking_is_its_formula(ranking: str) -> None:
    own, confidence, consistency = [0.8, 0, 1e299, *ODD], np.linspace(0.1, 0.9, 13), np.linspace(0.3, 0.7, 13)
    found = person_scores(own, confidence, consistency, ranking)
    weighed = np.array([0.8, 0, 1e299, *([np.nan] * len(ODD))])
    expected = {
        "estimator": None,
        "confidence": confidence,
        "pose_consistency": weighed * consistency,
        "product": weighed * confidence,
    }
    if expected[ranking] is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, expected[ranking])
        assert found is not confidence  # its own array
        assert found.dtype == np.float64


def test_what_can_be_weighed() -> None:
    assert all(map(can_be_weighed, (0, 0.0, 1, 3.7, 9e299)))
    assert not any(map(can_be_weighed, ODD))


def test_confidence_is_the_mean_over_all_keypoints_that_are_there() -> None:
    poses = random_poses(np.random.default_rng(0), 3)
    poses[1, 4:, :2] = 0  # missing, whatever their score
    expected = np.where((poses[..., :2] != 0).any(-1), poses[..., 2], 0.0).sum(-1) / len(COCO)
    new, lowered = rescore([1, 1, 1], poses, np.ones(3), list("abc"), SIGMAS, ranking="product", soft_nms=True)
    assert lowered == 0
    np.testing.assert_allclose(np.asarray(new), expected)


def test_who_is_lowered() -> None:
    pose = random_poses(np.random.default_rng(0), 1)
    three = np.concatenate([pose, pose, pose])

    def lowered(images: list[str], **options: Any) -> Any:
        given = {"ranking": "pose_consistency", "soft_nms": True} | options
        return rescore([0.9, 0.8, 0.7], three, np.ones(3), images, SIGMAS, **given)

    np.testing.assert_allclose(lowered(["a", "a", "b"])[0], [0.9, 0.0, 0.7], atol=1e-9)  # each image for itself
    assert lowered(["a", "a", "b"])[1] == 1
    assert lowered(["a", "a", "a"])[1] == 2
    new, count = lowered(["a", "a", "a"], soft_nms=False)
    assert (new.tolist(), count) == ([0.9, 0.8, 0.7], 0)
    assert lowered(["a", "a", "a"], ranking="estimator") == (None, 0)


def test_a_person_who_cannot_be_weighed_lowers_nobody_else_and_stays() -> None:
    pose = random_poses(np.random.default_rng(0), 1)
    two = np.concatenate([pose, pose])
    new, _ = rescore([None, 0.8], two, np.ones(2), ["a", "a"], SIGMAS, ranking="pose_consistency", soft_nms=True)
    assert np.isnan(np.asarray(new)[0])
    assert np.asarray(new)[1] == 0.8


def test_repeats_are_told_by_image() -> None:
    pose = random_poses(np.random.default_rng(0), 1)
    poses, scores = np.concatenate([pose] * 4), np.array([0.4, 0.9, 0.5, 0.6])
    np.testing.assert_allclose(duplicates(poses, scores, [1, 2, 1, 2], SIGMAS), [1, 0, 0, 1])
