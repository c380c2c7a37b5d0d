"""The matrix as data: which place is struck in which process, what that needs, what holds, and what must break.

What holds is what the arms promise (`services/domain/arms.py`), in every cell; only what breaks is said here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.audit import AuditRow
from services.domain.verdict import Control
from services.failpoints.names import COMMANDS, FAILPOINTS, REDRIVE, REPLAY, arm_of

KILLS: Final = ("kill nth=1 count=1", "kill nth=2 count=1", "kill nth=7 count=1", "kill p=0.02 count=8")
LEAST_KILLS: Final = 300  # of the long form: cells are run again until there were so many
AT_ONCE: Final = 6  # processes struck in one round: their starts are what two cores are busy with
REPLAYED_INTO: Final = "effectively_once"  # where redrives and replays go: what they add there is a second effect


class Provocation(msgspec.Struct, frozen=True):
    """What makes a place be passed that a calm run does not pass.

    `causes`: of the dead letters that come of it, each with its arm (empty: of any).
    """

    gloss: str
    arms: tuple[tuple[str, str], ...] = ()  # failpoint and action, armed while the load runs
    poison: bool = False  # a record a second that is no event
    rebalanced: str = ""  # the process that gets a second replica and loses it, all the time
    redriven: str = ""  # the arm whose letters are redriven all the time
    causes: tuple[tuple[str, str], ...] = ()


_NO_ID: Final = "no_message_id"  # what a poison record is dead-lettered for
CALM: Final = Provocation("")
POISON: Final = Provocation("a poison record a second", poison=True, causes=(("", _NO_ID),))
LATE_COMMITS: Final = Provocation(
    "one request in three commits 0.3 s late",
    arms=(("accept.after_insert_before_commit", "delay:300 p=0.33 arm=id_cursor"),),
)


def failing(arm: str) -> Provocation:
    """Messages of the arm fail in a way that passes."""
    armed = ("provider.before_applying", f"error:http_503 p=0.35 arm={arm}")
    return Provocation("the provider answers 503 to one call in three", arms=(armed,), causes=((arm, "attempts"),))


def rebalanced(process: str) -> Provocation:
    """The process's group deals its partitions out again and again."""
    return Provocation("a second replica that comes and goes", rebalanced=process)


def going_round(arm: str) -> Provocation:
    """Letters that the arm's lane dead-letters again."""
    return Provocation(
        "a poison record a second, redriven again and again", poison=True, redriven=arm, causes=(("", _NO_ID),)
    )


def refused(arm: str) -> Provocation:
    """Letters of the arm that can be applied when they are sent again."""
    armed = ("provider.before_applying", f"error:http_400 p=0.3 arm={arm}")
    return Provocation("the provider refuses one call in three", arms=(armed,), causes=((arm, "refused"),))


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One place in one process, and what is done there, one action after the other."""

    failpoint: str
    process: str
    needs: Provocation = CALM
    breaks: tuple[Control, ...] = ()
    actions: tuple[str, ...] = KILLS
    account: str = ""  # in the provider: whose calls alone are struck

    @property
    def name(self) -> str:
        return f"{self.failpoint}/{self.process}" + (f"/{self.account}" if self.account else "")

    @property
    def selector(self) -> str:
        """What `arm=` says, so that nobody else is struck."""
        return self.account if FAILPOINTS[self.failpoint].by_account else self.process

    @property
    def hops(self) -> tuple[str, ...]:
        return ("process",) if self._consumes else ("accept", "publish")

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms whose rows tell what the cell has done."""
        if self.process == "provider":
            return (self.account,) if self.account else tuple(CONSUMER_ARMS)
        if self.process in COMMANDS:
            return (REPLAYED_INTO,)
        arm = arm_of(self.process)
        return (arm if arm in CONSUMER_ARMS or arm in PUBLISHER_ARMS else DEFAULT_PUBLISHER,)

    @property
    def tells(self) -> frozenset[tuple[str, str]]:
        """The hops and arms whose rows are the cell's."""
        return frozenset((hop, arm) for hop in self.hops for arm in self.arms)

    def rows(self, rows: Iterable[AuditRow]) -> list[AuditRow]:
        """The rows of an audit that are the cell's."""
        return [row for row in rows if (row.hop, row.arm) in self.tells]

    @property
    def _consumes(self) -> bool:
        return self.process == "provider" or self.process in COMMANDS or arm_of(self.process) in CONSUMER_ARMS


def _breaks(hop: str, arm: str, state: str, effect: str = "") -> tuple[Control, ...]:
    return (Control(hop=hop, arm=arm, state=state, effect=effect),)


_DOUBLED: Final = _breaks("process", "at_least_once", "duplicated")
_LOST: Final = _breaks("process", "at_most_once", "lost")
_CHARGED_TWICE: Final = _breaks("process", "kafka_transactions", "duplicated", "charge")
_DROPPED: Final = _breaks("process", "stock_faust", "lost")
_SKIPPED: Final = _breaks("publish", "id_cursor", "lost")

BREAKS: Final[Mapping[tuple[str, str], tuple[Control, ...]]] = {
    ("accept.after_commit_before_produce", "orders.dual_write_after_commit"): _breaks(
        "publish", "dual_write_after_commit", "lost"
    ),
    ("accept.after_produce_before_commit", "orders.dual_write_before_commit"): _breaks(
        "publish", "dual_write_before_commit", "unexpected"
    ),
    ("publish.after_fetch", "id_cursor"): _SKIPPED,
    ("publish.after_produce_before_confirm", "id_cursor"): _SKIPPED,
    ("process.after_read", "arm.at_most_once"): _LOST,
    ("process.after_commit_before_effect", "arm.at_most_once"): _LOST,
    ("process.after_charge_before_record", "arm.at_most_once"): _breaks("process", "at_most_once", "lost", "record"),
    ("process.after_charge_before_record", "arm.at_least_once"): _DOUBLED,
    ("process.after_charge_before_record", "retry.at_least_once"): _DOUBLED,
    ("process.after_record_before_commit", "arm.at_least_once"): _DOUBLED,
    ("process.after_record_before_commit", "retry.at_least_once"): _DOUBLED,
    ("process.after_retry_produced_before_commit", "arm.at_least_once"): _DOUBLED,
    ("process.after_retry_produced_before_commit", "retry.at_least_once"): _DOUBLED,
    ("process.in_transaction_before_offsets", "arm.kafka_transactions"): _CHARGED_TWICE,
    ("process.in_transaction_after_offsets", "arm.kafka_transactions"): _CHARGED_TWICE,
    ("provider.before_applying", "provider"): (*_DROPPED, *_LOST),
    ("provider.after_applying_before_answer", "provider"): (*_DROPPED, *_LOST, *_DOUBLED, *_CHARGED_TWICE),
}

_RETRIES: Final = "process.after_retry_produced_before_commit"
_REBALANCE: Final = "process.during_rebalance"
_LETTERS: Final = "process.after_dead_letter_produced_before_commit"


def needs_of(failpoint: str, process: str) -> Provocation:
    """What a run must do so that this process passes this place."""
    if failpoint == _REBALANCE:
        return rebalanced(process)
    if process.startswith("retry."):
        return going_round(arm_of(process)) if failpoint == _LETTERS else failing(arm_of(process))
    if failpoint == _RETRIES:
        return failing(arm_of(process))
    if failpoint == _LETTERS:
        return POISON
    if process == REDRIVE:
        return refused(REPLAYED_INTO)
    return LATE_COMMITS if process == "id_cursor" else CALM


# The tutorial's loop has no place of ours in it; what it loses, it loses by an exception: the matrix's control.
CONTROL: Final = Cell(
    failpoint="provider.before_applying",
    process="provider",
    account="stock_faust",
    breaks=_DROPPED,
    actions=("error:http_503 count=10",),
)

CELLS: Final = (
    *(
        Cell(
            failpoint=point.name,
            process=owner,
            needs=needs_of(point.name, owner),
            breaks=BREAKS.get((point.name, owner), ()),
        )
        for point in FAILPOINTS.values()
        for owner in point.owners
    ),
    CONTROL,
)


class Round(msgspec.Struct, frozen=True):
    """Cells that are struck under one load, before one drain and one audit."""

    cells: tuple[Cell, ...]

    def causes(self, arm: str) -> frozenset[str]:
        """Why messages of the arm may be dead-lettered in it."""
        return frozenset(cause for cell in self.cells for whose, cause in cell.needs.causes if whose in ("", arm))


def apart(one: Cell, other: Cell) -> bool:
    """Whether two cells must not meet in a round: of one process, or told by the same rows where something must break.

    Promises hold whoever is struck, but what broke must have been broken by the cell that says so.
    """
    told_together = bool(one.tells & other.tells)
    return one.process == other.process or (told_together and bool(one.breaks or other.breaks))


def rounds_of(cells: Sequence[Cell]) -> Iterator[Round]:
    """The cells in few rounds."""
    of_arm = Counter(arm for cell in cells if cell.breaks for arm in cell.arms)
    left = sorted(cells, key=lambda cell: -max(of_arm[arm] for arm in cell.arms))  # what needs most rounds comes first
    while left:
        chosen: list[Cell] = []
        for cell in left:
            if len(chosen) < AT_ONCE and not any(apart(cell, other) for other in chosen):
                chosen.append(cell)
        left = [cell for cell in left if cell not in chosen]
        yield Round(tuple(chosen))


# The short form: each failpoint once, in the process that has the least to do; several of an arm in one round.
SHORT: Final[Mapping[str, str]] = {
    "accept.before_commit": "orders",
    "accept.after_commit_before_answer": "refunds",
    "accept.after_commit_before_produce": "orders.dual_write_after_commit",
    "accept.after_produce_before_commit": "orders.dual_write_before_commit",
    "accept.after_insert_before_commit": "orders.id_cursor",
    "publish.after_fetch": "id_cursor",
    "publish.half_batch": "relay",
    "publish.after_produce_before_delete": "relay",
    "publish.after_produce_before_confirm": "cdc",
    "process.after_read": "arm.at_most_once",
    "process.after_commit_before_effect": "arm.at_most_once",
    "process.after_reserve_before_charge": "arm.effectively_once",
    "process.after_charge_before_record": "retry.at_least_once",
    "process.after_record_before_commit": "arm.at_least_once",
    "process.after_retry_produced_before_commit": "arm.at_least_once",
    "process.after_dead_letter_produced_before_commit": "arm.kafka_transactions",
    "process.during_rebalance": "arm.effectively_once",
    "process.in_transaction_before_offsets": "arm.kafka_transactions",
    "process.in_transaction_after_offsets": "arm.kafka_transactions",
    "process.after_email_claimed_before_sent": "arm.effectively_once",
    "redrive.half_way": REDRIVE,
    "replay.half_way": REPLAY,
    "provider.before_applying": "provider",
    "provider.after_applying_before_answer": "provider",
}


def short_rounds() -> Iterator[Round]:
    """First what strikes one arm, then what strikes all of them: the provider, and the commands."""
    cells = list(_short(KILLS[0]))
    yield Round(tuple(cell for cell in cells if len(cell.arms) == 1 and cell.process not in COMMANDS))
    yield Round(tuple(cell for cell in cells if len(cell.arms) > 1 or cell.process in COMMANDS))


def errors_round() -> Round:
    """The places of the consumer arms, with an error instead of a kill."""
    cells = _short("error:connection count=2")
    return Round(tuple(c for c in cells if c.failpoint.startswith("process.") and FAILPOINTS[c.failpoint].errors))


def _short(action: str) -> Iterator[Cell]:
    for cell in CELLS:
        if SHORT[cell.failpoint] == cell.process and not cell.account:
            yield msgspec.structs.replace(cell, actions=(action,), needs=_briefly(cell.needs))


def _briefly(needs: Provocation) -> Provocation:
    """So that the drain need not wait for messages that failed again and again."""
    return msgspec.structs.replace(needs, arms=tuple((name, f"{action} count=40") for name, action in needs.arms))
