"""What tests of the relay share: a source of their own, writers, relays as processes, and what lies on the topic."""

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from services.domain.messages import ORDERS
from services.settings import Settings
from services.storage.postgres import dsn
from tests.waiting import until

ROOT = Path(__file__).parent.parent
WRITTEN = """
CREATE TABLE IF NOT EXISTS written (position bigint PRIMARY KEY, message_id uuid NOT NULL, key text NOT NULL)
"""
# As `accept()` does it, but many rows at once: the keys' locks first, then the positions, all in one transaction.
LOCK_KEYS = "SELECT pg_advisory_xact_lock(hashtextextended(key, 2)) FROM (SELECT unnest($1::text[]) AS key ORDER BY 1)"
WRITE = """
WITH new AS (
    INSERT INTO outbox (message_id, shard, key, type, payload, headers)
    SELECT uuidv7(), s.shard, s.key, $3, convert_to(json_build_object('n', n, 'pad', repeat('x', $5))::text, 'UTF8'),
           jsonb_build_object('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
                              'lab-effects', 'record', 'lab-run', 'relaying')
    FROM generate_series(0, $4::int - 1) AS n
    JOIN unnest($1::text[], $2::smallint[]) WITH ORDINALITY AS s(key, shard, i) ON s.i = n % cardinality($1::text[]) + 1
    ORDER BY n
    RETURNING position, message_id, key)
INSERT INTO written SELECT position, message_id, key FROM new
"""


class Published(msgspec.Struct, frozen=True):
    """A record on the topic."""

    partition: int
    offset: int
    key: str
    message_id: UUID
    value: bytes
    headers: dict[str, bytes]


class Place(msgspec.Struct, frozen=True):
    """A database with an outbox, and the topic that its rows go to."""

    server: str
    database: str
    kafka: str
    topic: str

    @property
    def dsn(self) -> str:
        return dsn(self.server, self.database)

    async def connect(self) -> Any:
        return await asyncpg.connect(self.dsn, timeout=5)

    async def prepare(self) -> None:
        """Make the outbox and the record of what was written."""
        connection = await self.connect()
        await connection.execute((ROOT / "services/storage/outbox.sql").read_text() + WRITTEN)
        await connection.close()

    async def value(self, query: str) -> Any:
        connection = await self.connect()
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def written(self) -> list[tuple[UUID, str]]:
        """Message id and key of every committed row, in the order of positions."""
        connection = await self.connect()
        rows = await connection.fetch("SELECT message_id, key FROM written ORDER BY position")
        await connection.close()
        return [(UUID(str(message_id)), key) for message_id, key in rows]

    async def drained(self, timeout_s: float = 60) -> None:
        """Wait until the outbox is empty."""
        await until(self._is_empty, "the outbox is empty", timeout_s)

    async def _is_empty(self) -> bool:
        return await self.value("SELECT NOT EXISTS (SELECT FROM outbox)") is True

    def records(self) -> list[Published]:
        """Every record of the topic from offset 0, partition by partition, read without a group."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": f"t-{uuid4()}", "enable.auto.commit": False})
        found: list[Published] = []
        try:
            partitions = consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
            ends = {p: consumer.get_watermark_offsets(TopicPartition(self.topic, p), timeout=10)[1] for p in partitions}
            consumer.assign([TopicPartition(self.topic, p, 0) for p in partitions])
            position = dict.fromkeys(partitions, 0)
            while any(position[p] < ends[p] for p in partitions):
                for message in consumer.consume(500, timeout=0.1):
                    assert message.error() is None, message.error()
                    position[message.partition()] = message.offset() + 1
                    found.append(_published(message))
        finally:
            consumer.close()
        return found


def _published(message: Any) -> Published:
    headers = dict(message.headers())
    key, value, message_id = message.key().decode(), message.value(), UUID(headers["ce_id"].decode())
    return Published(message.partition(), message.offset(), key, message_id, value, headers)


@asynccontextmanager
async def place(settings: Settings, database: str, partitions: int = 6, **configuration: str) -> AsyncIterator[Place]:
    """A prepared source with a topic of its own, deleted afterwards."""
    topic = f"relay.{database}"
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    for future in admin.create_topics([NewTopic(topic, partitions, 1, config=configuration)]).values():
        future.result()
    made = Place(settings.postgres, database, settings.kafka, topic)
    await made.prepare()
    try:
        yield made
    finally:
        for future in admin.delete_topics([topic]).values():
            future.result()


class Writer:
    """Commits transactions of many rows on one connection, over keys that other writers use, too."""

    def __init__(self, keys: Iterable[tuple[str, int]], connection: Any) -> None:
        self._keys = list(keys)
        self._connection = connection

    async def write(self, rows: int, *, pad: int = 100) -> None:
        names, shards = [key for key, _ in self._keys], [shard for _, shard in self._keys]
        async with self._connection.transaction():
            await self._connection.execute(LOCK_KEYS, names)
            await self._connection.execute(WRITE, names, shards, ORDERS.type, rows, pad)


class Relay:
    """A relay as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self.process = process
        self._log_file = log_file

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (
            (json.loads(line) for line in self._log_file.read_text().splitlines()) if self._log_file.exists() else ()
        )
        return [line for line in lines if line["event"] == name]

    def shards(self) -> list[int]:
        """The shards that it last said it owns."""
        changes = self.events("relay.shards")
        return list(changes[-1]["shards"]) if changes else []

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 60)


@asynccontextmanager
async def relay(where: Place, number: int, folder: Path, **settings: str) -> AsyncIterator[Relay]:
    """A running relay of `where`; killed at the end, if it still lives."""
    log_file = folder / f"relay{number}-{uuid4().hex[:6]}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    environment |= {
        "LAB_PROCESS": f"relay#{number}",
        "LAB_POSTGRES": where.server,
        "LAB_KAFKA": where.kafka,
        "LAB_LOG_FILE": str(log_file),
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.relay", f"{where.database}={where.topic}", cwd=ROOT, env=environment
    )
    try:
        yield Relay(process, log_file)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def shared(*relays: Relay, timeout_s: float = 60) -> None:
    """Wait until the relays own every shard among them, each its fair share."""
    fair = -(-16 // len(relays))

    async def fairly() -> bool:
        owned = [r.shards() for r in relays]
        return sorted(s for shards in owned for s in shards) == list(range(16)) and max(map(len, owned)) <= fair

    await until(fairly, f"{len(relays)} relays own all shards", timeout_s)


def first_occurrences(records: Iterable[Published]) -> dict[str, list[UUID]]:
    """The message ids of each key in the order of their first records. A key lies in one partition."""
    seen: set[UUID] = set()
    found: dict[str, list[UUID]] = defaultdict(list)
    for record in records:
        if record.message_id not in seen:
            seen.add(record.message_id)
            found[record.key].append(record.message_id)
    return found


def by_key(written: Iterable[tuple[UUID, str]]) -> dict[str, list[UUID]]:
    """The message ids of each key in the order of their commits."""
    found: dict[str, list[UUID]] = defaultdict(list)
    for message_id, key in written:
        found[key].append(message_id)
    return found
