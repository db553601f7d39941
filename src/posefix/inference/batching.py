"""Work prepared a little ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def ahead(
    make: Callable[[_Item], _Made], items: Iterable[_Item], workers: int
) -> Iterator[tuple[_Item, Future[_Made]]]:
    """``make(item)`` for each item, in order, by threads that run a few items ahead of the one that is asked for.

    >>> [done.result() for _, done in ahead(str.upper, ["a", "b"], workers=2)]
    ['A', 'B']

    Args:
        make: thread-safe; what it raises comes out of the future.
        items: consumed as they are needed.
        workers: threads, at least 1.

    Yields:
        each item and the future of what was made of it, done or still under way.
    """
    workers = max(workers, 1)
    waiting: deque[tuple[_Item, Future[_Made]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(make, item)))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
