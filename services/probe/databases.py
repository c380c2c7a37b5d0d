"""What Postgres says: outboxes, dead letters, the replication slot. One kept connection a database."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from services.domain.arms import DEFAULT_PUBLISHER, ConsumerArm, Outbox, PublisherArm
from services.storage.pending import PENDING
from services.storage.postgres import AWAY, connect
from services.storage.slots import HELD

ANSWER_S: Final = 2.0
PAYMENTS: Final = "payments"
_OUTBOX: Final = """
SELECT count(*) AS rows, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_s
FROM outbox WHERE {pending}
"""
# One row, whether there is a slot or not.
_SLOT: Final = """
SELECT held.bytes, held.invalidated, pg_size_bytes(current_setting('max_slot_wal_keep_size')) AS most
FROM (SELECT) AS one LEFT JOIN ({held}) AS held ON true
"""
# By the index of parked letters alone: they are numbered as they are set down, so the first one is the oldest.
_LETTERS: Final = """
SELECT '{schema}' AS arm, count(*) AS rows, coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT at FROM {schema}.dead_letters WHERE state = 'parked' ORDER BY letter LIMIT 1
       )), 0)::float8 AS oldest_s
FROM {schema}.dead_letters WHERE state = 'parked'
"""


class Pending(msgspec.Struct, frozen=True):
    """Rows of an outbox that are not published, or letters that are parked: how many, and the age of the oldest."""

    rows: int
    oldest_s: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Pending":
        """From a row of an answer. Postgres's clock may have been set back meanwhile."""
        return cls(row["rows"], max(0.0, row["oldest_s"]))


def slot_lag(held: int | None, most: int, *, invalidated: bool | None) -> int:
    """What a slot holds back, of which `held` is known (None: there is no slot); `most`: what the server lets it.

    A slot that is lost holds nothing back, and that is the end of the matter that no alert may take for its cure: it
    counts as the most that it could have held, until there is a new one.
    """
    return max(most, 0) if held is None or invalidated else held


class Databases:
    """Asks the databases of some arms. A connection that failed is made anew at the next question."""

    def __init__(self, server: str, process: str) -> None:
        self._server = server
        self._process = process
        self._connections: dict[str, Any] = {}

    async def outbox(self, database: str, kept: Outbox) -> Pending:
        """Raises what storage.postgres.AWAY names when the database does not answer in time."""
        (row,) = await self._fetch(database, _OUTBOX.format(pending=PENDING[kept]))
        return Pending.of(row)

    async def letters(self, arms: Sequence[ConsumerArm]) -> Mapping[str, Pending]:
        """The parked letters of each arm that has any place for them. Raises like `outbox`."""
        queries = [_LETTERS.format(schema=arm.schema) for arm in arms if arm.dead_letters]
        rows = await self._fetch(PAYMENTS, " UNION ALL ".join(queries)) if queries else []
        return {row["arm"]: Pending.of(row) for row in rows}

    async def slot_bytes(self, database: str) -> int:
        """The write-ahead log that the database's slot holds back, as `slot_lag` has it. Raises like `outbox`."""
        (row,) = await self._fetch(database, _SLOT.format(held=HELD))
        return slot_lag(row["bytes"], row["most"], invalidated=row["invalidated"])

    async def _fetch(self, database: str, query: str) -> Sequence[Any]:
        try:
            connection = self._connections.get(database)
            if connection is None:
                connection = await connect(self._server, database, name=self._process)
                self._connections[database] = connection
            rows: Sequence[Any] = await connection.fetch(query, timeout=ANSWER_S)
        except AWAY:
            if (broken := self._connections.pop(database, None)) is not None:
                broken.terminate()
            raise
        return rows

    async def close(self) -> None:
        """Let go of the server; it may be frozen, so it is not waited for."""
        for connection in self._connections.values():
            connection.terminate()


def outboxes_of(publishers: Sequence[PublisherArm], consumers: Sequence[ConsumerArm]) -> list[tuple[str, str, Outbox]]:
    """(publisher arm, database, how its rows are kept) of every outbox. Redriven letters are in that of `payments`."""
    own = [
        (arm.name, arm.database(kind), arm.outbox) for arm in publishers if arm.outbox != "none" for kind in arm.kinds
    ]
    redrives: list[tuple[str, str, Outbox]] = [(DEFAULT_PUBLISHER, PAYMENTS, "until_confirmed")]
    return own + (redrives if any(arm.dead_letters for arm in consumers) else [])
