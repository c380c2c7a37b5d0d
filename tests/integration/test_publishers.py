"""The other publisher arms as processes: what each loses, doubles or makes up at its gap, and that `cdc` loses nothing.

One lab of their own with faults allowed: the servers are killed here, and the replication slot is taken away.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest

from loadtest.nemesis import told
from services.broker.reader import TopicReader, bounds
from services.domain.arms import PUBLISHER_ARMS, PublisherArm
from services.domain.messages import ORDERS, message_id_of
from services.probe.databases import Databases
from services.settings import Settings
from services.stack import client
from services.stack.parts import PARTS
from services.stack.postgres import command
from services.stack.provision import provision
from tests.conftest import Infra, Lab, free_home, running
from tests.waiting import until

BROKEN = 0  # what a request finds whose process died
CDC = PUBLISHER_ARMS["cdc"]
ID_CURSOR = PUBLISHER_ARMS["id_cursor"]
AFTER_COMMIT = PUBLISHER_ARMS["dual_write_after_commit"]
BEFORE_COMMIT = PUBLISHER_ARMS["dual_write_before_commit"]
OTHERS = [name for name, part in PARTS.items() if part.publisher not in ("", "outbox")]
NOT_CONFIRMED = (
    "SELECT count(*) FROM outbox"
    " WHERE pg_visible_in_snapshot(xid, (SELECT snapshot FROM progress)) IS NOT TRUE"
)  # fmt: skip

pytestmark = pytest.mark.timeout(900)  # the lab starts here, and its servers come back from kills


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(free_home(tmp_path_factory.mktemp("publishers")), "--only", ",".join(OTHERS)) as started:
        yield started


class Place:
    """One publisher arm of the lab: its producer's API, its database and its topic."""

    def __init__(self, stack: Lab, arm: PublisherArm, http: aiohttp.ClientSession, database: Any) -> None:
        self.lab, self.arm, self.http, self.database = stack, arm, http, database
        self.url = stack.home.http_url(PARTS[arm.producer(ORDERS)]) + "/orders"
        self.asked: list[tuple[str, int]] = []  # each key that was posted, and its answer

    async def post(self, key: str, customer: str = "c-1") -> int:
        """One request; 0 when the connection broke, -1 when no answer came in time."""
        status = await self._post(key, customer)
        self.asked.append((key, status))
        return status

    async def _post(self, key: str, customer: str) -> int:
        order = {"order_id": key, "customer_id": customer, "amount_cents": 1999, "currency": "EUR"}
        try:
            async with self.http.post(self.url, json=order, headers={"Idempotency-Key": key}) as response:
                return response.status
        except TimeoutError:  # before aiohttp's own, which are both
            return -1
        except aiohttp.ClientError:
            return 0

    async def accepted(self, key: str, customer: str = "c-1") -> str:
        """The same request until it is acknowledged."""
        await until(lambda: self._acknowledges(key, customer), f"{key} is accepted")
        return key

    async def _acknowledges(self, key: str, customer: str) -> bool:
        return await self.post(key, customer) == 201

    async def at_first(self, prefix: str) -> str:
        """A key that was acknowledged at its first request: its process is warm, and nothing of it was repeated."""
        keys: list[str] = []

        async def acknowledged() -> bool:
            keys.append(f"{prefix}-{uuid4().hex[:8]}")
            return await self._acknowledges(keys[-1], "c-1")

        await until(acknowledged, f"a first request of {prefix} is accepted")
        return keys[-1]

    async def struck(self, prefix: str, failpoint: str, action: str, status: int) -> str:
        """A key whose first request met the failpoint and ended so.

        Four tries: one that found the broker, the supervisor or the process late ended otherwise, or without the
        failpoint, and leaves its key behind.
        """
        for _ in range(4):
            await self.at_first(f"{prefix}-before")  # the first publication of a life may take too long
            await self._arm(failpoint, f"{action} count=1")
            key = f"{prefix}-{uuid4().hex[:8]}"
            ended = await self.post(key), await self._acted(failpoint)
            if ended == (status, 1):
                return key
            await self._disarm(failpoint)
        pytest.fail(f"{failpoint}, {action}: (answer, acted) is {ended} and not {(status, 1)}")

    async def _arm(self, failpoint: str, action: str) -> None:
        """Arm. Who takes it in later is looked at."""
        await asyncio.to_thread(told, lambda: client.arm(self.lab.home, failpoint, action))

    async def _disarm(self, failpoint: str) -> None:
        await asyncio.to_thread(told, lambda: client.clear(self.lab.home, failpoint))

    async def _acted(self, failpoint: str) -> int:
        """How often the failpoint struck since it was armed."""
        armed = (await asyncio.to_thread(client.failpoints, self.lab.home))["armed"]
        return sum(one["acted"] for one in armed if one["failpoint"] == failpoint)

    async def intents(self) -> dict[str, UUID]:
        """Message ids by key."""
        rows = await self.query("SELECT idempotency_key, message_id FROM intents")
        return {row[0]: row[1] for row in rows}

    async def query(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.database.acquire() as connection:
            return list(await connection.fetch(statement, *arguments))

    async def published(self) -> Counter[UUID]:
        """How often each message id is on the topic."""
        return Counter(id_ for id_, _ in await self.records())

    async def records(self) -> list[tuple[UUID, str]]:
        """Message id and order id of each record on the topic."""

        async def read() -> list[list[tuple[UUID, str]]]:
            return [await asyncio.to_thread(self._read)]

        (found,) = await until(read, "the broker to let the topic be read")
        return found

    def _read(self) -> list[tuple[UUID, str]]:
        kafka, topic = self.lab.home.addresses()["LAB_KAFKA"], self.arm.topic(ORDERS)
        found: list[tuple[UUID, str]] = []
        with closing(TopicReader(kafka, {}, bounds(kafka, [topic]).ends)) as reader:
            while records := reader.read():
                ids = ((message_id_of(record.headers), record.value) for record in records)
                found += [(id_, json.loads(value)["order_id"]) for id_, value in ids if id_ is not None and value]
        return found

    async def wait_for_all(self, what: str) -> None:
        """Every intent is on the topic, and no row waits."""

        async def done() -> bool:
            return set((await self.intents()).values()) <= (await self.published()).keys()

        await until(done, what)

    async def cli(self, *words: str) -> str:
        return await asyncio.to_thread(self.lab.cli, *words)

    async def up(self, process: str) -> None:
        """Wait until a process is ready."""

        async def ready() -> bool:
            now = await asyncio.to_thread(client.status, self.lab.home)
            return any(one["name"] == process and one["ready"] for one in now["processes"])

        await until(ready, f"{process} is ready")

    def events(self, process: str, name: str) -> list[dict[str, Any]]:
        lines = self.lab.home.log_file(process).read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == name]


@asynccontextmanager
async def place(stack: Lab, arm: PublisherArm) -> AsyncIterator[Place]:
    server = stack.home.postgres_url("postgres")
    timeout = aiohttp.ClientTimeout(total=6)
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        asyncpg.create_pool(f"{server}/{arm.database(ORDERS)}", min_size=0, max_size=2) as database,
    ):
        yield Place(stack, arm, http, database)


async def test_a_dual_write_after_the_commit_that_dies_between_leaves_an_intent_that_nobody_publishes(
    stack: Lab,
) -> None:
    async with place(stack, AFTER_COMMIT) as arm:
        before = await arm.at_first("a-0")
        between = await arm.struck("a-1", "accept.after_commit_before_produce", "kill", BROKEN)
        await arm.accepted(between)  # the same key again: answered from the first, and not published again
        after = await arm.at_first("a-2")
        intents, published = await arm.intents(), await arm.published()
        assert [published[intents[key]] for key in (before, between, after)] == [1, 0, 1]


async def test_a_dual_write_before_the_commit_that_dies_or_fails_between_leaves_a_record_of_nothing(
    stack: Lab,
) -> None:
    async with place(stack, BEFORE_COMMIT) as arm:
        await arm.at_first("b-0")
        died = await arm.struck("b-1", "accept.after_produce_before_commit", "kill", BROKEN)
        failed = await arm.struck("b-2", "accept.after_produce_before_commit", "error:database", 503)
        await arm.accepted(died)
        intents, records = await arm.intents(), await arm.records()
        unanswered = [key for key, status in arm.asked if status != 201]
        assert acknowledged(arm) <= intents.keys() <= acknowledged(arm) | set(unanswered) - {failed}
        published = Counter(id_ for id_, _ in records)
        assert {published[id_] for id_ in intents.values()} == {1}
        ghosts = Counter(key for id_, key in records if id_ not in intents.values())
        assert ghosts.keys() >= {died, failed}, "of both first tries"
        assert ghosts <= Counter(unanswered), "of nothing else than requests that were not acknowledged"


def acknowledged(arm: Place) -> set[str]:
    return {key for key, status in arm.asked if status == 201}


async def test_an_id_cursor_skips_a_row_that_commits_after_a_higher_one_was_published(stack: Lab) -> None:
    async with place(stack, ID_CURSOR) as arm:
        await arm.accepted("i-0")

        async def passed() -> bool:
            (row,) = await arm.query("SELECT position FROM progress")
            (own,) = await arm.query("SELECT max(position) AS position FROM outbox")
            return bool(row["position"] == own["position"])

        async def overtaken(late_key: str, early_key: str) -> bool:
            """Whether the early row was published while the late one was not committed: it is not for 2.5 s."""
            await arm.cli("fault", "arm", "accept.after_insert_before_commit", "delay:2500 count=1")
            late = asyncio.create_task(arm.post(late_key, "c-late"))

            async def open_transaction() -> bool:
                query = "SELECT FROM pg_stat_activity WHERE state = $1 AND datname = current_database()"
                return late.done() or bool(await arm.query(query, "idle in transaction"))

            await until(open_transaction, "the late row has its position and is not committed")
            await arm.accepted(early_key, "c-early")
            await until(passed, "the early row is published")
            was_late = late_key not in await arm.intents()
            return await late == 201 and was_late

        for attempt in range(10):
            if await overtaken(f"i-late-{attempt}", f"i-early-{attempt}"):
                break
        else:
            pytest.fail("ten times the early row was not published within 2.5 s")
        await arm.accepted("i-after", "c-late")
        await until(passed, "the row after it is published")
        intents, published = await arm.intents(), await arm.published()
        keys = ("i-0", f"i-late-{attempt}", f"i-early-{attempt}", "i-after")
        assert [published[intents[key]] > 0 for key in keys] == [True, False, True, True]


async def test_cdc_loses_nothing_over_kills_of_itself_of_postgres_and_of_the_broker(stack: Lab) -> None:
    async with place(stack, CDC) as arm:
        stopping = asyncio.Event()

        async def customer(number: int) -> list[str]:
            keys = []
            while not stopping.is_set():
                keys.append(await arm.accepted(f"k-{number}-{uuid4().hex[:8]}", f"c-{number}"))
                await asyncio.sleep(0.05)  # a pace: the servers need the processors to come back
            return keys

        customers = [asyncio.create_task(customer(number)) for number in range(2)]
        await arm.cli("fault", "arm", "publish.after_produce_before_confirm", "kill count=1")
        await arm.wait_for_all("published after a kill between the broker's confirmation and the slot's")
        for process in ("cdc", "postgres", "kafka"):
            await arm.cli("kill", process)
            await arm.up(process)
        stopping.set()
        keys = [key for keys in await asyncio.gather(*customers) for key in keys]
        await arm.wait_for_all("published after all kills")
        intents, published = await arm.intents(), await arm.published()
        assert set(keys) <= intents.keys()
        assert published.keys() <= set(intents.values()), "nothing is made up"
        assert max(published[intents[key]] for key in keys) >= 2, "the first kill was in the gap"

        async def confirmed() -> bool:
            (row,) = await arm.query(NOT_CONFIRMED)
            return bool(row["count"] == 0)

        await until(confirmed, "no row waits")


async def test_rows_that_are_confirmed_leave_the_outbox_by_whole_partitions(stack: Lab) -> None:
    async with place(stack, CDC) as arm:
        await arm.accepted(f"e-{uuid4().hex[:8]}")

        async def empty() -> bool:
            (row,) = await arm.query("SELECT count(*) FROM outbox")
            return bool(row["count"] == 0)

        await until(empty, "the outbox is empty")


async def test_a_slot_that_was_dropped_costs_copies_and_no_message(stack: Lab) -> None:
    async with place(stack, CDC) as arm:
        before = await arm.accepted(f"d-{uuid4().hex[:8]}")
        await arm.wait_for_all("published by the old slot")
        await arm.cli("kill", "cdc", "--hold")
        unread = [await arm.accepted(f"d-{uuid4().hex[:8]}") for _ in range(5)]

        async def dropped() -> bool:
            return bool(await arm.query("SELECT pg_drop_replication_slot(current_database())"))

        await until(dropped, "the slot is gone")
        late = await arm.accepted(f"d-{uuid4().hex[:8]}")  # no slot knows of it
        kept = {row["message_id"] for row in await arm.query("SELECT message_id FROM outbox")}
        await arm.cli("restart", "cdc")
        await arm.wait_for_all("published by the new slot, or from the table")
        intents, published = await arm.intents(), await arm.published()
        assert {intents[key] for key in (*unread, late)} <= kept <= published.keys()
        assert published[intents[before]] >= 1 + (intents[before] in kept), "what is kept is published again"
        assert arm.events("cdc", "slot.made")
        assert len(unread) + 1 <= arm.events("cdc", "slot.republished")[-1]["rows"] <= len(kept)


async def test_a_frozen_reader_is_said_and_does_not_fill_the_disk(stack: Lab) -> None:
    bound = next(word for word in command(stack.home.data, "", 0) if word.startswith("max_slot_wal_keep_size"))
    assert bound == "max_slot_wal_keep_size=1GB"
    async with place(stack, CDC) as arm:
        await arm.cli("freeze", "cdc")
        unread = [await arm.accepted(f"f-{uuid4().hex[:8]}") for _ in range(3)]

        async def invalidated() -> bool:
            await arm.query("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000))")
            await arm.query("SELECT pg_switch_wal()")
            (row,) = await arm.query("SELECT wal_status, invalidation_reason FROM pg_replication_slots")
            if row["wal_status"] == "unreserved":
                await arm.query("CHECKPOINT")
            return row["invalidation_reason"] == "wal_removed"

        await until(invalidated, "Postgres gives the slot up")
        await until(lambda: _lags(arm, over=True), "the slot's loss is said")
        probe = Databases(stack.home.postgres_url("postgres"), "probe")
        assert await probe.slot_bytes(CDC.database(ORDERS)) == 1 << 30, "its loss is no cure: the alert goes on"
        late = await arm.accepted(f"f-{uuid4().hex[:8]}")
        await arm.cli("thaw", "cdc")
        await arm.wait_for_all("published after the thaw")
        intents, published = await arm.intents(), await arm.published()
        assert all(published[intents[key]] for key in (*unread, late))
        await until(lambda: _lags(arm, over=False), "the new slot holds little back")
        assert await probe.slot_bytes(CDC.database(ORDERS)) < 1 << 30
        await probe.close()


async def _lags(arm: Place, *, over: bool) -> bool:
    events = arm.events("orders.cdc", "slot.lag")
    return bool(events) and events[-1]["over"] is over


async def test_the_slot_is_there_for_the_arm_and_goes_with_it(infra: Infra, settings: Settings) -> None:
    connection = await asyncpg.connect(f"{infra.postgres}/postgres")

    async def slots() -> int:
        return int(
            await connection.fetchval("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'orders_cdc'")
        )

    await provision(msgspec.structs.replace(settings, publishers="outbox,cdc"))
    assert await slots() == 1
    await provision(settings)
    assert await slots() == 0
    await connection.close()
