"""What the lab's processes wrote down while they worked: commits, what befell single messages, lives and their ends.

Logs explain a verdict, they never make one. They are bounded, so what they say may be gone.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from services.domain.messages import Coordinates
from services.stack.nemesis import Fault, read_faults

_FIXED: Final = frozenset({"time", "level", "event", "service.name", "life"})
_COMMITTED: Final = "offset.committed"
_RECEIVED: Final = "offset.received"
_ENDINGS: Final = ("kill", "freeze", "restart")
_SLACK_S: Final = 0.25  # what two clocks of one machine's processes, and the writing of a line, may be apart


class Said(NamedTuple):
    """One event of a process."""

    at: float  # Unix seconds
    event: str
    process: str  # arm.at_most_once#0
    life: str
    fields: dict[str, Any]


class Commit(NamedTuple):
    """A group's position of one partition, confirmed by the broker."""

    at: float
    position: int
    process: str
    life: str


class Ending(NamedTuple):
    """What ended or stopped a process: a fault on it, or that it exited."""

    at: float
    what: str  # killed at process.after_read, frozen, exited with 3


class Journal:
    """The logs of a lab and its log of faults, as far as they say what became of messages."""

    def __init__(self, faults: Iterable[Fault], said: Iterable[Said]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.started)
        self.processes: dict[str, str] = {}  # by life
        self._commits: dict[tuple[str, str, int], list[Commit]] = {}
        self._first: dict[tuple[str, str, int], tuple[int, float]] = {}  # what a life was handed first of a partition
        self._about: dict[str, list[Said]] = {}
        self._starts: dict[str, list[float]] = {}
        self._exits: dict[str, list[Ending]] = {}
        for line in sorted(said, key=lambda line: line.at):
            self._take(line)

    def _take(self, line: Said) -> None:
        if line.life:
            self.processes[line.life] = line.process
        if line.event == _COMMITTED:
            self._commit(line)
        elif line.event == _RECEIVED:
            self._receive(line)
        elif line.event == "process.started":
            self._starts.setdefault(line.process, []).append(line.at)
        elif line.event == "part.exited":
            ending = Ending(line.at, f"ended with code {line.fields.get('code')}")
            self._exits.setdefault(str(line.fields.get("part")), []).append(ending)
        if message_id := line.fields.get("message.id"):
            self._about.setdefault(str(message_id), []).append(line)

    def _commit(self, line: Said) -> None:
        part = part_of(line.process)
        for partition, position in (line.fields.get("positions") or {}).items():
            topic, _, number = partition.rpartition("/")
            if topic and number.isdecimal() and isinstance(position, int):
                commit = Commit(line.at, position, line.process, line.life)
                self._commits.setdefault((part, topic, int(number)), []).append(commit)

    def _receive(self, line: Said) -> None:
        topic, partition, offset = (line.fields.get(name) for name in ("topic", "partition", "first_offset"))
        if isinstance(topic, str) and isinstance(partition, int) and isinstance(offset, int):
            self._first.setdefault((line.life, topic, partition), (offset, line.at))

    def skipped(self, commit: Commit, at: Coordinates) -> tuple[int, float] | None:
        """Where and when the life of a commit began to read the partition, if that lies above the record."""
        began = self._first.get((commit.life, at.topic, at.partition))
        return began if began and began[0] > at.offset else None

    def last_ending(self, part: str, before: float) -> tuple[str, Ending] | None:
        """The last end of one of the part's processes before a time."""
        ends = [(end, process) for process in self.processes_of([part]) if (end := self._last_ending(process, before))]
        return (max(ends)[1], max(ends)[0]) if ends else None

    def _last_ending(self, process: str, before: float) -> Ending | None:
        return max((end for end in self._endings(process) if end.at <= before), default=None)

    def passed(self, part: str, at: Coordinates) -> Commit | None:
        """The first commit of the part's processes above the record."""
        commits = self._commits.get((part, at.topic, at.partition), ())
        return next((commit for commit in commits if commit.position > at.offset), None)

    def about(self, message_id: str | None, part: str = "") -> Sequence[Said]:
        """What processes (of one part) said of the message, in the order of time."""
        found = self._about.get(message_id or "", ())
        return [line for line in found if not part or part_of(line.process) == part]

    def ending(self, process: str, after: float, before: float = float("inf")) -> Ending | None:
        """How the life of a process that was at work at `after` ended, or was held up, by `before`."""
        starts = self._starts.get(process, [])
        later = bisect_left(starts, after + _SLACK_S)
        until = min(before, starts[later] if later < len(starts) else float("inf"))
        return self.ending_after(process, after, until + _SLACK_S)

    def ending_after(self, process: str, after: float, before: float = float("inf")) -> Ending | None:
        """The first end or hold-up of a process in a span of time, whichever life it was."""
        return min((end for end in self._endings(process) if after - _SLACK_S <= end.at <= before), default=None)

    def _endings(self, process: str) -> list[Ending]:
        faults = (fault for fault in self.faults if fault.fault in _ENDINGS and _on(fault.target, process))
        return [Ending(fault.started, _done(fault)) for fault in faults] + self._exits.get(process, [])

    def processes_of(self, parts: Iterable[str]) -> list[str]:
        """The processes of the parts that ever wrote a line."""
        wanted = set(parts)
        return sorted({process for process in self.processes.values() if part_of(process) in wanted})

    def overlapping(self, first: float, last: float) -> list[Fault]:
        """The faults whose windows meet this time."""
        return [f for f in self.faults if f.started <= last and (f.ended is None or f.ended >= first)]


def part_of(process: str) -> str:
    """`arm.at_most_once` of `arm.at_most_once#0`."""
    return process.partition("#")[0]


def _on(target: str, process: str) -> bool:
    return target in (process, part_of(process))


def _done(fault: Fault) -> str:
    words = {"kill": "killed", "freeze": "frozen", "restart": "restarted"}[fault.fault]
    place = fault.details.get("failpoint")
    return f"{words} at {place}" if place else words


def read_journal(home: Path, parts: Iterable[str]) -> Journal:
    """The journal of a lab: its faults, and what the processes of these parts said."""
    return Journal(read_faults(home / "run" / "nemesis.jsonl"), _lines(home / "logs", {*parts, "supervisor"}))


def _lines(folder: Path, parts: set[str]) -> Iterator[Said]:
    files = (*folder.glob("*.log.1"), *folder.glob("*.log"))
    for file in sorted(files, key=lambda path: path.name, reverse=True):
        if part_of(file.name.partition(".log")[0]) in parts:
            yield from _file(file)


def _file(file: Path) -> Iterator[Said]:
    with file.open("rb") as stream:
        for text in stream:
            # that a chunk is done says nothing of who was lost
            if b'"offset.applied"' not in text and (line := said(text)):
                yield line


def said(text: bytes) -> Said | None:
    """One line of a log; None when it is cut or no event."""
    try:
        fields = msgspec.json.decode(text)
        at = datetime.fromisoformat(fields["time"]).timestamp()
        rest = {name: value for name, value in fields.items() if name not in _FIXED}
        return Said(at, fields["event"], fields.get("service.name", ""), fields.get("life", ""), rest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, TypeError):
        return None
