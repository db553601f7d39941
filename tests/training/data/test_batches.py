"""Training samples: how people, poses and crops are changed before the network sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factories import draw_dots
from posefix.keypoints.skeleton import COCO
from posefix.network.config import ModelConfig
from posefix.training.config import Augmentation
from posefix.training.data.copy_paste import choose_others, draw_masks, paste_others
from posefix.training.data.people import Images, read_people
from training_runs import make_config, stream_of, write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def test_batches_are_sound_and_reproducible(data: Path) -> None:
    config = make_config(data)
    stream = stream_of(config)
    in_order = list(stream.batches(0, 5))
    again = stream_of(config).batch(3)
    for name, value in vars(again).items():
        np.testing.assert_array_equal(value, getattr(in_order[3], name))
    assert not np.array_equal(stream.batch(4).crop_points, again.crop_points)
    for batch in in_order:
        assert batch.crops.shape == (8, 64, 64, 3)
        assert batch.crops.dtype == np.uint8
        assert np.isfinite(batch.crop_points).all()
        assert (batch.std > 0).all()
        inside = (batch.targets >= 0) & (batch.targets <= 63)
        assert inside.all(-1)[batch.target_mask].all()
        assert batch.valid.any()
        assert batch.target_mask.any()


def test_crops_and_points_share_one_frame(data: Path) -> None:
    # A white dot at every labelled keypoint of a black image must lie at the target, whatever the augmentation.
    draw_dots(data)
    config = replace(make_config(data), augmentation=Augmentation(shift=0.1, input_box=0.5), model=ModelConfig())
    batch = stream_of(config).batch(0)
    rows, keypoints = np.nonzero(batch.target_mask)
    x, y = np.round(batch.targets[rows, keypoints]).astype(int).T
    assert (batch.crops[rows, y, x, 0] > 128).mean() > 0.98


def test_company_is_painted_where_its_keypoints_are(data: Path) -> None:
    people = read_people(make_config(data).sets, COCO)
    rows, rng = np.arange(8), np.random.default_rng(1)
    second = choose_others(people, rows, 1.0, rng)
    assert second.there.any()
    assert (second.ground_truth[~second.there] == 0).all()
    assert np.isfinite(second.ground_truth).all()
    assert not choose_others(people, rows, 0.0, rng).there.any()
    second = replace(second, behind=np.zeros(8, bool))
    # The first people's crops are black and no other person's image is: what is not black was painted.
    crops = np.zeros((8, 64, 64, 3), np.uint8)
    affine = np.tile(np.eye(2, 3) * 0.1, (8, 1, 1))
    model = ModelConfig(input_hw=(64, 64))
    masks = draw_masks(people, second, rows, affine, COCO, model, rng)
    paste_others(crops, people, Images(people.paths, 1), masks, model)
    points = second.ground_truth[..., :2] * 0.1
    inside = (second.ground_truth[..., 2] > 0) & (points >= 1).all(-1) & (points <= 62).all(-1)
    i, k = np.nonzero(inside)
    assert len(i) > 10
    x, y = points[i, k].round().astype(int).T
    assert (crops[i, y, x].max(-1) > 0).mean() > 0.8
    assert not crops[~second.there].any()


def test_people_behind_leave_the_first_uncovered(data: Path) -> None:
    people = read_people(make_config(data).sets, COCO)
    rows = np.arange(8)
    # Second people who stand exactly where the first do: in front they cover them, behind they hardly show.
    first = people.ground_truth[rows]
    outline = np.where(first[..., 2:] > 0, first[..., :2], np.nan)
    second = replace(choose_others(people, rows, 1.0, np.random.default_rng(1)), outline=outline)
    affine = np.tile(np.eye(2, 3) * 0.1, (8, 1, 1))
    shown = []
    for behind in (False, True):
        there = replace(second, behind=np.full(8, behind))
        masks = draw_masks(people, there, rows, affine, COCO, ModelConfig(input_hw=(64, 64)), np.random.default_rng(2))
        shown.append(float(masks.alpha.sum()))
    assert shown[0] > 3 * shown[1]


def test_coarse_noise_moves_all_keypoints(data: Path) -> None:
    still = Augmentation(scale=0, rotation=0, mirror=0, real_pose_prob=0.0)
    off = []
    for share in (0.0, 1.0):
        config = replace(make_config(data), augmentation=replace(still, noise_prob=share))
        batch = stream_of(config).batch(0)
        both = batch.valid & batch.target_mask
        off.append(np.linalg.norm(batch.crop_points - batch.targets, axis=-1)[both] / batch.std[both])
    assert np.median(off[1]) > 1.2 * np.median(off[0])


def test_stronger_estimators_make_the_same_errors_but_smaller(data: Path) -> None:
    still = Augmentation(scale=0, rotation=0, mirror=0, real_pose_prob=1.0)
    offs = []
    for stronger in (0.0, 1.0):
        config = replace(make_config(data), augmentation=replace(still, error_shrink_prob=stronger))
        batch = stream_of(config).batch(0)
        offs.append(np.where((batch.valid & batch.target_mask)[..., None], batch.crop_points - batch.targets, 0))
    # Per person one factor below 1; where the crop follows the pose, its scale changes a little too.
    sizes = [np.linalg.norm(o.reshape(len(o), -1), axis=1) for o in offs]
    assert (sizes[1] < sizes[0]).all()
    cosine = (offs[0] * offs[1]).reshape(len(offs[0]), -1).sum(1) / (sizes[0] * sizes[1])
    assert (cosine > 0.99).all()


def test_fixed_estimates_have_fewer_errors_and_some_bring_scores(data: Path) -> None:
    still = Augmentation(scale=0, rotation=0, mirror=0, real_pose_prob=1.0)
    settings: dict[str, dict[str, float]] = {
        "plain": {},
        "error_fix_prob": {"error_fix_prob": 1.0},
        "score_prob": {"score_prob": 1.0},
        "mirrored": {"score_prob": 1.0, "mirror": 1.0},
    }
    batches = {}
    for name, changes in settings.items():
        config = replace(make_config(data), augmentation=replace(still, **changes))
        batches[name] = stream_of(config).batch(0)
    plain, fixed = (batches[n] for n in ("plain", "error_fix_prob"))
    off = [np.linalg.norm(b.crop_points - b.targets, axis=-1) / b.std for b in (plain, fixed)]
    both = plain.valid & plain.target_mask & fixed.target_mask
    changed = both & ~np.isclose(*off, atol=0.05)
    assert 0.2 < changed[both].mean() < 0.8
    assert off[1][changed].mean() < 0.5
    assert (plain.scores == 1).all()
    scores = batches["score_prob"].scores
    assert ((scores > 0) & (scores <= 1)).all()
    assert (scores.max(-1) == 1).all()
    assert (scores[batches["score_prob"].valid] < 1).any()
    # A score goes with its keypoint.
    np.testing.assert_array_equal(batches["mirrored"].scores, scores[:, COCO.flip_indices])
