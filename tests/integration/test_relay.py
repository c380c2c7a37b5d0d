"""The relay on real parts: relays are processes, sources are databases of their own."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from services.domain.messages import ORDERS
from services.domain.sharding import SHARDS, shard_of
from services.relay.ownership import SHARD_CLASS
from services.relay.session import SETTINGS
from services.relay.source import AWAY
from services.settings import Settings
from services.storage.postgres import connect
from tests.relaying import Place, Relay, Writer, by_key, first_occurrences, place, relay, shared
from tests.waiting import until

KEYS = [(f"customer-{n}", shard_of(f"customer-{n}")) for n in range(200)]
INSERT = """
INSERT INTO outbox (message_id, shard, key, type, payload, headers)
VALUES (uuidv7(), $1, $2, $3, convert_to(repeat('x', $4), 'UTF8'), $5) RETURNING message_id
"""


@pytest.fixture
async def source(settings: Settings, database: str) -> AsyncIterator[Place]:
    async with place(settings, database) as made:
        yield made


@asynccontextmanager
async def load(source: Place, *, rows: int = 100, pause_s: float = 0.01) -> AsyncIterator[Writer]:
    """Transactions one after the other, until the block ends."""
    connection, over = await source.connect(), asyncio.Event()
    writer = Writer(KEYS, connection)

    async def write() -> None:
        while not over.is_set():
            await writer.write(rows)
            await asyncio.sleep(pause_s)

    task = asyncio.create_task(write())
    try:
        yield writer
    finally:
        over.set()
        await task
        await connection.close()


async def insert(
    connection: object, key: str = "customer-7", *, type_: str = ORDERS.type, size: int = 10, headers: str = "{}"
) -> UUID:
    found = await connection.fetchval(INSERT, shard_of(key), key, type_, size, headers)  # type: ignore[attr-defined]
    return UUID(str(found))


async def check_nothing_is_lost_and_keys_are_in_order(source: Place) -> int:
    """Wait for the end of the outbox; returns how many records were duplicates."""
    await source.drained()
    records, written = source.records(), await source.written()
    assert first_occurrences(records) == by_key(written)
    return len(records) - len(written)


async def check_copies_have_a_reason(copies: int, *relays: Relay, known: int = 0) -> int:
    """Records are twice there only where a relay says that it lost its session (stood still for 4 s) or went back.

    Returns how often they have said so by now; `known`: before what is asked about.
    """

    def reasons() -> int:
        return sum(len(relay.events(name)) for relay in relays for name in ("relay.source_lost", "relay.rewound"))

    async def told() -> bool:
        return reasons() > known

    if copies:
        await until(told, f"a relay says why there are {copies} copies")
    return reasons()


async def test_without_a_crash_two_relays_publish_every_row_once_and_each_key_in_order(
    source: Place, tmp_path: Path
) -> None:
    async with relay(source, 0, tmp_path) as one, relay(source, 1, tmp_path) as two:
        await shared(one, two)
        writers = [Writer(KEYS[n * 25 : n * 25 + 100], await source.connect()) for n in range(5)]

        async def write(writer: Writer) -> None:
            for _ in range(50):
                await writer.write(200)

        before = known = 0
        for attempt in range(1, 4):  # a machine that stands still for as long as a session lives is no fault of a relay
            await asyncio.gather(*(write(writer) for writer in writers))
            await source.drained()
            records, written = source.records(), await source.written()
            assert len(written) == attempt * 50_000
            assert first_occurrences(records) == by_key(written)
            copies = len(records) - len(written) - before
            if not copies:
                break
            known = await check_copies_have_a_reason(copies, one, two, known=known)
            before += copies
        assert copies == 0, "three times in a row"
        await shared(one, two)


async def test_a_row_that_commits_late_is_published_and_before_later_rows_of_its_key(
    source: Place, tmp_path: Path
) -> None:
    late, key = await source.connect(), "customer-late"
    async with relay(source, 0, tmp_path) as one, load(source):  # never an empty read while it lasts
        await shared(one)
        transaction = late.transaction()
        await transaction.start()
        first = await insert(late, key)
        behind = (
            "SELECT count(*) > 3000 FROM written w WHERE NOT EXISTS (SELECT FROM outbox WHERE position = w.position)"
        )
        await until(lambda: source.value(behind), "thousands of later rows are published")
        await transaction.commit()
        second = await insert(late, key)
        gone = "SELECT NOT EXISTS (SELECT FROM outbox WHERE key = 'customer-late')"
        await until(lambda: source.value(gone), "the row is published")
    await late.close()
    assert first_occurrences(source.records())[key] == [first, second]


async def test_rows_that_can_never_be_published_are_set_aside_with_the_reason_and_the_rest_flows(
    source: Place, tmp_path: Path
) -> None:
    connection = await source.connect()
    bad = {
        await insert(connection, size=2_000_000): "MSG_SIZE_TOO_LARGE",
        await insert(connection, type_="lab.unknown.v1"): "unknown_type",
        await insert(connection, headers="[1]"): "invalid_headers",
    }
    await Writer(KEYS, connection).write(1000)
    async with relay(source, 0, tmp_path) as one:
        await check_copies_have_a_reason(await check_nothing_is_lost_and_keys_are_in_order(source), one)
        rows = await connection.fetch("SELECT message_id, reason, payload FROM outbox_set_aside")
        assert {UUID(str(message_id)): reason for message_id, reason, _ in rows} == bad
        assert max(len(payload) for *_, payload in rows) == 2_000_000
        assert {event["reason"] for event in one.events("relay.set_aside")} == set(bad.values())
    await connection.close()


async def test_what_the_broker_refuses_together_is_set_aside_only_if_it_is_refused_alone(
    settings: Settings, database: str, tmp_path: Path
) -> None:
    async with place(settings, database, partitions=1, **{"max.message.bytes": "20000"}) as source:
        connection = await source.connect()
        await Writer(KEYS, connection).write(40, pad=1000)
        large = await insert(connection, size=60_000)
        await Writer(KEYS, connection).write(40, pad=1000)
        async with relay(source, 0, tmp_path) as one:
            await source.drained()
            ids, written = [r.message_id for r in source.records()], {m for m, _ in await source.written()}
            assert set(ids) == written
            await check_copies_have_a_reason(len(ids) - len(written), one)
        aside = await connection.fetch("SELECT message_id, reason FROM outbox_set_aside")
        assert [(UUID(str(message_id)), reason) for message_id, reason in aside] == [(large, "MSG_SIZE_TOO_LARGE")]
        await connection.close()


async def owns_all(relay: Relay) -> bool:
    return len(relay.shards()) == SHARDS


async def test_after_a_sigkill_the_other_relay_takes_over_and_nothing_is_lost(source: Place, tmp_path: Path) -> None:
    async with relay(source, 0, tmp_path) as one, relay(source, 1, tmp_path) as two, load(source):
        await shared(one, two)
        two.signal(signal.SIGKILL)
        await until(lambda: owns_all(one), "the other owns all shards")
    async with relay(source, 2, tmp_path):
        await check_nothing_is_lost_and_keys_are_in_order(source)


async def test_a_frozen_relay_loses_its_shards_and_thawed_takes_only_its_share(source: Place, tmp_path: Path) -> None:
    async with relay(source, 0, tmp_path) as one, relay(source, 1, tmp_path) as two:
        async with load(source):
            await shared(one, two)
            two.signal(signal.SIGSTOP)
            await until(lambda: owns_all(one), "the other owns all shards")
            two.signal(signal.SIGCONT)
            await until(lambda: _lost(two), "the thawed one saw that its session is over")
            await shared(one, two)
        await check_nothing_is_lost_and_keys_are_in_order(source)


async def test_a_session_whose_answer_nobody_reads_ends_and_frees_its_shards(source: Place) -> None:
    watcher, frozen = await source.connect(), "relay#frozen"
    held = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE classid = $1 AND application_name = $2"
    )

    async def freed() -> bool:
        return await watcher.fetchval(held, SHARD_CLASS, frozen) == 0

    connection = await connect(source.server, source.database, name=frozen, **SETTINGS)
    bounds = [await connection.fetchval(f"SHOW {name}") for name in ("idle_session_timeout", "tcp_user_timeout")]
    assert bounds == ["4s", "4000"], "the server lets go after 4 s, whatever keeps the relay from answering"
    large = await connection.prepare("SELECT repeat('x', 10000) FROM generate_series(1, 10000)")
    began = time.monotonic()
    await connection.execute("SELECT pg_advisory_lock($1, 3)", SHARD_CLASS)
    assert not await freed() or time.monotonic() - began >= 4  # a machine that stood still: let go of already
    connection._transport.pause_reading()  # as in a process that is frozen while an answer is under way
    answer = asyncio.ensure_future(large.fetch())
    await until(freed, "the shard is free")
    connection._transport.resume_reading()
    with pytest.raises(AWAY):
        await answer
    await watcher.close()


async def test_what_the_broker_does_not_take_now_is_said_and_read_again(source: Place, tmp_path: Path) -> None:
    """A topic that somebody deletes: the rows stay in their table until it is there again."""
    admin = AdminClient({"bootstrap.servers": source.kafka})
    connection = await source.connect()
    async with relay(source, 0, tmp_path) as one:
        await insert(connection)
        await source.drained()
        (gone,) = admin.delete_topics([source.topic], operation_timeout=30).values()
        await asyncio.to_thread(gone.result)
        message_id = await insert(connection)

        async def rewound() -> bool:
            return bool(one.events("relay.rewound"))

        await until(rewound, "the relay says that it goes back")
        assert set(one.events("relay.rewound")[0]) >= {"source", "failed"}
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 1
        (made,) = admin.create_topics([NewTopic(source.topic, 6, 1)], operation_timeout=30).values()
        await asyncio.to_thread(made.result)
        await source.drained()
    assert [record.message_id for record in source.records()] == [message_id]
    await connection.close()


async def _lost(relay: Relay) -> bool:
    return bool(relay.events("relay.source_lost"))


async def test_relays_that_join_and_leave_under_load_publish_nothing_twice(source: Place, tmp_path: Path) -> None:
    async with relay(source, 0, tmp_path) as one, load(source, rows=200, pause_s=0):
        await shared(one)
        async with relay(source, 1, tmp_path) as two, relay(source, 2, tmp_path) as three:
            await shared(one, two, three)
            for leaving in (one, two):
                leaving.signal(signal.SIGTERM)
                assert await leaving.ended() == 0
            await shared(three)
            three.signal(signal.SIGTERM)
            assert await three.ended() == 0
    async with relay(source, 3, tmp_path) as four:
        copies = await check_nothing_is_lost_and_keys_are_in_order(source)
        await check_copies_have_a_reason(copies, one, two, three, four)
