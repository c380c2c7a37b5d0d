"""One connection to a source, and all that is done on it: whoever lost the connection lost the shards with it."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from services.relay.ownership import MEMBER_CLASS, SHARD_CLASS, Census, count
from services.relay.records import Row
from services.storage.postgres import connect, statements

SQL: Final = statements(Path(__file__).parent / "statements.sql")
IDLE_SESSION_MS: Final = 4_000
FRESH_S: Final = IDLE_SESSION_MS / 1000 - 1.0
QUERY_TIMEOUT_S: Final = 10.0
SETTINGS: Final = {
    # A frozen relay loses its session when idle, and (tcp) when the server has an answer under way that nobody reads.
    "idle_session_timeout": str(IDLE_SESSION_MS),
    "tcp_user_timeout": str(IDLE_SESSION_MS),
    # The table is empty and full by turns, so statistics are always old: the index on position is always right.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}


class Session:
    """What one relay holds of one source for as long as the connection lives. Lost connections raise at each use."""

    def __init__(self, prepared: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.shards: frozenset[int] = frozenset()
        self._prepared = prepared
        self._clock = clock
        self._alive_at = clock()

    async def ensure_fresh(self) -> None:
        """Make sure that the server has not ended this session (this process may have been frozen meanwhile)."""
        if self.age_s() > FRESH_S:
            await self.ping()

    def age_s(self) -> float:
        """Time since the *start* of the last answered query: its answer may have lain unread while we were frozen."""
        return self._clock() - self._alive_at

    async def ping(self) -> None:
        await self._query("ping")

    async def become_member(self) -> None:
        await self._query("become_member", MEMBER_CLASS)

    async def census(self) -> Census:
        return count(await self._query("census", MEMBER_CLASS, SHARD_CLASS))

    async def take(self, shards: Sequence[int]) -> None:
        """Try to own `shards`, which this session must not own yet (a session's locks are counted)."""
        taken = await self._query("take", SHARD_CLASS, shards)
        self.shards |= {shard for (shard,) in taken}

    async def release(self, shards: Sequence[int]) -> None:
        """Let `shards` go; nothing of them may be in flight or waiting for its removal."""
        await self._query("release", SHARD_CLASS, shards)
        self.shards -= set(shards)

    async def turn_over(self, confirmed: Sequence[int], in_flight: Sequence[int], limit: int) -> list[Row]:
        """Remove the `confirmed` positions and read the next rows of the owned shards, without those `in_flight`."""
        rows: list[Row] = await self._query("turn_over", confirmed, in_flight, sorted(self.shards), limit)
        return rows

    async def delete(self, confirmed: Sequence[int]) -> None:
        if confirmed:
            await self._query("delete", confirmed)

    async def set_aside(self, position: int, reason: str) -> None:
        """Move a row out of the way: one statement, so it is never in both tables or in none."""
        await self._query("set_aside", position, reason)

    async def _query(self, name: str, *arguments: Any) -> Any:
        started = self._clock()
        rows = await self._prepared[name].fetch(*arguments, timeout=QUERY_TIMEOUT_S)
        self._alive_at = started
        return rows


@asynccontextmanager
async def open_session(server: str, database: str, name: str) -> AsyncIterator[Session]:
    """A session that counts as a member. Its end, in good order or not, frees all that it held."""
    connection = await connect(server, database, name=name, **SETTINGS)
    try:
        # All at once, before any lock is held: between a statement's preparation and its first use the server does not
        # count a session as idle, and a relay frozen there would keep its shards.
        session = Session({name: await connection.prepare(statement) for name, statement in SQL.items()})
        await session.become_member()
        yield session
        await connection.close(timeout=1)
    finally:
        connection.terminate()  # nothing to do after close(); after an error no good-bye is waited for
