"""The parts that integration tests stand on: started once a session on free ports, shared, taken down at the end."""

import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from services.settings import Settings
from services.stack import control
from services.stack.checks import ports
from services.stack.home import Home


class Infra(msgspec.Struct, frozen=True):
    """Addresses of running parts: both Postgres servers (no database named) and the broker."""

    postgres: str
    ledger: str
    kafka: str


def free_home(path: os.PathLike[str]) -> Home:
    """A lab in `path` on a block of ports of which none is in use."""
    for base in range(30_000, 60_000, 200):
        home = Home(path, base)  # type: ignore[arg-type]
        if all(_free(port) for port in ports(home)):
            return home
    raise RuntimeError("no block of free ports between 30000 and 60000")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def say(text: str) -> None:
    print(text, file=sys.stderr)


@pytest.fixture(scope="session")
def infra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infra]:
    """Real Postgres servers and a real broker, provisioned.

    LAB_TEST_REUSE=1 takes those of LAB_POSTGRES, LAB_LEDGER and LAB_KAFKA instead, to try one test again quickly.
    """
    if os.environ.get("LAB_TEST_REUSE"):
        yield Infra(os.environ["LAB_POSTGRES"], os.environ["LAB_LEDGER"], os.environ["LAB_KAFKA"])
        return
    home = free_home(tmp_path_factory.mktemp("infra"))
    control.up(home, faults=False, seed=1, only=("provision",), say=say)
    try:
        addresses = home.addresses()
        yield Infra(addresses["LAB_POSTGRES"], addresses["LAB_LEDGER"], addresses["LAB_KAFKA"])
    finally:
        control.down(home, say)


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
