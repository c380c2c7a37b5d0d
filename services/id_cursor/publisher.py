"""The loop of the arm, as most hand-written relays have it: what lies above the highest published position is new.

It is wrong: positions are drawn at the insert and seen at the commit. A row that commits after a higher one was
published lies below the remembered position, and is never read.
"""

import asyncio
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from services.broker.publishing import STATEMENT_S, Publisher, Row
from services.storage.postgres import statements

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


class IdCursorPublisher(Publisher):
    """Asks the table for the rows above the highest position that was published."""

    arm = "id_cursor"
    sql = _SQL

    async def publish(self, connection: Any) -> None:
        """Publish, then remember. Died between: the rows are published again."""
        self.connected = True
        while not self.stopping.is_set():
            rows = await connection.fetch(_SQL["next"], self.settings.relay_batch, timeout=STATEMENT_S)
            if not rows:
                await asyncio.sleep(self.settings.relay_idle_poll_ms / 1000)
                continue
            await self.settle(connection, await self.send(connection, [_as_bytes(*row) for row in rows]))
            await self.failpoints.hit("publish.after_produce_before_confirm")
            await connection.execute(_SQL["remember"], rows[-1]["position"], timeout=STATEMENT_S)


def _as_bytes(position: int, message_id: UUID, key: str, *rest: Any) -> Row:
    return (position, message_id, key.encode(), *rest)
