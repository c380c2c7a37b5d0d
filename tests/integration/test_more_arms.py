"""The arms that do not retry, as real processes: what each promises, and the damage that shows what it does not.

Every case sends its own records and looks at their ids only.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from services.broker.reader import bounds, committed
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS
from services.domain.failure_policy import ATTEMPTS as TRIES
from services.domain.forwarding import ORIGIN, Forwarding, forwarded
from services.domain.messages import Coordinates
from services.stack import client
from tests.conftest import Lab
from tests.integration.test_arms import (
    ALL_EFFECTS,
    Bench,
    Sent,
    databases,
    duplicated,
    id_of,
    lost,
    message,
)
from tests.pace import watched
from tests.waiting import until

ARM_KT = "kafka_transactions"
ATTEMPTS = 4  # of a case that a stand-still of the machine disturbs; the last one is held to
FAILURES = (
    "effect.dropped",
    "message.deferred",
    "transaction.aborted",
    "transaction.fenced",
    "process.started",
    "offset.revoked",
    "offset.commit_failed",
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
async def bench(lab: Lab, swept: None) -> Bench:
    """The shared lab, every arm ready."""
    bench = Bench(lab.home, *await databases(lab.home))
    await bench.ready()
    return bench


async def at_the_end(bench: Bench, arm: str) -> bool:
    """Whether the arm has committed all of the topics that every arm reads."""
    ends = (await asyncio.to_thread(bounds, bench.kafka, [topic.name for topic in MAIN_TOPICS])).ends
    positions = await asyncio.to_thread(committed, bench.kafka, CONSUMER_ARMS[arm].group)
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())


async def settled(bench: Bench, arm: str) -> None:
    """Wait until the arm has read everything, and its living processes have applied what they have committed."""
    await until(partial(at_the_end, bench, arm), f"{arm} to have read everything")
    if arm == ARM_KT:
        return  # what it has committed is done

    async def applied() -> bool:
        """Since the last revocation: what was in hand for too long then is given up."""
        told = in_order(
            bench, f"arm.{arm}#0", "process.started", "offset.revoked", "offset.committed", "offset.applied"
        )
        counts = Counter[str]()
        for name in told:
            if name in ("process.started", "offset.revoked"):
                counts.clear()
            counts[name] += 1
        return counts["offset.committed"] == counts["offset.applied"]

    await until(applied, f"{arm} to have applied what it has committed")


def in_order(bench: Bench, process: str, *names: str) -> list[str]:
    """Which of these events a process has told of, all lives."""
    lines = bench.home.log_file(process).read_text().splitlines()
    events = (json.loads(line)["event"] for line in lines if any(f'"{name}"' in line for name in names))
    return [event for event in events if event in names]


async def undisturbed(bench: Bench, arm: str, attempt: Callable[[], Awaitable[list[Sent]]]) -> list[Sent]:
    """What was sent while nothing failed: on a slow machine the provider or the group is late; four attempts."""
    sent: list[Sent] = []
    for _ in range(ATTEMPTS):
        before, received = failures(bench, arm), len(bench.events(f"arm.{arm}#0", "offset.received"))
        sent = await attempt()
        once = arm != "stock_faust" or set(receptions(bench, arm, sent, received).values()) == {1}
        if once and failures(bench, arm) == before:
            break
    return sent


def failures(bench: Bench, arm: str, number: int = 0, *, but: Collection[str] = ()) -> Counter[str]:
    """How often each thing happened that tells of a failure; stock_faust tells of none, it does not get to the end."""
    process = f"arm.{arm}#{number}"
    found = Counter({name: len(bench.events(process, name)) for name in FAILURES if name not in but})
    if arm == "stock_faust":
        ended = len(bench.events(process, "offset.applied"))
        found["not applied"] = len(bench.events(process, "offset.received")) - ended
    return found


def receptions(bench: Bench, arm: str, sent: Sequence[Sent], after: int) -> dict[str, int]:
    """How often stock_faust received each of these records, `after` so many receptions of the past.

    A rebalance may bring some again and pass others, and no event tells of it.
    """
    received = bench.events(f"arm.{arm}#0", "offset.received")[after:]
    found = Counter(f"{event['topic']}/{event['partition']}/{event['first_offset']}" for event in received)
    return {one.at: found[one.at] for one in sent}


async def restarted(bench: Bench, process: str, after: int) -> None:
    async def again() -> bool:
        now = (await bench.processes())[process]
        return bool(now["restarts"] > after and now["ready"])

    await until(again, f"{process} to be back")


async def test_at_most_once_does_everything_once_while_nothing_fails(bench: Bench) -> None:
    async def attempt() -> list[Sent]:
        sent = await bench.send_messages(100, ALL_EFFECTS)
        sent += await bench.send_messages(2000, "record", customers=200)
        await settled(bench, "at_most_once")
        return sent

    sent = await undisturbed(bench, "at_most_once", attempt)
    for effect in ("charge", "email"):
        assert await bench.applied("at_most_once", effect, sent) == Counter({s.id: 1 for s in sent[:100]})
    assert await bench.applied("at_most_once", "record", sent) == Counter({s.id: 1 for s in sent})


async def test_at_most_once_loses_what_it_had_committed_when_it_died_and_doubles_nothing(bench: Bench) -> None:
    process = "arm.at_most_once#0"
    deaths = (await bench.restarts(process))[process]
    await bench.arm("process.after_commit_before_effect", "kill nth=3 count=1 arm=at_most_once")
    sent = await bench.send_messages(2000, "record", customers=200)
    await restarted(bench, process, deaths)
    sent += await bench.send_messages(50, ALL_EFFECTS)
    await settled(bench, "at_most_once")
    applied = await bench.applied("at_most_once", "record", sent)
    assert lost(applied, sent)
    assert duplicated(applied) == []
    for effect in ("charge", "email"):
        assert duplicated(await bench.applied("at_most_once", effect, sent)) == []


async def test_at_most_once_doubles_nothing_when_it_is_frozen_beyond_its_session_and_another_takes_over(
    bench: Bench,
) -> None:
    async with alone_at_the_end(bench, "at_most_once"):
        await scale(bench, "at_most_once", 2)
        sending = asyncio.create_task(bench.send_messages(6000, "record", customers=200))
        charged = await asyncio.create_task(bench.send_messages(100, "record,charge"))  # begun after the others
        await bench.act("freeze", "arm.at_most_once#0")
        sent = [*charged, *await sending, *await bench.send_messages(500, "record")]
        await until(partial(at_the_end, bench, "at_most_once"), "the other one to have read everything", 180)
        await bench.act("thaw", "arm.at_most_once#0")
        sent += await bench.send_messages(500, "record")
        await bench.ready()
    await settled(bench, "at_most_once")
    for effect in ("record", "charge"):
        assert duplicated(await bench.applied("at_most_once", effect, sent)) == []


@contextlib.asynccontextmanager
async def alone_at_the_end(bench: Bench, arm: str) -> AsyncIterator[None]:
    """Whatever happens, afterwards nothing is armed, and of the arm there is one process, which is not frozen."""
    try:
        yield
    finally:
        if (await bench.processes())[f"arm.{arm}#0"]["state"] == "frozen":
            await bench.act("thaw", f"arm.{arm}#0")
        await disarm(bench)
        await scale(bench, arm, 1)


async def disarm(bench: Bench, failpoint: str | None = None) -> None:
    """Disarm; who was just thawed may take it in a little later."""
    try:
        await asyncio.to_thread(client.clear, bench.home, failpoint)
    except client.Refused as error:
        assert error.status == 409, error  # noqa: PT017


async def scale(bench: Bench, arm: str, replicas: int) -> None:
    body = {"name": f"arm.{arm}", "replicas": replicas}
    await asyncio.to_thread(client.call, bench.home, "POST", "/scale", body)
    await bench.ready()


async def test_stock_faust_does_everything_once_while_nothing_fails(bench: Bench, lab: Lab) -> None:
    async def attempt() -> list[Sent]:
        sent = await bench.send_messages(100, ALL_EFFECTS)
        await asyncio.to_thread(lab.drain)
        return sent

    sent = await undisturbed(bench, "stock_faust", attempt)
    for effect in ("record", "charge", "email"):
        applied = await bench.applied("stock_faust", effect, sent)
        assert (lost(applied, sent), duplicated(applied)) == ([], [])


async def test_stock_faust_loses_messages_whose_call_failed_and_commits_past_them(bench: Bench, lab: Lab) -> None:
    for _ in range(ATTEMPTS):
        received = len(bench.events("arm.stock_faust#0", "offset.received"))
        await bench.arm("provider.before_applying", "error:http_500 nth=10 count=2 arm=stock_faust")
        sent = await bench.send_messages(200, "record,charge")
        await asyncio.to_thread(lab.drain)
        await asyncio.to_thread(client.clear, bench.home)
        if max(receptions(bench, "stock_faust", sent, received).values()) < 2:
            break  # else a rebalance brought again what was passed
    applied = await bench.applied("stock_faust", "record", sent)
    assert 2 <= len(lost(applied, sent)) < len(sent), "each exception restarts the agent, after five seconds"


async def test_kafka_transactions_puts_everything_out_once_while_nothing_fails(bench: Bench) -> None:
    async def attempt() -> list[Sent]:
        sent = await bench.send_messages(100, "record,charge")
        sent += await bench.send_messages(1000, "record", customers=200)
        await until(partial(at_the_end, bench, ARM_KT), f"{ARM_KT} to have read everything")
        return sent

    sent = await undisturbed(bench, ARM_KT, attempt)
    assert await bench.applied(ARM_KT, "charge", sent) == Counter({s.id: 1 for s in sent[:100]})
    assert await bench.applied(ARM_KT, "record", sent) == Counter({s.id: 1 for s in sent})
    assert await output(bench, sent) == Counter({s.at: 1 for s in sent})


@pytest.mark.parametrize("gap", ["process.in_transaction_before_offsets", "process.in_transaction_after_offsets"])
async def test_kafka_transactions_killed_within_one_doubles_charges_and_records_and_never_its_output(
    bench: Bench, gap: str
) -> None:
    process = f"arm.{ARM_KT}#0"
    deaths = (await bench.restarts(process))[process]
    await bench.arm(gap, f"kill count=1 arm={ARM_KT}")
    sent = await bench.send_messages(200, "record,charge")
    await restarted(bench, process, deaths)
    await until(partial(at_the_end, bench, ARM_KT), f"{ARM_KT} to have read everything")
    assert await output(bench, sent) == Counter({s.at: 1 for s in sent})
    for effect in ("record", "charge"):
        assert duplicated(await bench.applied(ARM_KT, effect, sent))


async def test_a_frozen_process_of_kafka_transactions_is_fenced_when_another_has_taken_over(bench: Bench) -> None:
    """The other one comes when the first is frozen: of two that run, nobody could tell which one the pause has met."""
    gap, zombie = "process.in_transaction_before_offsets", f"arm.{ARM_KT}#0"
    before = await passes(bench, gap)
    async with alone_at_the_end(bench, ARM_KT):
        await bench.arm(gap, f"pause:600 count=1 arm={ARM_KT}")
        sent = await bench.send_messages(300, "record,charge")
        await until(partial(changed, bench, gap, before), "it to be in its transaction")
        assert await changed(bench, gap, before) == [zombie]
        await bench.act("freeze", zombie)
        body = {"name": f"arm.{ARM_KT}", "replicas": 2}
        await asyncio.to_thread(client.call, bench.home, "POST", "/scale", body)
        await until(partial(at_the_end, bench, ARM_KT), "the other one to have read everything", 180)
        before_thaw = refusals(bench, zombie)
        await bench.act("thaw", zombie)
        await disarm(bench, gap)

        async def refused() -> bool:
            return refusals(bench, zombie) > before_thaw

        await until(refused, "the broker to refuse the frozen one's transaction")
        sent += await bench.send_messages(100, "record")
    await until(partial(at_the_end, bench, ARM_KT), "everything to be read")
    assert await output(bench, sent) == Counter({s.at: 1 for s in sent})
    assert duplicated(await bench.applied(ARM_KT, "charge", sent)), "its charges were made, and made again"


def refusals(bench: Bench, process: str) -> int:
    """How often the broker refused its offsets, as of no member, or its producer, as one whose time is over."""
    words = ("UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION")
    aborted = bench.events(process, "transaction.aborted")
    refused = [event for event in aborted if any(word in event["error"] for word in words)]
    return len(refused) + len(bench.events(process, "transaction.fenced"))


async def passes(bench: Bench, failpoint: str) -> dict[str, int]:
    listing = (await asyncio.to_thread(client.failpoints, bench.home))["passes"]
    return {one["process"]: one["passes"] for one in listing if one["failpoint"] == failpoint}


async def changed(bench: Bench, failpoint: str, before: dict[str, int]) -> list[str]:
    return [name for name, count in (await passes(bench, failpoint)).items() if count > before.get(name, 0)]


@pytest.mark.parametrize("arm", [ARM_KT, "at_most_once"])
async def test_a_replica_that_is_asked_to_end_finishes_what_it_has_begun(bench: Bench, arm: str) -> None:
    with watched() as pace:
        for _ in range(ATTEMPTS):
            await scale(bench, arm, 2)
            before, began = disturbances(bench, arm), time.monotonic()
            code, applied = await _leave(bench, arm)
            if disturbances(bench, arm) == before and not pace.still(began):
                break
            if code == 0 and set(applied.values()) == {1}:
                break
    assert code == 0
    assert set(applied.values()) == {1}


async def _leave(bench: Bench, arm: str) -> tuple[int, dict[UUID, int]]:
    """The second of two is asked to end. Returns its exit code, and how often each message was applied."""
    replica = f"arm.{arm}#1"
    received = len(bench.events(replica, "offset.received"))
    sending = asyncio.create_task(bench.send_messages(4000, "record", customers=300))

    async def more() -> bool:
        return len(bench.events(replica, "offset.received")) > received

    await until(more, "it to be in the middle of it")
    await scale(bench, arm, 1)
    exits = [event for event in bench.events("supervisor", "part.exited") if event["part"] == replica]
    sent = await sending
    await settled(bench, arm)
    applied = await bench.applied(arm, "record", sent)
    return exits[-1]["code"], {s.id: applied[s.id] for s in sent}


def disturbances(bench: Bench, arm: str) -> list[Any]:
    """What tells that the machine kept the two from working; that partitions change hands is the case itself."""
    killed = [event for event in bench.events("supervisor", "part.killed") if event["part"].startswith(f"arm.{arm}#")]
    return [len(killed), *(failures(bench, arm, number, but=("offset.revoked",)) for number in (0, 1))]


@pytest.mark.parametrize("arm", [ARM_KT, "at_most_once"])
async def test_what_cannot_be_decoded_is_a_letter_and_holds_nothing_up(bench: Bench, arm: str) -> None:
    good = message(uuid4(), 0, "record", "customer-1")
    places = await bench.send([(good[0], b"customer-1", b"{", good[3], 0), (good[0], b"customer-1", None, [], 0)])
    sent = await bench.send_messages(20, "record")
    await settled(bench, arm)
    letters = await bench.letters(arm, places)
    assert [letters[at]["reason"] for at in places] == ["undecodable", "no_message_id"]
    assert lost(await bench.applied(arm, "record", sent), sent) == []


async def test_a_charge_that_is_refused_is_a_letter_of_kafka_transactions_and_no_output(bench: Bench) -> None:
    await bench.arm("provider.before_applying", f"error:http_400 nth=3 count=1 arm={ARM_KT}")
    sent = await bench.send_messages(30, "record,charge")
    await until(partial(at_the_end, bench, ARM_KT), "everything to be read")
    letters = await bench.letters(ARM_KT, [s.at for s in sent])
    assert [letter["reason"] for letter in letters.values()] == ["refused"]
    assert await output(bench, sent) == Counter({s.at: 1 for s in sent if s.at not in letters})


async def test_kafka_transactions_gives_nothing_up_while_nobody_answers_at_the_providers_address(bench: Bench) -> None:
    """More tries than are allowed find no connection: the provider was not called, so none of them is an attempt."""

    def aborted() -> int:
        return len(bench.events(f"arm.{ARM_KT}#0", "transaction.aborted"))

    async def tried_too_often() -> bool:
        return aborted() > before + TRIES

    await bench.hold_down("provider")
    try:
        before = aborted()
        sent = await bench.send_messages(5, "record,charge")
        await until(tried_too_often, "more tries than are allowed")
    finally:
        await bench.act("restart", "provider")
    await settled(bench, ARM_KT)
    assert await bench.letters(ARM_KT, [s.at for s in sent]) == {}
    assert lost(await bench.applied(ARM_KT, "charge", sent), sent) == []
    assert await output(bench, sent) == Counter({s.at: 1 for s in sent})


@pytest.mark.parametrize("arm", [ARM_KT, "at_most_once"])
async def test_what_comes_back_through_the_redelivery_topic_is_applied_under_its_origin(bench: Bench, arm: str) -> None:
    first = message(uuid4(), 0, "record", "customer-1")
    origin = Coordinates(first[0], 1, 10**12)
    headers = forwarded(first[3], Forwarding(origin=origin, via="redrive", operation="test"))
    await bench.send([(CONSUMER_ARMS[arm].redelivery_topic, first[1], first[2], headers)])

    async def row() -> Any:
        return await bench.payments.fetchrow(f"SELECT * FROM {arm}.records WHERE message_id = $1", id_of(first))  # noqa: S608

    await until(row, "it to be applied")
    applied = await row()
    assert (applied["topic"], applied["partition"], applied["offset"]) == (
        origin.topic,
        origin.partition,
        origin.offset,
    )


async def output(bench: Bench, sent: Sequence[Sent]) -> Counter[str]:
    """How often each of these records is in the output topic, for a reader of committed records."""
    wanted = {s.at for s in sent}
    found = await asyncio.to_thread(_origins, bench.kafka, CONSUMER_ARMS[ARM_KT].output_topic)
    return Counter(at for at in found if at in wanted)


def _origins(bootstrap: str, topic: str) -> list[str]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = []
    while True:
        for record in consumer.consume(500, 0.2):  # it waits for so many
            if record.error() is not None:
                assert record.error().code() == KafkaError._PARTITION_EOF, record.error()
                consumer.close()
                return found
            found.append(dict(record.headers())[ORIGIN].decode())
