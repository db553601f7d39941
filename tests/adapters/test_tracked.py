"""Outputs of many frames as tracks: ids of each package, and the same kind of object back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factories import make_weights
from posefix.adapters.tracked import is_numbers, tracked_output
from posefix.exceptions import InputError
from posefix.inference.refiner import Refiner
from posefix.keypoints.skeleton import COCO

T, N, K = 5, 2, 17


def tracks() -> np.ndarray:
    """Two people who move; the second is away in frame 2, and comes first in frame 3."""
    rng = np.random.default_rng(0)
    start = rng.uniform((20, 20), (140, 140), (N, K, 2))
    points = start + 2.0 * np.arange(T)[:, None, None, None]
    values = np.concatenate([points, np.full((T, N, K, 1), 0.75)], -1)
    values[2, 1] = np.nan
    return values


def rows(t: int) -> list[int]:
    return {2: [0], 3: [1, 0]}.get(t, [0, 1])


def as_dicts(t: int) -> list[dict[str, Any]]:
    return [
        {
            "keypoints": tracks()[t, n, :, :2].tolist(),
            "keypoint_scores": tracks()[t, n, :, 2].tolist(),
            "bbox": ([0, 0, 9, 9],),
            "track_id": 30 + n,
        }
        for n in rows(t)
    ]


def as_supervision(t: int) -> Any:
    sv = pytest.importorskip("supervision")
    poses = tracks()[t, rows(t)]
    ids = np.array(rows(t)) + 30
    return sv.KeyPoints(
        xy=poses[..., :2].astype(np.float32),
        keypoint_confidence=poses[..., 2].astype(np.float32),
        data={"tracker_id": ids},
    )


@pytest.mark.parametrize("make", [as_dicts, as_supervision], ids=["mmpose", "supervision"])
def test_columns_follow_the_ids(make: Any) -> None:
    output = [make(t) for t in range(T)]
    found = tracked_output(output, COCO)
    assert found.ids == [30, 31]
    assert not found.linked
    np.testing.assert_allclose(found.tracks, tracks(), rtol=1e-6)
    moved = found.tracks.copy()
    moved[3, 1, 4] = [1.5, 2.5, 0.5]
    again = tracked_output(found.rebuild(moved), COCO)
    assert again.ids == [30, 31] or again.ids == [31, 30]
    np.testing.assert_allclose(again.tracks, moved, rtol=1e-6)


@pytest.mark.parametrize("make", [as_dicts, as_supervision], ids=["mmpose", "supervision"])
def test_refining_gives_the_same_kind(make: Any) -> None:
    refiner = Refiner(make_weights(input_hw=(64, 64)), device="cpu", precision="float32")
    output = [make(t) for t in range(T)]
    frames = np.random.default_rng(1).integers(0, 256, (T, 160, 160, 3)).astype(np.uint8)
    refined = refiner.refine_video(frames, output)
    assert [type(r) for r in refined] == [type(o) for o in output]
    found = tracked_output(refined, COCO)
    expected = refiner.refine_video(frames, tracked_output(output, COCO).tracks)
    there = np.isfinite(tracks()[..., 0])
    np.testing.assert_allclose(found.tracks[there], expected[there], rtol=1e-4)
    assert np.isnan(found.tracks[~there]).all()


def test_ids_that_do_not_fit_are_told() -> None:
    twice = [{**p, "track_id": 1} for p in as_dicts(0)]
    with pytest.raises(InputError, match="id 1 twice"):
        tracked_output([twice], COCO)
    some = [as_dicts(0)[0], {k: v for k, v in as_dicts(0)[1].items() if k != "track_id"}]
    with pytest.raises(InputError, match="for every person or for none"):
        tracked_output([some], COCO)


def test_a_single_person_needs_no_id() -> None:
    alone = [[{k: v for k, v in as_dicts(t)[0].items() if k != "track_id"}] for t in (0, 1, 2)]
    assert tracked_output(alone, COCO).tracks.shape == (3, 1, K, 3)


def test_what_numpy_reads_is_no_output() -> None:
    assert is_numbers(np.zeros(3))
    assert is_numbers([[[1.0, 2]]])
    assert is_numbers([np.zeros((1, K, 3))])
    assert not is_numbers([as_dicts(0)])
    assert not is_numbers([{"a": 1}])
