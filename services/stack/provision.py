"""Databases, tables, topics and group starting points: made if they are missing, never changed. Runs at every start.

Runs as a process of its own (`python -m services.stack.provision`), in the native stack and under compose alike.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from services.broker.passing import patiently
from services.broker.reader import GroupOffsets
from services.broker.topics import TOPICS, Topic, subscriptions
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, PublisherArm
from services.domain.messages import ORDERS
from services.settings import Settings, read_settings
from services.storage.postgres import connect
from services.storage.slots import drop_slot, ensure_slot

SERVICES: Final = Path(__file__).parent.parent
_OUTBOX: Final = SERVICES / "storage" / "outbox.sql"
_WAIT_S: Final = 30
_ANSWER_S: Final = 5


async def provision(settings: Settings) -> None:
    """Make what is missing on both Postgres servers and on the broker."""
    await asyncio.gather(_databases(settings), asyncio.to_thread(_topics, settings.kafka))


async def _databases(settings: Settings) -> None:
    for publisher in PUBLISHER_ARMS.values():
        for kind in publisher.kinds:
            await _database(settings.postgres, publisher.database(kind), _scripts(publisher))
    await _slot(settings)
    payments = SERVICES / "payments" / "schema"
    scripts = [
        file.read_text().replace("{schema}", arm.schema)
        for arm in CONSUMER_ARMS.values()
        for name in ("common", arm.name)
        if (file := payments / f"{name}.sql").exists()
    ]
    await _database(settings.postgres, "payments", [_OUTBOX.read_text(), *scripts])
    await _windows(settings)
    await _database(settings.ledger, "provider", [(SERVICES / "provider" / "schema.sql").read_text()])
    await _database(settings.ledger, "auditor", [(SERVICES / "auditor" / "schema.sql").read_text()])
    await _reader(settings)


async def _reader(settings: Settings) -> None:
    """Who may look at what the auditor has found, and touch nothing: the role `reader`, with the lab's password."""
    auditor = await connect(settings.ledger, "auditor", name="provision")
    try:
        password = unquote(urlsplit(settings.ledger).password or "") or _password_of_the_file()
        await auditor.execute(
            await auditor.fetchval("SELECT format('ALTER ROLE reader PASSWORD %L', $1::text)", password)
        )
    finally:
        await auditor.close()


def _password_of_the_file() -> str:
    """Under compose the address has no password: it lies in the file that every client reads (PGPASSFILE)."""
    return Path(os.environ["PGPASSFILE"]).read_text().splitlines()[0].rsplit(":", 1)[1]


async def _windows(settings: Settings) -> None:
    """The inbox has partitions before its first row: what lies in the default one is forgotten row by row."""
    payments = await connect(settings.postgres, "payments", name="provision")
    try:
        for arm in CONSUMER_ARMS.values():
            if arm.dedups:
                await payments.execute(f"SELECT FROM {arm.schema}.keep_window($1)", settings.dedup_window_s)
    finally:
        await payments.close()


def _scripts(arm: PublisherArm) -> list[str]:
    """The schema of a publisher arm: its own script goes first where it makes the table `outbox`, else last."""
    accept = SERVICES / "accept"
    own = accept / ("dual_write.sql" if arm.outbox == "none" else f"{arm.name}.sql")
    files = [own, _OUTBOX, accept / "schema.sql"] if arm.name == "cdc" else [_OUTBOX, accept / "schema.sql", own]
    return [file.read_text() for file in files if file.exists()]


async def _slot(settings: Settings) -> None:
    """The replication slot of `cdc`: there before the first insert, and not there when nobody will read it."""
    connection = await connect(settings.postgres, PUBLISHER_ARMS["cdc"].database(ORDERS), name="provision")
    try:
        if "cdc" in settings.publishers.split(","):
            await ensure_slot(connection)
        else:
            with contextlib.suppress(asyncpg.ObjectInUseError):  # somebody reads it: then it holds nothing back
                await drop_slot(connection)
    finally:
        await connection.close()


async def _database(server: str, name: str, scripts: list[str]) -> None:
    admin = await connect(server, "postgres", name="provision")
    try:
        if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            # names come from the code's own tables, never from input
            await admin.execute(f'CREATE DATABASE "{name}"')
    except asyncpg.DuplicateDatabaseError:
        pass  # another provisioning was quicker
    finally:
        await admin.close()
    database = await connect(server, name, name="provision")
    try:
        async with database.transaction():
            await database.execute("SELECT pg_advisory_xact_lock(7)")
            await database.execute("SET LOCAL client_min_messages = warning")
            for script in scripts:
                await database.execute(script)
    finally:
        await database.close()


def _topics(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    there = admin.list_topics(timeout=_WAIT_S).topics
    new = [NewTopic(topic.name, topic.partitions, 1) for topic in TOPICS if topic.name not in there]
    for future in admin.create_topics(new, operation_timeout=_WAIT_S).values() if new else ():
        future.result()
    with contextlib.closing(GroupOffsets(bootstrap, _ANSWER_S)) as offsets:
        for group, topics in subscriptions():
            patiently(partial(_start_group, admin, offsets, group, topics), _WAIT_S)


def _start_group(admin: Any, offsets: GroupOffsets, group: str, topics: Sequence[Topic]) -> None:
    """A group without offsets starts at the log's start: once, here, and never by `auto.offset.reset` later."""
    partitions = [TopicPartition(topic.name, p) for topic in topics for p in range(topic.partitions)]
    committed = offsets.of([group])[group]
    without = [p for p in partitions if (p.topic, p.partition) not in committed]
    if not without:
        return
    starts = admin.list_offsets({TopicPartition(p.topic, p.partition): OffsetSpec.earliest() for p in without})
    positions = [TopicPartition(p.topic, p.partition, future.result().offset) for p, future in starts.items()]
    (done,) = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, positions)]).values()
    for partition in done.result().topic_partitions:
        if partition.error is not None:
            raise KafkaException(partition.error)


def main() -> None:
    """Provision with the settings of the environment."""
    asyncio.run(provision(read_settings()))
    # Its work is done. The interpreter's own way out was seen to die of SIGSEGV now and then.
    os._exit(0)


if __name__ == "__main__":
    main()
