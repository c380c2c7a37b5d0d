"""A topic that gets many records at one moment, and the table that a consumer writes them to."""

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from confluent_kafka import Producer

from loadtest.data_faults import uuid7
from services.domain.messages import EFFECTS_HEADER, ORDERS, RUN_HEADER, record_headers
from services.domain.orders import Order
from services.stack.errors import StackError
from services.stack.home import Home
from services.storage.postgres import connect

TIMEOUT_S: Final = 120.0
_ANSWER_S: Final = 30.0
_POLL_S: Final = 0.03
_POLL_EVERY: Final = 1_000
CUSTOMERS: Final = 1_000
# Counting costs: not before the last number drawn says that it is time.
_LOOKS: Final = ("SELECT last_value FROM {schema}.records_seq_seq", "SELECT count(*) FROM {schema}.records")
_TABLES: Final = ("records", "inbox", "dedup_hits", "emails")
_EXTRA: Final = ((EFFECTS_HEADER, "record"), (RUN_HEADER, "bench"))
_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Backlog:
    """Records on `topic`, each of which becomes one row of the table `records` in `schema`."""

    def __init__(self, place: Home, topic: str, schema: str) -> None:
        self.sampled = 0.0  # share of the messages that want spans
        self._topic, self._schema = topic, schema
        self._server = place.postgres_url("postgres")
        self._random = random.Random(1)  # noqa: S311  # ids are to be distinct, not secret
        settings = {"bootstrap.servers": place.addresses()["LAB_KAFKA"], "linger.ms": 5, "log_level": 0}
        self._plain: Any = Producer(settings)
        self._producer: Any = Producer(
            {**settings, "transactional.id": f"bench.{topic}", "queue.buffering.max.messages": 1_000_000}
        )
        self._producer.init_transactions(_ANSWER_S)

    async def prepare(self, count: int) -> None:
        """Empty the tables; put the records onto the topic, where nobody reads them before `release`."""
        connection = await self._connect()
        try:
            tables = [f"{self._schema}.{name}" for name in _TABLES if await self._exists(connection, name)]
            await connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY")
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
        await asyncio.to_thread(self._produce, count)

    def release(self) -> None:
        """Commit the transaction that holds the records."""
        self._producer.commit_transaction(_ANSWER_S)

    async def trickle(self, rate: float, seconds: float) -> None:
        """Single records at a steady rate."""
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            self._plain.produce(self._topic, **self._record(number))
            self._plain.poll(0)
        await asyncio.to_thread(self._plain.flush, _ANSWER_S)

    async def consumed(self, count: int) -> None:
        """Wait until so many rows are there. Raises StackError when they are not in time."""
        deadline = time.monotonic() + TIMEOUT_S
        connection = await self._connect()
        try:
            for look in _LOOKS:
                while (there := await connection.fetchval(look.format(schema=self._schema))) < count:
                    if time.monotonic() > deadline:
                        raise StackError(f"{self._schema} has {there} of {count} rows after {TIMEOUT_S:g} s")
                    await asyncio.sleep(_POLL_S)
        finally:
            await connection.close()

    def _produce(self, count: int) -> None:
        failed: list[str] = []

        def report(error: Any, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        self._producer.begin_transaction()
        for number in range(count):
            self._producer.produce(self._topic, **self._record(number), on_delivery=report)
            if number % _POLL_EVERY == 0:
                self._producer.poll(0)
        if self._producer.flush(_ANSWER_S) or failed:
            raise StackError(f"the broker did not take the records: {failed[:1]}")

    def _record(self, number: int) -> dict[str, Any]:
        message_id = uuid7(time.time_ns() // 1_000_000, self._random)
        customer = f"customer-{number % CUSTOMERS}"
        trace = _TRACE + ("01" if self._random.random() < self.sampled else "00")
        extra = (*_EXTRA, ("traceparent", trace))
        headers = record_headers(message_id=message_id, kind=ORDERS, time=datetime.now(UTC), extra=extra)
        return {
            "value": msgspec.json.encode(Order(str(message_id), customer, 4200, "EUR")),
            "key": customer,
            "headers": headers,
        }

    async def _connect(self) -> Any:
        return await connect(self._server, "payments", name="bench")

    async def _exists(self, connection: Any, table: str) -> bool:
        return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{self._schema}.{table}"))
