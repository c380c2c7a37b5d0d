"""The client ledger: what the load saw, one JSON object a line, each call flushed before it was sent."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from services.auditor.facts import facts
from services.auditor.history import Answers, Outcome
from services.domain.arms import DEFAULT_PUBLISHER, PublisherArm
from services.domain.messages import Kind


class Line(msgspec.Struct):
    """One line: before a call, after it, or of a call that was not made."""

    run: str
    key: str
    kind: Literal["orders", "refunds"]
    phase: Literal["call", "answer", "not_sent"]
    outcome: Outcome = "unknown"
    arm: str = DEFAULT_PUBLISHER  # the publisher arm that was called
    at: float = 0.0


class Tried(NamedTuple):
    """What the ledger says of one key's attempts; Unix seconds."""

    attempts: int
    first: float
    last: float
    outcome: str  # of the last line: an outcome, or `unanswered`


def _with(tried: Tried | None, line: Line) -> Tried:
    calls = (tried.attempts if tried else 0) + (line.phase == "call")
    outcome = "unanswered" if line.phase == "call" else line.outcome
    return Tried(calls, tried.first if tried else line.at, line.at, outcome)


class ClientLedger:
    """Reads every `*.jsonl` of a folder; a second read goes on where the first ended. No folder: nobody called.

    `take` gets each line of the run, instead of the answers here.
    """

    def __init__(
        self, folder: Path, run: str | None = None, *, follow: bool = False, take: Callable[[Line], None] | None = None
    ) -> None:  # fmt: skip
        self._answers: dict[tuple[str, str], Answers] = {}
        self._folder = folder
        self._run = run
        self._read: dict[Path, int] = {}  # bytes, up to the end of the last whole line
        self._misfits = 0
        self._cut = 0
        self._decode = msgspec.json.Decoder(Line).decode
        self._runs: set[str] = set()
        self._follow = follow  # whether answers remember what was said since somebody looked
        self._take_line = take or self._remember

    @property
    def skipped(self) -> int:
        """Lines that were not taken in: cut, or not of the ledger's form."""
        return self._misfits + self._cut

    @property
    def runs(self) -> set[bytes]:
        """The facts of the runs that there are lines of."""
        return {facts((run,)) for run in self._runs if run}

    def answers(self, arm: PublisherArm, kind: Kind) -> Answers:
        """What the clients of the arm were told about messages of the kind."""
        return self._of(arm.name, kind.name)

    def _of(self, arm: str, kind: str) -> Answers:
        if (arm, kind) not in self._answers:
            self._answers[arm, kind] = answers = Answers()
            answers.touched = set() if self._follow else None
        return self._answers[arm, kind]

    def read(self, most: float = math.inf) -> bool:
        """Take in what there is by now, so many bytes at most; returns whether there is more."""
        self._cut = 0
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in self._whole_lines(file):
                self._take(line)
                most -= len(line)
                if most <= 0:
                    return True
        return False

    def lines(self, key: str, arm: str) -> Iterator[Line]:
        """What the ledger says of one key at an arm, in the order of its files."""
        for file in sorted(self._folder.glob("*.jsonl")):
            with file.open("rb") as stream:
                for text in stream:
                    if key.encode() in text:
                        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                            line = self._decode(text)
                            if line.key == key and line.arm == arm:
                                yield line

    def tried(self, keys: Collection[str], arm: str) -> dict[str, Tried]:
        """The attempts at the arm under these keys: every file is read again, for a few keys."""
        found: dict[str, Tried] = {}
        for file in sorted(self._folder.glob("*.jsonl")) if keys else ():
            with file.open("rb") as stream:
                for text in stream:
                    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                        line = self._decode(text)
                        if line.key in keys and line.arm == arm and self._run in (None, line.run):
                            found[line.key] = _with(found.get(line.key), line)
        return found

    def _whole_lines(self, file: Path) -> Iterator[bytes]:
        with file.open("rb") as stream:
            stream.seek(self._read.get(file, 0))
            for line in stream:
                if not line.endswith(b"\n"):  # half written: by a process that was killed, or that is just writing it
                    self._cut += 1
                    return
                self._read[file] = self._read.get(file, 0) + len(line)
                yield line

    def _take(self, text: bytes) -> None:
        try:
            line = self._decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._misfits += 1
            return
        if self._run not in (None, line.run):
            return
        self._runs.add(line.run)
        self._take_line(line)

    def _remember(self, line: Line) -> None:
        answers = self._of(line.arm, line.kind)
        if line.phase == "call":
            answers.called(line.key)
        elif line.phase == "answer":
            answers.answered(line.key, line.outcome)
