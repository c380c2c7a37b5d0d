"""An audit, as machines and people read it: rows that obey the conservation law, and the evidence behind them."""

from datetime import datetime
from typing import Final, Literal

import msgspec

State = Literal[
    "applied_once",
    "duplicated",
    "waiting",
    "dead_lettered",
    "discarded",
    "uncertain",
    "lost",
    "unexpected",
    "unexplained",
]
# Where a message that was not applied may be: the first that holds counts, `lost` last and by evidence of its own.
NOT_APPLIED: Final[tuple[State, ...]] = ("waiting", "dead_lettered", "discarded", "uncertain", "lost")
# States whose messages are listed one by one.
LISTED: Final[tuple[State, ...]] = ("unexplained", "lost", "duplicated", "unexpected", "uncertain", "dead_lettered")


class AuditRow(msgspec.Struct, kw_only=True):
    """One hop, arm and effect. Counts are messages, except `extra_applications` and `inherited` (applications)."""

    hop: str
    arm: str
    effect: str
    expected: int = 0
    applied_once: int = 0
    duplicated: int = 0
    extra_applications: int = 0
    lost: int = 0
    unexpected: int = 0
    waiting: int = 0
    dead_lettered: int = 0
    discarded: int = 0
    uncertain: int = 0
    unexplained: int = 0
    also_held: int = 0
    inherited: int = 0

    @property
    def name(self) -> str:
        """`process/at_least_once/charge`."""
        return f"{self.hop}/{self.arm}/{self.effect}"

    def accounted(self) -> int:
        """The right-hand side of the law; `lost` has its own evidence, it is never a remainder."""
        held = self.waiting + self.dead_lettered + self.discarded + self.uncertain
        return self.applied_once + self.duplicated + held + self.lost

    def add(self, other: "AuditRow") -> None:
        """Add the counts of another row, of the same hop, arm and effect."""
        for count in COUNTS:
            setattr(self, count, getattr(self, count) + getattr(other, count))


COUNTS: Final = tuple(field for field in AuditRow.__struct_fields__ if field not in {"hop", "arm", "effect"})


class Window(msgspec.Struct, frozen=True):
    """A fault that overlaps a message's life; Unix seconds, `ended` is None while it lasts."""

    fault: str
    target: str
    started: float
    ended: float | None


class Evidence(msgspec.Struct, kw_only=True):
    """One message in one of the states that people ask about."""

    hop: str
    arm: str
    effect: str
    state: State
    message_id: str | None  # null: a record without an id, or a key without an intent
    at: list[str]  # topic/partition/offset of each copy that was read
    applications: int
    trace_id: str | None = None
    key: str | None = None  # Idempotency-Key, on the hop accept
    reason: str | None = None  # what the checkers say: a cause, a state, a difference
    last_seen: str | None = None  # the place and the time of the last trace that it left
    attempts: int | None = None  # calls of the client on the hop accept; of the provider, in vain, on the hop process
    faults: list[Window] = []  # whose windows overlap its life on this hop
    why: str | None = None  # in one line, from what was written down; null: nothing says it


class AuditDocument(msgspec.Struct, kw_only=True):
    """The answer of `lab audit --json`."""

    at: datetime  # when the first store was read
    closes: bool  # no row has anything unexplained
    rows: list[AuditRow]
    dead_letter_causes: dict[str, dict[str, int]]  # by row name and cause: messages in the state dead_lettered
    evidence: list[Evidence]
    evidence_left_out: dict[str, int]  # `row name/state`: messages in that state that are not listed
    run: str | None  # null: all runs
    out_of_scope: int  # intents whose Idempotency-Key is in no client ledger
    undecodable: int  # records without a message id
    ledger_lines_skipped: int  # cut by a SIGKILL, or not of the ledger's form
    truncated: list[str]  # topic/partition whose first records the broker has dropped
    took_s: float
