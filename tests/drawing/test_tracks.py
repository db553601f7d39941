"""Videos and plots of tracks: whole files, right sizes, trails where a point has been."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from posefix.drawing.tracks import compare_frames, plot_tracks, write_video
from posefix.exceptions import InputError, SkeletonError


def moving(frames: int = 10) -> np.ndarray:
    t = np.arange(frames, dtype=np.float64)[:, None, None]
    x = 20 + 6 * t + 2 * np.arange(17)
    return np.stack([x, 60 + 3 * np.arange(17) + 0 * x, 0.9 + 0 * x], -1)


def test_frames_side_by_side_with_trails() -> None:
    before = moving()
    after = before + np.array([0, 10, 0])
    black = [np.zeros((151, 201, 3), np.uint8)] * 10
    shown = list(compare_frames(black, before, after))
    assert len(shown) == 10
    assert all(s.shape == shown[0].shape and s.shape[0] % 2 == s.shape[1] % 2 == 0 for s in shown)
    assert shown[0].shape[1] >= 400
    # Where the first keypoint was some frames ago there is a mark only once it has moved on.
    x, y = before[2, 0, 0, :2].astype(int)
    near = (slice(y - 2, y + 3), slice(x - 2, x + 3))
    assert (shown[8][near].max(-1) > 150).any()
    small = list(compare_frames(black, before, after, height=76))
    assert small[0].shape[0] == 76
    assert not black[0].any()


def test_missing_people_have_no_trail() -> None:
    before = moving()
    before[:8] = np.nan
    shown = list(compare_frames([np.zeros((150, 200, 3), np.uint8)] * 10, before, before))
    assert not shown[5][40:].any(axis=-1)[:, :190].any()
    assert shown[9][40:, :190].any()


def test_a_video_is_written_whole(tmp_path: Path) -> None:
    frames = [np.full((40, 60, 3), 20 * t, np.uint8) for t in range(8)]
    frames[5] = np.zeros((80, 120, 3), np.uint8)  # of another size: OpenCV alone would leave it out
    assert write_video(tmp_path / "a.mp4", frames, 25) == 8
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    capture.release()
    with pytest.raises(InputError, match="at least one frame"):
        write_video(tmp_path / "b.mp4", [], 25)

    def broken():
        yield frames[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "c.mp4", broken(), 25)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before = moving()
    filled = np.zeros(before.shape[:3], bool)
    filled[3:5, 0, 9] = True
    plot_tracks(tmp_path / "a.png", before, before + 1, filled=filled)
    assert cv2.imread(str(tmp_path / "a.png")) is not None
    plot_tracks(tmp_path / "b.svg", before, before + 1, keypoints=["nose"])
    assert b"nose x, px" in (tmp_path / "b.svg").read_bytes() or (tmp_path / "b.svg").stat().st_size > 1000
    with pytest.raises(SkeletonError, match="tail"):
        plot_tracks(tmp_path / "c.png", before, before, keypoints=["tail"])
    with pytest.raises(InputError, match="person"):
        plot_tracks(tmp_path / "c.png", before, before, person=3)
