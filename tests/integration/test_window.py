"""The dedup window: partitions come and go, an id that may be forgotten is not applied, the hole is there if asked."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import Infra
from tests.ids import message_id

SCHEMAS = Path(__file__).parents[2] / "services" / "payments" / "schema"
WINDOW_S = 60.0


class Inbox:
    """An arm's inbox in a database of the test's own."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def reserve(self, *ids: UUID, older: bool = False) -> list[str]:
        """Decisions about records that are no firsts."""
        n = len(ids)
        rows = await self.connection.fetch(
            "SELECT * FROM arm.reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
            n, sorted(ids), [b"d"] * n, ["t"] * n, [0] * n, list(range(n)), [""] * n, ["type"] * n, ["o"] * n,
            ["c"] * n, [1] * n, ["EUR"] * n, [False] * n, [False] * n, [""] * n, older, uuid4(),
        )  # fmt: skip
        return [row["decision"] for row in rows]

    async def keep_window(self, window_s: float = WINDOW_S) -> Any:
        return await self.connection.fetchrow("SELECT * FROM arm.keep_window($1)", window_s)

    async def ids(self) -> set[UUID]:
        return {row["message_id"] for row in await self.connection.fetch("SELECT message_id FROM arm.inbox")}


@pytest.fixture
async def inbox(infra: Infra, database: str) -> AsyncIterator[Inbox]:
    connection = await asyncpg.connect(f"{infra.postgres}/{database}")
    for name in ("common", "effectively_once"):
        await connection.execute((SCHEMAS / f"{name}.sql").read_text().replace("{schema}", "arm"))
    yield Inbox(connection)
    await connection.close()


async def test_partitions_are_made_ahead_and_a_new_id_lies_in_one(inbox: Inbox) -> None:
    window_s = 8 * 86_400.0  # partitions of a day: the next one does not begin between two calls
    assert (await inbox.keep_window(window_s))["made"] == 3
    assert (await inbox.keep_window(window_s))["made"] == 0
    await inbox.reserve(message_id(0))
    assert await inbox.connection.fetchval("SELECT count(*) FROM arm.inbox_default") == 0


async def test_an_id_older_than_the_window_is_decided_older_and_leaves_nothing(inbox: Inbox) -> None:
    await inbox.keep_window()
    young, old = message_id(1), message_id(2 * WINDOW_S)
    assert await inbox.reserve(young, old) == ["older"]
    assert await inbox.ids() == {young}
    assert await inbox.connection.fetchval("SELECT count(*) FROM arm.records") == 1
    assert await inbox.connection.fetchval("SELECT count(*) FROM arm.dedup_hits") == 0


async def test_within_the_window_a_repeat_is_a_duplicate_however_the_window_moves(inbox: Inbox) -> None:
    await inbox.keep_window()
    young = message_id(1)
    assert await inbox.reserve(young) == []
    await inbox.keep_window()
    assert await inbox.reserve(young) == ["duplicate"]


async def in_a_partition(inbox: Inbox, window_s: float) -> UUID:
    """A new id in a partition; one that the test was too slow for, as they end 2 s from now, lies in the default."""
    for _ in range(20):
        await inbox.keep_window(window_s)
        id_ = message_id(0)
        await inbox.reserve(id_, older=True)
        query = "SELECT tableoid = 'arm.inbox_default'::regclass FROM arm.inbox WHERE message_id = $1"
        if not await inbox.connection.fetchval(query, id_):
            return id_
    pytest.fail("twenty new ids, and none of them in a partition")


async def test_what_the_window_leaves_behind_is_dropped_by_partition_and_deleted_from_the_default(inbox: Inbox) -> None:
    in_partition = await in_a_partition(inbox, 1.0)
    in_default = message_id(30)
    await inbox.reserve(in_default, older=True)
    there = await inbox.connection.fetchval("SELECT count(*) FROM arm.inbox_default")
    before = time.monotonic()
    dropped = deleted = 0
    while in_partition in await inbox.ids():
        did = await inbox.keep_window(1.0)
        dropped, deleted = dropped + did["dropped"], deleted + did["deleted"]
        assert time.monotonic() - before < 120
    assert dropped > 0
    assert deleted == there > 0
    assert in_default not in await inbox.ids()
    assert await inbox.reserve(in_partition) == ["older"]


async def test_asked_to_apply_what_may_be_forgotten_it_does_and_the_record_stays_one(inbox: Inbox) -> None:
    await inbox.keep_window()
    old = message_id(2 * WINDOW_S)
    assert await inbox.reserve(old, older=True) == []
    await inbox.connection.execute("DELETE FROM arm.inbox WHERE message_id = $1", old)  # the window forgot it
    assert await inbox.reserve(old, older=True) == []
    assert await inbox.connection.fetchval("SELECT count(*) FROM arm.records WHERE message_id = $1", old) == 1
