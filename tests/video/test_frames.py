"""Frames come out the same whatever they come as, one at a time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from posefix.exceptions import ImageError, InputError
from posefix.video.frames import frame_rate, read_frames


@pytest.fixture
def frames() -> np.ndarray:
    """Twelve frames of one colour each, in RGB."""
    values = np.stack([np.arange(12) * 20, np.full(12, 60), 240 - np.arange(12) * 20], -1).astype(np.uint8)
    return np.broadcast_to(values[:, None, None], (12, 48, 64, 3)).copy()


def test_arrays_iterables_and_colours(frames: np.ndarray) -> None:
    for source in (frames, list(frames), iter(frames), (f for f in frames)):
        np.testing.assert_array_equal(np.stack(list(read_frames(source))), frames)
    np.testing.assert_array_equal(np.stack(list(read_frames(frames[..., ::-1], color="bgr"))), frames)


def test_a_folder_in_the_order_of_its_numbers(frames: np.ndarray, tmp_path: Path) -> None:
    for t in (10, 2, 0, 1):
        cv2.imwrite(str(tmp_path / f"frame{t}.png"), frames[t][..., ::-1])
    (tmp_path / "notes.txt").write_text("x")
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path))), frames[[0, 1, 2, 10]])


def test_a_video(frames: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    read = np.stack(list(read_frames(path)))
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).max() < 12
    assert frame_rate(path) == pytest.approx(25)
    assert frame_rate(frames) is None


@pytest.mark.parametrize("damaged", [{0}, {3}, {0, 1, 4}])
def test_damaged_frames_of_a_folder_are_black(
    damaged: set[int], frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for t in range(5):
        cv2.imwrite(str(tmp_path / f"{t}.png"), frames[t][..., ::-1])
        if t in damaged:
            (tmp_path / f"{t}.png").write_bytes((tmp_path / f"{t}.png").read_bytes()[:60])
    (tmp_path / "._0.png").write_bytes(b"of macOS")
    read = list(read_frames(tmp_path))
    for t in range(5):
        np.testing.assert_array_equal(read[t], frames[t] * (t not in damaged))
    assert len(caplog.records) == len(damaged)


def test_a_folder_without_any_readable_frame(tmp_path: Path) -> None:
    for t in range(3):
        (tmp_path / f"{t}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png"):
        list(read_frames(tmp_path))


def test_what_is_no_video_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_text("no video")
    with pytest.raises(ImageError, match="is no video"):
        read_frames(tmp_path / "video.mp4")


def test_frames_are_read_one_by_one(frames: np.ndarray) -> None:
    read = 0

    def source():
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    next(iter(read_frames(source())))
    assert read == 1


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for wrong in ("text.mp4", "empty", "absent.mp4"):
        with pytest.raises(ImageError, match=wrong):
            list(read_frames(tmp_path / wrong))
    for thing in (3, None, np.zeros((5, 5, 3))):
        with pytest.raises(InputError, match="frames"):
            list(read_frames(thing))
