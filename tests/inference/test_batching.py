"""Work ahead of the network."""

from __future__ import annotations

import concurrent.futures.thread
import threading
import time
from collections.abc import Iterator

import pytest

from posefix.inference.batching import ahead


def test_order_and_errors() -> None:
    found = [(item, future.result()) for item, future in ahead(lambda n: n * n, range(20), workers=3)]
    assert found == [(n, n * n) for n in range(20)]
    ((_, future),) = ahead(lambda n: 1 / n, [0], workers=1)
    with pytest.raises(ZeroDivisionError):
        future.result()


@pytest.mark.parametrize("workers", [1, 4])
def test_what_came_before_a_fault_comes_out_first(workers: int) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("the camera is gone")

    found: list[int] = []
    with pytest.raises(OSError, match="camera"):
        found.extend(future.result() for _, future in ahead(lambda n: n * n, source(), workers))
    assert found == [0, 1, 4]


def test_abandoned_work_waits_for_no_lock() -> None:
    """The collector may close it in a thread that starts, while the one that starts it holds the pools' lock."""
    work = ahead(lambda n: n, range(100), workers=2)
    next(work)
    lock = concurrent.futures.thread._global_shutdown_lock  # type: ignore[attr-defined]
    with lock:
        closing = threading.Thread(target=work.close, daemon=True)  # type: ignore[attr-defined]
        closing.start()
        closing.join(5)
        assert not closing.is_alive()


def test_abandoned_threads_end() -> None:
    before = set(threading.enumerate())
    work = ahead(lambda n: n, range(100), workers=4)
    next(work)
    started = set(threading.enumerate()) - before
    assert started
    del work
    end = time.monotonic() + 5
    while any(t.is_alive() for t in started) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(t.is_alive() for t in started)
