"""The client ledger: what the client did and saw, a JSON object a line in LAB_HOME/ledger/<run>.jsonl.

A call is written before it is sent, so a client that dies leaves a call without an answer: unknown, never lost.
"""

import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from services.domain.arms import DEFAULT_PUBLISHER

Outcome = Literal["acknowledged", "refused", "unknown"]
Phase = Literal["call", "answer", "not_sent"]

_TRY_AGAIN: Final = frozenset({408, 425, 429})


class Answer(msgspec.Struct, frozen=True):
    """What came back for one attempt."""

    status: int | None = None  # None: a time-out, a reset, no connection
    replayed: bool = False  # Idempotent-Replayed: stored for an earlier attempt
    come_again: bool = False  # Retry-After: what sets "still in progress" apart from other conflicts (409)


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `attempt` counts from 1; `status` is None where no answer came."""

    at: float  # Unix seconds
    run: str
    key: str
    kind: str
    arm: str = DEFAULT_PUBLISHER  # the publisher arm that it was sent to; the default one is left out
    phase: Phase
    attempt: int | None = None
    outcome: Outcome | None = None
    status: int | msgspec.UnsetType | None = msgspec.UNSET
    replayed: bool | msgspec.UnsetType = msgspec.UNSET
    why: str | None = None


_DECODER: Final = msgspec.json.Decoder(Line)


def outcome_of(answer: Answer) -> Outcome:
    """What an answer says of the intent. No answer, a 5xx and a request to come again leave it unknown: no failure."""
    status = answer.status
    if status is None or status >= 500 or status in _TRY_AGAIN or (status == 409 and answer.come_again):
        return "unknown"
    return "acknowledged" if 200 <= status < 300 else "refused"


def together(ends: Collection[Outcome]) -> Outcome:
    """What became of a request at all the arms that it was sent to: what is not known of one is not known of all."""
    if "unknown" in ends:
        return "unknown"
    return "refused" if "refused" in ends else "acknowledged"


def sum_up(attempts: Collection[Outcome]) -> Outcome:
    """What all attempts together say of the intent: one acknowledgement is enough; a refusal counts when it stands
    alone, because an attempt of which nothing is known may have made the intent.
    """
    if "acknowledged" in attempts:
        return "acknowledged"
    return "refused" if attempts and "unknown" not in attempts else "unknown"


def outcomes(lines: Iterable[Line], arm: str = DEFAULT_PUBLISHER) -> dict[str, Outcome]:
    """What became of each key that was sent to an arm. A call without an answer is an unknown attempt."""
    attempts: dict[tuple[str, int | None], Outcome] = {}
    for line in lines:
        if line.arm != arm:
            continue
        if line.phase == "call":
            attempts.setdefault((line.key, line.attempt), "unknown")
        elif line.outcome is not None:
            attempts[line.key, line.attempt] = line.outcome
    by_key: dict[str, list[Outcome]] = {}
    for (key, _), outcome in attempts.items():
        by_key.setdefault(key, []).append(outcome)
    return {key: sum_up(found) for key, found in by_key.items()}


def ledger_file(home: Path, run: str) -> Path:
    """Where the ledger of a run lies."""
    return home / "ledger" / f"{run}.jsonl"


def read(file: Path) -> Iterator[Line]:
    """The lines of a ledger; a last line that a dying machine cut is left out.

    Raises msgspec.DecodeError for any other line that is none.
    """
    with file.open("rb") as stream:
        for text in stream:
            if text.endswith(b"\n"):
                yield _DECODER.decode(text)


class Ledger:
    """Appends to one run's ledger. A line is with the operating system when the method returns: SIGKILL loses none."""

    def __init__(self, file: Path, run: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._run = run

    def call(self, key: str, kind: str, attempt: int, arm: str = DEFAULT_PUBLISHER) -> None:
        """This attempt is about to be sent to the arm."""
        self._append(key, kind, "call", attempt=attempt, arm=arm)

    def answer(self, key: str, kind: str, attempt: int, answer: Answer, arm: str = DEFAULT_PUBLISHER) -> Outcome:
        """What came back for this attempt; returns what it says of the intent."""
        outcome = outcome_of(answer)
        seen = {"outcome": outcome, "status": answer.status, "replayed": answer.replayed}
        self._append(key, kind, "answer", attempt=attempt, arm=arm, **seen)
        return outcome

    def not_sent(self, key: str, kind: str, why: str, arm: str = DEFAULT_PUBLISHER) -> None:
        """The plan named this request and it was not sent to the arm."""
        self._append(key, kind, "not_sent", why=why, arm=arm)

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, key: str, kind: str, phase: Phase, **fields: Any) -> None:
        line = Line(at=time.time(), run=self._run, key=key, kind=kind, phase=phase, **fields)
        os.write(self._fd, msgspec.json.encode(line) + b"\n")
