"""The audit: ten million messages judged from what was taken in, and how quickly the stores are read cold."""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from confluent_kafka import Producer

from loadtest.bench.answer import Answer, Figure, Round, rounded
from loadtest.bench.work import Tell
from loadtest.data_faults import uuid7
from services.auditor.stores import Stores
from services.broker.reader import bounds, records_between
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.messages import ORDERS
from services.settings import read_settings
from services.stack.home import Home
from services.storage.postgres import connect

COLD: Final = 200_000  # rows of each store that are read cold
_RECORD: Final = b'{"order_id":"o","customer_id":"c","amount_cents":5,"currency":"EUR"}'
_ARM: Final = CONSUMER_ARMS["at_least_once"]
_ROOT: Final = Path(__file__).parent.parent.parent


def bench(place: Home, rounds: int, messages: int, cold: int, tell: Tell) -> Answer:
    """Rounds of judging in a process of its own; the cold read once a round."""
    with tempfile.TemporaryDirectory(dir=place.path) as folder:
        tell(f"making a history of {messages:,} messages, then {rounds} rounds of judging")
        judged = list(_judge(Path(folder), messages, rounds, tell))
    tell(f"reading {cold:,} rows of each store")
    read = asyncio.run(_cold(place, cold))
    figures = [
        _figure("s to judge", [one["judge_s"] for one in judged]),
        _figure("MiB at most", [one["peak_mb"] for one in judged]),
        _figure("messages/s judged", [messages / one["judge_s"] for one in judged]),
        _figure("MiB on disk", [one["disk_mb"] for one in judged]),
        *(_figure(f"{name}/s read cold", [rate]) for name, rate in read.items()),
    ]
    return Answer(
        f"audit of {messages:,} messages on all hops (one arm, the effect record), damage of known size found",
        "services/auditor/bulk.py, DuckDB beyond its memory on disk; cold reads by the auditor's own readers",
        "none: the bounds are 60 s and 1 GB",
        figures,
    )


def _figure(unit: str, values: list[float]) -> Figure:
    return Figure(unit, [Round(rounded(value), None) for value in values])


def _judge(folder: Path, messages: int, rounds: int, tell: Tell) -> Iterator[dict[str, float]]:
    command = [sys.executable, "-m", "loadtest.bench.judging", str(folder), str(messages), str(rounds)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        for number, line in enumerate(process.stdout or (), 1):
            tell(f"round {number} of {rounds} judged")
            yield json.loads(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


async def _cold(place: Home, many: int) -> dict[str, float]:
    """Rows a second of each kind of store, read as an audit reads it."""
    settings = read_settings({**place.addresses(), "LAB_HOME": str(place.path)})
    now_ms, draw = int(time.time() * 1000), random.Random(1)  # noqa: S311  # ids are to be distinct, not secret
    ids = [uuid7(now_ms + number // 1_000, draw) for number in range(many)]
    await _fill(settings.postgres, ids)
    await asyncio.to_thread(_publish, settings.kafka, ids)
    stores, rates = Stores(settings, None), dict[str, float]()

    async def records() -> int:
        return len([found async for found in stores.applications(_ARM, "record")])

    async def intents() -> int:
        return sum([len(some.promised) async for some in stores.intents(PUBLISHER_ARMS[DEFAULT_PUBLISHER], ORDERS)])

    async def topic() -> int:
        there = bounds(settings.kafka, [ORDERS.topic])
        read = records_between(settings.kafka, there.firsts, there.ends)
        return await asyncio.to_thread(lambda: sum(1 for _ in read))

    ways: dict[str, Callable[[], Any]] = {"intents": intents, "effect rows": records, "records of a topic": topic}
    for name, read in ways.items():
        began = time.monotonic()
        rates[name] = await read() / (time.monotonic() - began)
    return rates


async def _fill(server: str, ids: list[UUID]) -> None:
    orders, payments = await connect(server, "orders", name="bench"), await connect(server, "payments", name="bench")
    try:
        await orders.execute(
            """INSERT INTO intents (message_id, business_id, customer_id, amount_cents, currency, effects, run,
                                    idempotency_key, digest, traceparent)
               SELECT id, id::text, 'c', 5, 'EUR', '{record}', 'bench', id::text, '', ''
                 FROM unnest($1::uuid[]) AS id""",
            ids, timeout=120,
        )  # fmt: skip
        await payments.execute(
            f"""INSERT INTO {_ARM.schema}.records (message_id, run, type, business_id, customer_id, amount_cents,
                                                   currency, topic, partition, "offset", life)
                SELECT id, 'bench', 't', id::text, 'c', 5, 'EUR', 'orders.v1', 0, 0, gen_random_uuid()
                  FROM unnest($1::uuid[]) AS id""",  # noqa: S608  # our own name
            ids, timeout=120,
        )  # fmt: skip
    finally:
        await orders.close()
        await payments.close()


def _publish(kafka: str, ids: list[UUID]) -> None:
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for number, message_id in enumerate(ids):
        headers = [("ce_id", str(message_id).encode()), ("lab-effects", b"record"), ("lab-run", b"bench")]
        producer.produce(ORDERS.topic, _RECORD, b"c", headers=headers)
        if number % 1_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise TimeoutError("the broker did not take the records within 60 s")
