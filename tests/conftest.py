"""The parts that integration tests stand on: started once a session on free ports, shared, taken down at the end."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

from lab.output import Exit
from services.settings import Settings
from services.stack import client, control
from services.stack.checks import ports
from services.stack.drain import Waiting, drain
from services.stack.home import Home
from services.stack.running import arms_of
from tests.waiting import Failed, NotAnswered, comes


class Infra(msgspec.Struct, frozen=True):
    """Addresses of running parts: both Postgres servers (no database named) and the broker."""

    postgres: str
    ledger: str
    kafka: str


# Files whose tests share the session's lab: of the two workers of `make test` one runs all of these.
OF_THE_LAB = (
    "tests/e2e/",
    "tests/telemetry/",
    "tests/dashboards/test_data.py",
    "tests/integration/test_bad_input.py",
    "tests/integration/test_faults.py",
    "tests/integration/test_more_arms.py",
)


BLOCK, REGION = 200, 1_800
REGIONS = range(21_200, 30_400, REGION)  # above 32768 outgoing connections take ports


# Of the session's lab: a machine that stands still for a moment is no provider that does not answer (time-outs are
# tested in labs of their own), and a relay that polls less often leaves more of it to the tests.
SETTINGS = {"LAB_PROVIDER_TIMEOUT_S": "8", "LAB_RELAY_IDLE_POLL_MS": "100"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the lab first: it is the longest piece that cannot be divided."""
    items.sort(key=lambda item: not item.nodeid.startswith(OF_THE_LAB))


class ByLabAndFile(LoadScopeScheduling):
    """Tests of one file stay together, and so do all tests of the session's lab."""

    def _split_scope(self, nodeid: str) -> str:
        return "lab" if nodeid.startswith(OF_THE_LAB) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByLabAndFile:
    """Of `pytest -n`."""
    return ByLabAndFile(config, log)


def free_home(path: os.PathLike[str]) -> Home:
    """A lab in `path` on a block of ports of which none is in use."""
    first = _region().getsockname()[1]
    for base in range(first, first + REGION, BLOCK):
        home = Home(path, base)  # type: ignore[arg-type]
        if all(_free(port) for port in ports(home)):
            return home
    raise RuntimeError(f"no block of free ports between {first} and {first + REGION}")


@cache
def _region() -> socket.socket:
    """The ports of this process, which no other run or worker has: its as long as it holds the first one, which no
    lab uses."""
    for first in REGIONS:
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
        else:
            return guard
    raise RuntimeError(f"{len(REGIONS)} runs of this suite hold all ports above {REGIONS[0]}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def belonging_to(home: Home) -> list[psutil.Process]:
    """The processes of a lab, whoever started them."""
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and control._belongs_to(p, home)]


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


class Lab(msgspec.Struct, frozen=True):
    """A whole lab with faults allowed, and its command line."""

    home: Home

    def run(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `lab WORDS`, whatever comes of it."""
        command = [str(Path(sys.executable).with_name("lab")), *words]
        place = {"LAB_HOME": str(self.home.path), "LAB_PORT_BASE": str(self.home.port_base)}
        environment = {**os.environ, **SETTINGS, **place}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )  # fmt: skip

    def cli(self, *words: str, exits: int = 0, timeout_s: float = 120) -> str:
        """Run `lab WORDS` and return its stdout; asserts the exit code. Raises NotAnswered when a part is away."""
        done = self.run(*words, timeout_s=timeout_s)
        if exits != done.returncode == Exit.NOT_UP:
            raise NotAnswered(f"{' '.join(words)}: {done.stderr[-2000:]}")
        assert done.returncode == exits, f"{' '.join(words)} exits {done.returncode}: {done.stderr[-2000:]}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `lab status --json` says of each process, by name; raises NotUp while the supervisor does not answer.

        Not by the command line: it is asked again and again, and a start of Python each time is what a test would cost.
        """
        return {process["name"]: process for process in client.status(self.home)["processes"]}

    def until(self, condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = 60) -> Any:
        """Wait until the condition holds, and return what it gave.

        Fails with what was waited for (and, of a function, what there was).
        """
        if not (held := comes(condition, timeout_s)):
            last = f"; it fails: {held.error!r:.500}" if isinstance(held, Failed) else ""
            pytest.fail(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}{last}")
        return held

    def ready(self, timeout_s: float = 180) -> None:
        """Wait until every process is ready."""

        def away() -> list[str]:
            return [name for name, process in self.status().items() if not process["ready"] and not given_up(process)]

        def given_up(process: dict[str, Any]) -> bool:
            return bool(process["optional"]) and process["state"] == "failed"

        self.until(lambda: not away(), lambda: f"every process to be ready; not yet: {away()}", timeout_s)

    def killed_and_back(self, *names: str, timeout_s: float = 180) -> None:
        """SIGKILL processes; wait until each has another life and everything is ready: what was ready before is not."""
        before = {name: process["restarts"] for name, process in self.status().items()}
        self.cli("kill", *names)

        def back() -> bool:
            now = self.status()
            again = all(now[name]["restarts"] > before[name] for name in names)
            return again and all(process["ready"] for process in now.values())

        self.until(back, f"{', '.join(names)} to be back", timeout_s)

    def drain(self, timeout_s: float = 300) -> None:
        """Wait until nothing waits; stock_faust, whose loop may stall for ever, is started anew when it alone stands.

        See docs/storms.md.
        """
        deadline = time.monotonic() + timeout_s
        before: list[Waiting] = []
        while waiting := self._waiting():
            if time.monotonic() > deadline:
                pytest.fail(f"not drained after {timeout_s:g} s: {'; '.join(map(str, waiting))}")
            if waiting == before and all("arm.stock_faust" in one.place for one in waiting):
                self.run("restart", "arm.stock_faust#0")  # refused while it restarts by itself
            before = waiting

    def _waiting(self) -> list[Waiting]:
        """What waits after at most 20 s of waiting for it; in a thread, because a test may have a loop of its own."""
        servers = self.home.addresses()
        look = partial(drain, servers["LAB_POSTGRES"], servers["LAB_KAFKA"], 20, lambda _: None, arms_of(self.home))
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(look())).result()

    def arm(self, *words: str) -> None:
        """Arm a failpoint when nothing waits and nothing else is armed: who passes it is what the test sends."""
        client.clear(self.home)
        self.drain()
        client.arm(self.home, words[0], " ".join(words[1:]))

    def sweep(self) -> None:
        """Do away with what tests have left: what is frozen, held, armed or waits."""
        for name, process in self.status().items():
            if process["state"] in ("frozen", "held", "failed"):
                self.cli("thaw" if process["state"] == "frozen" else "restart", name)
        self.ready()
        client.clear(self.home)
        self.drain()


@pytest.fixture(scope="module")
def swept(lab: Lab) -> Iterator[None]:
    """The next file finds the lab as this one did."""
    yield
    lab.sweep()


@contextmanager
def running(home: Home, *words: str) -> Iterator[Lab]:
    """A lab that is up with faults, by `lab up --faults WORDS`; nothing is left of it."""
    started = Lab(home)
    started.cli("up", "--faults", *words, timeout_s=400)  # more than it takes to give up
    try:
        yield started
    finally:
        started.cli("down")
    assert not belonging_to(home)
    assert [port for port in ports(home) if not _free(port)] == []


_session = ExitStack()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The second stack of a session: every part, with faults allowed. Tests that kill and freeze share it."""
    with _session:
        yield _session.enter_context(running(free_home(tmp_path_factory.mktemp("lab"))))


@pytest.hookimpl(trylast=True)  # when the test's own fixtures are gone
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """The lab ends with the last of its tests: up to the session's end it would take processors from all others."""
    if nextitem is None or not nextitem.nodeid.startswith(OF_THE_LAB):
        _session.close()
