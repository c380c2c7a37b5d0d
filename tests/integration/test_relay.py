"""The relay on real parts: relays are processes, sources are databases of their own."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.domain.sharding import shard_of
from services.settings import Settings
from tests.relaying import Place, Writer, by_key, first_occurrences, place, relay, shared, until

KEYS = [(f"customer-{n}", shard_of(f"customer-{n}")) for n in range(200)]


@pytest.fixture
async def source(settings: Settings, database: str) -> AsyncIterator[Place]:
    async with place(settings, database) as made:
        yield made


async def test_without_a_crash_two_relays_publish_every_row_once_and_each_key_in_order(
    source: Place, tmp_path: Path
) -> None:
    async with relay(source, 0, tmp_path) as one, relay(source, 1, tmp_path) as two:
        await shared(one, two)
        writers = [Writer(KEYS[n * 25 : n * 25 + 100], await source.connect()) for n in range(5)]

        async def load(writer: Writer) -> None:
            for _ in range(50):
                await writer.write(200)

        await asyncio.gather(*(load(writer) for writer in writers))
        await source.drained()
        records, written = source.records(), await source.written()
        assert len(written) == 50_000
        assert sorted(r.message_id for r in records) == sorted(message_id for message_id, _ in written)
        assert first_occurrences(records) == by_key(written)
        assert {len(r.shards()) for r in (one, two)} == {8}
