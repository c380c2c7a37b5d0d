"""Readiness probes: each asks the part itself whether it does its work. Bounded in time; they never raise."""

import asyncio
import struct
from typing import Final

import aiohttp
import asyncpg

from services.storage.postgres import AWAY

PROBE_TIMEOUT_S: Final = 2.0
# Kafka protocol: ApiVersions (key 18) v0, correlation 1, client id null. Answered once requests are processed.
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)


class PostgresProbe:
    """A query was answered. The connection is kept: to authenticate anew each second costs 4 ms here and there."""

    def __init__(self, server: str) -> None:
        self._address = f"{server}/postgres"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def __call__(self) -> bool:
        try:
            if self._connection is None:
                self._connection = await asyncpg.connect(self._address, timeout=PROBE_TIMEOUT_S)
            return bool(await self._connection.fetchval("SELECT NOT pg_is_in_recovery()", timeout=PROBE_TIMEOUT_S))
        except AWAY:
            self._drop()
            return False

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def kafka_ready(host: str, port: int) -> bool:
    """The broker answered an ApiVersions request."""
    writer = None
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_API_VERSIONS)
            answer = await reader.readexactly(10)
            return answer[4:8] == b"\0\0\0\1" and answer[8:10] == b"\0\0"
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()


async def http_ready(session: aiohttp.ClientSession, url: str) -> bool:
    """The endpoint answered 200."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
