"""The load in its own process against a server: the ledger says what was sent and what is known of it."""

import asyncio
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from loadtest.ledger import Line, ledger_file, outcomes, read
from loadtest.plan import Plan, requests
from loadtest.run import Load, start_plan
from loadtest.totals import Snapshot
from services.domain.messages import KINDS
from services.settings import Settings
from services.stack.drain import Waiting, drain, look
from services.stack.home import Home
from tests.integration.processes import free_port, running

ENOUGH_S = 240


class Api:
    """Answers as the producers do: a key's first answer is stored and given again; some orders are ill-starred."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.received: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.answers_after = asyncio.Event()
        self.answers_after.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                headers = {name.lower(): value for name, value in fields.items()}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await self.answers_after.wait()
                status, extra, content = self.answer(headers, body)
                lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", *extra]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, headers: dict[str, str], body: dict[str, object]) -> tuple[int, list[str], bytes]:
        key = headers["idempotency-key"]
        self.headers.append(headers)
        self.received[key] += 1
        number = int(key.rpartition("-")[2])
        if number % 20 == 7:
            return 422, [], b"{}"
        if key in self.stored:
            return 201, ["Idempotent-Replayed: true"], self.stored[key]
        if number % 20 == 3 and self.received[key] == 1:
            return 409, ["Retry-After: 1"], b"{}"
        if number % 20 == 9 and self.received[key] == 1:
            return 503, [], b"{}"
        self.stored[key] = json.dumps({"id": body["order_id"]}).encode()
        if number % 20 == 5:  # stored, and the answer never says so
            return 500, [], b"{}"
        return 201, [], self.stored[key]


@asynccontextmanager
async def serving() -> AsyncIterator[Api]:
    api = Api()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield api
    finally:
        server.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "lab", 21000)


async def ended(load: Load) -> Snapshot:
    await until(lambda: load.poll() is not None)
    return load.snapshot()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def lines_of(home: Home, run: str) -> list[Line]:
    return list(read(ledger_file(home.path, run)))


async def test_the_ledger_tells_what_became_of_every_request_of_the_plan(api: Api, home: Home) -> None:
    plan = Plan(run="every", seed=5, rate=60, duration_s=4, timeout_share=0.05, reset_share=0.05)
    load = start_plan(home, plan, {"orders": api.url, "refunds": api.url})
    totals = await ended(load)
    assert load.poll() == 0, (home.logs / "load.log").read_text()
    lines = lines_of(home, plan.run)

    assert totals.carried_out
    assert totals.planned == totals.sent + totals.not_sent == 240
    assert totals.sent == totals.acknowledged + totals.refused + totals.unknown
    became = outcomes(lines)
    assert became.keys() == {f"every-{n}" for n in range(240)}
    counted = {"acknowledged": totals.acknowledged, "refused": totals.refused, "unknown": totals.unknown}
    assert Counter(became.values()) == Counter(counted)
    not_acknowledged = {key for key, outcome in became.items() if outcome != "acknowledged"}
    assert not_acknowledged == {f"every-{n}" for n in range(7, 240, 20)}
    assert {key for key, outcome in became.items() if outcome == "acknowledged"} == set(api.stored)
    assert totals.retried >= 240 / 20 * 3
    assert totals.replayed >= 240 / 20
    assert 0 < totals.latency_ms.p50 <= totals.latency_ms.p95 <= totals.latency_ms.p99


async def test_every_call_is_written_before_its_answer(api: Api, home: Home) -> None:
    plan = Plan(run="before", seed=6, rate=50, duration_s=2)
    await ended(start_plan(home, plan, {"orders": api.url, "refunds": api.url}))
    order: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for line in lines_of(home, plan.run):
        order[line.key, line.attempt].append(line.phase)
    assert set(map(tuple, order.values())) == {("call", "answer")}
    assert {key for key, _ in order} == {f"before-{n}" for n in range(100)}
    assert {h["lab-run"] for h in api.headers} == {"before"}
    assert {h["content-type"] for h in api.headers} == {"application/json"}
    assert {h["lab-effects"] for h in api.headers} == {"record,charge,email"}


async def test_a_load_that_is_killed_leaves_calls_without_an_answer_that_are_unknown(api: Api, home: Home) -> None:
    api.answers_after.clear()
    plan = Plan(run="killed", seed=7, rate=50, duration_s=60)
    load = start_plan(home, plan, {"orders": api.url, "refunds": api.url})
    file = ledger_file(home.path, plan.run)
    await until(lambda: file.exists() and len(list(read(file))) >= 20)
    os.kill(load.pid, signal.SIGKILL)
    totals = await ended(load)
    assert not totals.carried_out
    assert set(outcomes(read(file)).values()) == {"unknown"}


async def test_what_finds_no_place_is_recorded_as_not_sent(
    api: Api, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers_after.clear()
    monkeypatch.setenv("LAB_LOAD_IN_FLIGHT", "30")
    plan = Plan(run="full", seed=8, rate=50, duration_s=60)
    load = start_plan(home, plan, {"orders": api.url, "refunds": api.url})
    await until(lambda: load.snapshot().not_sent > 0)
    totals = load.stop()
    left_out = [line for line in lines_of(home, plan.run) if line.phase == "not_sent"]
    assert len(left_out) == totals.not_sent
    assert {line.why for line in left_out} == {"too many requests are in flight"}
    assert (totals.in_flight, totals.carried_out) == (0, False)
    assert totals.unknown == totals.sent - totals.acknowledged - totals.refused


async def test_time_outs_and_resets_add_nothing_to_the_real_producers(
    settings: Settings, home: Home, tmp_path: Path
) -> None:
    plan = Plan(run=f"real-{uuid4()}", seed=9, rate=50, duration_s=5, timeout_share=0.1, reset_share=0.1)
    async with intents_of(settings, plan.run) as intents:
        async with (
            running("services.orders", settings, tmp_path / "orders.log") as (orders, _, _),
            running("services.refunds", settings, tmp_path / "refunds.log") as (refunds, _, _),
        ):
            totals = await ended(start_plan(home, plan, {"orders": orders.url, "refunds": refunds.url}))
        injected = Counter(request.fault for request in requests(plan))
        assert min(injected["timeout"], injected["reset"]) > 10
        assert totals.retried + totals.not_sent >= injected["timeout"] + injected["reset"]
        assert totals.replayed > 0, "no retry met the intent of the attempt that was given up"
        assert totals.refused == 0
        became = outcomes(lines_of(home, plan.run))
        acknowledged = {key for key, end in became.items() if end == "acknowledged"}
        unknown = became.keys() - acknowledged
        # a machine that stands still leaves some without an answer and some without a place; most are acknowledged
        assert len(acknowledged) + len(unknown) + totals.not_sent == plan.planned
        assert len(acknowledged) > plan.planned / 2
        made = await intents()
        assert max(Counter(made).values()) == 1
        assert acknowledged <= set(made) <= acknowledged | unknown


async def test_what_lies_in_an_outbox_waits(settings: Settings) -> None:
    message_id = uuid4()
    orders = await asyncpg.connect(f"{settings.postgres}/orders")
    try:
        insert = (
            "INSERT INTO outbox (message_id, shard, key, type, payload, headers) VALUES ($1, 0, 'k', 't', '', '{}')"
        )
        await orders.execute(insert, message_id)
        during = waiting_in(await look(settings.postgres, settings.kafka), "the outbox of orders")
    finally:
        await orders.execute("DELETE FROM outbox WHERE message_id = $1", message_id)
        await orders.close()
    assert during >= 1


async def test_a_part_that_is_away_waits_and_is_named(settings: Settings) -> None:
    nowhere = f"postgresql://lab:lab@127.0.0.1:{free_port()}"
    looks: list[list[Waiting]] = []
    left = await drain(nowhere, settings.kafka, 1.5, looks.append)
    assert {"the outbox of orders", "the outbox of refunds", "the emails of arm.effectively_once"} <= {
        waiting.place for waiting in left if waiting.messages is None and "Connect call failed" in waiting.why
    }
    assert looks[-1] == left


def waiting_in(found: list[Waiting], place: str) -> int:
    return sum(waiting.messages or 0 for waiting in found if waiting.place == place)


@asynccontextmanager
async def intents_of(settings: Settings, run: str) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """The Idempotency-Keys of a run's intents, each as often as it has an intent; the rows are removed afterwards."""
    databases = [await asyncpg.connect(f"{settings.postgres}/{kind.name}") for kind in KINDS]

    async def keys() -> list[str]:
        query = "SELECT idempotency_key FROM intents WHERE run = $1"
        return [row[0] for database in databases for row in await database.fetch(query, run)]

    try:
        yield keys
    finally:
        for database in databases:
            await database.execute("DELETE FROM outbox WHERE headers ->> 'lab-run' = $1", run)
            await database.execute("DELETE FROM idempotency_keys WHERE starts_with(key, $1)", f"{run}-")
            await database.execute("DELETE FROM intents WHERE run = $1", run)
            await database.close()
