"""The client ledger: what the load saw, one JSON object a line, each call flushed before it was sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from services.auditor.history import Answers, Outcome
from services.domain.arms import DEFAULT_PUBLISHER, PublisherArm
from services.domain.messages import Kind


class _Line(msgspec.Struct):
    run: str
    key: str
    kind: Literal["orders", "refunds"]
    phase: Literal["call", "answer", "not_sent"]
    outcome: Outcome = "unknown"
    arm: str = DEFAULT_PUBLISHER  # the publisher arm that was called


class ClientLedger:
    """Reads every `*.jsonl` of a folder; a second read goes on where the first ended. No folder: nobody called."""

    def __init__(self, folder: Path, run: str | None = None) -> None:
        self._answers: dict[tuple[str, str], Answers] = {}
        self._folder = folder
        self._run = run
        self._read: dict[Path, int] = {}  # bytes, up to the end of the last whole line
        self._misfits = 0
        self._cut = 0
        self._decode = msgspec.json.Decoder(_Line).decode

    @property
    def skipped(self) -> int:
        """Lines that were not taken in: cut, or not of the ledger's form."""
        return self._misfits + self._cut

    def answers(self, arm: PublisherArm, kind: Kind) -> Answers:
        """What the clients of the arm were told about messages of the kind."""
        return self._answers.setdefault((arm.name, kind.name), Answers())

    def read(self) -> None:
        """Take in what there is by now."""
        self._cut = 0
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in self._whole_lines(file):
                self._take(line)

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
        answers = self._answers.setdefault((line.arm, line.kind), Answers())
        if line.phase == "call":
            answers.called(line.key)
        elif line.phase == "answer":
            answers.answered(line.key, line.outcome)
