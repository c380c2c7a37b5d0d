"""The auditor on real parts: a history in which all is well, then one thing broken on purpose, and it must be named.

Every test has a run, an arm, a schema and a group of its own on the shared parts.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from loadtest.tampering import TamperingError, tamper
from services.auditor.audit import Unreachable, audit
from services.auditor.bulk import PART, Bulk
from services.auditor.stores import Stores
from services.broker import reader
from services.broker.reader import TopicReader, bounds
from services.broker.topics import Topic, topics_of
from services.domain.arms import PUBLISHER_ARMS, ConsumerArm, Promise, PublisherArm
from services.domain.audit import AuditDocument, AuditRow, Evidence
from services.domain.effects import EFFECTS
from services.domain.messages import KINDS, ORDERS, Coordinates, Kind, digest, message_id_of, record_headers
from services.domain.verdict import Chances, Terms, judge_run
from services.settings import Settings
from services.storage.postgres import connect
from tests.waiting import answered

SCHEMA = Path(__file__).parents[2] / "services" / "payments" / "schema"
TRACE = "0af7651916cd43dd8448eb211c80319c"
ACCEPT = SCHEMA.parents[1] / "accept"
INTENT = """INSERT INTO intents (message_id, business_id, customer_id, amount_cents, currency, effects, run,
                                 idempotency_key, digest, traceparent)
            VALUES ($1, $2, 'c', 100, 'EUR', '{record}', $3, $2, $4, $5)"""
ENQUEUE = "INSERT INTO outbox (message_id, shard, key, type, payload, headers) VALUES ($1, 0, 'c', 't', '', '{}')"
# how each kind of outbox says that all of its rows by now have left
CONFIRM = {
    "until_confirmed": "DELETE FROM outbox",
    "cursor": "UPDATE progress SET position = (SELECT max(position) FROM outbox)",
    "snapshot": "UPDATE progress SET snapshot = pg_current_snapshot()",
}
Headers = Sequence[tuple[str, bytes]]


class Message(msgspec.Struct, frozen=True):
    """One seeded message and where its record lies."""

    id: UUID
    kind: Kind
    business_id: str
    at: Coordinates


def value_of(message_id: UUID, kind: Kind) -> bytes:
    """The payload of a message."""
    reason = {"reason": "damaged"} if kind is not ORDERS else {}
    order = {"order_id": f"b-{message_id.hex}", "customer_id": "c", "amount_cents": 100, "currency": "EUR"}
    return msgspec.json.encode({**order, **reason})


class World:
    """Writes what the services would write, row by row, so that a test can leave one thing out."""

    def __init__(self, settings: Settings, ledger: Path, effects: Sequence[str] = EFFECTS, **kind: bool) -> None:
        self.settings = settings
        self.ledger = ledger
        self.run = f"audit-{uuid4().hex[:12]}"
        promises: dict[str, frozenset[Promise]] = {effect: frozenset({"no_loss"}) for effect in effects}
        self.arm = ConsumerArm(f"audited_{uuid4().hex[:12]}", "", promises, **{"dead_letters": False, **kind})
        self.messages: list[Message] = []
        self.databases: dict[str, Any] = {}
        self._producer = Producer({"bootstrap.servers": settings.kafka})
        self._admin = AdminClient({"bootstrap.servers": settings.kafka})

    async def open(self) -> None:
        postgres, ledger = self.settings.postgres, self.settings.ledger
        for server, name in ((postgres, "orders"), (postgres, "refunds"), (postgres, "payments"), (ledger, "provider")):
            self.databases[name] = await connect(server, name, name="test")
        for script in ("common", "effectively_once"):
            text = (SCHEMA / f"{script}.sql").read_text()
            await self.databases["payments"].execute(text.replace("{schema}", self.arm.schema))
        # this arm doubles what a test wants doubled
        await self.payments("DROP INDEX {schema}.records_once")
        if topics := list(topics_of(self.arm)):
            await asyncio.to_thread(self._make, topics)

    def _make(self, topics: Sequence[Topic]) -> None:
        new = [NewTopic(topic.name, topic.partitions, 1) for topic in topics]
        for future in self._admin.create_topics(new, operation_timeout=30).values():
            future.result()

    async def close(self) -> None:
        for kind in KINDS:
            for table in ("intents", "outbox", "outbox_set_aside"):
                ids = [message.id for message in self.messages]
                await self.databases[kind.name].execute(f"DELETE FROM {table} WHERE message_id = ANY ($1)", ids)  # noqa: S608
        await self.payments("DROP SCHEMA {schema} CASCADE")
        await self.payments("DELETE FROM outbox WHERE type = $1", self.arm.name)
        if topics := [topic.name for topic in topics_of(self.arm)]:
            for future in self._admin.delete_topics(topics, operation_timeout=30).values():
                await asyncio.to_thread(future.result)
        await self.databases["provider"].execute("DELETE FROM applications WHERE account = $1", self.arm.name)
        for database in self.databases.values():
            await database.close()
        await self.forget()

    async def seed(self, kind: Kind, *, publish: bool = True, apply: bool = True) -> Message:
        """One message, from its call to its effects."""
        message_id = uuid4()
        business_id = f"b-{message_id.hex}"
        self.write_ledger({"phase": "call"}, business_id, kind)
        traceparent = f"00-{TRACE}-b7ad6b7169203331-01"
        promised = digest(kind.type, value_of(message_id, kind))
        await self.databases[kind.name].execute(INTENT, message_id, business_id, self.run, promised, traceparent)
        self.write_ledger({"phase": "answer", "outcome": "acknowledged", "status": 201}, business_id, kind)
        at = self.publish(message_id, kind) if publish else Coordinates(kind.topic, 0, -1)
        message = Message(message_id, kind, business_id, at)
        self.messages.append(message)
        if publish and apply:
            for effect in ("record", "charge", "email"):
                await self.apply(message, effect)
        return message

    def write_ledger(self, fields: dict[str, object], key: str, kind: Kind) -> None:
        line = {"at": 1.0, "run": self.run, "key": key, "kind": kind.name, "attempt": 1, **fields}
        with (self.ledger / f"{self.run}.jsonl").open("ab") as stream:
            stream.write(msgspec.json.encode(line) + b"\n")

    def publish(self, message_id: UUID, kind: Kind) -> Coordinates:
        """One record of the message more."""
        return self.produce(kind.topic, self.headers(message_id, kind))

    def headers(self, message_id: UUID, kind: Kind) -> Headers:
        extra = [("lab-effects", "record,charge,email"), ("lab-run", self.run)]
        return record_headers(message_id=message_id, kind=kind, time=datetime.now(UTC), extra=extra)

    def produce(self, topic: str, headers: Headers) -> Coordinates:
        """Any record, written when this returns."""
        at: list[Coordinates] = []

        def delivered(error: object, record: Any) -> None:
            assert error is None
            at.append(Coordinates(record.topic(), record.partition(), record.offset()))

        kind = KINDS[topic.startswith("refunds")]
        value = value_of(message_id_of(headers) or uuid4(), kind)
        self._producer.produce(topic, value, b"c", headers=list(headers), on_delivery=delivered)
        self._producer.flush(60)
        return at[0]

    def send_on(self, message: Message, topic: str) -> Coordinates:
        """The message's record once more, on a topic of the arm's own."""
        return self.produce(topic, [*self.headers(message.id, message.kind), ("lab-origin", str(message.at).encode())])

    async def apply(self, message: Message, effect: str) -> None:
        """One application of the effect more."""
        where = (message.at.topic, message.at.partition, message.at.offset)
        if effect == "record":
            await self.payments(
                """INSERT INTO {schema}.records (message_id, run, type, business_id, customer_id, amount_cents,
                                                 currency, topic, partition, "offset", life)
                   VALUES ($1, $2, $6, $7, 'c', 100, 'EUR', $3, $4, $5, gen_random_uuid())""",
                message.id, self.run, *where, message.kind.type, f"b-{message.id.hex}",
            )  # fmt: skip
            return
        await self.databases["provider"].execute(
            """INSERT INTO applications (account, effect, message_id, customer_id, topic, partition, "offset", life,
                                         amount_cents, currency)
               VALUES ($1, $2, $3, 'c', $4, $5, $6, 'l', 100, 'EUR')""",
            self.arm.name, effect, str(message.id), *where,
        )  # fmt: skip

    async def set_age(self, seconds: float) -> None:
        """Every effect was applied so long ago."""
        ago = timedelta(seconds=seconds)
        await self.payments("UPDATE {schema}.records SET at = clock_timestamp() - $1::interval", ago)
        await self.databases["provider"].execute(
            "UPDATE applications SET at = clock_timestamp() - $2::interval WHERE account = $1", self.arm.name, ago
        )

    async def number_of(self, message: Message, effect: str) -> int:
        """The number of the row of the message's effect."""
        if effect == "record":
            query = f"SELECT seq FROM {self.arm.schema}.records WHERE message_id = $1"  # noqa: S608
            return int(await self.databases["payments"].fetchval(query, message.id))
        query = "SELECT seq FROM applications WHERE account = $1 AND effect = $2 AND message_id = $3"
        return int(await self.databases["provider"].fetchval(query, self.arm.name, effect, str(message.id)))

    async def payments(self, statement: str, *arguments: Any) -> None:
        await self.databases["payments"].execute(statement.replace("{schema}", self.arm.schema), *arguments)

    def at_once(self, statement: str) -> None:
        """A statement from within the audit: done when this returns, on a connection and in a thread of its own."""

        async def done() -> None:
            connection = await connect(self.settings.postgres, "payments", name="test")
            await connection.execute(statement.replace("{schema}", self.arm.schema))
            await connection.close()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, done()).result()

    async def dead_letter(self, at: Coordinates, message_id: UUID | None = None, state: str = "parked") -> None:
        await self.payments(
            """INSERT INTO {schema}.dead_letters (topic, partition, "offset", message_id, reason, detail, life, state)
               VALUES ($1, $2, $3, $4, 'undecodable', '', gen_random_uuid(), $5)
                   ON CONFLICT (topic, partition, "offset") DO UPDATE SET state = $5""",
            at.topic, at.partition, at.offset, message_id, state,
        )  # fmt: skip

    async def redrive(self, at: Coordinates) -> None:
        """The outbox row of a redriven letter; no relay owns its shard."""
        await self.payments(
            """INSERT INTO outbox (message_id, shard, key, type, payload, headers)
               VALUES (gen_random_uuid(), 99, 'c', $1, '', jsonb_build_object('origin', $2::text))""",
            self.arm.name, str(at),
        )  # fmt: skip

    async def commit(self) -> None:
        """The group has passed everything that is on the topics by now."""
        await self.pass_topics(self.arm.group, [kind.topic for kind in KINDS])

    async def pass_topics(self, group: str, topics: Sequence[str]) -> None:
        ends = await asyncio.to_thread(bounds, self.settings.kafka, topics)
        positions = [TopicPartition(*partition, offset) for partition, offset in ends.ends.items()]
        (done,) = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, positions)]).values()
        await asyncio.to_thread(done.result)

    async def forget(self) -> None:
        """The groups have never committed."""
        for done in self._admin.delete_consumer_groups([self.arm.group, self.arm.lane_group]).values():
            await asyncio.to_thread(done.exception)  # of a group that is none, too

    async def audit(self, say: Callable[[str], None] = lambda _: None) -> AuditDocument:
        return await answered(lambda: audit(self.settings, self.run, ledger=self.ledger, arms=[self.arm], say=say))


@asynccontextmanager
async def opened(made: World) -> AsyncIterator[World]:
    """Four orders and two refunds of which everything is as it should be."""
    await made.open()
    try:
        for kind in (ORDERS, ORDERS, ORDERS, ORDERS, *KINDS[1:] * 2):
            await made.seed(kind)
        await made.commit()
        yield made
    finally:
        await made.close()


@pytest.fixture
async def world(settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    """An arm without retries and letters."""
    async with opened(World(settings, tmp_path)) as made:
        yield made


@pytest.fixture
async def retrying(settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    """An arm with retry tiers, letters and redelivery, whose lane has passed all that is there."""
    async with opened(World(settings, tmp_path, ["record"], retries=True, dead_letters=True)) as made:
        yield made


@pytest.fixture
async def putting_out(settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    """An arm with an output topic, which promises per record."""
    async with opened(World(settings, tmp_path, ["record", "output"], per_record=True)) as made:
        yield made


def row(document: AuditDocument, hop: str, effect: str) -> AuditRow:
    (found,) = (row for row in document.rows if (row.hop, row.effect) == (hop, effect))
    return found


def evidence(document: AuditDocument) -> list[Evidence]:
    """The messages that are not as they should be; the law must close around them."""
    assert document.closes
    return document.evidence


async def test_where_all_is_well_every_row_says_so(world: World) -> None:
    document = await world.audit()
    assert [row.name.replace(world.arm.name, "ARM") for row in document.rows] == [
        "accept/outbox/intent",
        "publish/outbox/publication",
        "process/ARM/record",
        "process/ARM/charge",
        "process/ARM/email",
    ]
    for found in document.rows:
        assert found == AuditRow(hop=found.hop, arm=found.arm, effect=found.effect, expected=6, applied_once=6)
    assert evidence(document) == []
    assert (document.run, document.out_of_scope, document.undecodable) == (world.run, 0, 0)
    again = await world.audit()
    assert again.rows == document.rows


async def test_an_effect_row_that_was_deleted_is_lost(world: World) -> None:
    victim = world.messages[2]
    await world.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    document = await world.audit()
    assert (row(document, "process", "record").lost, row(document, "process", "charge").lost) == (1, 0)
    (named,) = evidence(document)
    assert (named.state, named.effect, named.message_id) == ("lost", "record", str(victim.id))
    assert (named.at, named.applications, named.trace_id) == ([str(victim.at)], 0, TRACE)


async def test_a_record_row_that_is_only_pending_is_no_application(world: World) -> None:
    victim = world.messages[0]
    await world.payments("UPDATE {schema}.records SET status = 'pending' WHERE message_id = $1", victim.id)
    assert row(await world.audit(), "process", "record").lost == 1


@pytest.mark.parametrize("effect", ["record", "charge", "email"])
async def test_an_effect_that_was_doubled_is_duplicated(world: World, effect: str) -> None:
    victim = world.messages[5]
    await world.apply(victim, effect)
    await world.apply(victim, effect)
    document = await world.audit()
    found = row(document, "process", effect)
    assert (found.duplicated, found.extra_applications, found.applied_once) == (1, 2, 5)
    (named,) = evidence(document)
    assert (named.state, named.effect, named.message_id) == ("duplicated", effect, str(victim.id))
    assert named.applications == 3


async def test_a_record_that_was_published_twice_is_duplicated_on_the_publish_hop_only(world: World) -> None:
    victim = world.messages[0]
    copy = world.publish(victim.id, victim.kind)
    await world.commit()
    document = await world.audit()
    assert (row(document, "publish", "publication").duplicated, row(document, "process", "record").applied_once) == (
        1,
        6,
    )
    (named,) = evidence(document)
    assert (named.hop, named.state, named.at) == ("publish", "duplicated", [str(victim.at), str(copy)])


async def test_an_intent_that_was_removed_leaves_a_ghost_and_a_broken_acknowledgement(world: World) -> None:
    victim = world.messages[1]
    await world.databases[victim.kind.name].execute("DELETE FROM intents WHERE message_id = $1", victim.id)
    document = await world.audit()
    assert (row(document, "publish", "publication").unexpected, row(document, "accept", "intent").lost) == (1, 1)
    ghost, broken = sorted(evidence(document), key=lambda item: item.hop, reverse=True)
    assert (ghost.state, ghost.message_id) == ("unexpected", str(victim.id))
    assert (broken.state, broken.key, broken.message_id) == ("lost", victim.business_id, None)


async def test_an_application_that_no_record_asked_for_is_unexpected(world: World) -> None:
    ghost = Message(uuid4(), ORDERS, "", Coordinates("orders.v1", 0, 0))
    await world.apply(ghost, "record")
    (named,) = evidence(await world.audit())
    assert (named.hop, named.state, named.message_id) == ("process", "unexpected", str(ghost.id))


async def test_a_message_that_never_left_its_database_is_lost_set_aside_or_waiting(world: World) -> None:
    lost, waiting, aside = [await world.seed(ORDERS, publish=False) for _ in range(3)]
    orders = world.databases["orders"]
    # no relay owns this shard, so that one under test elsewhere does not carry the row away
    await orders.execute(
        """INSERT INTO outbox (message_id, shard, key, type, payload, headers)
           VALUES ($1, 99, 'c', 't', '', '{}')""",
        waiting.id,
    )
    await orders.execute(
        """INSERT INTO outbox_set_aside
               (position, message_id, shard, xid, key, type, payload, headers, created_at, reason)
           VALUES (-floor(random() * 1e15), $1, 99, '1', 'c', 't', '', '{}', now(), 'too large')""",
        aside.id,
    )
    document = await world.audit()
    found = row(document, "publish", "publication")
    assert (found.lost, found.waiting, found.dead_lettered, found.applied_once) == (1, 1, 1, 6)
    assert row(document, "process", "record").expected == 6
    named = {item.state: item for item in evidence(document)}
    assert (named["lost"].message_id, named["dead_lettered"].message_id) == (str(lost.id), str(aside.id))
    assert named["dead_lettered"].reason == "too large"


async def test_what_the_group_has_not_passed_is_waiting(world: World) -> None:
    message = await world.seed(ORDERS, apply=False)
    document = await world.audit()
    for effect in ("record", "charge", "email"):
        found = row(document, "process", effect)
        assert (found.expected, found.waiting, found.lost) == (7, 1, 0)
    await world.commit()
    document = await world.audit()
    assert {item.message_id for item in evidence(document)} == {str(message.id)}
    assert row(document, "process", "charge").lost == 1


async def test_a_group_that_never_committed_has_everything_before_it(world: World) -> None:
    await world.seed(ORDERS, apply=False)
    await world.forget()
    found = row(await world.audit(), "process", "record")
    assert (found.applied_once, found.also_held, found.waiting, found.lost) == (6, 6, 1, 0)


async def test_an_email_row_without_an_email_is_waiting_or_uncertain(world: World) -> None:
    for message, state in zip(world.messages, ("pending", "claimed", "uncertain", "sent"), strict=False):
        await world.databases["provider"].execute(
            "DELETE FROM applications WHERE effect = 'email' AND message_id = $1", str(message.id)
        )
        await world.payments(
            """INSERT INTO {schema}.emails (message_id, run, customer_id, topic, partition, "offset", state, life)
               VALUES ($1, 'r', 'c', 't', 0, 0, $2, gen_random_uuid())""",
            message.id, state,
        )  # fmt: skip
    document = await world.audit()
    found = row(document, "process", "email")
    assert (found.waiting, found.uncertain, found.lost, found.applied_once) == (1, 2, 1, 2)
    assert {item.reason for item in evidence(document) if item.state == "uncertain"} == {"claimed", "uncertain"}


async def test_a_record_that_cannot_be_decoded_is_known_by_its_coordinates(world: World) -> None:
    at = world.produce(ORDERS.topic, [("lab-run", world.run.encode())])
    await world.dead_letter(at)
    await world.commit()
    document = await world.audit()
    found = row(document, "process", "record")
    assert (document.undecodable, found.expected, found.dead_lettered) == (1, 7, 1)
    assert row(document, "process", "charge").expected == 6
    named = {item.hop: item for item in evidence(document)}
    assert (named["process"].state, named["process"].at, named["process"].message_id) == (
        "dead_lettered",
        [str(at)],
        None,
    )
    assert (named["publish"].state, named["publish"].at) == ("unexpected", [str(at)])


async def test_what_happens_while_the_audit_runs_is_not_called_lost_or_unexpected(world: World) -> None:
    late = await world.seed(ORDERS, publish=False)
    loop, moved = asyncio.get_running_loop(), []

    def say(text: str) -> None:
        if text.startswith("the arm") and not moved:  # the first look at the topics is over
            at = world.publish(late.id, ORDERS)
            moved.append(loop.create_task(world.apply(msgspec.structs.replace(late, at=at), "record")))

    document = await world.audit(say)
    await asyncio.gather(*moved)
    assert evidence(document) == []
    assert row(document, "publish", "publication").applied_once == 7
    assert row(document, "process", "record").expected == 6


async def test_an_injected_record_is_owed_to_the_arm_and_not_by_the_publisher(world: World) -> None:
    world.produce(ORDERS.topic, [*world.headers(world.messages[0].id, ORDERS), ("lab-injected", b"copy")])
    stranger = uuid4()
    world.produce(ORDERS.topic, [*world.headers(stranger, ORDERS), ("lab-injected", b"stranger")])
    await world.commit()
    document = await world.audit()
    found = row(document, "publish", "publication")
    assert found == AuditRow(hop="publish", arm="outbox", effect="publication", expected=6, applied_once=6)
    assert {(item.state, item.message_id) for item in evidence(document)} == {("lost", str(stranger))}


async def test_a_record_that_was_sent_on_waits_until_the_lane_has_passed_it(retrying: World) -> None:
    victim, arm = retrying.messages[1], retrying.arm
    await retrying.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    for topic in (*arm.retry_topics, arm.redelivery_topic):
        retrying.send_on(victim, topic)
        found = row(await retrying.audit(), "process", "record")
        assert (topic, found.waiting, found.lost, found.applied_once) == (topic, 1, 0, 5)
        await retrying.pass_topics(arm.lane_group, [topic])
    assert row(await retrying.audit(), "process", "record").lost == 1


async def test_a_record_of_an_open_transaction_waits_and_one_of_an_aborted_does_not(retrying: World) -> None:
    victim, topic = retrying.messages[1], retrying.arm.redelivery_topic
    await retrying.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    producer = Producer({"bootstrap.servers": retrying.settings.kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    headers = [*retrying.headers(victim.id, victim.kind), ("lab-origin", str(victim.at).encode())]
    producer.produce(topic, b"{}", headers=headers)
    producer.flush(60)
    assert row(await retrying.audit(), "process", "record").waiting == 1
    producer.abort_transaction(30)
    assert row(await retrying.audit(), "process", "record").lost == 1


async def test_a_letter_is_dead_lettered_then_waits_for_its_redrive_and_is_lost_when_nothing_comes_of_it(
    retrying: World,
) -> None:
    victim = retrying.messages[3]
    await retrying.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    await retrying.dead_letter(victim.at, victim.id)
    document = await retrying.audit()
    assert row(document, "process", "record").dead_lettered == 1
    assert document.dead_letter_causes == {f"process/{retrying.arm.name}/record": {"undecodable": 1}}
    await retrying.dead_letter(victim.at, victim.id, "redriven")
    await retrying.redrive(victim.at)
    assert row(await retrying.audit(), "process", "record").waiting == 1
    await retrying.payments("DELETE FROM outbox WHERE type = $1", retrying.arm.name)
    (named,) = evidence(await retrying.audit())
    assert (named.state, named.message_id) == ("lost", str(victim.id))
    await retrying.dead_letter(victim.at, victim.id, "discarded")
    document = await retrying.audit()
    assert (row(document, "process", "record").discarded, evidence(document)) == (1, [])


async def test_a_letter_that_is_redriven_while_the_audit_runs_is_not_called_lost(retrying: World) -> None:
    victim = retrying.messages[3]
    await retrying.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    await retrying.dead_letter(victim.at, victim.id)
    moved = []

    def say(text: str) -> None:
        if text.startswith("the topics") and not moved:  # the letters have been read for the first time
            moved.append(retrying.at_once("UPDATE {schema}.dead_letters SET state = 'redriven'"))

    found = row(await retrying.audit(say), "process", "record")
    assert (len(moved), found.waiting, found.lost) == (1, 1, 0)


async def test_what_seems_lost_is_looked_for_again(retrying: World) -> None:
    late, loop, moved = await retrying.seed(ORDERS, apply=False), asyncio.get_running_loop(), []
    await retrying.commit()

    def say(text: str) -> None:
        if text.endswith(", record"):
            moved.append(loop.call_later(0, lambda: moved.append(retrying.send_on(late, retrying.arm.retry_topics[0]))))

    found = row(await retrying.audit(say), "process", "record")
    assert (len(moved), found.waiting, found.lost) == (2, 1, 0)


async def test_outputs_are_counted_by_the_record_that_they_came_from(putting_out: World) -> None:
    world, topic = putting_out, putting_out.arm.output_topic
    for message in world.messages:
        world.send_on(message, topic)
    copy = msgspec.structs.replace(world.messages[0], at=world.publish(world.messages[0].id, ORDERS))
    await world.commit()
    await world.apply(copy, "record")
    document = await world.audit()
    found = row(document, "process", "output")
    assert (found.expected, found.lost, found.applied_once) == (6, 1, 5)  # of two records of an id one is owed
    assert row(document, "process", "record").inherited == 1
    world.send_on(copy, topic)
    found = row(await world.audit(), "process", "output")
    assert (found.applied_once, found.inherited, found.duplicated, found.lost) == (6, 1, 0, 0)
    world.send_on(world.messages[1], topic)
    world.produce(topic, [("lab-run", world.run.encode())])
    found = row(await world.audit(), "process", "output")
    assert (found.applied_once, found.duplicated, found.extra_applications, found.unexpected) == (5, 1, 1, 1)


async def test_an_output_whose_transaction_was_aborted_is_none(putting_out: World) -> None:
    world, victim = putting_out, putting_out.messages[0]
    for message in world.messages[1:]:
        world.send_on(message, world.arm.output_topic)
    producer = Producer({"bootstrap.servers": world.settings.kafka, "transactional.id": world.arm.name})
    producer.init_transactions(30)
    headers = [*world.headers(victim.id, victim.kind), ("lab-origin", str(victim.at).encode())]
    for end, lost in ((producer.abort_transaction, 1), (producer.commit_transaction, 0)):
        producer.begin_transaction()
        producer.produce(world.arm.output_topic, b"{}", headers=headers)
        producer.flush(60)
        assert row(await world.audit(), "process", "output").lost == 1
        end(30)
        assert row(await world.audit(), "process", "output").lost == lost


async def test_keys_that_no_client_used_are_out_of_scope(world: World) -> None:
    (world.ledger / f"{world.run}.jsonl").unlink()
    document = await world.audit()
    assert (document.out_of_scope, row(document, "accept", "intent").expected) == (6, 0)
    assert evidence(document) == []


async def test_a_refusal_with_an_intent_is_unexpected_and_a_call_without_one_uncertain(world: World) -> None:
    file = world.ledger / f"{world.run}.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"acknowledged"', b'"refused"', 1))
    world.write_ledger({"phase": "call"}, "never-answered", ORDERS)
    document = await world.audit()
    states = {item.state: item.key for item in evidence(document)}
    assert states == {"unexpected": world.messages[0].business_id, "uncertain": "never-answered"}


@asynccontextmanager
async def publisher_of(world: World, outbox: Any) -> AsyncIterator[tuple[PublisherArm, Any]]:
    """A publisher arm with a topic and a database of its own, and a connection to that."""
    arm = PublisherArm(f"audited_{uuid4().hex[:8]}", "", frozenset(), outbox, (ORDERS,))
    admin = AdminClient({"bootstrap.servers": world.settings.kafka})
    (made,) = admin.create_topics([NewTopic(arm.topic(ORDERS), 1, 1)], operation_timeout=30).values()
    made.result()
    server = await connect(world.settings.postgres, "postgres", name="test")
    await server.execute(f'CREATE DATABASE "{arm.database(ORDERS)}"')
    database = await connect(world.settings.postgres, arm.database(ORDERS), name="test")
    own = {"cursor": "id_cursor", "snapshot": "cdc"}.get(outbox, "schema")
    for file in dict.fromkeys((ACCEPT / f"{own}.sql", ACCEPT.parent / "storage" / "outbox.sql", ACCEPT / "schema.sql")):
        await database.execute(file.read_text())
    try:
        yield arm, database
    finally:
        await database.close()
        await server.execute(f'DROP DATABASE "{arm.database(ORDERS)}" WITH (FORCE)')
        await server.close()
        (gone,) = admin.delete_topics([arm.topic(ORDERS)], operation_timeout=30).values()
        gone.result()


@pytest.mark.parametrize("outbox", ["until_confirmed", "cursor", "snapshot", "none"])
async def test_a_publisher_arm_is_judged_by_its_own_databases_and_topic(world: World, outbox: str) -> None:
    async with publisher_of(world, outbox) as (arm, database):
        ids = {name: uuid4() for name in ("fine", "twice", "skipped", "waits", "unconfirmed", "ghost")}

        async def intend(*names: str) -> None:
            for name in names:
                key = f"{world.run}-{name}"
                for fields in ({"phase": "call"}, {"phase": "answer", "outcome": "acknowledged"}):
                    world.write_ledger({**fields, "arm": arm.name}, key, ORDERS)
                promised = digest(ORDERS.type, value_of(ids[name], ORDERS))
                traceparent = f"00-{TRACE}-b7ad6b7169203331-01"
                await database.execute(INTENT, ids[name], key, world.run, promised, traceparent)
                if outbox != "none":
                    await database.execute(ENQUEUE, ids[name])

        await intend("fine", "twice", "skipped")
        if outbox != "none":
            await database.execute(CONFIRM[outbox])
        await intend("waits", "unconfirmed")
        for name in ("fine", "twice", "twice", "unconfirmed", "ghost"):
            world.produce(arm.topic(ORDERS), world.headers(ids[name], ORDERS))
        document = await answered(
            partial(audit, world.settings, world.run, ledger=world.ledger, arms=[], publishers=[arm])
        )
    names = {str(message_id): name for name, message_id in ids.items()}
    named = {(item.state, names[item.message_id or ""], item.trace_id) for item in evidence(document)}
    found = row(document, "publish", "publication")
    assert row(document, "accept", "intent").applied_once == 5
    assert (found.arm, found.expected, found.applied_once, found.duplicated, found.unexpected) == (arm.name, 5, 2, 1, 1)
    expected = {("duplicated", "twice", TRACE), ("lost", "skipped", TRACE), ("unexpected", "ghost", None)}
    if outbox == "none":
        assert (found.lost, found.waiting, found.also_held) == (2, 0, 0)
        assert named == expected | {("lost", "waits", TRACE)}
    else:
        assert (found.lost, found.waiting, found.also_held) == (1, 1, 1)
        assert named == expected


async def test_where_the_head_of_a_topic_was_deleted_nothing_is_called_lost(world: World) -> None:
    async with publisher_of(world, "until_confirmed") as (arm, database):
        topic = arm.topic(ORDERS)
        for name in ("dropped", "there"):
            message_id = uuid4()
            promised = digest(ORDERS.type, value_of(message_id, ORDERS))
            for fields in ({"phase": "call"}, {"phase": "answer", "outcome": "acknowledged"}):
                world.write_ledger({**fields, "arm": arm.name}, f"{world.run}-{name}", ORDERS)
            await database.execute(INTENT, message_id, f"{world.run}-{name}", world.run, promised, "")
            world.produce(topic, world.headers(message_id, ORDERS))
        admin = AdminClient({"bootstrap.servers": world.settings.kafka})
        (gone,) = admin.delete_records([TopicPartition(topic, 0, 1)]).values()
        gone.result()
        document = await answered(
            partial(audit, world.settings, world.run, ledger=world.ledger, arms=[], publishers=[arm])
        )
    found = row(document, "publish", "publication")
    assert (found.expected, found.applied_once, found.uncertain, found.lost) == (2, 1, 1, 0)
    assert document.truncated == [f"{topic}/0"]
    for judged in document.rows:
        judged.arm = "outbox"
    verdict = judge_run(document, Chances(), Terms(promises={}))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "1 publications cannot be known" in verdict.reasons[0]


async def test_a_ledger_that_was_cut_in_the_middle_of_a_line_makes_nothing_up(world: World) -> None:
    file = world.ledger / f"{world.run}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:4], lines[4][:30], *lines[5:]]))  # the third key's call, and the line after it
    document = await world.audit()
    found = row(document, "accept", "intent")
    assert document.ledger_lines_skipped == 1
    assert (found.lost, found.unexpected, document.out_of_scope) == (0, 0, 1)
    assert evidence(document) == []


async def test_publisher_arms_never_mix(world: World) -> None:
    async with publisher_of(world, "until_confirmed") as (arm, _):
        world.produce(arm.topic(ORDERS), world.headers(world.messages[0].id, ORDERS))
        publishers = [PUBLISHER_ARMS["outbox"], arm]
        document = await audit(
            world.settings, world.run, ledger=world.ledger, arms=[world.arm], publishers=publishers
        )  # fmt: skip
    rows = {(found.hop, found.arm): found for found in document.rows if found.hop != "process"}
    assert list(rows) == [("accept", "outbox"), ("accept", arm.name), ("publish", "outbox"), ("publish", arm.name)]
    assert (rows["publish", "outbox"].applied_once, rows["publish", "outbox"].duplicated) == (6, 0)
    assert (rows["publish", arm.name].expected, rows["publish", arm.name].unexpected) == (0, 1)
    assert row(document, "process", "record").applied_once == 6


async def test_a_store_that_is_away_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_WAIT_S", 1.0)
    for field, named in (("postgres", "orders"), ("ledger", "provider")):
        away = msgspec.structs.replace(settings, **{field: "postgresql://lab:x@127.0.0.1:9"})
        with pytest.raises(Unreachable, match=named):
            await audit(away, "no-such-run", ledger=tmp_path)
    with pytest.raises(Unreachable, match="Kafka"):
        await audit(msgspec.structs.replace(settings, kafka="127.0.0.1:9"), "no-such-run", ledger=tmp_path)


@pytest.fixture
def topic(settings: Settings) -> Iterator[str]:
    """A fresh topic of one partition."""
    admin, name = AdminClient({"bootstrap.servers": settings.kafka}), f"t-{uuid4().hex[:12]}"
    for future in admin.create_topics([NewTopic(name, 1, 1)], operation_timeout=30).values():
        future.result()
    yield name
    for future in admin.delete_topics([name], operation_timeout=30).values():
        future.result()


def test_a_topic_is_read_to_its_end_even_where_that_is_the_marker_of_a_transaction(
    settings: Settings, topic: str
) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka, "transactional.id": topic})
    producer.init_transactions(30)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(topic, b"x")
        producer.flush(60)
        end(30)
    ends = bounds(settings.kafka, [topic]).ends
    assert read(settings, topic, {}, ends) == [0, 2]
    assert read(settings, topic, {(topic, 0): 1}, ends) == [2]
    assert read(settings, topic, {}, {(topic, 0): 2}) == [0]
    assert read(settings, topic, ends, ends) == []


def test_reading_leaves_no_group_behind(settings: Settings, topic: str) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(topic, b"x")
    producer.flush(60)
    assert read(settings, topic, {}, bounds(settings.kafka, [topic]).ends) == [0]
    # held in a name until it has answered: a client that nobody holds is destroyed with its question open, and the
    # answer is then "there are none, with an error", or never comes
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    listed = admin.list_consumer_groups(request_timeout=10).result()
    assert (listed.errors, "reader" in {group.group_id for group in listed.valid}) == ([], False)


def read(settings: Settings, topic: str, starts: dict[tuple[str, int], int], ends: Any) -> list[int]:
    reader, found = TopicReader(settings.kafka, starts, ends), []
    try:
        while records := reader.read():
            found += [record.at.offset for record in records]
    finally:
        reader.close()
    return found


LOST, TWICE, GHOST = {"lost": 1}, {"duplicated": 1, "extra_applications": 1}, {"unexpected": 1}


@pytest.mark.parametrize(
    ("kind", "effect", "found"),
    [
        *(("remove", effect, LOST) for effect in EFFECTS),
        *(("repeat", effect, TWICE) for effect in EFFECTS),
        ("invent", "record", GHOST),  # the provider knows no runs: a call for nobody is of none
    ],
)
async def test_tampering_is_found_and_the_message_named(
    world: World, kind: str, effect: str, found: dict[str, int]
) -> None:  # fmt: skip
    (victim,) = await tampered(world, kind, effect)
    document = await world.audit()
    judged = row(document, "process", effect)
    names = ("lost", "duplicated", "extra_applications", "unexpected")
    assert {name: count for name in names if (count := getattr(judged, name))} == found
    (named,) = evidence(document)
    assert (named.effect, named.message_id) == (effect, victim)


async def tampered(world: World, kind: str, effect: str) -> list[str]:
    """Done to effects that are old enough."""
    await world.set_age(11)
    return await tamper(world.settings, kind, world.arm, effect, 1)


@pytest.mark.parametrize("kind", ["remove", "repeat", "invent"])
@pytest.mark.parametrize("effect", ["record", "charge"])
async def test_effects_of_the_last_ten_seconds_are_left_alone(world: World, kind: str, effect: str) -> None:
    await world.set_age(0)
    with pytest.raises(TamperingError, match=f"has applied no {effect}"):
        await tamper(world.settings, kind, world.arm, effect, 1)


async def test_what_an_arms_unique_constraint_refuses_is_not_done(world: World) -> None:
    await world.set_age(11)
    await world.payments("CREATE UNIQUE INDEX records_once ON {schema}.records (message_id)")
    with pytest.raises(TamperingError, match="records_once"):
        await tamper(world.settings, "repeat", world.arm, "record", 3)
    await world.payments("DELETE FROM {schema}.records")
    with pytest.raises(TamperingError, match="has applied no record"):
        await tamper(world.settings, "remove", world.arm, "record", 1)


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits take so many messages for as many as would need four parts."""

    async def many(*_: object) -> int:
        return 3 * PART

    monkeypatch.setattr(importlib.import_module("services.auditor.audit"), "_many", many)


async def test_what_lies_in_several_parts_is_found_as_well(world: World, divided: None) -> None:
    lost, twice = world.messages[0], world.messages[1]
    await world.payments("DELETE FROM {schema}.records WHERE message_id = $1", lost.id)
    await world.apply(twice, "charge")
    ghost = Message(uuid4(), ORDERS, "", Coordinates("orders.v1", 0, 0))
    await world.apply(ghost, "record")
    unpublished = await world.seed(ORDERS, publish=False)
    document = await world.audit()
    found = {(item.hop, item.effect, item.state, item.message_id) for item in evidence(document)}
    assert found == {
        ("process", "record", "lost", str(lost.id)),
        ("process", "charge", "duplicated", str(twice.id)),
        ("process", "record", "unexpected", str(ghost.id)),
        ("publish", "publication", "lost", str(unpublished.id)),
    }
    assert row(document, "accept", "intent").applied_once == 7
    assert (row(document, "process", "email").applied_once, document.out_of_scope) == (6, 0)


async def test_by_how_many_there_are_the_messages_are_divided(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(*arguments: Any, parts: int, **named: Any) -> Bulk:
        seen.append(parts)
        return Bulk(*arguments, parts=parts, **named)

    module = importlib.import_module("services.auditor.audit")
    monkeypatch.setattr(module, "Bulk", counted)
    document = await world.audit()
    assert seen == [1]
    many = await module._many(Stores(world.settings, None), world.ledger, [PUBLISHER_ARMS["outbox"]])
    assert many >= 6  # those of this test, and of all others before it
    monkeypatch.setattr(module, "PART", -(-many // 3))
    assert (await world.audit()).rows == document.rows
    assert seen[1] in (3, 4)


async def test_outputs_in_several_parts_are_of_their_records(putting_out: World, divided: None) -> None:
    for number, message in enumerate(putting_out.messages):
        for _ in range(number):  # none, one, two, ...
            putting_out.send_on(message, putting_out.arm.output_topic)
    stranger = Coordinates("orders.v1", 0, 10**9)
    putting_out.produce(putting_out.arm.output_topic, [("lab-origin", str(stranger).encode()), *run_of(putting_out)])
    judged = row(await putting_out.audit(), "process", "output")
    assert (judged.expected, judged.lost, judged.applied_once, judged.duplicated) == (6, 1, 1, 4)
    assert (judged.extra_applications, judged.unexpected) == (1 + 2 + 3 + 4, 1)


def run_of(world: World) -> Headers:
    return [("lab-run", world.run.encode())]
