"""Letters as they lie in the tables: their names, which of them are meant, and what they are."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.domain.messages import Coordinates
from services.storage.postgres import statements

State = Literal["parked", "redriven", "discarded"]
SQL: Final = statements(Path(__file__).with_name("statements.sql"))
ARMS: Final[Mapping[str, ConsumerArm]] = {arm.name: arm for arm in CONSUMER_ARMS.values() if arm.dead_letters}


class UnknownLetter(LookupError):
    """A name that no letter has."""


class Name(msgspec.Struct, frozen=True, order=True):
    """How people name a letter."""

    arm: str
    number: int

    def __str__(self) -> str:
        return f"{self.arm}/{self.number}"


def parse_name(text: str) -> Name:
    """Raises UnknownLetter for what is no ARM/NUMBER of an arm that has letters."""
    arm, _, number = text.rpartition("/")
    if arm not in ARMS or not number.isdecimal() or not 0 < int(number) < 2**63:
        raise UnknownLetter(
            f"{text!r} is no letter: say ARM/NUMBER, as `lab dlq list` shows it; the arms are {', '.join(ARMS)}"
        )
    return Name(arm, int(number))


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant; what is None does not matter."""

    arms: Sequence[str] = tuple(ARMS)
    reason: str | None = None
    state: State | None = None
    since: datetime | None = None  # came back, or came, at that time or later
    message_id: UUID | None = None
    names: Sequence[Name] | None = None

    def of(self, arm: str) -> tuple[Any, ...]:
        """The first five arguments of the statements."""
        numbers = None if self.names is None else [name.number for name in self.names if name.arm == arm]
        return self.reason, self.state, self.since, self.message_id, numbers


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its contents."""

    letter: str
    arm: str
    state: State
    rounds: int  # how often it was redriven
    reason: str
    detail: str
    message_id: UUID | None
    run: str
    origin: str  # topic/partition/offset of the record as the arm first met it
    attempts: int
    size: int | None  # of the value, bytes; None: the value lies at the origin only
    first_failure: datetime
    last_failure: datetime


class Entry(msgspec.Struct, frozen=True):
    """One line of a letter's log."""

    action: str
    actor: str
    why: str
    at: datetime


class Contents(msgspec.Struct, frozen=True):
    """The record of a letter: as the table keeps it, the value null where only the origin has it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


_HEADERS: Final = msgspec.json.Decoder(list[tuple[str, bytes | None]])


def parse_headers(text: str) -> list[tuple[str, bytes | None]]:
    """The column `headers`: [[name, base64 or null], …]."""
    return _HEADERS.decode(text)


def sql(arm: str, name: str) -> str:
    """A named statement for the tables of an arm."""
    return SQL[name].replace("{schema}", ARMS[arm].schema)


async def listed(database: Any, selection: Selection, limit: int) -> tuple[list[Letter], int]:
    """The newest letters of a selection, newest last, and how many match it in all."""
    found: list[Letter] = []
    matching = 0
    for arm in selection.arms:
        rows = await database.fetch(sql(arm, "list"), *selection.of(arm), limit)
        matching += rows[0]["matching"] if rows else 0
        found += [_letter(arm, row) for row in rows]
    found.sort(key=lambda letter: (letter.last_failure, parse_name(letter.letter)))
    return found[-limit:], matching


async def named(database: Any, names: Sequence[Name]) -> list[Letter]:
    """The letters of these names, in their order.

    Raises UnknownLetter when there is none of a name.
    """
    selection = Selection(arms=sorted({name.arm for name in names}), names=names)
    found, _ = await listed(database, selection, len(names))
    by_name = {letter.letter: letter for letter in found}
    if missing := [str(name) for name in names if str(name) not in by_name]:
        raise UnknownLetter(f"there is no letter {', '.join(missing)}: `lab dlq list` shows those that there are")
    return [by_name[str(name)] for name in names]


async def contents(database: Any, name: Name) -> Contents:
    """What the record of a letter was."""
    row = await database.fetchrow(sql(name.arm, "contents"), name.number)
    return Contents(row["key"], row["value"], parse_headers(row["headers"]))


async def log(database: Any, name: Name) -> list[Entry]:
    """What was done with a letter, oldest first."""
    return [Entry(**row) for row in await database.fetch(sql(name.arm, "log"), name.number)]


def _letter(arm: str, row: Any) -> Letter:
    return Letter(
        letter=f"{arm}/{row['letter']}",
        arm=arm,
        origin=str(Coordinates(row["topic"], row["partition"], row["offset"])),
        **{name: row[name] for name in _AS_THEY_ARE},
    )


_AS_THEY_ARE: Final = (
    "state", "rounds", "reason", "detail", "message_id", "run", "attempts", "size", "first_failure", "last_failure",
)  # fmt: skip
