"""The auditor on real parts: a history in which all is well, then one thing broken on purpose, and it must be named.

Every test has a run, an arm, a schema and a group of its own on the shared parts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from services.auditor.audit import Unreachable, audit
from services.broker.reader import TopicReader, bounds
from services.domain.arms import ConsumerArm
from services.domain.audit import AuditDocument, AuditRow, Evidence
from services.domain.messages import KINDS, ORDERS, Coordinates, Kind, record_headers
from services.settings import Settings
from services.storage.postgres import connect

SCHEMA = Path(__file__).parents[2] / "services" / "payments" / "schema"
TRACE = "0af7651916cd43dd8448eb211c80319c"
Headers = Sequence[tuple[str, bytes]]


class Message(msgspec.Struct, frozen=True):
    """One seeded message and where its record lies."""

    id: UUID
    kind: Kind
    business_id: str
    at: Coordinates


class World:
    """Writes what the services would write, row by row, so that a test can leave one thing out."""

    def __init__(self, settings: Settings, ledger: Path) -> None:
        self.settings = settings
        self.ledger = ledger
        self.run = f"audit-{uuid4().hex[:12]}"
        self.arm = ConsumerArm(f"audited_{uuid4().hex[:12]}", "", {})
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

    async def close(self) -> None:
        for kind in KINDS:
            for table in ("intents", "outbox", "outbox_set_aside"):
                ids = [message.id for message in self.messages]
                await self.databases[kind.name].execute(f"DELETE FROM {table} WHERE message_id = ANY ($1)", ids)  # noqa: S608
        await self.payments("DROP SCHEMA {schema} CASCADE")
        await self.databases["provider"].execute("DELETE FROM applications WHERE account = $1", self.arm.name)
        for database in self.databases.values():
            await database.close()
        await self.forget()

    async def seed(self, kind: Kind, *, publish: bool = True, apply: bool = True) -> Message:
        """One message, from its call to its effects."""
        message_id, business_id = uuid4(), f"b-{uuid4().hex}"
        self.write_ledger({"phase": "call"}, business_id, kind)
        await self.databases[kind.name].execute(
            """INSERT INTO intents (message_id, business_id, customer_id, amount_cents, currency, effects, run,
                                    idempotency_key, digest, traceparent)
               VALUES ($1, $2, 'c', 100, 'EUR', '{record,charge,email}', $3, $2, '', $4)""",
            message_id, business_id, self.run, f"00-{TRACE}-b7ad6b7169203331-01",
        )  # fmt: skip
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
        extra = [("lab-effects", "record,charge,email"), ("lab-run", self.run)]
        return self.produce(kind, record_headers(message_id=message_id, kind=kind, time=datetime.now(UTC), extra=extra))

    def produce(self, kind: Kind, headers: Headers) -> Coordinates:
        """Any record, written when this returns."""
        at: list[Coordinates] = []

        def delivered(error: object, record: Any) -> None:
            assert error is None
            at.append(Coordinates(record.topic(), record.partition(), record.offset()))

        reason = {} if kind is ORDERS else {"reason": "damaged"}
        value = {"order_id": uuid4().hex, "customer_id": "c", "amount_cents": 100, "currency": "EUR", **reason}
        data = msgspec.json.encode(value)
        self._producer.produce(kind.topic, data, b"c", headers=list(headers), on_delivery=delivered)
        self._producer.flush(10)
        return at[0]

    async def apply(self, message: Message, effect: str) -> None:
        """One application of the effect more."""
        where = (message.at.topic, message.at.partition, message.at.offset)
        if effect == "record":
            await self.payments(
                """INSERT INTO {schema}.records (message_id, run, type, business_id, customer_id, amount_cents,
                                                 currency, topic, partition, "offset", life)
                   VALUES ($1, $2, 't', 'b', 'c', 100, 'EUR', $3, $4, $5, gen_random_uuid())""",
                message.id, self.run, *where,
            )  # fmt: skip
            return
        await self.databases["provider"].execute(
            """INSERT INTO applications (account, effect, message_id, customer_id, topic, partition, "offset", life)
               VALUES ($1, $2, $3, 'c', $4, $5, $6, 'l')""",
            self.arm.name, effect, str(message.id), *where,
        )  # fmt: skip

    async def payments(self, statement: str, *arguments: Any) -> None:
        await self.databases["payments"].execute(statement.replace("{schema}", self.arm.schema), *arguments)

    async def dead_letter(self, at: Coordinates, message_id: UUID | None = None) -> None:
        await self.payments(
            """INSERT INTO {schema}.dead_letters (topic, partition, "offset", message_id, reason, detail, life)
               VALUES ($1, $2, $3, $4, 'undecodable', '', gen_random_uuid())""",
            at.topic, at.partition, at.offset, message_id,
        )  # fmt: skip

    async def commit(self) -> None:
        """The group has passed everything that is on the topics by now."""
        ends = await asyncio.to_thread(bounds, self.settings.kafka, [kind.topic for kind in KINDS])
        positions = [TopicPartition(*partition, offset) for partition, offset in ends.ends.items()]
        request = [ConsumerGroupTopicPartitions(self.arm.group, positions)]
        (done,) = self._admin.alter_consumer_group_offsets(request).values()
        await asyncio.to_thread(done.result)

    async def forget(self) -> None:
        """The group has never committed."""
        (done,) = self._admin.delete_consumer_groups([self.arm.group]).values()
        await asyncio.to_thread(done.exception)  # of a group that is none, too

    async def audit(self, say: Callable[[str], None] = lambda _: None) -> AuditDocument:
        return await audit(self.settings, self.run, ledger=self.ledger, arms=[self.arm], say=say)


@pytest.fixture
async def world(settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    """Four orders and two refunds of which everything is as it should be."""
    made = World(settings, tmp_path)
    await made.open()
    try:
        for kind in (ORDERS, ORDERS, ORDERS, ORDERS, *KINDS[1:] * 2):
            await made.seed(kind)
        await made.commit()
        yield made
    finally:
        await made.close()


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
    at = world.produce(ORDERS, [("lab-run", world.run.encode())])
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


async def test_a_store_that_is_away_is_named(settings: Settings, tmp_path: Path) -> None:
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
        producer.flush(10)
        end(30)
    ends = bounds(settings.kafka, [topic]).ends
    assert read(settings, topic, {}, ends) == [0, 2]
    assert read(settings, topic, {(topic, 0): 1}, ends) == [2]
    assert read(settings, topic, {}, {(topic, 0): 2}) == [0]
    assert read(settings, topic, ends, ends) == []


def test_reading_leaves_no_group_behind(settings: Settings, topic: str) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(topic, b"x")
    producer.flush(10)
    assert read(settings, topic, {}, bounds(settings.kafka, [topic]).ends) == [0]
    groups = AdminClient({"bootstrap.servers": settings.kafka}).list_consumer_groups(request_timeout=10).result().valid
    assert "reader" not in {group.group_id for group in groups}


def read(settings: Settings, topic: str, starts: dict[tuple[str, int], int], ends: Any) -> list[int]:
    reader, found = TopicReader(settings.kafka, starts, ends), []
    try:
        while records := reader.read():
            found += [record.at.offset for record in records]
    finally:
        reader.close()
    return found
