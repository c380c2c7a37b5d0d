"""The relay on a lab of its own: broker and database killed under load, and a kill at each of its failpoints."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from services.domain.messages import ORDERS
from services.domain.sharding import shard_of
from services.relay.source import AWAY
from services.stack import client, control
from services.stack.home import Home
from tests.conftest import free_home, say
from tests.relaying import Place, Writer, by_key, first_occurrences
from tests.waiting import until

KEYS = [(f"customer-{n}", shard_of(f"customer-{n}")) for n in range(50)]
KILLS = 5

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = free_home(tmp_path_factory.mktemp("lab"))
    try:
        control.up(home, faults=True, seed=1, only=("relay",), say=say)
        yield home
    finally:
        control.down(home, say)


@pytest.fixture
async def source(lab: Home) -> AsyncIterator[Place]:
    """The lab's own outbox of orders, empty at the start."""
    addresses = lab.addresses()
    place = Place(addresses["LAB_POSTGRES"], ORDERS.name, addresses["LAB_KAFKA"], ORDERS.topic)
    await place.prepare()
    await place.drained()
    yield place
    client.clear(lab)


@contextlib.asynccontextmanager
async def load(source: Place) -> AsyncIterator[None]:
    """Transactions until the block ends; what the database's kill takes away was never committed."""
    over = asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            with contextlib.suppress(*AWAY):
                connection = await source.connect()
                try:
                    writer = Writer(KEYS, connection)
                    while not over.is_set():
                        await writer.write(20)
                        await asyncio.sleep(0.02)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        over.set()
        await task


def process(lab: Home, name: str) -> dict[str, object]:
    return next(p for p in client.status(lab)["processes"] if p["name"] == name)


def restarts(lab: Home) -> dict[str, int]:
    return {process["name"]: process["restarts"] for process in client.status(lab)["processes"]}


async def killed_and_back(lab: Home, name: str) -> None:
    """SIGKILL a process and wait until its next life is ready."""
    before = process(lab, name)["restarts"]
    await asyncio.to_thread(client.act, lab, "kill", name)

    async def back() -> bool:
        now = process(lab, name)
        return now["restarts"] != before and now["ready"] is True

    await until(back, f"{name} is back")


async def progressed(source: Place) -> None:
    """Wait until rows that are written now are published: each kill meets a relay at work."""
    latest = None
    with contextlib.suppress(*AWAY):
        latest = await source.value("SELECT max(position) FROM written")

    async def published() -> bool:
        with contextlib.suppress(*AWAY):
            return bool(
                await source.value(
                    f"SELECT max(position) > {latest or 0} FROM written w"  # noqa: S608  # a number
                    " WHERE NOT EXISTS (SELECT FROM outbox WHERE position = w.position)"
                )
            )
        return False

    await until(published, "new rows are published")


async def check(source: Place) -> int:
    """Lost 0, keys in order of their commits; returns how many records were duplicates."""
    await source.drained()
    records, written = source.records(), await source.written()
    assert first_occurrences(records) == by_key(written)
    return len(records) - len(written)


async def test_five_kills_of_the_broker_and_five_of_the_database_lose_nothing_and_end_no_relay(
    lab: Home, source: Place
) -> None:
    before = restarts(lab)
    async with load(source):
        for number in range(KILLS):
            await progressed(source)
            if number:
                await asyncio.gather(killed_and_back(lab, "kafka"), killed_and_back(lab, "postgres"))
            else:
                await killed_and_back(lab, "kafka")
                await progressed(source)
                await killed_and_back(lab, "postgres")
        await progressed(source)
    await check(source)
    after = restarts(lab)
    killed = {"relay#0": 0, "kafka": KILLS, "postgres": KILLS}
    assert {name: after[name] - before[name] for name in killed} == killed


@pytest.mark.parametrize(
    ("failpoint", "duplicates"),
    [
        ("publish.after_fetch", False),
        ("publish.half_batch", True),
        ("publish.after_produce_before_delete", True),
    ],
)
async def test_a_kill_at_a_failpoint_loses_nothing(lab: Home, source: Place, failpoint: str, duplicates: bool) -> None:
    before = await check(source)
    lives = process(lab, "relay#0")["restarts"]
    await asyncio.to_thread(client.arm, lab, failpoint, "kill nth=3 count=1")
    async with load(source):
        await until(lambda: _restarted(lab, lives), "the relay was killed and is back")
        await progressed(source)
    added = await check(source) - before
    assert added > 0 or not duplicates


async def _restarted(lab: Home, before: object) -> bool:
    now = process(lab, "relay#0")
    return now["restarts"] != before and now["ready"] is True
