"""Replays on a real broker: each record of the window exactly once for readers of committed records, whoever dies."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from services.replay.copying import BATCH, TRANSACTION_MS, copy
from services.replay.plan import Plan, kept, known, offsets_at, oldest
from services.replay.window import Kept, WindowError
from services.settings import Settings
from tests.replaying import Bench, Free, bench

ROOT = Path(__file__).parents[2]
NEVER = 1_000_000
ATTEMPTS = 4


@pytest.fixture
def place(settings: Settings) -> Iterator[Bench]:
    with bench(settings.kafka) as made:
        yield made


def carry_out(place: Bench, plan: Plan, told: list[int] | None = None) -> int:
    """Copy and return how many records were; begun again, as who replays would, when the machine stood still in it."""
    found = known(place.kafka, plan.id)
    earlier = sum(found[1].values()) - sum(span.first for span in plan.spans) if found else 0
    copied = 0
    for attempt in range(ATTEMPTS):
        began, before = time.monotonic(), copied
        try:
            return before + copy(place.kafka, plan, Free(), partial(_tell, told, before))
        except KafkaException:
            if attempt == ATTEMPTS - 1 or not stood_still(began):
                raise
        copied = len(place.copied()) - earlier
    raise AssertionError("unreachable")


def _tell(told: list[int] | None, before: int, now: int) -> None:
    if told is not None:
        told.append(before + now)


def stood_still(began: float) -> bool:
    """Whether a copy that failed took as long as the broker leaves a transaction open; each takes a second here."""
    return time.monotonic() - began >= TRANSACTION_MS / 1000


async def process(place: Bench, plan: Plan, nth: int) -> asyncio.subprocess.Process:
    words = (place.kafka, msgspec.json.encode(plan).decode(), str(nth))
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.replaying", *words, cwd=ROOT)


def origins(place: Bench) -> list[str]:
    return [dict(message.headers())["lab-origin"].decode() for message in place.copied()]


def expected(place: Bench, *spans: tuple[int, int, int]) -> list[str]:
    return [f"{place.topic}/{p}/{offset}" for p, first, last in spans for offset in range(first, last + 1)]


def test_records_are_copied_as_they_are_with_where_they_come_from(place: Bench) -> None:
    producer = Producer({"bootstrap.servers": place.kafka})
    odd = [
        (b"k", b"\xff not JSON", [("ce_id", b"one"), ("ce_id", b"\x00"), ("n", None)]),
        (None, b"", []),
        (b"\xfe", None, [("traceparent", b"00-ab")]),
    ]
    for key, value, headers in odd:
        producer.produce(place.topic, value, key, 1, headers=headers)
    producer.flush(60)
    plan = place.plan((1, 0, 2))
    assert carry_out(place, plan) == 3
    copied = place.copied()
    assert [(m.key(), m.value(), m.headers()[: len(h)]) for m, (*_, h) in zip(copied, odd, strict=True)] == odd
    assert copied[0].headers()[3:] == [
        ("lab-origin", f"{place.topic}/1/0".encode()),
        ("lab-via", b"replay"),
        ("lab-operation", plan.id.encode()),
    ]


def test_only_the_window_is_copied_and_a_replay_that_is_over_copies_nothing_more(place: Bench) -> None:
    place.fill(1_200)
    place.fill(300, 1)
    window = (0, 100, 1_099), (1, 0, 0)
    plan = place.plan(*window)
    told: list[int] = []
    assert carry_out(place, plan, told) == 1_001
    assert (told[-1], told) == (1_001, sorted(told))
    assert sorted(origins(place)) == sorted(expected(place, *window))
    assert carry_out(place, plan) == 0
    assert len(place.copied()) == 1_001


@pytest.mark.parametrize("nth", [1, 2, 4])
async def test_killed_half_way_and_resumed_each_record_is_there_exactly_once(settings: Settings, nth: int) -> None:
    for attempt in range(ATTEMPTS):
        with bench(settings.kafka) as place:
            place.fill(1_500)
            place.fill(500, 1)
            window = (0, 0, 1_499), (1, 0, 499)
            plan, began = place.plan(*window), time.monotonic()
            killed = await process(place, plan, nth)
            if await killed.wait() == 1 and stood_still(began) and attempt < ATTEMPTS - 1:
                continue  # it ended before it could be killed
            assert killed.returncode == -signal.SIGKILL
            found = known(place.kafka, plan.id)
            assert found is not None
            assert found[0] == plan
            before = sum(found[1].values())
            assert before <= (nth - 1) * BATCH
            assert carry_out(place, plan) == 2_000 - before
            assert sorted(origins(place)) == sorted(expected(place, *window))
            return


async def test_two_replays_of_one_id_at_once_copy_each_record_once(place: Bench) -> None:
    place.fill(3_000)
    plan = place.plan((0, 0, 2_999))
    for _ in range(ATTEMPTS):
        began = time.monotonic()
        processes = [await process(place, plan, NEVER) for _ in range(2)]
        codes = [await one.wait() for one in processes]
        if 0 in codes or not stood_still(began):
            break
    assert 0 in codes
    assert sorted(origins(place)) == sorted(expected(place, (0, 0, 2_999)))


def test_an_id_that_is_in_use_means_one_window_only(place: Bench) -> None:
    place.fill(10)
    carry_out(place, plan := place.plan((0, 0, 4)))
    with pytest.raises(WindowError, match=f"{plan.id} is in use"):
        carry_out(place, place.plan((0, 0, 5)))
    assert len(place.copied()) == 5
    assert known(place.kafka, "no-such-replay") is None


def test_a_window_may_end_with_what_is_no_record(place: Bench) -> None:
    producer = Producer({"bootstrap.servers": place.kafka, "transactional.id": place.topic})
    producer.init_transactions(60)
    for committed in (True, False):
        producer.begin_transaction()
        producer.produce(place.topic, b"%d" % committed, b"k", 0)
        producer.flush(60)
        (producer.commit_transaction if committed else producer.abort_transaction)(60)
    # a record, its marker, an aborted record, its marker
    deadline = time.monotonic() + 60
    while kept(place.kafka, place.topic)[0].end < 4:
        assert time.monotonic() < deadline
    assert carry_out(place, place.plan((0, 0, 3))) == 1
    assert [message.value() for message in place.copied()] == [b"1"]


def test_what_a_topic_has_and_had_by_offset_and_time(place: Bench) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    place.fill(10)
    after = datetime.now(UTC) + timedelta(seconds=1)
    there = kept(place.kafka, place.topic)
    assert there == {0: Kept(0, 10), 1: Kept(0, 0)}
    assert offsets_at(place.kafka, place.topic, there, before) == {0: 0, 1: None}
    assert offsets_at(place.kafka, place.topic, there, after) == {0: None, 1: None}
    assert oldest(place.kafka, place.topic, there) == {}
    admin = AdminClient({"bootstrap.servers": place.kafka})
    for gone, left in ((4, Kept(4, 10)), (10, Kept(10, 10))):
        for future in admin.delete_records([TopicPartition(place.topic, 0, gone)]).values():
            future.result()
        there = kept(place.kafka, place.topic)
        assert there[0] == left
        found = oldest(place.kafka, place.topic, there)
        assert found.keys() == {0}
        assert found[0] is None if gone == 10 else found[0] is not None and before < found[0] < after
