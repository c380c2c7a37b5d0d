"""Which records a replay copies: windows of offsets or of time, read strictly, checked against what the topic has."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

_SPAN: Final = re.compile(r"(\d{1,9}):(\d{1,18})-(\d{1,18})")
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d+)?)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class WindowError(ValueError):
    """A window that cannot be copied; the text names what is wrong with it."""


class Span(msgspec.Struct, frozen=True, order=True):
    """Records of one partition, from the first to the last offset, both included."""

    partition: int
    first: int
    last: int

    @property
    def count(self) -> int:
        """How many offsets there are; records at most."""
        return self.last - self.first + 1


class Kept(msgspec.Struct, frozen=True):
    """What a partition still has: its first offset, and the one after its last."""

    first: int
    end: int


def parse_spans(text: str) -> tuple[Span, ...]:
    """`0:100-199,2:5-5`: partition, first and last offset, both included. Raises WindowError that names the part."""
    spans = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        if match is None:
            raise WindowError(f"{part!r} is no window: say PARTITION:FIRST-LAST, both offsets included")
        span = Span(*map(int, match.groups()))
        if span.first > span.last:
            raise WindowError(f"the window {part.strip()} is reversed: it ends before it begins")
        spans.append(span)
    twice = {span.partition for span in spans if [s.partition for s in spans].count(span.partition) > 1}
    if twice:
        raise WindowError(f"partition {min(twice)} is named twice")
    return tuple(sorted(spans))


def parse_time(text: str, now: datetime) -> datetime:
    """`now`, `10m` (ago), or ISO 8601 (UTC, unless it names another offset). Raises WindowError that says so."""
    if text == "now":
        return now
    if match := _AGO.fullmatch(text):
        return now - timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise WindowError(
            f"{text!r} is no time: say 2026-11-23T12:00:00 (UTC), 10m (ago) or now"
        ) from None  # fmt: skip
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def check_times(begin: datetime, end: datetime) -> None:
    """Raises WindowError for a window of time that holds nothing whatever the topic has."""
    if begin > end:
        raise WindowError(f"the window is reversed: {begin.isoformat()} is after {end.isoformat()}")
    if begin == end:
        raise WindowError(f"the window is empty: it begins and ends at {begin.isoformat()}")


def check_spans(topic: str, spans: Iterable[Span], kept: Mapping[int, Kept]) -> None:
    """Raises WindowError for a partition that the topic has not, and for offsets that are gone or not yet there."""
    for span in spans:
        partition = kept.get(span.partition)
        if partition is None:
            raise WindowError(f"{topic} has no partition {span.partition}: it has {len(kept)}, counted from 0")
        if span.first < partition.first:
            raise WindowError(
                f"{topic}/{span.partition}/{span.first} is beyond retention: the partition begins at {partition.first}"
            )
        if span.last >= partition.end:
            holds = f"it holds {partition.first} to {partition.end - 1}" if partition.end > partition.first else "empty"
            raise WindowError(f"{topic}/{span.partition} does not reach {span.last}: {holds}")


def check_reach(topic: str, begin: datetime, oldest: Mapping[int, datetime | None]) -> None:
    """Raises WindowError when records of the window may be gone. `oldest`: of each partition whose start is gone.

    A partition of which nothing is left (None) no longer says when its records were written: any window may be cut.
    """
    for partition, time in oldest.items():
        if time is None:
            raise WindowError(
                f"the window may be beyond retention: of {topic}/{partition} every record is gone, whenever it was "
                "written; --offsets replays what other partitions still have"
            )
        if begin < time:
            raise WindowError(
                f"the window is beyond retention: what {topic}/{partition} had before {time.isoformat()} is gone"
            )


def spans_between(
    starts: Mapping[int, int | None], stops: Mapping[int, int | None], kept: Mapping[int, Kept]
) -> tuple[Span, ...]:
    """The spans of a window of time: first offsets at or after its begin and its end; None: no such record."""
    spans = []
    for partition, bounds in kept.items():
        start, stop = starts[partition], stops[partition]
        first = bounds.end if start is None else start
        last = (bounds.end if stop is None else stop) - 1
        if first <= last:
            spans.append(Span(partition, first, last))
    return tuple(sorted(spans))


def check_age(topic: str, spans: Sequence[Span], young: Mapping[int, int | None], window_s: float) -> None:
    """Raises WindowError when a span begins below the first record that is younger than the arm's dedup window."""
    for span in spans:
        first_young = young[span.partition]
        if first_young is None or span.first < first_young:
            raise WindowError(
                f"{topic}/{span.partition}/{span.first} is older than the dedup window, {timedelta(seconds=window_s)}: "
                "the arm may have forgotten it; --force replays it"
            )
