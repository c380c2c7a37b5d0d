"""Keepers and a supervisor over them, as in containers, in plain processes.

The services are stand-ins (tests/standing.py), so that no server is needed; the keepers, the supervisor, the client of
failpoints and the command line are the lab's own.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

import msgspec
import psutil
import pytest

from lab.output import Exit
from services.stack import client
from services.stack.child import CRASHES_ALLOWED
from services.stack.nemesis import read_faults
from services.stack.parts import PARTS
from tests.conftest import free_home
from tests.containers import STANDING, Containers
from tests.standing import FAILPOINT
from tests.waiting import comes

KEPT: Final = {"relay": "127.0.0.2", "provider": "127.0.0.3"}
SERVERS: Final = dict.fromkeys(("postgres", "ledger", "kafka", "provision"), "127.0.0.9")  # where nobody answers
RELAY: Final = "relay#0"


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    free = free_home(tmp_path_factory.mktemp("containers"))
    home = msgspec.structs.replace(free, hosts={**KEPT, **SERVERS, "supervisor": "127.0.0.1"})
    home.create()
    home.secret("token")
    made = Containers(home, KEPT, keeper=STANDING)
    try:
        made.start_supervisor()
        for part in KEPT:
            made.start_keeper(part)
        yield made
    finally:
        made.end_all()


@pytest.fixture
def lab(shared: Containers) -> Containers:
    """Everything as it should be: each test leaves it so."""
    for part in KEPT:
        shared.until(PARTS[part].instance(0), ready=True)
    return shared


def test_a_kill_is_carried_out_restarted_and_in_the_log_of_faults_with_its_end(lab: Containers) -> None:
    before = lab.process(RELAY)
    client.act(lab.home, "kill", RELAY)
    after = lab.until(RELAY, ready=True, restarts=before["restarts"] + 1)
    assert not alive(before["pid"])
    assert after["pid"] != before["pid"]
    assert after["rss_bytes"] > 0
    assert comes(lambda: read_faults(lab.home.nemesis_log)[-1].ended, 60)
    fault = read_faults(lab.home.nemesis_log)[-1]
    assert (fault.fault, fault.target, fault.details["pid"]) == ("kill", RELAY, before["pid"])


def test_what_is_held_stays_down_until_it_is_restarted(lab: Containers) -> None:
    client.act(lab.home, "kill", RELAY, hold=True)
    held = lab.until(RELAY, state="held")
    assert "lab restart relay#0" in held["why"]
    with pytest.raises(client.Refused, match="not running"):
        client.act(lab.home, "kill", RELAY)
    client.act(lab.home, "restart", RELAY)
    lab.until(RELAY, ready=True, restarts=held["restarts"] + 1)


def test_a_frozen_process_stands_still_is_shown_and_thaws(lab: Containers) -> None:
    pid = lab.process(RELAY)["pid"]
    client.act(lab.home, "freeze", RELAY)
    assert lab.process(RELAY)["state"] == "frozen"
    assert comes(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, 60)
    with pytest.raises(client.Refused, match="frozen already"):
        client.act(lab.home, "freeze", RELAY)
    assert read_faults(lab.home.nemesis_log)[-1].ended is None
    client.act(lab.home, "thaw", RELAY)
    lab.until(RELAY, ready=True, pid=pid)
    assert comes(lambda: read_faults(lab.home.nemesis_log)[-1].ended, 60)


def test_an_order_for_two_processes_of_which_one_refuses_is_carried_out_on_none(lab: Containers) -> None:
    pid = lab.process("provider")["pid"]
    client.act(lab.home, "freeze", RELAY)
    with pytest.raises(client.Refused, match="relay#0 is frozen already"):
        client.act(lab.home, "freeze", "provider", RELAY)
    assert lab.process("provider")["state"] == "ready"
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    client.act(lab.home, "thaw", RELAY)


def test_restart_ends_it_in_good_order(lab: Containers) -> None:
    before = lab.process(RELAY)
    client.act(lab.home, "restart", RELAY)
    lab.until(RELAY, ready=True, restarts=before["restarts"] + 1)
    lines = map(msgspec.json.decode, lab.home.log_file("supervisor").read_bytes().splitlines())
    exits = [line["code"] for line in lines if line["event"] == "part.exited" and line["part"] == RELAY]
    assert exits[-1] == -signal.SIGTERM  # the stand-in has no handler


def test_what_crashes_is_started_again(lab: Containers) -> None:
    before = lab.process(RELAY)
    os.kill(before["pid"], signal.SIGKILL)
    assert lab.until(RELAY, ready=True, restarts=before["restarts"] + 1)["pid"] != before["pid"]


def test_a_failpoints_kills_are_carried_out_and_are_no_crashes(lab: Containers) -> None:
    """More of them than crashes are allowed: each is announced to the keeper before the process may die."""
    kills, before = CRASHES_ALLOWED + 1, lab.process(RELAY)
    client.arm(lab.home, FAILPOINT, f"kill count={kills} arm=relay")
    lab.until(RELAY, ready=True, restarts=before["restarts"] + kills, timeout_s=300)
    client.clear(lab.home)

    def windows() -> list[Any]:
        return [fault for fault in read_faults(lab.home.nemesis_log) if fault.by == "failpoint"][-kills:]

    assert comes(lambda: len(windows()) == kills and all(fault.ended for fault in windows()), 60)
    assert {fault.target for fault in windows()} == {RELAY}
    assert len({fault.details["pid"] for fault in windows()}) == kills


def test_a_keeper_wants_the_token_and_bounds_what_it_reads(lab: Containers) -> None:
    token, pid = lab.home.token, lab.process(RELAY)["pid"]
    assert lab.ask("relay", "GET", "/readyz", "") == 200
    for method, path in (("GET", "/0/state"), ("POST", "/0/kill"), ("POST", "/0/expect_death"), ("POST", "/scale")):
        assert lab.ask("relay", method, path, "wrong") == 401
        assert lab.ask("relay", method, path, "") == 401
    assert lab.ask("relay", "GET", "/0/state", token) == 200
    assert lab.ask("relay", "POST", "/0/explode", token) == 404
    assert lab.ask("relay", "POST", "/0/thaw", token) == 409
    assert lab.ask("relay", "POST", "/0/kill", token, b"[") == 400
    assert lab.ask("relay", "POST", "/0/kill", token, b'{"hold": "yes"}') == 400
    assert lab.ask("relay", "POST", "/0/kill", token, b" " * 70_000) == 413
    assert lab.ask("relay", "POST", "/scale", token, b'{"replicas": 9}') == 400
    assert lab.ask("provider", "POST", "/scale", token, b'{"replicas": 2}') == 400
    assert lab.process(RELAY)["pid"] == pid


@pytest.mark.parametrize("action", ["kill", "freeze", "restart"])
def test_a_server_without_a_keeper_is_not_struck_and_the_sentence_says_why(lab: Containers, action: str) -> None:
    faults = len(read_faults(lab.home.nemesis_log))
    pid = lab.process(RELAY)["pid"]
    done = lab.cli(action, "postgres", RELAY)
    assert done.returncode == Exit.USAGE
    assert "postgres runs in a container of its own image, without a keeper" in done.stderr
    assert len(read_faults(lab.home.nemesis_log)) == faults
    assert lab.process(RELAY)["pid"] == pid


def test_a_second_replica_is_started_by_the_keeper_scraped_struck_and_ended(lab: Containers) -> None:
    def scraped() -> list[str]:
        with urlopen(f"{lab.home.supervisor_url}/targets?every=5") as answer:  # noqa: S310
            return [address for found in msgspec.json.decode(answer.read()) for address in found["targets"]]

    first = lab.process(RELAY)["pid"]
    client.call(lab.home, "POST", "/scale", {"name": "relay", "replicas": 2})
    second = lab.until("relay#1", ready=True)
    admin = f"{KEPT['relay']}:{lab.home.port(PARTS['relay'].admin_port)}"
    assert admin in scraped()
    assert len(scraped()) == 3  # with the provider
    client.act(lab.home, "kill", "relay#1")
    again = lab.until("relay#1", ready=True, restarts=1)
    assert lab.process(RELAY)["pid"] == first
    client.call(lab.home, "POST", "/scale", {"name": "relay", "replicas": 1})
    assert "relay#1" not in [process["name"] for process in client.status(lab.home)["processes"]]
    assert not alive(second["pid"])
    assert not alive(again["pid"])
    assert lab.ask("relay", "GET", "/1/state", lab.home.token) == 409
    assert len(scraped()) == 2
    for name in ("provider", "postgres"):
        assert lab.cli("scale", name, "2").returncode == Exit.USAGE


@pytest.mark.parametrize("command", ["up", "down"])
def test_who_would_start_or_end_containers_from_inside_is_told_who_does(lab: Containers, command: str) -> None:
    done = lab.cli(command)
    assert done.returncode == Exit.USAGE
    assert f"docker compose {command}" in done.stderr
    assert lab.process(RELAY)["ready"]


def test_a_keeper_that_dies_takes_its_process_along_and_is_shown(lab: Containers) -> None:
    pid = lab.process(RELAY)["pid"]
    lab.end("relay", signal.SIGKILL)
    away = lab.until(RELAY, state="away")
    assert "relay#0: its keeper does not answer" in away["why"]
    assert (away["ready"], away["pid"]) == (False, None)
    assert comes(lambda: not alive(pid), 60)
    with pytest.raises(client.Refused, match="does its container run"):
        client.act(lab.home, "kill", RELAY)
    assert lab.process("provider")["ready"]
    lab.start_keeper("relay")
    lab.until(RELAY, ready=True)


def test_a_keeper_that_is_asked_to_end_ends_its_process_first(lab: Containers) -> None:
    pid = lab.process(RELAY)["pid"]
    client.act(lab.home, "freeze", RELAY)  # what stands still can be ended all the same
    assert lab.end("relay") == 0
    assert not alive(pid)
    lab.start_keeper("relay")
    lab.until(RELAY, ready=True)


def test_a_supervisor_that_ends_leaves_them_running_and_the_next_one_finds_them(lab: Containers) -> None:
    before = lab.process(RELAY)
    assert lab.end("supervisor") == 0
    where = urlsplit(lab.home.supervisor_url)
    with socket.create_server((where.hostname, where.port)) as nobody:
        nobody.settimeout(60)
        nobody.accept()[0].close()  # a process has asked for its failpoints, in vain
    assert alive(before["pid"])
    lab.start_supervisor()
    assert lab.until(RELAY, ready=True)["pid"] == before["pid"]
    client.arm(lab.home, FAILPOINT, "kill count=1 arm=relay")  # it is followed from here on
    lab.until(RELAY, ready=True, restarts=before["restarts"] + 1)
    client.clear(lab.home)


def test_a_word_that_names_no_part_of_the_lab_is_refused(lab: Containers) -> None:
    for words in (["nobody"], ["postgres"], []):
        command = [sys.executable, "-m", "services.stack.keeper", *words]
        done = subprocess.run(command, env=lab.environment("127.0.0.4"), capture_output=True, text=True, check=False)
        assert (done.returncode, "usage" in done.stderr) == (2, True)
