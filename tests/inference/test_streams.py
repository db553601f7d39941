"""Streams: every task runs once, finishing tasks go first, and the process keeps its number of threads."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from factories import make_weights
from posefix.exceptions import InputError
from posefix.inference.options import Options
from posefix.inference.refiner import Refiner
from posefix.inference.streams import Streams, check_threads, usable_cores


def nothing() -> None:
    """What a thread enters with."""


def make(count: int = 2) -> Streams:
    return Streams(count, nothing, nullcontext)


def test_every_task_runs_once_and_errors_come_back() -> None:
    streams = make()
    done = [streams.submit(partial(divmod, i, 3)) for i in range(200)]
    assert [d.result() for d in done] == [divmod(i, 3) for i in range(200)]
    with pytest.raises(ZeroDivisionError):
        streams.submit(partial(divmod, 1, 0)).result()
    assert streams.submit(os.getpid).result() == os.getpid()


def test_finishing_tasks_go_first() -> None:
    streams, order, free = make(1), list[str](), threading.Event()
    streams.submit(free.wait)
    waiting = [streams.submit(partial(order.append, "begin")) for _ in range(3)]
    first = streams.submit(partial(order.append, "finish"), first=True)
    free.set()
    for one in (*waiting, first):
        one.result()
    assert order == ["finish", "begin", "begin", "begin"]


def test_threads_end_with_the_object() -> None:
    streams = make(3)
    streams.submit(nothing).result()
    mine = [t for t in threading.enumerate() if t.name.startswith("posefix-")]
    assert len(mine) >= 3
    del streams
    gc.collect()
    for thread in mine[-3:]:
        thread.join(10)
    assert not [t for t in mine[-3:] if t.is_alive()]


def test_a_copy_has_threads_of_its_own() -> None:
    streams = make()
    streams.submit(nothing).result()
    assert pickle.loads(pickle.dumps(streams)).submit(os.getpid).result() == os.getpid()


def _in_child(streams: Streams, answers: multiprocessing.SimpleQueue[int]) -> None:
    answers.put(streams.submit(os.getpid).result())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_works_after_a_fork() -> None:
    streams = make()
    streams.submit(nothing).result()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(streams, answers))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert answers.get() == child.pid


def test_the_process_keeps_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        refiner = Refiner(make_weights(input_hw=(64, 64)), device="cpu", threads=2)
        refiner.refine(np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0).uniform(5, 60, (4, 17, 3)))
        streams = refiner.runner._streams
        assert streams is not None
        assert {streams.submit(torch.get_num_threads).result() for _ in range(6)} == {1}
        assert torch.get_num_threads() == 3
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3]
    finally:
        torch.set_num_threads(before)


def test_people_do_not_depend_on_each_other_to_the_bit() -> None:
    refiner = Refiner(make_weights(input_hw=(64, 64)), device="cpu", threads=2)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    poses = rng.uniform(5, 85, (7, 17, 3))
    together = refiner.refine(image, poses, prior_weight=1.0)
    for size in (1, 3):
        apart = [refiner.refine(image, poses[i : i + size], prior_weight=1.0) for i in range(0, 7, size)]
        np.testing.assert_array_equal(np.concatenate(apart), together)
    assert Options().batch_size == 32


def test_threads_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0, -1, 1.5, "2", True, 100_000):
        with pytest.raises(InputError, match=r"threads: expected 1…1024"):
            check_threads(wrong)  # type: ignore[arg-type]
    assert check_threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert check_threads(None) == usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    assert usable_cores() >= 1


ENDED_UNDER_A_LOCK = """
import gc, sys, threading
from contextlib import nullcontext
from posefix.inference.streams import Streams
streams = Streams(2, lambda: None, nullcontext)
streams.submit(lambda: None).result()
# Held while a thread starts, until Python 3.12.
with getattr(threading, "_shutdown_locks_lock", nullcontext()):
    del streams
    gc.collect()
print("ended")
"""


def test_the_collector_may_end_them_while_a_thread_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_UNDER_A_LOCK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0)
