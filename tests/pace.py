"""Whether the machine stood still: a thread that sleeps a little, again and again, and notes when that took long."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SLEEP_S: Final = 0.05
STILL_S: Final = 1.0  # more than this over the sleep is no scheduling any more


class Pace:
    """What the thread has noted."""

    def __init__(self) -> None:
        self._stops: list[tuple[float, float]] = []  # when one was over, by the monotonic clock, and its length
        self._woke = time.monotonic()
        self._over = threading.Event()

    def still(self, since: float) -> float:
        """The longest stand-still that lasted into the time since then; 0.0 for none. One that lasts counts."""
        now = time.monotonic()
        stops = [*self._stops, (now, now - self._woke - SLEEP_S)]
        return max((length for end, length in stops if end > since and length > STILL_S), default=0.0)

    def _run(self) -> None:
        while not self._over.wait(SLEEP_S):
            now = time.monotonic()
            if (over := now - self._woke - SLEEP_S) > STILL_S:
                self._stops.append((now, over))
            self._woke = now


@contextmanager
def watched() -> Iterator[Pace]:
    """The machine's pace within the block."""
    pace = Pace()
    thread = threading.Thread(target=pace._run, name="pace", daemon=True)
    thread.start()
    try:
        yield pace
    finally:
        pace._over.set()
        thread.join()
