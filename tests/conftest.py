"""The parts that integration tests stand on. Started once a session on free ports, shared, and taken down at its end."""

import os
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from services.settings import Settings


class Infra(msgspec.Struct, frozen=True):
    """Addresses of running parts: both Postgres servers (no database named) and the broker."""

    postgres: str
    ledger: str
    kafka: str


@pytest.fixture(scope="session")
def infra() -> Iterator[Infra]:
    """Real Postgres servers and a real broker."""
    yield Infra(os.environ["LAB_POSTGRES"], os.environ["LAB_LEDGER"], os.environ["LAB_KAFKA"])


@pytest.fixture
def settings(infra: Infra) -> Settings:
    """Settings of an ad-hoc process on the shared parts."""
    return Settings(postgres=infra.postgres, ledger=infra.ledger, kafka=infra.kafka)


@pytest.fixture
async def database(infra: Infra) -> AsyncIterator[str]:
    """The name of a fresh, empty database on the server `postgres`; dropped afterwards."""
    name = f"t_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(f"{infra.postgres}/postgres")
    await admin.execute(f'CREATE DATABASE "{name}"')
    yield name
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()
