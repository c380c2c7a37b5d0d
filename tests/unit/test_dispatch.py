"""What is sent on reaches the broker, all of it and each once, though some of it is refused for ever."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.structs import ConsumerRecord
from confluent_kafka import KafkaError, KafkaException

from services.broker.producer import Failure as Refusal
from services.broker.producer import Record
from services.broker.transactor import Transactor
from services.domain import failure_policy
from services.domain.arms import CONSUMER_ARMS
from services.domain.forwarding import ORIGIN, Forwarding
from services.domain.messages import Coordinates
from services.failpoints import Failpoints
from services.payments.arms.base import Tools
from services.payments.dispatch import Dispatch, Source
from services.payments.ledger import FiledLetter
from services.payments.observer import Observer
from services.payments.patience import Patience
from services.payments.trail import Trails
from services.payments.transactions import _Sender
from services.payments.unapplied import Letter, Unapplied
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer

LARGEST = 1000  # of a record, bytes
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)


def size(record: Record) -> int:
    _, key, value, headers = record
    return len(key or b"") + len(value or b"") + sum(len(name) + len(data or b"") for name, data in headers)


class Broker:
    """Refuses for ever what is too large; of the first batch it does not confirm these indexes."""

    def __init__(self, *unconfirmed: int) -> None:
        self.unconfirmed = set(unconfirmed)
        self.taken: list[Record] = []

    async def send(self, records: Sequence[Record]) -> list[Refusal]:
        unconfirmed, self.unconfirmed = self.unconfirmed, set()
        failures = {i: "MSG_SIZE_TOO_LARGE" for i, record in enumerate(records) if size(record) > LARGEST}
        failures |= dict.fromkeys(unconfirmed, "_TIMED_OUT")
        self.taken += [record for i, record in enumerate(records) if i not in failures]
        return [Refusal(i, reason) for i, reason in sorted(failures.items())]


class Producer:
    """librdkafka's, in a transaction: what is too large for it is refused before it is sent."""

    def __init__(self) -> None:
        self.taken: list[Record] = []

    def produce(self, topic: str, value: bytes | None, key: bytes | None, *, headers: Any) -> None:
        if size((topic, key, value, headers)) > LARGEST:
            raise KafkaException(TOO_LARGE)
        self.taken.append((topic, key, value, headers))


class Table:
    """The letters that were set down."""

    def __init__(self) -> None:
        self.filed: list[FiledLetter] = []

    async def insert_dead_letters(self, filed: Sequence[FiledLetter]) -> list[str]:
        self.filed += filed
        return [one.letter.reason for one in filed]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_policy, "FIRST_DELAY_S", 0.0)


def tools(arm: str, table: Table, folder: Path) -> Tools:
    log, metrics = Log("arm", "life", str(folder / "log")), Metrics("arm", "life")
    return Tools(
        CONSUMER_ARMS[arm], Settings(), uuid4(), log, metrics, Failpoints("arm", "", "", allowed=False), table,  # type: ignore[arg-type]
        None, Patience(arm, log, metrics), Trails(Tracer("arm", "life"), CONSUMER_ARMS[arm]),  # type: ignore[arg-type]
        Observer(metrics, CONSUMER_ARMS[arm]),
    )  # fmt: skip


def letters(
    *values: bytes, headers: Sequence[tuple[str, bytes]] = ()
) -> tuple[Mapping[Coordinates, Source], Unapplied]:
    """A letter for each value, and where it came from."""
    sources = {}
    for offset, value in enumerate(values):
        record = ConsumerRecord("orders.v1", 0, offset, 0, 0, b"c", value, None, 1, len(value), headers)
        at = Coordinates("orders.v1", 0, offset)
        sources[at] = Source(record, Forwarding(origin=at))
    return sources, Unapplied([Letter(at, uuid4(), "refused", "") for at in sources])


def origins(records: Sequence[Record]) -> list[str]:
    return [(dict(headers)[ORIGIN] or b"").decode() for *_, headers in records]


async def send_on(dispatch: Dispatch, *values: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    async with asyncio.timeout(30):  # what does not end here blocks its partition for ever
        await dispatch.send_on(*letters(*values, headers=headers))


async def test_a_letter_that_is_too_large_is_sent_as_its_digest_and_the_others_once(tmp_path: Path) -> None:
    broker, table, large = Broker(), Table(), b"x" * LARGEST
    await send_on(Dispatch(tools("at_least_once", table, tmp_path), broker), b"first", large, b"last")
    assert origins(broker.taken) == ["orders.v1/0/0", "orders.v1/0/2", "orders.v1/0/1"]
    _, key, value, headers = broker.taken[-1]
    assert (key, value) == (b"c", None)
    assert dict(headers)["lab-digest"] == hashlib.sha256(large).hexdigest().encode()
    assert [one.value for one in table.filed] == [b"first", large, b"last"], "the table keeps it whole"


async def test_what_was_confirmed_is_not_sent_again_with_what_was_not(tmp_path: Path) -> None:
    broker, large = Broker(2, 3), b"x" * LARGEST
    await send_on(Dispatch(tools("at_least_once", Table(), tmp_path), broker), b"first", large, b"third", b"last")
    assert origins(broker.taken) == [f"orders.v1/0/{n}" for n in (0, 1, 2, 3)]


async def test_a_digest_is_small_whatever_the_headers_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_dispatch.LARGEST", 100_000)
    headers = [(f"ce_{n}", b"x" * 1000) for n in range(1000)] + [("ce_" + "n" * 100_000, b"")]
    broker = Broker()
    await send_on(Dispatch(tools("at_least_once", Table(), tmp_path), broker), b"{}", headers=headers)
    assert origins(broker.taken) == ["orders.v1/0/0"]


async def test_within_a_transaction_too_a_letter_that_is_too_large_is_sent_as_its_digest(tmp_path: Path) -> None:
    """One that is refused before it is sent ends the transaction each time it is tried, if nothing replaces it."""
    transactor: Any = Transactor.__new__(Transactor)
    transactor._producer = producer = Producer()
    dispatch = Dispatch(tools("kafka_transactions", Table(), tmp_path), _Sender(transactor))
    await send_on(dispatch, b"first", b"x" * LARGEST, b"last")
    assert origins(producer.taken) == ["orders.v1/0/0", "orders.v1/0/2", "orders.v1/0/1"]
