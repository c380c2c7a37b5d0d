"""What tests of dead letters share: the tables of the arms with letters in them; as a program, a redrive that dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from services.letters.letters import ARMS, Selection
from services.letters.parked import Desk
from services.letters.redrive import redrive
from services.stack.provision import SERVICES

WINDOW_S = 7 * 86_400.0
ORIGIN = "lettering.v1"  # no such topic: only letters without a value are looked for there
_PARK = """
INSERT INTO {arm}.dead_letters (topic, partition, "offset", message_id, run, reason, detail, rounds, attempts, key,
                                value, headers, life)
VALUES ($1, 0, $2, $3, 'r', $4, 'found so', $5, 6, $6, $7, $8, gen_random_uuid()) RETURNING letter
"""
_MANY = """
INSERT INTO {arm}.dead_letters (topic, partition, "offset", message_id, reason, detail, key, value, headers, life)
SELECT 'lettering.v1', 0, n, uuidv7(), 'attempts', 'found so', convert_to('c-' || n % 7, 'UTF8'),
       convert_to('{{"n":' || n || '}}', 'UTF8'), '[["ce_type", "bGFi"]]', gen_random_uuid()
  FROM generate_series(1, $1::int) AS n
"""


class Free:
    """Failpoints that nobody armed."""

    async def hit(self, name: str) -> None: ...


class Deadly:
    """Dies, as by SIGKILL, at the pass of this number."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    async def hit(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def letters(server: str, database: str) -> AsyncIterator[Any]:
    """A connection to a database that has the outbox and the tables of every arm that keeps letters."""
    connection = await asyncpg.connect(f"{server}/{database}")
    await connection.execute((SERVICES / "storage/outbox.sql").read_text())
    for arm in ARMS.values():
        for file in (SERVICES / f"payments/schema/{name}.sql" for name in ("common", arm.name)):
            if file.exists():
                await connection.execute(file.read_text().replace("{schema}", arm.schema))
    yield connection
    await connection.close()


async def park(
    connection: Any,
    offset: int,
    arm: str = "effectively_once",
    *,
    topic: str = ORIGIN,
    message_id: UUID | None = None,
    reason: str = "refused",
    rounds: int = 0,
    key: bytes | None = b"c-1",
    value: bytes | None = b"{}",
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> str:
    """Park one letter, as the arms do it; its name."""
    kept = msgspec.json.encode(headers).decode()
    number = await connection.fetchval(
        _PARK.format(arm=arm), topic, offset, message_id, reason, rounds, key, value, kept
    )
    return f"{arm}/{number}"


async def park_many(connection: Any, count: int, arm: str = "effectively_once") -> None:
    """Park letters that differ in offset and id, with seven keys."""
    await connection.execute(_MANY.format(arm=arm), count)


def desk(connection: Any, kafka: str = "", failpoints: Any = None) -> Desk:
    return Desk(connection, kafka, failpoints or Free(), "tester", "the provider is mended")


async def _redrive_and_die(dsn: str, nth: int) -> None:
    connection = await asyncpg.connect(dsn)
    await redrive(desk(connection, failpoints=Deadly(nth)), Selection(), lambda _: None, window_s=WINDOW_S)


if __name__ == "__main__":
    asyncio.run(_redrive_and_die(sys.argv[1], int(sys.argv[2])))
