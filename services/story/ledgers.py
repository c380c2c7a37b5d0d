"""What the ledgers know of one message: its intent, its outbox row, and every effect with the life that caused it."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import msgspec

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.messages import Coordinates
from services.storage.postgres import connect

_INTENT: Final = "SELECT business_id, run, traceparent, created_at FROM intents WHERE message_id = $1"
_RECORDS: Final = (
    "SELECT 'record' AS effect, topic, partition, \"offset\", life::text AS life, at FROM {schema}.records "
    "WHERE message_id = $1"
)
_LETTERS: Final = (
    "SELECT 'letter ' || state AS effect, topic, partition, \"offset\", life::text AS life, at "
    "FROM {schema}.dead_letters WHERE message_id = $1"
)
_APPLICATIONS: Final = (
    'SELECT account, effect, topic, partition, "offset", life, at FROM applications '
    "WHERE account = ANY ($1) AND effect = ANY ($2) AND message_id = $3"
)


class Intent(msgspec.Struct, frozen=True):
    """The promise."""

    publisher: str
    business_id: str
    run: str
    traceparent: str
    at_s: float


class Row(msgspec.Struct, frozen=True):
    """One row of an effect, or a letter."""

    arm: str
    effect: str
    at: Coordinates
    life: str
    at_s: float


class Known(msgspec.Struct, frozen=True):
    """Of one message."""

    intents: list[Intent]
    rows: list[Row]


async def look_up(postgres: str, ledger: str, message_id: UUID) -> Known:
    """Ask every ledger. Raises what asyncpg raises when one does not answer."""
    intents, rows, applications = await asyncio.gather(
        _intents(postgres, message_id), _rows(postgres, message_id), _applications(ledger, message_id)
    )
    return Known(intents, sorted(rows + applications, key=lambda row: row.at_s))


async def _intents(server: str, message_id: UUID) -> list[Intent]:
    found = []
    for arm in PUBLISHER_ARMS.values():
        for kind in arm.kinds:
            for row in await _ask(server, arm.database(kind), _INTENT, message_id):
                at_s = row["created_at"].timestamp()
                found.append(Intent(arm.name, row["business_id"], row["run"], row["traceparent"], at_s))
    return found


async def _rows(server: str, message_id: UUID) -> list[Row]:
    connection = await connect(server, "payments", name="lab trace")
    try:
        found = []
        for arm in CONSUMER_ARMS.values():
            for statement in (_RECORDS, _LETTERS):
                rows = await connection.fetch(statement.format(schema=arm.schema), message_id)
                found += [_row(arm.name, row) for row in rows]
        return found
    finally:
        await connection.close()


async def _applications(server: str, message_id: UUID) -> list[Row]:
    rows = await _ask(server, "provider", _APPLICATIONS, list(CONSUMER_ARMS), ["charge", "email"], str(message_id))
    return [_row(row["account"], row) for row in rows]


async def _ask(server: str, database: str, statement: str, *arguments: Any) -> list[Any]:
    connection = await connect(server, database, name="lab trace")
    try:
        rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows
    finally:
        await connection.close()


def _row(arm: str, row: Any) -> Row:
    at = Coordinates(row["topic"], row["partition"], row["offset"])
    return Row(arm, row["effect"], at, row["life"], row["at"].timestamp())


def lives_of(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """(arm, life) of every life that caused an effect, once each, in the order of time."""
    yield from dict.fromkeys((row.arm, row.life) for row in rows if not row.effect.startswith("letter"))
