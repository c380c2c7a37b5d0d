"""A minimal relay: SKIP LOCKED, produce, wait for the broker, DELETE. `python -m …anchors.relay DATABASE TOPIC`.

One replica only: with more of them, or after a failed produce, keys lose their order.
"""

import asyncio
import os
import sys
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from confluent_kafka import KafkaError, Producer

BATCH: Final = 2_000
IDLE_POLL_S: Final = 0.005
NEXT: Final = f"""
SELECT position, message_id, key, type, payload, headers, created_at
FROM outbox ORDER BY position LIMIT {BATCH} FOR UPDATE SKIP LOCKED
"""  # noqa: S608  # a number
DELETE: Final = "DELETE FROM outbox WHERE position = ANY ($1::bigint[])"
_EXTRA: Final = msgspec.json.Decoder(dict[str, str])


async def relay(server: str, database: str, kafka: str, topic: str) -> None:
    """Relay for ever. Raises RuntimeError when the broker refuses a record."""
    connection = await asyncpg.connect(f"{server}/{database}", server_settings={"jit": "off"})
    producer = Producer(
        {
            "bootstrap.servers": kafka, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
            "batch.size": 262_144, "delivery.report.only.error": True, "on_delivery": _confirm,
        }
    )  # fmt: skip
    while True:
        async with connection.transaction():
            rows = await connection.fetch(NEXT)
            if rows:
                _produce(producer, topic, rows)
                await asyncio.to_thread(producer.flush)
                await connection.execute(DELETE, [row[0] for row in rows])
        if not rows:
            await asyncio.sleep(IDLE_POLL_S)


def _produce(producer: Any, topic: str, rows: list[Any]) -> None:
    for _, message_id, key, type_, payload, headers, created_at in rows:
        fields = [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(message_id).encode()),
            ("ce_type", type_.encode()),
            ("ce_source", b"/orders"),
            ("ce_time", created_at.isoformat().encode()),
            ("content-type", b"application/json"),
        ]
        fields += [(name, value.encode()) for name, value in _EXTRA.decode(headers).items()]
        producer.produce(topic, payload, key, headers=fields)


def _confirm(error: KafkaError | None, _: object) -> None:
    if error is not None:
        raise RuntimeError(str(error))


if __name__ == "__main__":
    uvloop.run(relay(os.environ["LAB_POSTGRES"], sys.argv[1], os.environ["LAB_KAFKA"], sys.argv[2]))
