"""Observed against audited: what a life counted, as last scraped, against the rows that it left in the stores. Pure.

A process takes with it what it counted after its last scrape. So a gap is explained by the rows that came after it: the
scrape says up to which time everything is counted (work in hand began no earlier). What is left is unexplained; so is
what a life did that went on unscraped for several scrapes: a blackout, no death.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

EXPLAINS_S: Final = 10.0  # how long after a scrape the next one may be missed
WINDOW_S: Final = 3600.0  # lives that were scraped last before that are left out
ANSWERED_WITHIN_S: Final = 1.0  # a scrape bears the time of its question; what is counted until its answer is in it


class Scrape(msgspec.Struct, frozen=True):
    """The last scrape of a life. Unix seconds."""

    at: float
    counted_until: float  # everything that it did before this is in its counters

    @property
    def answered(self) -> float:
        """Nothing that it did after this is in its counters."""
        return max(self.at, self.counted_until) + ANSWERED_WITHIN_S


NEVER: Final = Scrape(at=0.0, counted_until=0.0)


class Rows(msgspec.Struct, frozen=True):
    """The rows that a life left: all, those from before `counted_until`, and those from before `answered`.

    `late`: those from so long after the scrape that there should have been another one.
    """

    all: int
    certain: int
    possible: int
    late: int = 0


class Gap(msgspec.Struct, frozen=True):
    """Of one life and signal."""

    rows: int
    counted: int
    after_scrape: int  # rows from after `counted_until`
    unanswered: int  # rows whose writer had no answer, so that it could not count them
    unexplained: int

    @property
    def missing(self) -> int:
        """Rows that the counters lack."""
        return self.rows - self.counted


def gap_of(rows: Rows, counted: int, uncertain: int = 0) -> Gap:
    """The gap of one life and signal.

    `uncertain`: effects that the life says it may have caused without having had an answer. What it counted must lie
    between what it surely did before the scrape, less those, and what it can have done by the scrape's answer.
    """
    too_few = max(0, rows.certain - counted)
    too_many = max(0, counted - rows.possible)
    unanswered = min(too_few, uncertain)
    return Gap(rows.all, counted, rows.all - rows.certain, unanswered, too_few - unanswered + too_many + rows.late)


def total(gaps: Iterable[Gap]) -> Gap:
    """The sum over lives."""
    found = Gap(0, 0, 0, 0, 0)
    for gap in gaps:
        found = Gap(
            found.rows + gap.rows,
            found.counted + gap.counted,
            found.after_scrape + gap.after_scrape,
            found.unanswered + gap.unanswered,
            found.unexplained + gap.unexplained,
        )
    return found
