"""The replication stream of one slot: what was inserted, in the order of the commits, and how far that is confirmed."""

import asyncio
from typing import Any, Final

import msgspec
import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from services.cdc import pgoutput
from services.cdc.pgoutput import Inserted
from services.storage.postgres import dsn

PUBLICATION: Final = "cdc"
_OPTIONS: Final = {"proto_version": "1", "publication_names": PUBLICATION, "binary": "true"}
_CONNECT_S: Final = 5
_START_S: Final = 10.0


class Batch(msgspec.Struct):
    """Rows in the order of the stream, and the position after the last transaction that ended among them (0: none)."""

    rows: list[Inserted]
    end: int = 0


class Stream:
    """One connection that reads one slot. A connection that is lost raises psycopg2.Error at the next use."""

    def __init__(self, cursor: Any) -> None:
        self.confirmed = 0  # every transaction that ends up to here is confirmed
        self._cursor = cursor
        self._in_transaction = False
        self._readable = asyncio.Event()
        self._fd = cursor.fileno()  # a cursor whose connection is lost does not tell it any more
        asyncio.get_running_loop().add_reader(self._fd, self._readable.set)

    def read(self, limit: int) -> Batch:
        """What has arrived, up to `limit` rows. Raises UnexpectedMessage."""
        self._readable.clear()
        batch = Batch([])
        rows, read_message, inserted = batch.rows, self._cursor.read_message, pgoutput.inserted
        while len(rows) < limit and (message := read_message()) is not None:
            data = message.payload
            kind = data[0]
            if kind == pgoutput.INSERT:
                rows.append(inserted(data))
            elif kind == pgoutput.COMMIT:
                batch.end, self._in_transaction = pgoutput.end_of_transaction(data), False
            elif kind == pgoutput.BEGIN:
                self._in_transaction = True
            elif kind == pgoutput.RELATION:
                pgoutput.check_relation(data)
        return batch

    async def wait(self, timeout_s: float) -> None:
        """Wait until something has arrived."""
        try:
            await asyncio.wait_for(self._readable.wait(), timeout_s)
        except TimeoutError:
            return

    def confirm(self, position: int) -> None:
        """Tell the server that everything up to `position` is published; what went before is never sent again."""
        self.confirmed = max(self.confirmed, position)
        self.ping()

    def confirm_idle(self) -> None:
        """With nothing pending: the server's position, as far as it has looked, else other databases' log is held."""
        if not self._in_transaction and self._cursor.wal_end > self.confirmed:
            self.confirm(self._cursor.wal_end)

    def ping(self) -> None:
        """Say again what is confirmed, so that the server does not take this reader for dead."""
        at = self.confirmed
        self._cursor.send_feedback(write_lsn=at, flush_lsn=at, apply_lsn=at, force=True)

    def close(self) -> None:
        """Let go of the slot."""
        asyncio.get_running_loop().remove_reader(self._fd)
        self._cursor.connection.close()


async def open_stream(server: str, slot: str, name: str) -> Stream:
    """Begin to read the slot of the database of the same name, from where it was confirmed.

    Raises psycopg2.Error, or TimeoutError when the server does not answer within 10 s.
    """
    return Stream(await asyncio.wait_for(asyncio.to_thread(_start, server, slot, name), _START_S))


def _start(server: str, slot: str, name: str) -> Any:
    connection = psycopg2.connect(
        dsn(server, slot),
        connection_factory=LogicalReplicationConnection,
        connect_timeout=_CONNECT_S,
        application_name=name,
    )
    cursor = connection.cursor()
    cursor.start_replication(slot_name=slot, decode=False, status_interval=10, options=_OPTIONS)
    return cursor
