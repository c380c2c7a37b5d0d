"""What waits, place by place, on real parts; every test has arms, topics and databases of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from services.broker.topics import MAIN_TOPICS, topics_of
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.messages import ORDERS
from services.settings import Settings
from services.stack.drain import Arms, Waiting, look
from services.storage.postgres import connect
from tests.waiting import until

OUTBOX = Path(__file__).parents[2] / "services" / "storage" / "outbox.sql"
RETRYING = ConsumerArm("drained_retrying", "", {}, retries=True)
LISTENING = ConsumerArm("drained_listening", "", {})  # to its redelivery topic by itself


@pytest.fixture(params=[RETRYING, LISTENING], ids=["by a lane", "by the arm itself"])
async def arm(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[ConsumerArm]:
    """An arm whose group has passed the main topics, with topics that are empty."""
    made: ConsumerArm = msgspec.structs.replace(request.param, name=f"{request.param.name}_{uuid4().hex[:8]}")
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    new = [NewTopic(topic.name, 1, 1) for topic in topics_of(made)]
    for future in admin.create_topics(new, operation_timeout=30).values():
        await asyncio.to_thread(future.result)
    for topic in MAIN_TOPICS:
        for partition in range(topic.partitions):
            commit(settings, made.group, topic.name, 10**9, partition)
    yield made
    for future in admin.delete_topics([topic.name for topic in topics_of(made)], operation_timeout=30).values():
        await asyncio.to_thread(future.result)
    for future in admin.delete_consumer_groups([made.group, made.lane_group]).values():
        await asyncio.to_thread(future.exception)


def commit(settings: Settings, group: str, topic: str, position: int, partition: int = 0) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition, position)])
    (done,) = admin.alter_consumer_group_offsets([request]).values()
    done.result()


async def waiting(settings: Settings, arms: Arms) -> dict[str, int | None]:
    """By place; looked again at while a place does not answer."""
    found: list[Waiting] = []

    async def all_answer() -> bool:
        found[:] = await look(settings.postgres, settings.kafka, arms)
        return all(one.messages is not None for one in found)

    await until(all_answer, "every place to answer")
    return {one.place: one.messages for one in found if "emails" not in one.place}


def reader_of(arm: ConsumerArm) -> tuple[str, str]:
    return (f"retry.{arm.name}", arm.lane_group) if arm.retries else (f"arm.{arm.name}", arm.group)


async def test_what_was_sent_on_waits_until_its_reader_has_passed_it(settings: Settings, arm: ConsumerArm) -> None:
    arms, (reader, group) = Arms((), (arm,)), reader_of(arm)
    assert await waiting(settings, arms) == {}
    producer = Producer({"bootstrap.servers": settings.kafka})
    for topic in (*arm.retry_topics, arm.redelivery_topic):
        producer.produce(topic, b"1")
        producer.produce(topic, b"2")
        producer.flush(60)
        assert await waiting(settings, arms) == {f"{reader} on {topic}": 2}
        commit(settings, group, topic, 1)
        assert await waiting(settings, arms) == {f"{reader} on {topic}": 1}
        commit(settings, group, topic, 2)
    assert await waiting(settings, arms) == {}


async def test_a_replay_waits_while_it_is_open_and_nobody_waits_for_markers_and_aborted_records(
    settings: Settings, arm: ConsumerArm
) -> None:
    arms, (reader, group), topic = Arms((), (arm,)), reader_of(arm), arm.redelivery_topic
    producer = Producer({"bootstrap.servers": settings.kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"1")
    producer.flush(60)
    assert await waiting(settings, arms) == {f"{reader} on {topic}": 1}
    producer.commit_transaction(30)
    assert await waiting(settings, arms) == {f"{reader} on {topic}": 1}
    commit(settings, group, topic, 1)  # the record at 0; at 1 there is a marker
    assert await waiting(settings, arms) == {}
    producer.begin_transaction()
    producer.produce(topic, b"2")
    producer.flush(60)
    producer.abort_transaction(30)
    assert await waiting(settings, arms) == {}


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[tuple[PublisherArm, Any]]:
    """A publisher arm with a database of its own, and a connection to that."""
    made = PublisherArm(f"drained_{uuid4().hex[:8]}", "", frozenset(), "until_confirmed", (ORDERS,))
    admin = await connect(settings.postgres, "postgres", name="test")
    await admin.execute(f'CREATE DATABASE "{made.database(ORDERS)}"')
    database = await connect(settings.postgres, made.database(ORDERS), name="test")
    await database.execute(OUTBOX.read_text())
    try:
        yield made, database
    finally:
        await database.close()
        await admin.execute(f'DROP DATABASE "{made.database(ORDERS)}" WITH (FORCE)')
        await admin.close()


INSERT = """INSERT INTO outbox (message_id, shard, key, type, payload, headers)
            VALUES (gen_random_uuid(), 99, '', '', '', '{}')"""  # no relay owns this shard


async def test_which_rows_of_an_outbox_wait_is_the_publisher_arms_to_say(
    settings: Settings, publisher: tuple[PublisherArm, Any]
) -> None:
    base, database = publisher

    async def pending(outbox: str) -> dict[str, int | None]:
        return await waiting(settings, Arms((msgspec.structs.replace(base, outbox=outbox),), ()))

    place = f"the outbox of orders.{base.name}"
    assert await pending("until_confirmed") == {}
    await database.execute("CREATE TABLE progress (position bigint, snapshot pg_snapshot)")
    await database.execute("INSERT INTO progress VALUES (1, NULL)")
    for _ in range(3):
        await database.execute(INSERT)
    assert await pending("until_confirmed") == {place: 3}
    assert await pending("cursor") == {place: 2}
    assert await pending("none") == {}
    assert await pending("snapshot") == {place: 3}, "nothing is confirmed yet"
    await database.execute("UPDATE progress SET position = 3, snapshot = pg_current_snapshot()")
    await database.execute(INSERT)
    assert await pending("cursor") == {place: 1}
    assert await pending("snapshot") == {place: 1}


async def test_a_redriven_letter_waits_in_the_outbox_of_payments(settings: Settings, arm: ConsumerArm) -> None:
    letterless = msgspec.structs.replace(arm, dead_letters=False, retries=False)
    payments = await connect(settings.postgres, "payments", name="test")
    try:
        await payments.execute(INSERT.replace("99, '', ''", "99, '', $1"), arm.name)
        found = await waiting(settings, Arms((), (arm,)))
        assert (found["the outbox of payments (redriven letters)"] or 0) >= 1
        assert await waiting(settings, Arms((), (letterless,))) == {}
    finally:
        await payments.execute("DELETE FROM outbox WHERE type = $1", arm.name)
        await payments.close()
