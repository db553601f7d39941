"""Independent streams of one thread each.

Threads that share the work of one layer wait for one another at every layer: where another process keeps a core busy,
all of them wait for the one that shares it. Streams that each take a person of their own do not.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from posefix.exceptions import InputError
from posefix.messages import shown

_Made = TypeVar("_Made")
_Task = tuple[Callable[[], Any], Future[Any]]
#: Seconds that a finaliser waits for a thread.
_PATIENCE = 1.0
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


#: More is a slip of the pen, and may be more than the system allows.
MOST_THREADS = 1024


def check_threads(threads: int | None) -> int:
    """``threads`` as given, or ``usable_cores`` for None.

    Raises:
        InputError: no positive integer.
    """
    if threads is None:
        return usable_cores()
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads: expected 1…{MOST_THREADS}, or None for all cores, got {shown(threads)}")
    return threads


class Streams:
    """Threads that take tasks from one queue.

    They start with the first task, again after a fork, and end with the object.
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

    def submit(self, task: Callable[[], _Made], *, first: bool = False) -> Future[_Made]:
        """Have a task run; ``first``, before all waiting ones that are not."""
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
        future: Future[_Made] = Future()
        self._tasks.add(task, future, first=first)
        return future

    def _begin(self) -> None:
        self._tasks = _Tasks()
        entered = threading.Barrier(self.count + 1)
        work = (self._tasks, self._enter, entered)
        threads = [
            threading.Thread(target=_work, args=work, name=f"posefix-{i}", daemon=True) for i in range(self.count)
        ]
        with self._around_start():
            for thread in threads:
                thread.start()
            entered.wait()
        self._pid = os.getpid()
        weakref.finalize(self, _stop, self._tasks, threads, self._pid)
        with _LOCK:
            _STARTED[:] = [each for each in _STARTED if any(thread.is_alive() for thread in each[1])]
            _STARTED.append((self._tasks, threads, self._pid))

    def __getstate__(self) -> dict[str, Any]:
        """For copies in other processes: without the threads."""
        return {"count": self.count, "enter": self._enter, "around_start": self._around_start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Streams.__init__(self, **state)


class _Tasks:
    """Waiting tasks. Nothing here locks: the collector may call ``_stop`` in any thread at any moment."""

    def __init__(self) -> None:
        self._first: deque[_Task] = deque()
        self._then: deque[_Task] = deque()
        #: One True for each task that waits, one False for each thread that shall end.
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def add(self, task: Callable[[], Any], future: Future[Any], *, first: bool) -> None:
        (self._first if first else self._then).append((task, future))
        self._wake.put(True)

    def end(self) -> None:
        """One thread ends when the tasks that wait now are taken."""
        self._wake.put(False)

    def take(self) -> _Task | None:
        """The next task, those that are ``first`` before the others; None is the end."""
        if not self._wake.get():
            return None
        try:
            return self._first.popleft()
        except IndexError:
            return self._then.popleft()


def _work(tasks: _Tasks, enter: Callable[[], None], entered: threading.Barrier) -> None:
    enter()
    del enter  # the model; runtimes want it to end in another thread
    entered.wait()
    while (taken := tasks.take()) is not None:
        task, future = taken
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
        del taken, task, future
    tasks.ended.put(None)


def _stop(tasks: _Tasks, threads: list[threading.Thread], pid: int) -> None:
    """End the threads before the model ends, and wait for them without any of threading's locks.

    The collector may call this in a thread that is just starting, while another holds these locks.
    """
    if pid != os.getpid():
        return  # a copy made by a fork has no such threads
    for _ in threads:
        tasks.end()
    own = threading.get_ident()
    for _ in range(sum(thread.ident != own for thread in threads)):
        try:
            tasks.ended.get(timeout=_PATIENCE)
        except queue.Empty:
            return


#: Tasks and threads that were started, and by which process.
_STARTED: list[tuple[_Tasks, list[threading.Thread], int]] = []
_LOCK = threading.Lock()


@atexit.register
def _stop_all() -> None:
    """At the end of the process: runtimes must not be torn down under threads that use them."""
    for tasks, threads, pid in _STARTED:
        if pid == os.getpid():
            for _ in threads:
                tasks.end()
            for thread in threads:
                thread.join()
