"""Parked letters, read in bounded batches by who changes them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from services.domain.messages import Coordinates
from services.letters.letters import Letter, Name, Selection, named, parse_headers, sql
from services.letters.originals import Original, read_originals

BATCH: Final = 500
BATCH_OF_ORIGINALS: Final = 16  # letters whose values are not in the table may be a megabyte each


class NotParked(Exception):
    """A letter that was named was redriven or discarded before."""


class Passing(Protocol):
    """What passes failpoints."""

    async def hit(self, name: str) -> None: ...


class Desk(msgspec.Struct, frozen=True):
    """What changing letters needs, and who does it, why."""

    database: Any  # a connection to `payments`
    kafka: str
    failpoints: Passing
    actor: str
    why: str


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A letter that can be redriven or discarded."""

    name: Name
    at: Coordinates
    message_id: UUID | None
    rounds: int
    first_failure: datetime
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    value: bytes | None = None  # null: as the table keeps it, unless it is away
    away: bool  # the table has no value: it was too large, or is null
    kept: int = 0  # bytes of the value that the table has


class Outcome(msgspec.Struct):
    """What became of a selection."""

    operation: str
    changed: int = 0
    left_out: dict[str, str] = {}  # letter -> why

    def leave_out(self, letter: Parked, why: str) -> None:
        self.left_out[str(letter.name)] = why


Tell = Callable[[Outcome], None]


async def check_parked(database: Any, names: Sequence[Name]) -> list[Letter]:
    """The letters of these names.

    Raises UnknownLetter when there is none, NotParked when one is not parked any more.
    """
    letters = await named(database, names)
    if settled := [letter for letter in letters if letter.state != "parked"]:
        said = ", ".join(f"{letter.letter} is already {letter.state}" for letter in settled[:5])
        more = f" and {len(settled) - 5} more" if len(settled) > 5 else ""
        raise NotParked(f"{said}{more}; nothing was changed")
    return letters


async def batches(desk: Desk, selection: Selection) -> AsyncIterator[tuple[str, list[Parked]]]:
    """An arm and parked letters of it, until all that were there at the start have been given out once."""
    selection = msgspec.structs.replace(selection, state="parked")
    for arm in selection.arms:
        after, last = 0, await desk.database.fetchval(sql(arm, "last"))
        while rows := await desk.database.fetch(sql(arm, "page"), *selection.of(arm), after, last, BATCH):
            after = rows[-1]["letter"]
            letters = [_parked(arm, row) for row in rows]
            if kept := [letter for letter in letters if not letter.away]:
                yield arm, kept
            away = [letter for letter in letters if letter.away]
            for start in range(0, len(away), BATCH_OF_ORIGINALS):
                yield arm, away[start : start + BATCH_OF_ORIGINALS]


async def with_originals(desk: Desk, letters: Sequence[Parked]) -> list[Parked]:
    """The letters, those whose value is away as they lie on their topics; without those that are gone from there."""
    places = [letter.at for letter in letters if letter.away]
    originals = await asyncio.to_thread(read_originals, desk.kafka, places)
    return [_restored(letter, originals) for letter in letters if not letter.away or letter.at in originals]


def _restored(letter: Parked, originals: dict[Coordinates, Original]) -> Parked:
    if not letter.away:
        return letter
    original = originals[letter.at]
    return msgspec.structs.replace(
        letter, key=original.key, value=original.value, headers=list(original.headers)
    )  # fmt: skip


def _parked(arm: str, row: Any) -> Parked:
    return Parked(
        name=Name(arm, row["letter"]),
        at=Coordinates(row["topic"], row["partition"], row["offset"]),
        message_id=row["message_id"],
        rounds=row["rounds"],
        first_failure=row["first_failure"],
        key=row["key"],
        headers=parse_headers(row["headers"]),
        away=row["away"],
        kept=row["kept"],
    )
