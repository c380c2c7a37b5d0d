"""How much telemetry a process may make: a token bucket, so that a storm of events costs no more than a bound."""

import time
from collections.abc import Callable


class Budget:
    """`per_s` items a second on the average, `burst` at once. What is not granted is counted by the caller."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def grant(self) -> bool:
        """Whether one more item may be made; takes it from the bucket."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
