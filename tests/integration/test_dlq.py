"""Letters on a real Postgres: redriven through the outbox or discarded, each once, whoever dies when."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from services.domain.messages import digest
from services.domain.redrive import NO_ID
from services.domain.sharding import shard_of
from services.letters.discard import discard
from services.letters.letters import Selection, UnknownLetter, listed, log, named, parse_name
from services.letters.parked import BATCH, NotParked, Outcome, check_parked
from services.letters.redrive import MOST_ROUNDS, redrive
from services.relay.__main__ import REDRIVES
from services.relay.records import redelivery_of
from services.settings import Settings
from tests.lettering import ORIGIN, WINDOW_S, desk, letters, park, park_many

ROWS = "SELECT position, message_id, shard, key, type, payload, headers::text, created_at FROM outbox ORDER BY position"
ROOT = Path(__file__).parents[2]
OLD = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")  # RFC 9562's example: 2022


@pytest.fixture
async def payments(settings: Settings, database: str) -> AsyncIterator[Any]:
    async with letters(settings.postgres, database) as connection:
        yield connection


async def redriven(payments: Any, selection: Selection | None = None, **options: Any) -> Outcome:
    options = {"window_s": WINDOW_S, **options}
    kafka = options.pop("kafka", "")
    return await redrive(desk(payments, kafka), selection or Selection(), lambda _: None, **options)


async def states(payments: Any, arm: str = "effectively_once") -> dict[str, int]:
    rows = await payments.fetch(f"SELECT state, count(*) FROM {arm}.dead_letters GROUP BY state")  # noqa: S608
    return dict(map(tuple, rows))


async def rows_of(payments: Any) -> list[Any]:
    return [tuple(row) for row in await payments.fetch(ROWS)]


async def test_a_redriven_letter_is_a_row_of_the_outbox_from_which_the_relay_makes_its_record_again(
    payments: Any,
) -> None:
    message_id, headers = uuid4(), [("ce_id", b"x"), ("ce_id", b"\xff\x00"), ("trace", None)]
    name = await park(payments, 7, message_id=message_id, value=b"\x00poison", headers=headers)
    outcome = await redriven(payments, Selection(arms=["effectively_once"], names=[parse_name(name)]))
    assert (outcome.changed, outcome.left_out) == (1, {})
    (row,) = await rows_of(payments)
    assert row[1:5] == (message_id, shard_of("c-1"), "c-1", "effectively_once")
    topic, key, value, sent = redelivery_of(row, REDRIVES.topics)
    assert (topic, key, value) == ("payments.effectively_once.redelivery", b"c-1", b"\x00poison")
    assert list(sent) == [
        *headers,
        ("lab-origin", f"{ORIGIN}/0/7".encode()),
        ("lab-via", b"redrive"),
        ("lab-operation", outcome.operation.encode()),
    ]
    (letter,) = await named(payments, [parse_name(name)])
    assert (letter.state, letter.rounds) == ("redriven", 1)
    (entry,) = await log(payments, parse_name(name))
    assert (entry.action, entry.actor, entry.why) == ("redriven", "tester", "the provider is mended")


async def test_what_text_cannot_hold_goes_through_the_outbox_unharmed(payments: Any) -> None:
    await park(payments, 1, message_id=None, key=b"a\x00\xff", headers=[("\u00fc", b"")])
    await park(payments, 2, message_id=None, key=None)
    await redriven(payments)
    first, second = await rows_of(payments)
    assert (first[1], second[1]) == (NO_ID, NO_ID)
    assert redelivery_of(first, REDRIVES.topics)[1] == b"a\x00\xff"
    assert redelivery_of(first, REDRIVES.topics)[3][0] == ("\u00fc", b"")
    assert redelivery_of(second, REDRIVES.topics)[1] is None


async def test_done_again_a_redrive_changes_nothing(payments: Any) -> None:
    await park_many(payments, 30)
    assert (await redriven(payments)).changed == 30
    assert (await redriven(payments)).changed == 0
    assert await payments.fetchval("SELECT count(*) FROM outbox") == 30


async def test_two_redrives_at_once_take_each_letter_once(payments: Any, settings: Settings, database: str) -> None:
    await park_many(payments, 3 * BATCH)
    others = [await asyncpg.connect(f"{settings.postgres}/{database}") for _ in range(3)]
    outcomes = await asyncio.gather(*(redriven(connection) for connection in others))
    assert sum(outcome.changed for outcome in outcomes) == 3 * BATCH
    assert await payments.fetchval("SELECT count(*) FROM outbox") == 3 * BATCH
    assert await payments.fetchval("SELECT count(DISTINCT message_id) FROM outbox") == 3 * BATCH
    assert await payments.fetchval("SELECT count(*) FROM effectively_once.letter_log") == 3 * BATCH
    for connection in others:
        await connection.close()


@pytest.mark.parametrize("nth", [1, 3])
async def test_killed_half_way_and_repeated_every_letter_is_in_the_outbox_exactly_once(
    payments: Any, settings: Settings, database: str, nth: int
) -> None:
    await park_many(payments, 4 * BATCH)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.lettering", f"{settings.postgres}/{database}", str(nth), cwd=ROOT
    )
    assert await process.wait() == -signal.SIGKILL
    assert await states(payments) == {"parked": (4 - nth) * BATCH, "redriven": nth * BATCH}
    assert (await redriven(payments)).changed == (4 - nth) * BATCH
    assert await states(payments) == {"redriven": 4 * BATCH}
    in_both = """SELECT count(*), count(DISTINCT d.letter)
                   FROM outbox JOIN effectively_once.dead_letters d USING (message_id)"""
    assert tuple(await payments.fetchrow(in_both)) == (4 * BATCH, 4 * BATCH)
    assert await payments.fetchval("SELECT count(*) FROM effectively_once.letter_log") == 4 * BATCH


async def test_what_came_back_too_often_or_may_be_forgotten_by_the_inbox_needs_force(payments: Any) -> None:
    often = await park(payments, 1, rounds=MOST_ROUNDS)
    old = await park(payments, 2, message_id=OLD)
    fine = await park(payments, 3, rounds=MOST_ROUNDS - 1)
    without_inbox = await park(payments, 4, "at_least_once", message_id=OLD)
    outcome = await redriven(payments)
    assert set(outcome.left_out) == {often, old}
    assert "came back 3 times" in outcome.left_out[often]
    assert "dedup window" in outcome.left_out[old]
    assert {row[4] for row in await rows_of(payments)} == {"effectively_once", "at_least_once"}
    assert (await redriven(payments, force=True)).changed == 2
    found = await named(payments, [parse_name(name) for name in (often, old, fine, without_inbox)])
    assert [letter.rounds for letter in found] == [MOST_ROUNDS + 1, 1, MOST_ROUNDS, 1]


async def test_a_dry_run_counts_and_changes_nothing(payments: Any) -> None:
    await park_many(payments, 5)
    assert (await redriven(payments, dry_run=True)).changed == 5
    assert (await discard(desk(payments), Selection(), lambda _: None, dry_run=True)).changed == 5
    assert await states(payments) == {"parked": 5}
    assert await rows_of(payments) == []


async def test_a_letter_that_is_settled_or_not_there_is_refused_by_name(payments: Any) -> None:
    names = [parse_name(await park(payments, n)) for n in range(3)]
    await redriven(payments, Selection(arms=["effectively_once"], names=names[:1]))
    await discard(desk(payments), Selection(arms=["effectively_once"], names=names[1:2]), lambda _: None)
    with pytest.raises(NotParked, match=rf"{names[0]} is already redriven, {names[1]} is already discarded"):
        await check_parked(payments, names)
    with pytest.raises(UnknownLetter, match="effectively_once/999"):
        await check_parked(payments, [parse_name("effectively_once/999")])


async def test_a_letter_that_comes_back_while_others_are_redriven_waits_for_the_next_time(payments: Any) -> None:
    await park_many(payments, BATCH + 1)

    def come_back(outcome: Outcome) -> None:
        back.append(outcome.changed)

    class Returning:
        async def hit(self, name: str) -> None:
            await payments.execute("UPDATE effectively_once.dead_letters SET state = 'parked' WHERE state = 'redriven'")

    back: list[int] = []
    outcome = await redrive(desk(payments, failpoints=Returning()), Selection(), come_back, window_s=WINDOW_S)
    assert (outcome.changed, back) == (BATCH + 1, [BATCH, BATCH + 1])
    assert await payments.fetchval("SELECT max(rounds) FROM effectively_once.dead_letters") == 1


async def test_a_letter_whose_value_is_not_in_the_table_is_read_where_it_lies(
    payments: Any, settings: Settings
) -> None:
    topic, admin = f"lettering.{uuid4().hex[:8]}", AdminClient({"bootstrap.servers": settings.kafka})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(topic, b"first", b"k")
    producer.produce(topic, b"large", b"k2", headers=[("ce_type", b"lab.order.placed.v1"), ("n", None)])
    producer.produce(topic, None, b"k3")
    producer.flush(10)
    large = await park(payments, 1, topic=topic, value=None, key=None)
    null = await park(payments, 2, topic=topic, value=None)
    gone = await park(payments, 3, topic=topic, value=None)
    outcome = await redriven(payments, kafka=settings.kafka)
    assert (outcome.changed, list(outcome.left_out)) == (2, [gone])
    first, second = (redelivery_of(row, REDRIVES.topics) for row in await rows_of(payments))
    assert (first[1:3], list(first[3])[:2]) == ((b"k2", b"large"), [("ce_type", b"lab.order.placed.v1"), ("n", None)])
    assert second[1:3] == (b"k3", None)
    found = await named(payments, [parse_name(name) for name in (large, null, gone)])
    assert [letter.state for letter in found] == ["redriven", "redriven", "parked"]
    admin.delete_topics([topic])[topic].result()


async def test_discarding_leaves_a_tombstone_for_later_copies_and_touches_no_id_that_something_else_has(
    payments: Any,
) -> None:
    ids = dict(zip(("new", "reserved", "done", "other"), (uuid4() for _ in range(4)), strict=True))
    type_, value = b"lab.order.placed.v1", b'{"n":1}'
    for number, message_id in enumerate(ids.values()):
        await park(payments, number, message_id=message_id, value=value, headers=[("ce_type", type_)])
    nameless = await park(payments, 9)
    ours = digest(type_.decode(), value)
    known = """INSERT INTO effectively_once.inbox (message_id, digest, state, topic, partition, "offset", life)
               VALUES ($1, $2, $3, 't', 0, 0, gen_random_uuid())"""
    await payments.execute(known, ids["reserved"], ours, "reserved")
    await payments.execute(known, ids["done"], ours, "done")
    await payments.execute(known, ids["other"], b"another payload", "reserved")
    outcome = await discard(desk(payments), Selection(), lambda _: None)
    assert outcome.changed == 5
    assert await states(payments) == {"discarded": 5}
    inbox = await payments.fetch("SELECT message_id, state, digest FROM effectively_once.inbox")
    found = {row["message_id"]: (row["state"], row["digest"]) for row in inbox}
    assert found == {
        ids["new"]: ("discarded", ours),
        ids["reserved"]: ("discarded", ours),
        ids["done"]: ("done", ours),
        ids["other"]: ("reserved", b"another payload"),
    }
    assert await rows_of(payments) == []
    (entry,) = await log(payments, parse_name(nameless))
    assert entry.action == "discarded"


async def test_an_arm_without_an_inbox_discards_without_a_tombstone(payments: Any) -> None:
    await park_many(payments, 3, "at_least_once")
    assert (await discard(desk(payments), Selection(arms=["at_least_once"]), lambda _: None)).changed == 3
    assert await states(payments, "at_least_once") == {"discarded": 3}


async def test_the_list_is_filtered_and_the_newest_come_last(payments: Any) -> None:
    message_id = uuid4()
    one = await park(payments, 1, message_id=message_id, reason="invalid")
    two = await park(payments, 2, "at_least_once")
    three = await park(payments, 3)
    await payments.execute(
        "UPDATE effectively_once.dead_letters SET last_failure = now() - interval '1 hour' WHERE reason = 'invalid'"
    )
    await redriven(payments, Selection(arms=["at_least_once"]))

    async def names(limit: int = 10, **chosen: Any) -> list[str]:
        found, _ = await listed(payments, Selection(**chosen), limit)
        return [letter.letter for letter in found]

    assert await names() == [one, two, three]
    assert await names(limit=2) == [two, three]
    assert (await listed(payments, Selection(), 1))[1] == 3
    assert await names(arms=["at_least_once"]) == [two]
    assert await names(reason="invalid") == [one]
    assert await names(message_id=message_id) == [one]
    assert await names(state="redriven") == [two]
    assert await names(since=datetime.now(UTC) - timedelta(minutes=10)) == [two, three]
    assert msgspec.json.encode(await named(payments, [parse_name(one)])).startswith(b"[{")
