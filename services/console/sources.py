"""The two data sources of the boards: Prometheus over HTTP, the `auditor` database read-only."""

import asyncio
from typing import Any, Final

import aiohttp
import asyncpg

TIMEOUT_S: Final = 5.0
ROWS: Final = 500


class NoAnswer(Exception):
    """A source did not answer, or refused the query; the message is for the panel."""


class Prometheus:
    """Queries, a few at a time."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._base = base_url
        self._session = session
        self._turn = asyncio.Semaphore(6)

    async def over_time(self, expr: str, start_s: int, end_s: int, step_s: int) -> list[Any]:
        """The series of a range. Raises NoAnswer."""
        asked = {"query": expr, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        return await self._ask("query_range", asked)

    async def at(self, expr: str, at_s: float) -> list[Any]:
        """The series at one moment. Raises NoAnswer."""
        return await self._ask("query", {"query": expr, "time": f"{at_s:.3f}"})

    async def _ask(self, path: str, form: dict[str, str]) -> list[Any]:
        if not self._base:
            raise NoAnswer("this lab has no Prometheus: `lab doctor` says how to get one")
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with (
                self._turn,
                self._session.post(f"{self._base}/api/v1/{path}", data=form, timeout=timeout) as response,
            ):
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswer(f"Prometheus does not answer ({type(error).__name__}): `lab status` shows it") from error
        if answer.get("status") != "success":
            raise NoAnswer(f"Prometheus refuses the query: {answer.get('error')}")
        result: list[Any] = answer["data"]["result"]
        return result


class Evidence:
    """The `auditor` database, as the role that may only look; no query lasts long."""

    def __init__(self, server_url: str) -> None:
        self._url = f"{server_url}/auditor"
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """At most ROWS rows. Raises NoAnswer."""
        try:
            pool = await self._open()
            found = await pool.fetch(f"SELECT * FROM ({sql.rstrip(';')}) panel LIMIT {ROWS}", timeout=TIMEOUT_S)  # noqa: S608  # the boards' own
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise NoAnswer(f"the auditor's database does not answer: {error or type(error).__name__}") from error
        return [dict(row) for row in found]

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                settings = {"default_transaction_read_only": "on", "statement_timeout": "4s"}
                self._pool = await asyncpg.create_pool(
                    self._url, user="reader", min_size=0, max_size=2, timeout=TIMEOUT_S, server_settings=settings
                )
            return self._pool
