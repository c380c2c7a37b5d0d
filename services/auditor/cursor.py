"""Reading a growing table without skipping what commits late, and without reading it all again. Pure.

Rows are numbered when they are inserted and become visible when they commit, so a reader that remembers the highest
number it has seen skips those that commit late (it is what the publisher arm `id_cursor` does, and loses by). Here the
reader looks above a floor and knows what it has taken in above it; the floor rises to what was seen by an earlier look
only when every transaction that ran then is over: the snapshot's xmin has passed the xmax of that time.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar
from uuid import UUID

_SETTLES_S: Final = 5.0  # a number is drawn a moment before its transaction has an id; that moment is over by then

N = TypeVar("N", int, UUID)


class Cursor(Generic[N]):
    """Which rows of one table are new. `lowest` lies below every number."""

    def __init__(self, lowest: N) -> None:
        self.floor: N = lowest
        self._highest: N = lowest
        self._taken: set[N] = set()
        self._many = 0
        self._marks: deque[tuple[float, int, N]] = deque()  # when, xmax after that look, the highest number by then

    @property
    def overlap(self) -> int:
        """How many rows above the floor were taken in before: a look sees them again."""
        return len(self._taken)

    @property
    def passed(self) -> int:
        """How many rows there are up to the floor, unless one was taken away since."""
        return self._many - len(self._taken)

    def removed(self, many: int) -> None:
        """So many rows up to the floor are there no more."""
        self._many -= many

    def take(self, numbers: Iterable[N], now: float, xmin: int, xmax: int) -> set[N]:
        """Of the numbers above the floor that a look saw, those that are new. The snapshot is of before the look."""
        seen_before = self._highest
        fresh = {number for number in numbers if number not in self._taken}
        self._taken |= fresh
        self._many += len(fresh)
        self._highest = max(fresh | {self._highest})
        self._rise(now, xmin)
        if not self._marks or self._marks[-1][2] != seen_before:
            self._marks.append((now, xmax, seen_before))
        return fresh

    def _rise(self, now: float, xmin: int) -> None:
        floor = self.floor
        while self._marks and xmin >= self._marks[0][1] and now - self._marks[0][0] >= _SETTLES_S:
            floor = self._marks.popleft()[2]
        if floor != self.floor:
            self.floor = floor
            self._taken = {number for number in self._taken if floor < number}
