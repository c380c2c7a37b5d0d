"""`lab bench consume`: records with the effect `record` alone, by a real arm and by a bare loop with the same SQL."""

import asyncio
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient, NewTopic

from loadtest.bench.answer import Answer, Measured, answer_of
from loadtest.bench.backlog import Backlog
from loadtest.bench.meter import Meter
from loadtest.bench.place import Child, anchor, server_pids, service
from loadtest.bench.work import Tell, interleave
from services.domain.messages import ORDERS
from services.stack.home import Home
from services.storage.postgres import connect

ARMS: Final = ("at_least_once", "effectively_once")
NOUN: Final = "message"
_SCHEMAS: Final = Path(__file__).parents[2] / "services" / "payments" / "schema"


def bench(place: Home, arm: str, rounds: int, messages: int, tell: Tell) -> Answer:
    """Carry the benchmark out for a consumer arm on the servers of `place`. Raises StackError."""
    schema, topic = f"anchor_{arm}", f"bench.{arm}"
    asyncio.run(_prepare(place, arm, schema, topic))
    with service(place, f"arm.{arm}") as child, anchor(place, "consume", arm, schema, topic) as bare:
        project = Consumer("project", place, Backlog(place, ORDERS.topic, arm), child, messages)
        minimal = Consumer("anchor", place, Backlog(place, topic, schema), bare, messages)
        found = asyncio.run(interleave(rounds, project, minimal, tell))
    against = (
        "bare aiokafka: a loop a partition, the same SQL, chunks and commits; no tiers, logs, metrics or rebalances"
    )
    return answer_of(f"consume, {messages} messages at once", f"the arm {arm}, one process", against, found)


async def _prepare(place: Home, arm: str, schema: str, topic: str) -> None:
    """The anchor's tables, as the arm's, and its topic."""
    connection = await connect(place.postgres_url("postgres"), "payments", name="bench")
    for name in ("common", arm):
        if (script := _SCHEMAS / f"{name}.sql").exists():
            await connection.execute(script.read_text().replace("{schema}", schema))
    await connection.close()
    admin = AdminClient({"bootstrap.servers": place.addresses()["LAB_KAFKA"], "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, ORDERS.partitions, 1)]).values():
        future.result()


class Consumer:
    """A process that consumes a backlog."""

    def __init__(self, name: str, place: Home, backlog: Backlog, child: Child, messages: int) -> None:
        self.name = name
        self._backlog, self._child, self._messages = backlog, child, messages
        self._processes = {"consumer": child.pid, **server_pids(place, "postgres", "kafka")}

    async def round(self) -> Measured:
        """Raises StackError when the consumer has ended or does not get on."""
        self._child.check()
        await self._backlog.prepare(self._messages)
        meter = Meter(self._processes)
        self._backlog.release()
        await self._backlog.consumed(self._messages)
        meter.done()
        return meter.measured(self._messages, NOUN)
