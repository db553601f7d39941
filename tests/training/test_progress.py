"""Speed and time left are told at once, with and without a terminal."""

from __future__ import annotations

import doctest
import logging

import pytest

from posefix.training import progress
from posefix.training.progress import Progress


def test_lines_without_a_terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Progress(total=103, start=3, samples=16, shown=True)
    with caplog.at_level(logging.INFO):
        for _ in range(40):
            now[0] += 2.0
            bar.step()
    bar.close()
    assert caplog.messages[0] == "step 6 of 103: 8 samples/s, 3 min 14 s left"
    assert caplog.messages[1] == "step 21 of 103: 8 samples/s, 2 min 44 s left"  # half a minute later
    assert len(caplog.messages) == 3


def test_silence(caplog: pytest.LogCaptureFixture) -> None:
    bar = Progress(total=10, start=0, samples=1, shown=False)
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            bar.step()
    assert caplog.messages == []


def test_examples() -> None:
    assert doctest.testmod(progress).failed == 0
