"""Readiness probes: each asks the part itself whether it does its work. Bounded in time; they never raise."""

import asyncio
import struct
from typing import Final

import aiohttp
import asyncpg

PROBE_TIMEOUT_S: Final = 2.0
# Kafka protocol: ApiVersions (key 18) v0, correlation 1, client id null. Answered once requests are processed.
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)


async def postgres_ready(server: str) -> bool:
    """A connection was accepted, authenticated and answered a query."""
    try:
        connection = await asyncpg.connect(f"{server}/postgres", timeout=PROBE_TIMEOUT_S)
        try:
            return bool(await connection.fetchval("SELECT NOT pg_is_in_recovery()", timeout=PROBE_TIMEOUT_S))
        finally:
            await connection.close(timeout=PROBE_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError):
        return False


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
