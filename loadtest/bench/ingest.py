"""`lab bench ingest`: orders over HTTP against pgbench with the same two inserts on the same server."""

import asyncio
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from loadtest.bench.answer import Answer, Measured, answer_of
from loadtest.bench.http_load import send
from loadtest.bench.meter import Meter
from loadtest.bench.place import server_pids, service
from loadtest.bench.work import Tell, interleave
from services.domain.messages import EFFECTS_HEADER, ORDERS, RUN_HEADER
from services.http.keys import HEADER
from services.stack import postgres
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import PARTS
from services.storage.postgres import connect, dsn

CONNECTIONS: Final = 32
CLIENTS: Final = 16  # pgbench's: more are not faster on two cores
CUSTOMERS: Final = 1_000
_SCRIPT: Final = Path(__file__).with_name("ingest.sql")
_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_DATABASE: Final = "orders"
NOUN: Final = "order"


def bench(place: Home, rounds: int, requests: int, tell: Tell) -> Answer:
    """Carry the benchmark out on the servers of `place`. Raises StackError."""
    with service(place, "orders") as orders:
        found = asyncio.run(_rounds(place, orders.pid, rounds, requests, tell))
    project = f"the orders service, one worker, {CONNECTIONS} connections in a closed loop"
    anchor = f"pgbench, {CLIENTS} clients, prepared: BEGIN, insert intent, insert outbox row, COMMIT"
    return answer_of("ingest", project, anchor, found)


async def _rounds(place: Home, pid: int, rounds: int, requests: int, tell: Tell) -> list[tuple[Measured, Measured]]:
    port = place.port(PARTS["orders"].port)
    return await interleave(rounds, Orders("project", place, port, pid, requests), Pgbench(place, requests), tell)


class Orders:
    """The real service."""

    def __init__(self, name: str, place: Home, port: int, pid: int, requests: int) -> None:
        self.name = name
        self._place, self._port, self._requests = place, port, requests
        self._processes = {"service": pid, **server_pids(place, "postgres")}

    async def round(self) -> Measured:
        """One closed loop of requests. Raises StackError unless every one was accepted."""
        await empty(self._place)
        meter = Meter(self._processes)
        answered = await send(self._place.bind, self._port, orders(self._requests), CONNECTIONS)
        meter.done()
        if answered.statuses != {201: self._requests}:
            raise StackError(f"the orders service answered {answered.statuses}: see {self._place.logs}")
        measured = meter.measured(self._requests, NOUN)
        latencies = answered.latencies_ms
        quantiles = {f"ms, p{p}": latencies[len(latencies) * p // 100] for p in (50, 99)}
        return Measured({**measured.values, **quantiles})


class Pgbench:
    """The same inserts with nothing around them."""

    name = "anchor"

    def __init__(self, place: Home, requests: int) -> None:
        self._place, self._transactions = place, requests // CLIENTS
        self._processes = server_pids(place, "postgres")

    async def round(self) -> Measured:
        """Raises StackError when pgbench fails."""
        await empty(self._place)
        meter = Meter(self._processes)
        tps = await asyncio.to_thread(self._run)
        measured = meter.measured(self._transactions * CLIENTS, NOUN)
        return Measured({**measured.values, f"{NOUN}s per second": tps})

    def _run(self) -> float:
        command = [
            str(postgres.binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}",
            "--jobs=2", f"--transactions={self._transactions}", f"--file={_SCRIPT}",
            dsn(self._place.postgres_url("postgres"), _DATABASE),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=postgres.environment())
        found = _TPS.search(done.stdout)
        if done.returncode != 0 or found is None:
            raise StackError(f"pgbench failed: {done.stderr[-400:]}")
        return float(found[1])


async def empty(place: Home) -> None:
    """Begin with empty tables and nothing to be written behind."""
    connection = await connect(place.postgres_url("postgres"), _DATABASE, name="bench")
    try:
        await connection.execute("TRUNCATE intents, idempotency_keys, outbox")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def orders(count: int) -> Iterator[bytes]:
    """Requests, none like another."""
    for number in range(count):
        name = uuid.UUID(bytes=os.urandom(16))
        body = (
            f'{{"order_id":"{name}","customer_id":"customer-{number % CUSTOMERS}",'
            f'"amount_cents":4200,"currency":"EUR"}}'
        )
        yield (
            f"POST {ORDERS.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{HEADER}: {name}\r\n"
            f"{EFFECTS_HEADER}: record\r\n{RUN_HEADER}: bench\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
