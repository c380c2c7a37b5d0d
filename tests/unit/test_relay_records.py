"""Rows to records, failures to outcomes, and the batch producer's bookkeeping."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from services.broker.producer import BatchProducer, Failure
from services.broker.publication import Unpublishable
from services.domain.messages import KINDS, ORDERS, Coordinates, decode
from services.domain.redrive import Redriven, key_as_text
from services.relay.__main__ import REDRIVES, sources_of
from services.relay.records import Outcome, Row, outcome_of, record_of, redelivery_of

TOPICS = {kind.type: kind.topic for kind in KINDS}
ID = UUID("01938d6e-7f2a-7c3b-8a4d-5e6f70819203")
VALUE = b'{"order_id":"o-1","customer_id":"c-1","amount_cents":1999,"currency":"EUR"}'


def row(type_: str = ORDERS.type, headers: str = "{}") -> Row:
    return (7, ID, 3, "c-1", type_, VALUE, headers, datetime(2026, 11, 23, 12, tzinfo=UTC))


def test_a_row_becomes_the_record_that_consumers_decode() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    extra = f'{{"traceparent": "{traceparent}", "lab-effects": "record,charge", "lab-run": "r1"}}'
    topic, key, value, headers = record_of(row(headers=extra), TOPICS)
    message = decode(key, value, headers, Coordinates(topic, 0, 0))
    assert (topic, value) == (ORDERS.topic, VALUE)
    assert (message.id, message.key, message.run, message.traceparent) == (ID, "c-1", "r1", traceparent)
    assert message.effects == ("record", "charge")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row(type_="lab.parcel.lost.v1"), "unknown_type"),
        (row(headers="[]"), "invalid_headers"),
        (row(headers='{"lab-run": 7}'), "invalid_headers"),
    ],
)
def test_a_row_from_which_no_record_can_be_made_says_why(given: Row, reason: str) -> None:
    with pytest.raises(Unpublishable, match=reason):
        record_of(given, TOPICS)


def letter(arm: str = "at_least_once", **given: Any) -> Row:
    document = Redriven(**{"origin": "orders.v1/0/7", "key": b"c-1", "headers": [], **given})
    return (7, ID, 3, "c-1", arm, VALUE, msgspec.json.encode(document).decode(), datetime(2026, 11, 23, tzinfo=UTC))


def test_a_redriven_letter_becomes_the_record_that_it_was_for_its_arm_alone() -> None:
    headers = [("ce_id", b"a"), ("ce_id", b"\xff\x00"), ("trace", None), ("lab-via", b"redrive")]
    given = letter(key=b"\xfe", headers=headers)
    assert redelivery_of(given, REDRIVES.topics) == ("payments.at_least_once.redelivery", b"\xfe", VALUE, headers)


def test_a_null_key_and_a_null_value_are_null_again() -> None:
    assert redelivery_of(letter(key=None, null=True), REDRIVES.topics)[1:3] == (None, None)


@pytest.mark.parametrize(
    ("given", "reason"),
    [(letter(arm="no_such_arm"), "unknown_type"), ((*letter()[:6], "{}", letter()[7]), "invalid_headers")],
)
def test_a_letters_row_from_which_no_record_can_be_made_says_why(given: Row, reason: str) -> None:
    with pytest.raises(Unpublishable, match=reason):
        redelivery_of(given, REDRIVES.topics)


@pytest.mark.parametrize(("key", "text"), [(None, ""), (b"c-1", "c-1"), (b"a\x00\xffb", "a\\x00\\xffb")])
def test_any_key_has_a_text_that_postgres_takes(key: bytes | None, text: str) -> None:
    assert key_as_text(key) == text


def test_each_position_of_a_batch_has_one_outcome() -> None:
    outcome = outcome_of([11, 12, 13, 14], [Failure(1, "MSG_SIZE_TOO_LARGE"), Failure(2, "_PURGE_QUEUE")])
    assert outcome == Outcome([11, 14], {12: "MSG_SIZE_TOO_LARGE"}, {13: "_PURGE_QUEUE"})
    assert [outcome.word(position) for position in (11, 12, 13)] == ["confirmed", "refused", "failed"]


@pytest.mark.parametrize(
    ("failures", "word"),
    [([], "confirmed"), ([Failure(0, "INVALID_RECORD")], "refused"), ([Failure(0, "_PURGE_QUEUE")], "failed")],
)
def test_what_was_refused_in_company_is_judged_by_what_happens_to_it_alone(failures: list[Failure], word: str) -> None:
    assert Outcome([], {5: "MSG_SIZE_TOO_LARGE"}, {}).revised(5, failures).word(5) == word


def test_sources_are_the_labs_own_or_the_named_ones() -> None:
    assert [source.database for source in sources_of([])] == ["orders", "refunds", "payments"]
    (source,) = sources_of(["mine=its.topic"])
    assert (source.database, source.topics[ORDERS.type]) == ("mine", "its.topic")
    with pytest.raises(ValueError, match="'mine'"):
        sources_of(["mine"])


class Stub:
    """Stands for librdkafka's producer: reports at `poll` what `answers` says of each key."""

    def __init__(self, settings: dict[str, Any], answers: dict[str, str]) -> None:
        self.on_error: Callable[[KafkaError], None] = settings["error_cb"]
        self.queue: list[tuple[str, Callable[..., None]]] = []
        self.keys: list[str] = []
        self._answers = answers

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Any, on_delivery: Callable[..., None]) -> None:
        name = key.decode()
        if self._answers.get(name) == "full":
            raise BufferError
        if self._answers.get(name) == "large":
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.keys.append(name)
        self.queue.append((name, on_delivery))

    def poll(self, timeout_s: float) -> None:
        time.sleep(min(timeout_s, 0.001))
        while self.queue and self._answers.get(self.queue[0][0]) != "silent":
            self.queue.pop(0)[1](None, None)

    def purge(self) -> None:
        queue, self.queue = self.queue, []
        for _, report in queue:
            report(KafkaError(KafkaError._PURGE_QUEUE), None)

    def flush(self, timeout_s: float) -> None:
        self.poll(0)


class Made:
    """A producer over stubs, and the stubs that it made."""

    def __init__(self, **answers: str) -> None:
        self.stubs: list[Stub] = []
        self.producer = BatchProducer("", "test", make=lambda settings, logger: self._stub(settings, answers))

    def _stub(self, settings: dict[str, Any], answers: dict[str, str]) -> Stub:
        self.stubs.append(Stub(settings, answers))
        return self.stubs[-1]

    async def send(self, *keys: str) -> list[Failure]:
        records = [("t", key.encode(), b"", [("h", b"")]) for key in keys]
        return await asyncio.wait_for(self.producer.send(records), 60)


async def test_a_record_that_is_too_large_does_not_keep_the_rest_of_its_batch() -> None:
    made = Made(b="large")
    assert await made.send("a", "b", "c") == [Failure(1, "MSG_SIZE_TOO_LARGE")]
    assert made.stubs[0].keys == ["a", "c"]
    made.producer.close()


async def test_after_a_full_queue_nothing_more_of_the_batch_is_sent_for_it_would_overtake() -> None:
    made = Made(b="full")
    assert await made.send("a", "b", "c") == [Failure(1, "_QUEUE_FULL"), Failure(2, "_QUEUE_FULL")]
    assert made.stubs[0].keys == ["a"]
    made.producer.close()


async def test_an_empty_batch_is_confirmed_at_once() -> None:
    made = Made()
    assert await made.send() == []
    made.producer.close()


async def test_after_a_fatal_error_every_batch_is_reported_and_the_next_goes_to_a_new_instance() -> None:
    made = Made(slow="silent")
    waiting = asyncio.ensure_future(made.send("slow", "after"))
    await asyncio.sleep(0)
    made.stubs[0].on_error(KafkaError(KafkaError._FATAL))
    assert [failure.reason for failure in await waiting] == ["_PURGE_QUEUE", "_PURGE_QUEUE"]
    assert await made.send("a") == []
    assert [stub.keys for stub in made.stubs] == [["slow", "after"], ["a"]]
    made.producer.close()
