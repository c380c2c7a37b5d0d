"""The pauses of `kafka_transactions` between tries: as long as the provider asks for, within bounds."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from services.broker.producer import Record
from services.broker.transactor import Fetched
from services.domain.arms import CONSUMER_ARMS
from services.domain.failure_policy import of_http
from services.domain.messages import EFFECTS_HEADER, ORDERS, Message, record_headers
from services.domain.orders import Order
from services.failpoints import Failpoints
from services.payments import transactions
from services.payments.arms.base import Tools
from services.payments.observer import Observer
from services.payments.patience import CallFailed, Patience
from services.payments.trail import Trails
from services.payments.transactions import LONGEST_PAUSE_S, KafkaTransactions
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer
from tests.ids import message_id

EFFECTS = [(EFFECTS_HEADER, "record,charge")]


class Transactor:
    """A broker with a few records, which come again until their transaction is committed."""

    moved = False
    expires_s = 9.0

    def __init__(self, count: int) -> None:
        self.batch = [_fetched(offset) for offset in range(count)]
        self.aborted_at: list[float] = []
        self.committed, self.aborted = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()  # the methods are called in threads

    def fetch(self, most: int) -> list[Fetched]:
        return self.batch[:most]

    def begin(self) -> None: ...

    def produce(self, records: Sequence[Record]) -> list[Any]:
        return []

    def send_offsets(self, batch: Sequence[Fetched]) -> None: ...

    def commit(self) -> None:
        self.batch = []
        self._loop.call_soon_threadsafe(self.committed.set)

    def abort(self) -> None:
        self.aborted_at.append(time.monotonic())
        self._loop.call_soon_threadsafe(self.aborted.set)


def _fetched(offset: int) -> Fetched:
    value = msgspec.json.encode(Order("o", "c", 1, "EUR"))
    headers = record_headers(message_id=message_id(), kind=ORDERS, time=datetime.now(UTC), extra=EFFECTS)
    return Fetched(ORDERS.topic, 0, offset, 0, b"c", value, headers)


class Outside:
    """A provider that is asked too much and says when to come again, by offset; and a ledger."""

    def __init__(self, *asked_s: float) -> None:
        self.asked_s = asked_s
        self.tries = 0

    async def charge(self, message: Message) -> None:
        self.tries += 1
        if self.tries <= len(self.asked_s):
            raise CallFailed(of_http(429, "", self.asked_s[message.at.offset]))

    async def try_to_insert_records(self, messages: Sequence[Message]) -> None: ...


def under_test(transactor: Transactor, outside: Outside, folder: Path) -> KafkaTransactions:
    arm = CONSUMER_ARMS["kafka_transactions"]
    log, metrics = Log("arm", "life", str(folder / "log")), Metrics("arm", "life")
    tools = Tools(
        arm, Settings(), uuid4(), log, metrics, Failpoints("arm", "", "", allowed=False), outside, outside,  # type: ignore[arg-type]
        Patience(arm.name, log, metrics), Trails(Tracer("arm", "life"), arm), Observer(metrics, arm),
    )  # fmt: skip
    return KafkaTransactions(tools, transactor)  # type: ignore[arg-type]


@asynccontextmanager
async def working(arm: KafkaTransactions) -> AsyncIterator[None]:
    """While the arm works; at the end it is asked to stop, and does at once."""
    work = asyncio.create_task(arm.run())
    try:
        yield
        assert not work.done()
    finally:
        arm.stop()
        async with asyncio.timeout(30):
            await work


async def until_committed(transactor: Transactor, arm: KafkaTransactions) -> float:
    """Work until everything is committed; how long that took after the first abort."""
    async with working(arm):
        await asyncio.wait_for(transactor.committed.wait(), 30)
    return time.monotonic() - transactor.aborted_at[0]


async def test_the_longest_time_that_was_asked_for_is_waited(tmp_path: Path) -> None:
    transactor = Transactor(3)
    took_s = await until_committed(transactor, under_test(transactor, Outside(0.2, 0.6, 0.0), tmp_path))
    assert len(transactor.aborted_at) == 1, "nobody calls before that"
    assert 0.6 <= took_s < 30


async def test_a_pause_is_bounded_whatever_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LONGEST_PAUSE_S < 300 / 2, "max.poll.interval.ms is the time between two polls, with the work in it"
    monkeypatch.setattr(transactions, "LONGEST_PAUSE_S", 0.2)
    transactor = Transactor(1)
    assert await until_committed(transactor, under_test(transactor, Outside(3600.0), tmp_path)) < 30


async def test_a_process_that_is_asked_to_end_does_not_wait_for_it(tmp_path: Path) -> None:
    transactor = Transactor(1)
    async with working(under_test(transactor, Outside(3600.0), tmp_path)):
        await asyncio.wait_for(transactor.aborted.wait(), 30)
    assert transactor.batch, "it is the next life's"
