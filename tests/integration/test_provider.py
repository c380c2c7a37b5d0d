"""The third party on real Postgres: every application a row, and a key makes the first the only one."""

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from services.failpoints import Failpoints
from services.failpoints.registry import Decision
from services.http.database import Database
from services.http.serving import make_app
from services.provider.api import make_routes
from services.provider.openapi import describe
from services.provider.store import Books
from services.settings import Settings
from services.stack.provision import SERVICES
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from tests.integration.processes import Answer, Client, apply, running, serving
from tests.waiting import until

CHARGE = {"account": "a", "message_id": "m", "customer_id": "c-1", "amount_cents": 1999, "currency": "EUR"}
EMAIL = {"account": "a", "message_id": "m", "customer_id": "c-1"}


class Provider(msgspec.Struct):
    """The third party, with a look into its books."""

    client: Client
    books: Any

    async def charge(self, body: Any = CHARGE, *, key: str | None = None, **headers: str) -> Answer:
        return await self.post("/v1/charges", body, **headers, **({} if key is None else {"Idempotency_Key": key}))

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        given = {"Lab_Record": "orders.v1/3/17", "User_Agent": "delivery-lab/life-1", **headers}
        return await self.client.call("POST", path, body, **given)

    async def find(self, key: str, account: str = "a") -> Answer:
        return await self.client.call("GET", f"/v1/charges?account={account}&idempotency_key={key}")

    async def rows(self) -> tuple[int, int]:
        """How many applications and keys there are."""
        keys = await self.books.fetchval("SELECT count(*) FROM idempotency_keys")
        return await self.books.fetchval("SELECT count(*) FROM applications"), keys


@pytest.fixture
def failpoints() -> Failpoints:
    """Those of a process without a supervisor."""
    return Failpoints("provider", "", "", allowed=False)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("provider", "a-life")


@pytest.fixture
async def provider(
    settings: Settings, database: str, failpoints: Failpoints, metrics: Metrics, tmp_path: Path
) -> AsyncIterator[Provider]:
    books = await apply(settings.postgres, database, SERVICES / "provider" / "schema.sql")
    pool = Database(settings.postgres, database, process="t", size=8)
    log = Log("provider", "a-life", str(tmp_path / "provider.log"))
    app = make_app(make_routes(Books(pool, key_lifetime_s=3600), failpoints, metrics, log), pool, describe())
    async with serving(app, pool) as client:
        yield Provider(client, books)
    await books.close()


async def forget(provider: Provider) -> None:
    """Let all keys expire."""
    await provider.books.execute("UPDATE idempotency_keys SET expires_at = clock_timestamp() - interval '1 ms'")


async def test_what_is_decided_about_a_key_is_counted_by_account(provider: Provider, metrics: Metrics) -> None:
    arms = {**CHARGE, "account": "effectively_once"}
    for body, key in [(arms, "k"), (arms, "k"), ({**arms, "amount_cents": 1}, "k"), (arms, None), (CHARGE, "k")]:
        await provider.charge(body, key=key)
    exposition = metrics.exposition().decode()
    for arm, decision, times in [
        ("effectively_once", "first", 1),
        ("effectively_once", "duplicate", 1),
        ("effectively_once", "conflict", 1),
        ("at_least_once", "first", 0),
        ("other", "first", 1),
    ]:
        labels = f'arm="{arm}",decision="{decision}",hop="charge"'
        assert f"delivery_dedup_decisions_total{{{labels}}} {times}.0" in exposition


async def test_without_a_key_every_charge_is_applied(provider: Provider) -> None:
    answers = [await provider.charge() for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].body != answers[1].body
    assert await provider.rows() == (2, 0)


async def test_a_key_makes_the_first_application_the_only_one(provider: Provider) -> None:
    first, again = await provider.charge(key="k"), await provider.charge(key="k", Lab_Record="orders.v1/3/18")
    other = await provider.charge({**CHARGE, "amount_cents": 7}, key="k")
    assert (first.status, again.status, other.status) == (201, 201, 422)
    assert again.body == first.body
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await provider.rows() == (1, 1)


async def test_keys_belong_to_their_account(provider: Provider) -> None:
    await provider.charge(key="k")
    assert "Idempotent-Replayed" not in (await provider.charge({**CHARGE, "account": "b"}, key="k")).headers
    assert await provider.rows() == (2, 2)


async def test_an_application_says_who_called_and_for_which_record(provider: Provider) -> None:
    await provider.charge(key="k")
    row = dict(await provider.books.fetchrow("SELECT * FROM applications"))
    assert {name: row[name] for name in CHARGE} == CHARGE
    assert (row["effect"], row["idempotency_key"], row["life"]) == ("charge", "k", "life-1")
    assert (row["topic"], row["partition"], row["offset"]) == ("orders.v1", 3, 17)


async def test_many_at_once_under_one_key_are_applied_once(provider: Provider) -> None:
    answers = await asyncio.gather(*(provider.charge(key="k") for _ in range(20)))
    assert set(Counter(answer.status for answer in answers)) <= {201, 409}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1
    assert await provider.rows() == (1, 1)


async def test_a_charge_whose_first_call_is_in_progress_is_told_so(provider: Provider) -> None:
    async with provider.books.transaction():
        await provider.books.execute("SELECT pg_advisory_xact_lock(hashtextextended(E'a\\nk', 1))")
        assert (await provider.charge(key="k")).status == 409
    assert (await provider.charge(key="k")).status == 201


async def test_an_expired_key_is_forgotten(provider: Provider) -> None:
    first = await provider.charge(key="k")
    await forget(provider)
    assert (await provider.find("k")).status == 404
    again = await provider.charge(key="k")
    assert "Idempotent-Replayed" not in again.headers
    assert again.body != first.body
    assert (await provider.charge(key="k")).body == again.body
    assert await provider.rows() == (2, 1)


async def test_expired_keys_do_not_pile_up(provider: Provider) -> None:
    for n in range(6):
        await provider.charge(key=f"old-{n}")
    await forget(provider)
    for n in range(3):
        await provider.charge(key=f"new-{n}")
    assert await provider.rows() == (9, 3)


async def test_a_charge_does_not_read_the_keys_that_have_not_expired(provider: Provider) -> None:
    await provider.books.execute(
        "INSERT INTO idempotency_keys SELECT 'a', 'live-' || n, '', '', now() + interval '1 hour' "
        "FROM generate_series(1, 2000) n"
    )
    await provider.books.execute("ANALYZE idempotency_keys")
    charge = "SELECT outcome FROM charge('a', $1, '', 'm', 'c', 1, 'EUR', 't', 0, 0, 'l', 'infinity', 3600)"
    for n in range(10):
        assert await provider.books.fetchval(charge, f"new-{n}") == "applied"
    await provider.books.execute("SELECT pg_stat_force_next_flush()")
    read = await provider.books.fetchrow(
        "SELECT sum(idx_scan)::int AS scans, sum(idx_tup_read)::int AS rows FROM pg_stat_user_indexes "
        "WHERE indexrelname = 'idempotency_keys_expiry'"
    )
    assert read["scans"] >= 10
    assert read["rows"] == 0


async def test_after_its_time_only_a_known_key_is_answered(provider: Provider) -> None:
    past, future = f"{time.time() - 1:.3f}", f"{time.time() + 60:.3f}"
    late = await provider.charge(key="k", Lab_Not_After=past)
    assert (late.status, late.faulty) == (412, ["Lab-Not-After"])
    assert (await provider.charge(Lab_Not_After=past)).status == 412
    assert await provider.rows() == (0, 0)
    assert (await provider.charge(key="k", Lab_Not_After=future)).status == 201
    assert (await provider.charge(key="k", Lab_Not_After=past)).headers["Idempotent-Replayed"] == "true"
    assert await provider.rows() == (1, 1)


async def test_a_charge_is_found_by_its_key(provider: Provider) -> None:
    body = (await provider.charge(key="a key")).body
    found = await provider.find("a%20key")
    assert (found.status, found.body) == (200, body)
    assert (await provider.find("a%20key", account="b")).status == 404
    assert (await provider.find("%00")).status == 400
    assert (await provider.client.call("GET", "/v1/charges")).status == 400


async def test_an_email_is_sent_at_every_call_whatever_its_key(provider: Provider) -> None:
    for _ in range(2):
        assert (await provider.post("/v1/emails", EMAIL, Idempotency_Key="k")).status == 201
    assert await provider.rows() == (2, 0)


async def test_accounts_count_applications(provider: Provider) -> None:
    await provider.charge()
    await provider.charge({**CHARGE, "account": "b"})
    await provider.post("/v1/emails", EMAIL)
    counts = [tuple(row.values()) for row in (await provider.client.call("GET", "/v1/accounts")).json]
    assert counts == [("a", "charge", 1), ("a", "email", 1), ("b", "charge", 1)]


WRONG: dict[str, tuple[Any, ...]] = {
    "account": ("", None, 7, "a b", "x" * 65),
    "message_id": ("", None, 7, "\u0000"),
    "customer_id": ("", None, 7),
    "amount_cents": (-1, 0, 10**30, "1", 1.5, None, True),
    "currency": ("XXX1", "", 7, None),
    "extra": (1,),
}


async def test_bad_input_is_refused_by_name_and_changes_nothing(provider: Provider) -> None:
    for path, valid in (("/v1/charges", CHARGE), ("/v1/emails", EMAIL)):
        cases = [({**valid, f: value}, f) for f, values in WRONG.items() for value in values if f in {*valid, "extra"}]
        cases += [({k: v for k, v in valid.items() if k != field}, field) for field in valid]
        for body, field in cases:
            answer = await provider.post(path, json.dumps(body).encode())
            assert (answer.status, answer.faulty) == (400, [field])
        for record in ("", "orders.v1", "orders.v1/-1/0", "orders.v1/0/x", "a b/0/0", f"t/0/{10**19}"):
            answer = await provider.post(path, valid, Lab_Record=record)
            assert (answer.status, answer.faulty) == (400, ["Lab-Record"])
        assert (await provider.post(path, b" " * 80_000)).status == 413
    for key in ("", "k" * 256):
        assert (await provider.charge(key=key)).faulty == ["Idempotency-Key"]
    for time_s in ("soon", "nan", "-1", "1e3", "9" * 400):
        assert (await provider.charge(Lab_Not_After=time_s)).faulty == ["Lab-Not-After"]
    assert await provider.rows() == (0, 0)


def misbehave(failpoints: Failpoints, name: str, account: str, decision: Decision) -> threading.Event:
    """Arm without a supervisor: calls of one account do as `decision` says. Returns what is set at the first."""
    told: Any = failpoints
    asked = threading.Event()

    def ask(_: str, passing: str) -> Decision:
        if passing != account:
            return Decision("go")
        asked.set()
        return decision

    told._armed, told._ask = frozenset({name}), ask
    return asked


@pytest.mark.parametrize("effect", ["charge", "email"])
@pytest.mark.parametrize(("kind", "retry_after"), [("http_500", None), ("http_503", None), ("http_429", "1")])
@pytest.mark.parametrize(("name", "applied"), [("before_applying", 0), ("after_applying_before_answer", 1)])
async def test_it_fails_before_or_after_applying_for_one_account_alone(
    provider: Provider, failpoints: Failpoints, name: str, applied: int, kind: str, retry_after: str | None, effect: str
) -> None:
    async def call(account: str) -> Answer:
        if effect == "charge":
            return await provider.charge({**CHARGE, "account": account}, key="k")
        return await provider.post("/v1/emails", {**EMAIL, "account": account})

    misbehave(failpoints, f"provider.{name}", "a", Decision("error", kind=kind))
    failed = await call("a")
    assert f"http_{failed.status}" == kind
    assert failed.headers.get("Retry-After") == retry_after
    assert failed.json["type"] == "urn:delivery-lab:problem:injected"
    assert (await provider.rows())[0] == applied
    assert (await call("b")).status == 201
    assert (await provider.rows())[0] == applied + 1


async def test_a_repeat_of_a_charge_that_failed_after_applying_is_answered(
    provider: Provider, failpoints: Failpoints
) -> None:
    misbehave(failpoints, "provider.after_applying_before_answer", "a", Decision("error", kind="http_500"))
    assert (await provider.charge(key="k")).status == 500
    again = await provider.charge(key="k")  # applies nothing, so it does not pass the failpoint
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert await provider.rows() == (1, 1)


async def test_a_slow_provider_applies_what_its_client_no_longer_waits_for(
    provider: Provider, failpoints: Failpoints
) -> None:
    asked = misbehave(failpoints, "provider.before_applying", "a", Decision("pause", amount=3600))
    call = asyncio.create_task(provider.charge(key="k"))
    assert await asyncio.to_thread(asked.wait, 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await provider.rows() == (0, 0)
    failpoints._armed = frozenset()

    async def applied() -> bool:
        return await provider.rows() == (1, 1)

    await until(applied)


async def test_clearing_ends_a_pause_under_way(provider: Provider, failpoints: Failpoints) -> None:
    asked = misbehave(failpoints, "provider.before_applying", "a", Decision("pause", amount=3600))
    call = asyncio.create_task(provider.charge(key="k"))
    assert await asyncio.to_thread(asked.wait, 60)
    await asyncio.wait({call}, timeout=0.3)
    assert not call.done()
    failpoints._armed = frozenset()
    async with asyncio.timeout(30):
        assert (await call).status == 201


@pytest.fixture
async def account(settings: Settings) -> AsyncIterator[str]:
    """An account in the lab's own books, whose applications are taken out afterwards."""
    name = f"test-{uuid4()}"
    yield name
    books = await asyncpg.connect(f"{settings.ledger}/provider")
    await books.execute("DELETE FROM applications WHERE account = $1", name)
    await books.close()


async def test_the_process_serves_and_ends_when_asked(settings: Settings, account: str, tmp_path: Path) -> None:
    async with running("services.provider", settings, tmp_path / "log") as (client, admin, process):
        assert (await Provider(client, None).charge({**CHARGE, "account": account})).status == 201
        assert (await admin.call("GET", "/metrics")).status == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
