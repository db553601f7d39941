"""How far a training run is: a bar on a terminal, else lines in the log."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

#: Steps until the first line, which shall come at once and not be about the slow first step alone, and seconds
#: between two lines.
_FIRST, _EVERY = 3, 30.0


class Progress:
    """Tells the speed and the time left.

    >>> progress = Progress(total=2, start=0, samples=16, shown=False)
    >>> progress.step()
    >>> progress.close()

    Args:
        total: steps of the run.
        start: steps done before, where it was resumed.
        samples: of one step.
        shown: whether anything is shown.
    """

    def __init__(self, total: int, start: int, samples: int, *, shown: bool) -> None:
        self._total, self._start, self._done, self._samples = total, start, start, samples
        self._bar = tqdm(total=total, initial=start, unit="step", disable=None if shown else True)
        self._lines = shown and not sys.stderr.isatty()
        self._began = self._logged = time.monotonic()
        self._next = start + _FIRST

    def step(self) -> None:
        """One step is done."""
        self._done += 1
        self._bar.update()
        if not self._lines:
            return
        now = time.monotonic()
        if self._done == self._next or now - self._logged >= _EVERY:
            self._logged = now
            speed = (self._done - self._start) / max(now - self._began, 1e-9)
            left = (self._total - self._done) / speed
            logger.info(
                "step %d of %d: %.0f samples/s, %s left", self._done, self._total, speed * self._samples, spelled(left)
            )

    def describe(self, text: str) -> None:
        """Write something behind the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def clear(self) -> None:
        """Make room for a line."""
        self._bar.clear()

    def close(self) -> None:
        """No more."""
        self._bar.close()


def spelled(seconds: float) -> str:
    """Seconds as people say them.

    >>> [spelled(s) for s in (7.4, 61, 3720, 200_000)]
    ['7 s', '1 min 1 s', '1 h 2 min', '55 h 33 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
