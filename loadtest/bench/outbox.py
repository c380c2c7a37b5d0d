"""An outbox of a benchmark's own: filled at once or at a steady rate, and the topic that its rows go to."""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from services.domain.messages import ORDERS
from services.domain.sharding import shard_of
from services.stack.errors import StackError
from services.stack.home import Home
from services.storage.postgres import connect, pool
from services.storage.slots import ensure_slot

VALUE_BYTES: Final = 300
TIMEOUT_S: Final = 120.0
WRITERS: Final = 8
_KEYS: Final = [f"customer-{number}" for number in range(1_000)]
_SHARDS: Final = [shard_of(key) for key in _KEYS]
_POLL_S: Final = 0.03
_SERVICES: Final = Path(__file__).parents[2] / "services"
_FILL: Final = """
INSERT INTO outbox (message_id, shard, key, type, payload, headers)
SELECT uuidv7(), k.shard, k.key, $1, convert_to(rpad('{"n": ' || n || ', "pad": "', $2::int - 2, 'x') || '"}', 'UTF8'),
       jsonb_build_object('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00',
                          'lab-effects', 'record', 'lab-run', 'bench')
FROM generate_series(0, $3::int - 1) AS n
JOIN unnest($4::text[], $5::smallint[]) WITH ORDINALITY AS k (key, shard, i) ON k.i = n % cardinality($4::text[]) + 1
ORDER BY n
RETURNING message_id
"""


class Outbox:
    """A database with an outbox as a publisher arm has it, and a topic."""

    def __init__(self, place: Home, name: str) -> None:
        self.database, self.topic = f"bench_{name}", f"bench.{name}"
        self.kafka = place.addresses()["LAB_KAFKA"]
        self.partitions = [TopicPartition(self.topic, number) for number in range(ORDERS.partitions)]
        self._server = place.postgres_url("postgres")
        self._admin = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})

    async def make(self, arm: str = "") -> None:
        """The tables of a publisher arm that has its own, else of the default one; and the topic."""
        server = await connect(self._server, "postgres", name="bench")
        await server.execute(f'CREATE DATABASE "{self.database}"')  # a name of ours
        await server.close()
        connection = await connect(self._server, self.database, name="bench")
        own, common = _SERVICES / "accept" / f"{arm}.sql", _SERVICES / "storage" / "outbox.sql"
        for script in (own, common) if arm == "cdc" else (common, own):
            if script.exists():
                await connection.execute(script.read_text())
        if arm == "cdc":
            await ensure_slot(connection)
        await connection.close()
        for future in self._admin.create_topics([NewTopic(self.topic, ORDERS.partitions, 1)]).values():
            future.result()

    async def fill(self, rows: int) -> None:
        """Commit so many rows in one transaction: nobody sees any of them before all are there."""
        connection = await connect(self._server, self.database, name="bench")
        try:
            await connection.execute("VACUUM outbox")
            await connection.execute("CHECKPOINT")
            await connection.execute(_FILL, ORDERS.type, VALUE_BYTES, rows, _KEYS, _SHARDS)
        finally:
            await connection.close()

    async def trickle(self, rate: float, seconds: float) -> dict[str, float]:
        """Commit single rows at a steady rate; returns each message id with the (monotonic) time of its commit."""
        committed: dict[str, float] = {}
        connections = await pool(self._server, self.database, name="bench", size=WRITERS)

        async def write(number: int) -> None:
            i = number % len(_KEYS)
            arguments = (ORDERS.type, VALUE_BYTES, 1, [_KEYS[i]], [_SHARDS[i]])
            message_id = await connections.fetchval(_FILL, *arguments)
            committed[str(message_id)] = time.monotonic()

        began = time.monotonic()
        async with asyncio.TaskGroup() as writing:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                writing.create_task(write(number))
        await connections.close()
        return committed

    async def end(self) -> int:
        """How many records the topic holds."""
        asked = dict.fromkeys(self.partitions, OffsetSpec.latest())
        return await asyncio.to_thread(lambda: sum(f.result().offset for f in self._admin.list_offsets(asked).values()))

    async def reaches(self, end: int) -> None:
        """Wait until the topic holds so many records. Raises StackError when it does not in time."""
        deadline = time.monotonic() + TIMEOUT_S
        while (there := await self.end()) < end:
            if time.monotonic() > deadline:
                raise StackError(f"{self.topic} has {there} of {end} records after {TIMEOUT_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def empties(self) -> None:
        """Wait until no row is left, and what was deleted is behind."""
        connection: Any = await connect(self._server, self.database, name="bench")
        try:
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110  # others delete
                await asyncio.sleep(_POLL_S)
        finally:
            await connection.close()
