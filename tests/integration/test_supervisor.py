"""Real processes under the supervisor: restarts and their limit, kill, freeze, hold, memory and log bounds, the end."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import msgspec
import psutil
import pytest
from confluent_kafka import Producer

from services.broker.reader import bounds
from services.stack import child as child_module
from services.stack import client, control, logfiles, postgres
from services.stack.child import Child
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.launch import Launch
from services.stack.parts import Part
from services.stack.spawn import unprivileged
from services.telemetry.logs import Log
from tests.conftest import belonging_to, free_home, say

SLEEP = "import time\nwhile True: time.sleep(1)"
LEAK = "import time\nhoard = []\nwhile True: hoard.append(bytearray(4 << 20)); time.sleep(0.01)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + SLEEP
CHATTY = "import time\nwhile True: print('x' * 1000, flush=True); time.sleep(0.001)"
LEAKING_FAMILY = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {LEAK!r}])"
TIMED_OUT = re.compile(r"^(?:TimeoutError|\S*KafkaException: KafkaError\{code=_TIMED_OUT)", re.MULTILINE)
FAMILY = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n{SLEEP}"

pytestmark = pytest.mark.timeout(900)  # a whole lab starts here


async def until(condition: Callable[[], Any], timeout_s: float = 60) -> None:
    """Wait for a condition; what it is about is said by the line that fails."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # of processes outside
            await asyncio.sleep(0.02)


async def _yes() -> bool:
    return True


@asynccontextmanager
async def supervised(
    folder: Path,
    script: str,
    *,
    memory_mb: int = 400,
    kind: Any = "service",
    probe: Callable[[], Awaitable[bool]] = _yes,
    **launch: Any,
) -> AsyncIterator[Child]:
    """A child that runs a Python script; ended afterwards."""
    part = Part(name="victim", kind=kind, gloss="of a test", memory_mb=memory_mb)
    how = Launch(**{"command": [sys.executable, "-c", script], "environment": {}, **launch})
    log = Log("supervisor", "test", str(folder / "supervisor.log"))
    (folder / "victim.log").touch()
    child = Child(part, 0, how, folder / "victim.log", log, probe)
    run = asyncio.create_task(child.run(lambda: True))
    try:
        yield child
    finally:
        await child.end()
        await run
        assert child.pid is None


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "RESTART_DELAY_S", 0.01)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "supervisor.log").read_bytes().splitlines()
    return [event for line in lines if (event := msgspec.json.decode(line))["event"] == name]


def stopped(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def alive(pid: int) -> bool:
    """A zombie has ended: whoever inherited it has not asked for its exit code yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.usefixtures("quick_restarts")
async def test_a_crashing_process_is_restarted_until_the_limit_and_revived_by_restart(tmp_path: Path) -> None:
    async with supervised(tmp_path, "raise SystemExit(7)") as child:
        await until(lambda: child.state == "failed")
        assert child.restarts == child_module.CRASHES_ALLOWED
        assert "ended with code 7, 6 times within 60 s" in child.why
        assert "lab logs victim" in child.why
        with pytest.raises(ProcessLookupError, match="not running"):
            await child.kill(hold=False)
        await child.restart()
        await until(lambda: child.restarts > child_module.CRASHES_ALLOWED)
        assert len(events(tmp_path, "part.failed")) == 1


@pytest.mark.usefixtures("quick_restarts")
async def test_kills_that_somebody_ordered_are_no_crashes(tmp_path: Path) -> None:
    async with supervised(tmp_path, SLEEP) as child:
        for kills in range(child_module.CRASHES_ALLOWED + 2):
            await until(lambda kills=kills: child.ready and child.restarts == kills)
            await child.kill(hold=False)
        await until(lambda: child.ready)


@pytest.mark.usefixtures("quick_restarts")
async def test_a_process_that_cannot_be_started_fails_and_says_why(tmp_path: Path) -> None:
    async with supervised(tmp_path, "", command=["/no/such/program"]) as child:
        await until(lambda: child.state == "failed")
        assert "could not be started" in child.why
        assert "No such file" in child.why
        told = events(tmp_path, "part.not_started")
        assert len(told) == child_module.CRASHES_ALLOWED + 1
        assert "No such file" in told[0]["why"]


@pytest.mark.usefixtures("quick_restarts")
async def test_a_leak_is_killed_over_its_bound_restarted_and_the_log_says_why(tmp_path: Path) -> None:
    async with supervised(tmp_path, LEAK, memory_mb=60) as child:

        def restarted() -> bool:
            child.sample()
            return child.restarts == 1

        await until(restarted)
        why = events(tmp_path, "part.killed")[0]["why"]
        assert "its bound is 60 MiB" in why
        assert int(why.split()[2]) > 60


@pytest.mark.usefixtures("quick_restarts")
async def test_what_a_process_of_the_users_own_has_started_counts_for_its_bound(tmp_path: Path) -> None:
    async with supervised(tmp_path, LEAKING_FAMILY, memory_mb=60, kind="own") as child:

        def restarted() -> bool:
            child.sample()
            return child.restarts == 1

        await until(restarted)
        assert "its bound is 60 MiB" in events(tmp_path, "part.killed")[0]["why"]


@pytest.mark.usefixtures("quick_restarts")
async def test_a_process_that_leaks_again_and_again_fails_like_any_that_crashes(tmp_path: Path) -> None:
    async with supervised(tmp_path, LEAK, memory_mb=20) as child:

        def failed() -> bool:
            child.sample()
            return child.state == "failed"

        await until(failed)
        assert "its bound is 20 MiB" in child.why


async def test_a_frozen_tree_stands_still_thaws_and_can_be_killed(tmp_path: Path) -> None:
    async with supervised(tmp_path, FAMILY) as child:
        await until(lambda: child.ready and psutil.Process(child.pid).children())
        pids = [await child.freeze(), psutil.Process(child.pid).children()[0].pid]
        await until(lambda: all(map(stopped, pids)))
        assert child.state == "frozen"
        await child.thaw()
        await until(lambda: child.ready and not any(map(stopped, pids)))
        with pytest.raises(ProcessLookupError, match="not frozen"):
            await child.thaw()
        await child.freeze()
        await child.kill(hold=True)
        await until(lambda: child.state == "held")
        await until(lambda: not any(map(alive, pids)))


@pytest.mark.usefixtures("quick_restarts")
async def test_what_is_held_stays_down_until_it_is_restarted(tmp_path: Path) -> None:
    async with supervised(tmp_path, SLEEP) as child:
        await until(lambda: child.ready)
        await child.kill(hold=True)
        await until(lambda: child.state == "held")
        assert "lab restart victim" in child.why
        await asyncio.sleep(0.2)  # twenty restart delays
        assert child.state == "held"
        await child.restart()
        await until(lambda: child.ready)
        assert child.restarts == 1


async def test_what_does_not_listen_is_made_to_end(tmp_path: Path) -> None:
    async with supervised(tmp_path, DEAF, stop_timeout_s=0.3) as child:
        await until(lambda: (tmp_path / "victim.log").read_text() == "deaf\n")
        pid = child.pid
    assert pid is not None
    assert not alive(pid)
    assert "did not end" in events(tmp_path, "part.killed")[0]["why"]


async def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    async with supervised(tmp_path, FAMILY) as child:
        await until(lambda: child.ready and psutil.Process(child.pid).children())
        pids = [p.pid for p in psutil.Process(child.pid).children()]
    await until(lambda: not any(map(alive, pids)))


async def test_an_end_that_meets_a_start_leaves_no_process(tmp_path: Path) -> None:
    before = psutil.Process().children()  # labs that other tests share
    async with supervised(tmp_path, SLEEP) as child:
        await asyncio.sleep(0)  # the start is under way, no pid is known yet
        assert child.pid is None
    assert psutil.Process().children() == before


async def test_a_probe_that_breaks_is_no_readiness_and_does_not_blind_the_watch(tmp_path: Path) -> None:
    answers: list[Any] = [ZeroDivisionError("of a test"), True]

    async def probe() -> bool:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async with supervised(tmp_path, SLEEP, probe=probe) as child:
        await until(lambda: child.ready)
    assert "ZeroDivisionError" in events(tmp_path, "part.unready")[0]["why"]


async def test_a_log_is_bounded_while_its_process_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "keep_bounded", lambda file: logfiles.keep_bounded(file, 100_000))
    log = tmp_path / "victim.log"
    async with supervised(tmp_path, CHATTY) as child:
        await until(lambda: log.stat().st_size > 100_000)
        pid = await child.freeze()  # it writes up to 1 MB/s: the next look would come too late
        await until(lambda: stopped(pid))
        child.sample()
        assert log.stat().st_size < 100_000
        assert (tmp_path / "victim.log.1").stat().st_size > 100_000
        await child.thaw()
        await until(lambda: log.stat().st_size > 10_000)
        assert set(log.read_text()) == {"x", "\n"}  # no hole where the old end was


async def test_a_child_ends_when_its_parent_was_killed() -> None:
    """The death signal of the kernel: without it, a killed supervisor would leave a lab that nobody watches."""
    script = (
        "import os, signal, subprocess, sys\n"
        "from services.stack.spawn import child_setup, unprivileged\n"
        f"command = unprivileged([sys.executable, '-c', {SLEEP!r}], signal.SIGKILL)\n"
        "child = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=child_setup(signal.SIGKILL))\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)  # noqa: ASYNC221
    assert parent.returncode == -signal.SIGKILL
    await until(lambda: not alive(int(parent.stdout)))


def test_a_child_with_a_second_thread_gets_another_id_all_the_same() -> None:
    """The kernel refuses that to a child which has one at that moment: Postgres then did not come back after a kill."""

    def setup() -> None:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    command = unprivileged([sys.executable, "-c", "import os; print(os.geteuid())"], signal.SIGKILL)
    done = subprocess.run(command, preexec_fn=setup, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) != 0


# --- a whole lab of servers ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Both Postgres servers and Kafka, in a folder that is private to its owner, for tests that kill them."""
    home = free_home(tmp_path_factory.mktemp("lab"))
    control.up(home, faults=False, seed=1, only=("provision",), say=say)
    yield home
    control.down(home, say)
    assert not belonging_to(home)


@pytest.fixture
def up(lab: Home) -> Home:
    """The lab, everything ready."""
    control.up(lab, faults=False, seed=1, only=("provision",), say=say)
    return lab


def process(home: Home, name: str) -> dict[str, Any]:
    (found,) = [p for p in client.status(home)["processes"] if p["name"] == name]
    return dict(found)


async def ready_again(home: Home, name: str, restarts: int) -> None:
    def is_ready() -> bool:
        now = process(home, name)
        return bool(now["ready"]) and now["restarts"] == restarts

    await until(is_ready, 120)


def test_a_second_up_changes_nothing(up: Home) -> None:
    before = client.status(up)
    said: list[str] = []
    after = control.up(up, faults=False, seed=1, only=("provision",), say=said.append)
    assert [p["pid"] for p in after["processes"]] == [p["pid"] for p in before["processes"]]
    assert said == ["it is up already: nothing is changed"]


def test_an_up_that_wants_more_than_runs_says_so_and_changes_nothing(up: Home) -> None:
    with pytest.raises(StackError, match=r"up without .*orders.*lab down"):
        control.up(up, faults=False, seed=1, say=say)
    with pytest.raises(StackError, match="without faults"):
        control.up(up, faults=True, seed=1, only=("provision",), say=say)


def test_what_is_ready_can_be_provisioned_at_the_first_attempt(up: Home) -> None:
    lines = map(msgspec.json.decode, up.log_file("supervisor").read_bytes().splitlines())
    codes = [line["code"] for line in lines if line["event"] == "part.exited" and line["part"] == "provision"]
    failed = [code for code in codes[:-1] if code != 0]
    assert codes[-1] == 0
    # a machine that stands still makes one attempt time out, which says so; another failure is one
    timed_out = TIMED_OUT.findall(up.log_file("provision").read_text())
    assert failed == [1] * min(len(failed), len(timed_out)), codes


@pytest.mark.parametrize("name", ["postgres", "ledger", "kafka"])
async def test_a_killed_server_is_ready_again_and_the_restart_is_counted(up: Home, name: str) -> None:
    before = process(up, name)
    client.act(up, "kill", name)
    await ready_again(up, name, before["restarts"] + 1)
    assert process(up, name)["pid"] != before["pid"]


async def test_a_frozen_postgres_is_shown_thaws_and_can_be_killed(up: Home) -> None:
    restarts = process(up, "postgres")["restarts"]
    client.act(up, "freeze", "postgres")
    tree = psutil.Process(process(up, "postgres")["pid"])
    await until(lambda: all(stopped(p.pid) for p in (tree, *tree.children(recursive=True))))
    assert process(up, "postgres")["state"] == "frozen"
    assert client.status(up)["state"] == "partial"
    with pytest.raises(StackError, match="lab thaw postgres"):
        control.up(up, faults=False, seed=1, only=("provision",), say=say)
    client.act(up, "thaw", "postgres")
    await ready_again(up, "postgres", restarts)
    client.act(up, "freeze", "postgres")
    client.act(up, "kill", "postgres")
    await ready_again(up, "postgres", restarts + 1)


async def test_what_was_confirmed_survives_a_kill_a_hold_and_down_and_up(up: Home) -> None:
    async def rows(server: str) -> int:
        connection = await asyncpg.connect(f"{up.postgres_url(server)}/postgres")
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
            await connection.execute("INSERT INTO kept VALUES (1)")
            return int(await connection.fetchval("SELECT count(*) FROM kept"))
        finally:
            await connection.close()

    def records() -> int:
        """How many there are with one more that the broker has confirmed."""
        kafka, topic = up.addresses()["LAB_KAFKA"], "refunds.v1"
        producer = Producer({"bootstrap.servers": kafka, "acks": "all"})
        producer.produce(topic, b"kept")
        assert producer.flush(60) == 0
        return sum(bounds(kafka, [topic]).ends.values())

    assert (await rows("ledger"), await rows("postgres")) == (1, 1)
    there = records()
    client.act(up, "kill", "ledger", hold=True)
    await until(lambda: process(up, "ledger")["state"] == "held")
    with pytest.raises(StackError, match="lab restart ledger"):
        control.up(up, faults=False, seed=1, only=("provision",), say=say)
    with pytest.raises(client.Refused, match="not running"):
        client.act(up, "kill", "ledger")
    client.act(up, "restart", "ledger")
    await until(lambda: process(up, "ledger")["ready"])
    assert await rows("ledger") == 2
    assert control.down(up, say) is True
    assert not belonging_to(up)
    assert control.down(up, say) is False
    control.up(up, faults=False, seed=1, only=("provision",), say=say)
    assert (await rows("ledger"), await rows("postgres"), records()) == (3, 2, there + 1)


async def test_a_killed_supervisor_takes_all_with_it_and_the_next_up_says_so(up: Home) -> None:
    state = up.read_state()
    assert state is not None
    client.act(up, "freeze", "ledger")  # what is frozen cannot hear that its supervisor died
    kafka = process(up, "kafka")["pid"]
    os.kill(state["pid"], signal.SIGKILL)
    await until(lambda: not alive(state["pid"]) and not alive(kafka))
    said: list[str] = []
    control.up(up, faults=False, seed=1, only=("provision",), say=said.append)
    assert any("did not end cleanly" in text for text in said)
    assert any("ending postgres" in text for text in said)
    assert client.status(up)["state"] == "up"


async def test_a_supervisor_that_hangs_is_ended_by_down(up: Home) -> None:
    state = up.read_state()
    assert state is not None
    os.kill(state["pid"], signal.SIGSTOP)
    assert control.down(up, say) is True
    assert not belonging_to(up)


def test_the_api_wants_its_token_and_bounds_what_it_reads(up: Home) -> None:
    def answer(method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        request = Request(up.supervisor_url + path, body or None, headers, method=method)  # noqa: S310
        try:
            with urlopen(request) as response:  # noqa: S310
                return response.status, msgspec.json.decode(response.read())
        except HTTPError as error:
            return error.code, msgspec.json.decode(error.read())

    token = up.secret("token")
    kill = b'{"names": ["ledger"]}'
    assert answer("GET", "/status")[0] == 200
    for method, path in (
        ("POST", "/process/kill"), ("POST", "/shutdown"), ("POST", "/scale"), ("POST", "/failpoints"),
        ("DELETE", "/failpoints"), ("GET", "/failpoints"), ("POST", "/failpoints/pass"), ("POST", "/status"),
    ):  # fmt: skip
        assert answer(method, path, kill, "wrong")[0] in (401, 405), path
    assert answer("POST", "/process/kill", b'{"names": ["' + b"x" * 70_000 + b'"]}', token)[0] == 413
    assert answer("POST", "/process/kill", b"[", token)[0] == 400
    assert answer("POST", "/process/kill", b'{"names": ["ledger"], "hold": "yes"}', token)[0] == 400
    assert answer("POST", "/process/explode", kill, token)[0] == 400
    assert answer("POST", "/process/kill", b'{"names": ["nobody"]}', token)[0] == 404
    assert answer("POST", "/process/kill", b'{"names": ["orders"]}', token)[0] == 409
    assert answer("POST", "/scale", b'{"name": "relay", "replicas": 9}', token)[0] == 400
    assert answer("GET", "/nowhere", b"", token)[0] == 404
    assert process(up, "ledger")["ready"]


def test_an_interrupted_initdb_is_made_anew(tmp_path: Path) -> None:
    data = tmp_path / "data" / "ledger"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("half a cluster")
    postgres.initialise(data, "secret")
    assert (data / "PG_VERSION").read_text() == "18\n"
    marked = (data / "lab-initialised").stat().st_mtime_ns
    postgres.initialise(data, "secret")
    assert (data / "lab-initialised").stat().st_mtime_ns == marked


async def test_two_labs_run_beside_each_other_and_end_apart(up: Home, tmp_path: Path) -> None:
    # a folder whose name begins like the other's data folder
    other = free_home(up.path.parent / f"{up.path.name}-beside")
    control.up(other, faults=False, seed=1, only=("ledger",), say=say)
    try:
        await until(lambda: client.status(other)["state"] == client.status(up)["state"] == "up")
    finally:
        control.down(other, say)
    assert not belonging_to(other)
    await until(lambda: client.status(up)["state"] == "up")


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    home = free_home(tmp_path / "broken")
    (home.data / "ledger").mkdir(parents=True)
    (home.data / "ledger" / "lab-initialised").touch()  # a cluster without its files
    with pytest.raises(StackError, match=r"ledger ended with code 2, 6 times(.|\n)*nothing was left running"):
        control.up(home, faults=False, seed=1, only=("ledger",), say=say)
    assert not belonging_to(home)
    assert home.read_state() is None
