"""Independent streams of one thread each.

Threads that share the work of one layer wait for one another at every layer: where another process keeps a core busy,
all of them wait for the one that shares it. Streams that each take a person of their own do not.
"""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from posefix.exceptions import InputError
from posefix.messages import shown

_Made = TypeVar("_Made")
#: Order of a task: those that finish work come before those that begin some, and the end before all.
_STOP, _FIRST, _THEN = range(3)
#: Seconds after which an idle thread looks whether its owner is still there.
_LOOK_EVERY = 1.0
_CGROUP = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity, its container's share, ``OMP_NUM_THREADS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP.read_text().split()[:2]
        cores = min(cores, max(round(int(quota) / int(period)), 1))
    except (OSError, ValueError):
        pass  # no such file, or no limit ("max")
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, max(int(said), 1)) if said.isdecimal() else cores


def check_threads(threads: int | None) -> int:
    """``threads`` as given, or ``usable_cores`` for None.

    Raises:
        InputError: no positive integer.
    """
    if threads is None:
        return usable_cores()
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise InputError(f"threads: expected a positive integer, or None for all cores, got {shown(threads)}")
    return threads


class Streams:
    """Threads that take tasks from one queue.

    They start with the first task, again after a fork, and end soon after the object.
    """

    def __init__(
        self, count: int, enter: Callable[[], None], around_start: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Prepare.

        Args:
            count: threads.
            enter: what each thread calls first.
            around_start: entered while the threads start and call ``enter``.
        """
        self.count = count
        self._enter, self._around_start = enter, around_start
        self._pid = 0
        self._lock = threading.Lock()
        self._order = itertools.count()

    def submit(self, task: Callable[[], _Made], *, first: bool = False) -> Future[_Made]:
        """Have a task run; ``first``, before all waiting ones that are not."""
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
        future: Future[_Made] = Future()
        self._tasks.put((_FIRST if first else _THEN, next(self._order), task, future))
        return future

    def _begin(self) -> None:
        self._tasks: queue.PriorityQueue[Any] = queue.PriorityQueue()
        entered = threading.Barrier(self.count + 1)
        work = (self._tasks, self._enter, entered, weakref.ref(self))
        threads = [
            threading.Thread(target=_work, args=work, name=f"posefix-{i}", daemon=True) for i in range(self.count)
        ]
        with self._around_start():
            for thread in threads:
                thread.start()
            entered.wait()
        self._pid = os.getpid()
        with _LOCK:
            _STARTED[:] = [each for each in _STARTED if any(thread.is_alive() for thread in each[1])]
            _STARTED.append((self._tasks, threads, self._pid))

    def __getstate__(self) -> dict[str, Any]:
        """For copies in other processes: without the threads."""
        return {"count": self.count, "enter": self._enter, "around_start": self._around_start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Streams.__init__(self, **state)


def _work(
    tasks: queue.PriorityQueue[Any],
    enter: Callable[[], None],
    entered: threading.Barrier,
    owner: weakref.ref[Streams],
) -> None:
    enter()
    entered.wait()
    # A finaliser could stop the threads at once. But the collector may call it in any thread, also in one that holds
    # the locks that this needs.
    while True:
        try:
            order, _, task, future = tasks.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            if owner() is None:
                return
            continue
        if order == _STOP:
            return
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
        del task, future


#: Queues and threads that were started, and by which process.
_STARTED: list[tuple[queue.PriorityQueue[Any], list[threading.Thread], int]] = []
_LOCK = threading.Lock()


@atexit.register
def _stop_all() -> None:
    """At the end of the process: runtimes must not be torn down under threads that use them."""
    for tasks, threads, pid in _STARTED:
        if pid == os.getpid():  # a copy made by a fork has no such threads
            for place in range(len(threads)):
                tasks.put((_STOP, place, None, None))
            for thread in threads:
                thread.join()
