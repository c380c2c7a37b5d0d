"""A service's one database: calls bounded in number and time, answered 503 while it is away, found again by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg

from services.http.problem import unavailable
from services.storage.postgres import AWAY, pool

CONNECTION_WAIT_S: Final = 2.0
STATEMENT_TIMEOUT_S: Final = 5.0
MAX_CALLS: Final = 512  # running and waiting: beyond it, an answer now is better than one after the client gave up
PING_EVERY_S: Final = 0.5
CLOSE_TIMEOUT_S: Final = 1.0

# What passes when the server comes back, a lock is let go of, or the load falls. Anything else is a defect of ours.
PASSING: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


class Transaction:
    """An open transaction on a connection of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def row(self, statement: str, *arguments: object) -> Any:
        """The first row of a statement, or None."""
        return await self._connection.fetchrow(statement, *arguments, timeout=STATEMENT_TIMEOUT_S)


class Database:
    """One database, by a pool of connections that is opened when the server first answers."""

    def __init__(self, server: str, name: str, *, process: str, size: int) -> None:
        self.waits_for = f"database {name}"  # empty while the database answers
        self._server = server
        self._name = name
        self._process = process
        self._size = size
        self._pool: Any = None
        self._calls = 0

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Run one statement, prepared once a connection.

        Raises Problem `unavailable`: the statement may have been carried out all the same.
        """
        async with self._bounded():
            return await self._fetch(statement, *arguments)

    async def row(self, statement: str, *arguments: object) -> Any:
        """The first row, or None. Raises as `rows` does."""
        rows = await self.rows(statement, *arguments)
        return rows[0] if rows else None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """One transaction, committed when the block ends without an error. Raises as `rows` does."""
        async with (
            self._bounded(),
            self._pool.acquire(timeout=CONNECTION_WAIT_S) as connection,
            connection.transaction(),
        ):
            yield Transaction(connection)

    async def watch(self) -> None:
        """Keep `waits_for` true, until cancelled."""
        while True:
            self.waits_for = await self._ping()
            await asyncio.sleep(PING_EVERY_S)

    async def close(self) -> None:
        """Close the connections, by force when they do not close in a second."""
        if self._pool is not None:
            with contextlib.suppress(*AWAY):
                await asyncio.wait_for(self._pool.close(), CLOSE_TIMEOUT_S)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """One call of at most so many; what a server that is away makes of it is `unavailable`."""
        if self._pool is None:
            raise unavailable("the database has not answered yet")
        if self._calls >= MAX_CALLS:
            raise unavailable("too many requests are waiting for the database")
        self._calls += 1
        try:
            yield
        except PASSING as error:
            raise unavailable(f"the database did not answer: {type(error).__name__}") from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if isinstance(error, ValueError):  # an argument that no column can take: ours, and not passing
                raise
            raise unavailable("the connection to the database was lost") from error
        finally:
            self._calls -= 1

    async def _fetch(self, statement: str, *arguments: object) -> list[Any]:
        async with self._pool.acquire(timeout=CONNECTION_WAIT_S) as connection:
            return await connection.fetch(statement, *arguments, timeout=STATEMENT_TIMEOUT_S)  # type: ignore[no-any-return]

    async def _ping(self) -> str:
        try:
            if self._pool is None:
                self._pool = await pool(self._server, self._name, name=self._process, size=self._size)
            await self._fetch("SELECT 1")
        except AWAY as error:
            return f"database {self._name}: {type(error).__name__}"
        return ""
