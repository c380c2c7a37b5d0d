"""A bare consumer: aiokafka, a loop for each partition, the arm's own statement, nothing sent on, nothing logged.

`python -m …anchors.consume ARM SCHEMA TOPIC`. Its offsets are committed once a second, as the arms' are.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.domain.messages import ORDERS
from services.domain.orders import Order
from services.storage.postgres import statements

CHUNK: Final = 500
COMMIT_EVERY_S: Final = 1.0
LIFE: Final = uuid4()
SQL: Final = Path(__file__).parents[3] / "services" / "payments" / "statements.sql"
_ORDERS: Final = msgspec.json.Decoder(Order)
Row = tuple[Any, ...]


def row(record: Any) -> Row:
    """Id, run, type, business id, customer, amount, currency, topic, partition, offset; then what dedup asks for."""
    fields = dict(record.headers)
    order = _ORDERS.decode(record.value)
    type_ = fields["ce_type"]
    return (
        UUID(fields["ce_id"].decode()), fields["lab-run"].decode(), type_.decode(), order.order_id, order.customer_id,
        order.amount_cents, order.currency, record.topic, record.partition, record.offset,
        hashlib.sha256(type_ + b"\0" + record.value).digest(), fields["lab-effects"].decode().split(","),
    )  # fmt: skip


def insert(rows: Sequence[Row]) -> list[Any]:
    """The arguments of `insert_records`."""
    return [*list(zip(*rows, strict=True))[:10], LIFE]


def reserve(rows: Sequence[Row]) -> list[Any]:
    """The arguments of `reserve`."""
    ordered = sorted(rows)
    ids, runs, types, names, customers, amounts, currencies, topics, partitions, offsets, digests, effects = zip(
        *ordered, strict=True
    )
    charges, emails = ["charge" in wanted for wanted in effects], ["email" in wanted for wanted in effects]
    return [
        len(ordered), ids, digests, topics, partitions, offsets, runs, types, names, customers, amounts, currencies,
        charges, emails, [""] * len(ordered), False, LIFE,
    ]  # fmt: skip


WORK: Final[dict[str, tuple[str, Callable[[Sequence[Row]], list[Any]]]]] = {
    "at_least_once": ("insert_records", insert),
    "effectively_once": ("reserve", reserve),
}


async def consume(server: str, kafka: str, arm: str, schema: str, topic: str) -> None:
    """Consume for ever."""
    name, arguments = WORK[arm]
    sql = statements(SQL)[name].replace("{schema}", schema)
    pool = await asyncpg.create_pool(f"{server}/payments", min_size=ORDERS.partitions, max_size=ORDERS.partitions)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=f"bench.{schema}", enable_auto_commit=False,
        auto_offset_reset="earliest", isolation_level="read_committed",
    )  # fmt: skip
    partitions = [TopicPartition(topic, number) for number in range(ORDERS.partitions)]
    consumer.assign(partitions)
    await consumer.start()
    done: dict[TopicPartition, int] = {}

    async def loop(partition: TopicPartition) -> None:
        while True:
            found = await consumer.getmany(partition, timeout_ms=1_000, max_records=CHUNK)
            if records := found.get(partition):
                await pool.fetch(sql, *arguments([row(record) for record in records]))
                done[partition] = records[-1].offset + 1

    async with asyncio.TaskGroup() as loops:
        for partition in partitions:
            loops.create_task(loop(partition))
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            if done:
                await consumer.commit(dict(done))


if __name__ == "__main__":
    uvloop.run(consume(os.environ["LAB_POSTGRES"], os.environ["LAB_KAFKA"], *sys.argv[1:]))
