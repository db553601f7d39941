"""Work prepared a little ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from posefix.exceptions import InputError
from posefix.messages import shown
from posefix.typed import checked

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


#: Threads that may be asked for.
MOST_WORKERS = 1024


def check_workers(workers: int) -> None:
    """Tell that a number of threads is none.

    Raises:
        InputError: it is no integer, negative or too large.
    """
    if not 0 <= checked(workers, int, "workers", InputError) <= MOST_WORKERS:
        raise InputError(f"workers: expected 0…{MOST_WORKERS}, got {shown(workers)}")


@contextmanager
def pool_of_generator(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for the body of a generator, which may be closed by the garbage collector, in any thread at any moment.

    A collector may run in a thread that is just starting, while the one that starts it holds the locks of all pools.
    So nothing is locked or waited for then: a pool without an owner ends by itself.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except GeneratorExit:
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def ahead(
    make: Callable[[_Item], _Made], items: Iterable[_Item], workers: int
) -> Iterator[tuple[_Item, Future[_Made]]]:
    """``make(item)`` for each item, in order, by threads that run a few items ahead of the one that is asked for.

    >>> [done.result() for _, done in ahead(str.upper, ["a", "b"], workers=2)]
    ['A', 'B']

    Args:
        make: thread-safe; what it raises comes out of the future.
        items: consumed as they are needed; what it raises is raised after the items before it.
        workers: threads, at least 1.

    Yields:
        each item and the future of what was made of it, done or still under way.
    """
    workers = max(workers, 1)
    waiting: deque[tuple[_Item, Future[_Made]]] = deque()
    source, fault = iter(items), None
    with pool_of_generator(workers) as pool:
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:  # what came before it comes out first
                    fault = error
                    break
                waiting.append((item, pool.submit(make, item)))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
            if fault is not None:
                raise fault
        finally:
            for _, future in waiting:
                future.cancel()
