"""A producer on real Postgres: one intent and one outbox row a key, nothing for bad input, an answer in every case."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from services.accept.api import make_routes
from services.accept.openapi import describe
from services.accept.store import Intents
from services.bootstrap import Process
from services.domain import messages
from services.domain.messages import KINDS, ORDERS, REFUNDS, Coordinates, Kind
from services.domain.sharding import shard_of
from services.failpoints.registry import Decision
from services.http.database import CONNECTION_WAIT_S, STATEMENT_TIMEOUT_S, Database
from services.http.serving import make_app
from services.settings import Settings
from services.stack.provision import SERVICES
from tests.integration.processes import Answer, Client, Wire, adhoc_process, apply, logged, running, serving
from tests.waiting import until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Producer(msgspec.Struct):
    """A producer of one kind, with a look into its database."""

    kind: Kind
    client: Client
    process: Process
    database: Any

    async def post(self, body: Any, key: str, **headers: str) -> Answer:
        return await self.client.call("POST", self.kind.path, body, Idempotency_Key=key, **headers)

    async def accepted(self, body: Any, key: str, **headers: str) -> Answer:
        """Post, and again with the same key after a 503, as clients do. A machine that stands still makes some."""

        async def taken() -> Answer | None:
            answer = await self.post(body, key, **headers)  # a 409 while the first attempt is still in progress
            return None if answer.status == 503 and "Retry-After" in answer.headers else answer

        answer: Answer = await until(taken, "the producer to have a connection", timeout_s=30)
        return answer

    async def rows(self) -> tuple[int, int, int]:
        """How many intents, keys and outbox rows there are."""
        tables = ("intents", "idempotency_keys", "outbox")
        intents, keys, outbox = [await self.database.fetchval(f"SELECT count(*) FROM {name}") for name in tables]  # noqa: S608
        return intents, keys, outbox

    def payload(self, **given: Any) -> dict[str, Any]:
        payload = {"order_id": f"o-{uuid4()}", "customer_id": "c-1", "amount_cents": 1999, "currency": "EUR"}
        reason = {"reason": "damaged"} if self.kind is REFUNDS else {}
        return {**payload, **reason, **given}


@asynccontextmanager
async def producing(kind: Kind, settings: Settings, database: str, log: Path) -> AsyncIterator[Producer]:
    """A producer whose tables lie in `database`; it reaches the server at `settings.postgres`."""
    process = adhoc_process(settings, log)
    pool = Database(settings.postgres, database, process="t", size=8)
    intents = Intents(pool, "outbox", process.tracer)
    app = make_app(make_routes(kind, process, intents, intents, "outbox"), pool, describe(kind))
    async with serving(app, pool) as client:
        yield Producer(kind, client, process, None)


@pytest.fixture
async def tables(settings: Settings, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await apply(
        settings.postgres, database, SERVICES / "storage" / "outbox.sql", SERVICES / "accept" / "schema.sql"
    )
    yield connection
    await connection.close()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
async def producer(
    request: Any, settings: Settings, database: str, tables: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Producer]:
    async with producing(request.param, settings, database, tmp_path / "log") as made:
        made.database = tables
        yield made


async def test_the_three_answers_of_a_key(producer: Producer) -> None:
    payload = producer.payload()
    first = await producer.post(payload, "k")
    disturbed = first.status == 503
    if disturbed:
        first = await producer.accepted(payload, "k")
    again = await producer.accepted(json.dumps(payload, indent=2).encode(), "k")
    other = await producer.accepted({**payload, "amount_cents": 7}, "k")
    assert (first.status, again.status, other.status) == (201, 201, 422)
    assert again.body == first.body
    assert disturbed or "Idempotent-Replayed" not in first.headers  # the first try may have made the intent
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.json["id"] == payload["order_id"]
    assert UUID(first.json["message_id"]).version == 7
    assert await producer.rows() == (1, 1, 1)


async def test_an_id_is_taken_under_another_key(producer: Producer) -> None:
    payload = producer.payload()
    await producer.accepted(payload, "k1")
    taken = await producer.accepted(payload, "k2")
    assert (taken.status, taken.faulty) == (409, ["order_id"])
    assert await producer.rows() == (1, 1, 1)


async def test_a_request_whose_first_attempt_is_in_progress_is_told_so(producer: Producer) -> None:
    async with producer.database.transaction():  # the first attempt, between its lock and its commit
        await producer.database.execute("SELECT pg_advisory_xact_lock(hashtextextended('k', 1))")
        busy = await producer.accepted(producer.payload(), "k")
        assert await producer.rows() == (0, 0, 0)
    assert (busy.status, busy.headers["Retry-After"]) == (409, "1")
    assert (await producer.accepted(producer.payload(), "k")).status == 201


async def test_many_at_once_under_one_key_make_one_intent(producer: Producer) -> None:
    payload = producer.payload()
    answers = await asyncio.gather(*(producer.post(payload, "k") for _ in range(20)))
    disturbed = any(answer.status == 503 for answer in answers)
    answers = [answer if answer.status != 503 else await producer.accepted(payload, "k") for answer in answers]
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1
    fresh = [a for a in answers if a.status == 201 and "Idempotent-Replayed" not in a.headers]
    assert len(fresh) == 1 or (disturbed and not fresh)  # the answer that was fresh may be one that nobody got
    assert await producer.rows() == (1, 1, 1)


async def test_many_at_once_with_one_id_make_one_intent(producer: Producer) -> None:
    payload = producer.payload()
    answers = await asyncio.gather(*(producer.accepted(payload, f"k{n}") for n in range(20)))
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 19}
    assert await producer.rows() == (1, 1, 1)


async def test_rows_of_one_customer_commit_in_the_order_of_their_positions(producer: Producer) -> None:
    payloads = [producer.payload(customer_id="c-7") for _ in range(60)]
    answers = await asyncio.gather(*(producer.accepted(payload, f"k{n}") for n, payload in enumerate(payloads)))
    assert {answer.status for answer in answers} == {201}
    ids = await producer.database.fetch("SELECT message_id FROM outbox ORDER BY position")
    assert len(ids) == 60
    assert [row["message_id"] for row in ids] == sorted(row["message_id"] for row in ids)


async def test_the_outbox_row_becomes_the_message_that_was_asked_for(producer: Producer) -> None:
    payload = producer.payload()
    headers = {"lab_effects": "email,record", "lab_run": "r-1", "traceparent": TRACE, "tracestate": "v=1"}
    answer = await producer.accepted(payload, "k", **headers)
    (row,) = await producer.database.fetch("SELECT * FROM outbox")
    intent = await producer.database.fetchrow("SELECT * FROM intents")
    extra = json.loads(row["headers"])
    record = messages.record_headers(
        message_id=row["message_id"], kind=producer.kind, time=row["created_at"], extra=extra.items()
    )
    message = messages.decode(row["key"].encode(), row["payload"], record, Coordinates(producer.kind.topic, 0, 0))
    assert str(message.id) == answer.json["message_id"] == str(intent["message_id"])
    assert msgspec.to_builtins(message.payload) == payload
    assert message.digest == intent["digest"]
    assert (message.effects, message.run) == (("record", "email"), "r-1")
    assert (intent["effects"], intent["run"], intent["business_id"]) == (
        ["record", "email"],
        "r-1",
        payload["order_id"],
    )
    assert (row["key"], row["shard"], row["type"]) == ("c-1", shard_of("c-1"), producer.kind.type)
    assert row["xid"] == intent["xid"]
    assert extra["traceparent"].startswith(TRACE[:36])
    assert extra["traceparent"].endswith("-01")
    assert extra["traceparent"] != TRACE
    assert extra["tracestate"] == "v=1"


async def test_what_was_accepted_can_be_read(producer: Producer) -> None:
    payload = producer.payload()
    accepted = await producer.accepted(payload, "k")
    found = await producer.client.call("GET", accepted.headers["Location"])
    assert found.status == 200
    assert found.json["message_id"] == accepted.json["message_id"]
    assert {name: found.json[name] for name in payload if name != "order_id"} == {
        name: value for name, value in payload.items() if name != "order_id"
    }


async def test_an_unknown_id_is_not_found(producer: Producer) -> None:
    for id_ in ("unknown", "x" * 65, "%00", "a%20b", "%ff", "a%0a"):
        assert (await producer.client.call("GET", f"{producer.kind.path}/{id_}")).status == 404


WRONG: dict[str, tuple[Any, ...]] = {
    "amount_cents": (-1, 0, 10**30, "1", 1.5, None, True),
    "currency": ("XXX1", "ABC", "eur", "", 7, None),
    "customer_id": ("", None, 5, "x" * 10_000),
    "order_id": (7, "\u0000", "x" * 10_000),
}
UNREADABLE = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000, b"[" * 60_000)
TOO_LARGE = (b"{}" * 40_000, b" " * 3_000_000)


async def test_bad_input_is_refused_by_name_and_changes_nothing(producer: Producer) -> None:
    valid = producer.payload()
    cases = [
        (json.dumps({**valid, field: value}).encode(), field) for field, values in WRONG.items() for value in values
    ]
    cases += [(json.dumps({k: v for k, v in valid.items() if k != field}).encode(), field) for field in valid]
    for body, field in cases:
        answer = await producer.post(body, f"k-{uuid4()}")
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
        assert answer.faulty == [field]
        assert field in answer.json["detail"]
    for body in UNREADABLE:
        answer = await producer.post(body, f"k-{uuid4()}")
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    for body in TOO_LARGE:
        for sent in (body, _in_chunks(body)):
            answer = await producer.post(sent, f"k-{uuid4()}")
            assert (answer.status, answer.headers["Content-Type"]) == (413, "application/problem+json")
    for name, value in (("Idempotency_Key", "k" * 300), ("lab_effects", "sms"), ("lab_run", "a b")):
        answer = await producer.client.call("POST", producer.kind.path, valid, **{"Idempotency_Key": "k", name: value})
        assert (answer.status, answer.faulty) == (400, [name.replace("_", "-")])
    without = await producer.client.call("POST", producer.kind.path, valid)
    assert (without.status, without.faulty) == (400, ["Idempotency-Key"])
    for method, path, status, part in (
        ("GET", "/nothing", 404, "path"), ("DELETE", producer.kind.path, 405, "method"), ("BREW", "/", 400, "method"),
    ):  # fmt: skip
        answer = await producer.client.call(method, path)
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
        assert part in answer.json["detail"] or answer.faulty == [part]
    assert await producer.rows() == (0, 0, 0)


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_384):
        yield body[start : start + 16_384]


async def test_a_body_of_just_the_bound_is_read(producer: Producer) -> None:
    body = json.dumps(producer.payload()).encode()
    assert (await producer.accepted(body.ljust(64 * 1024), "k")).status == 201
    assert (await producer.post(body.ljust(64 * 1024 + 1), "k")).status == 413


async def test_the_description_names_what_there_is(producer: Producer) -> None:
    document = (await producer.client.call("GET", "/openapi.json")).json
    assert set(document["paths"]) == {producer.kind.path, producer.kind.path + "/{id}"}
    currency = document["components"]["schemas"][producer.kind.payload.__name__]["properties"]["currency"]
    assert "EUR" in currency["enum"]


async def test_a_fault_after_the_commit_is_a_503_that_the_same_key_resolves(producer: Producer) -> None:
    failpoints: Any = producer.process.failpoints
    failpoints._armed = frozenset({"accept.after_commit_before_answer"})
    failpoints._ask = lambda *_: Decision("error", kind="connection")
    payload = producer.payload()
    unknown = await producer.post(payload, "k")
    failpoints._armed = frozenset()
    assert (unknown.status, unknown.headers["Retry-After"]) == (503, "1")
    assert (await producer.accepted(payload, "k")).headers["Idempotent-Replayed"] == "true"
    assert await producer.rows() == (1, 1, 1)


@pytest.fixture
async def wire(settings: Settings) -> AsyncIterator[Wire]:
    wire = Wire(settings.postgres)
    await wire.join()
    yield wire
    await wire.cut()


async def test_without_its_database_it_answers_503_and_recovers_by_itself(
    settings: Settings, database: str, tables: asyncpg.Connection, wire: Wire, tmp_path: Path
) -> None:
    through = msgspec.structs.replace(settings, postgres=wire.server)
    async with producing(ORDERS, through, database, tmp_path / "log") as producer:
        before = await asyncio.gather(*(producer.accepted(producer.payload(), f"k{n}") for n in range(20)))
        assert {answer.status for answer in before} == {201}
        await wire.cut()
        down = await producer.post(producer.payload(), "down")
        assert (down.status, down.headers["Retry-After"]) == (503, "1")
        await until(_answers(producer, 503))
        await wire.join()
        await until(_answers(producer, 200))
        answers = await asyncio.gather(*(producer.accepted(producer.payload(), f"up{n}") for n in range(20)))
        assert {answer.status for answer in answers} == {201}
        assert await tables.fetchval("SELECT count(*) FROM intents") == 40


async def test_a_database_that_says_nothing_is_a_503_in_bounded_time(
    settings: Settings, database: str, tables: asyncpg.Connection, wire: Wire, tmp_path: Path
) -> None:
    through = msgspec.structs.replace(settings, postgres=wire.server)
    async with producing(ORDERS, through, database, tmp_path / "log") as producer:
        wire.stop()
        async with asyncio.timeout(2 * CONNECTION_WAIT_S + STATEMENT_TIMEOUT_S + 30):
            answers = await asyncio.gather(*(producer.post(producer.payload(), f"k{n}") for n in range(12)))
        assert {answer.status for answer in answers} == {503}
        await wire.cut()
        await wire.join()
        await until(_answers(producer, 200))
        assert (await producer.accepted(producer.payload(), "k-after")).status == 201


def _answers(producer: Producer, status: int) -> Callable[[], Any]:
    async def condition() -> bool:
        return (await producer.client.call("GET", "/readyz")).status == status

    return condition


@pytest.fixture
async def key(settings: Settings) -> AsyncIterator[str]:
    """A key for the lab's own databases, from which what it made is taken out afterwards."""
    key = f"test-{uuid4()}"
    yield key
    for kind in KINDS:
        database = await asyncpg.connect(f"{settings.postgres}/{kind.name}")
        await database.execute("DELETE FROM idempotency_keys WHERE key = $1", key)
        made = await database.fetchval("DELETE FROM intents WHERE idempotency_key = $1 RETURNING message_id", key)
        await database.execute("DELETE FROM outbox WHERE message_id = $1", made)
        await database.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_the_process_serves_counts_and_ends_when_asked(
    kind: Kind, settings: Settings, key: str, tmp_path: Path
) -> None:
    async with running(f"services.{kind.name}", settings, tmp_path / "log") as (client, admin, process):
        producer = Producer(kind, client, None, None)  # type: ignore[arg-type]
        payload = producer.payload()
        for _ in range(2):
            assert (await producer.accepted(payload, key)).status == 201
        assert (await producer.accepted({**payload, "amount_cents": 3}, key)).status == 422
        exposition = (await admin.call("GET", "/metrics")).body.decode()
        for decision in ("first", "duplicate", "conflict"):
            labels = f'arm="outbox",decision="{decision}",hop="accept"'
            assert f"delivery_dedup_decisions_total{{{labels}}} 1.0" in exposition
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    assert "process.stopping" in (tmp_path / "log").read_text()


async def test_a_request_in_flight_at_the_end_gets_its_answer(settings: Settings, key: str, tmp_path: Path) -> None:
    async with running("services.orders", settings, tmp_path / "log") as (client, _, process):
        producer = Producer(ORDERS, client, None, None)  # type: ignore[arg-type]
        asked = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            body = json.dumps(producer.payload()).encode()
            yield body[:10]
            asked.set()
            await until(lambda: logged(tmp_path / "log", "process.stopping"))
            yield body[10:]

        answer = asyncio.create_task(producer.post(slow(), key))
        await asked.wait()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert (await answer).status == 201
            assert await process.wait() == 0
