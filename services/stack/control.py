"""Bringing a lab up and down from a shell: checks, downloads, the detached supervisor, waiting."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from services.stack import jars, kafka, postgres, prometheus
from services.stack.checks import problems
from services.stack.client import NotUp, call, status
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.launch import order_of_start
from services.stack.parts import PARTS

UP_TIMEOUT_S: Final = 120.0
DOWN_TIMEOUT_S: Final = 60.0
Say = Callable[[str], None]


def up(home: Home, *, faults: bool, seed: int, only: tuple[str, ...] = (), say: Say) -> dict[str, Any]:
    """Bring the lab (or `only` these parts and what they need) up; returns its status. Nothing to do when it is up.

    Raises StackError, with a sentence that says what to do, when it cannot.
    """
    before = status(home)
    if before["state"] == "down":
        _start(home, faults=faults, seed=seed, only=only, say=say)
    elif faults and not before.get("faults"):
        raise StackError("the lab is up without faults: `lab down` first, then `lab up --faults`")
    return _wait_until_up(home, say)


def _start(home: Home, *, faults: bool, seed: int, only: tuple[str, ...], say: Say) -> None:
    order_of_start(only)  # an unknown name is said before anything starts
    _sweep(home, say)
    if found := problems(home):
        raise StackError("\n".join(found))
    install(say)
    home.create()
    _initialise(home, say)
    (home.run / "prometheus.yml").write_text(prometheus.configuration(prometheus.targets(home)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        "LAB_HOME": str(home.path),
        "LAB_PORT_BASE": str(home.port_base),
        "LAB_FAULTS": "1" if faults else "0",
        "LAB_SEED": str(seed),
        "LAB_ONLY": ",".join(only),
    }
    with (home.logs / "supervisor.out").open("ab") as output:
        # All three streams away from the caller's: a daemon that keeps them hangs every caller that captures them.
        process = subprocess.Popen(
            [sys.executable, "-m", "services.stack.supervisor"],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 20
    while home.read_state() is None or status(home)["state"] == "down":
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (home.logs / "supervisor.out").read_text()[-600:]
            raise StackError(f"the supervisor did not start; it said: {tail.strip() or 'nothing'}")
        time.sleep(0.05)


def install(say: Say) -> None:
    """Download what is not in the cache: Kafka's jars, and Prometheus where it can be had."""
    if jars.missing(jars.cache_dir() / "jars"):
        say("downloading Kafka (44 MB, once; interrupted, it goes on where it stopped)")
        jars.install(lambda done, total: say(f"  jar {done} of {total}") if done % 8 == 0 or done == total else None)
    if prometheus.find_binary() is None:
        say("unpacking Prometheus from Debian's package (19 MB, once)")
        if prometheus.install() is None:
            say(prometheus.HOW_TO)


def _initialise(home: Home, say: Say) -> None:
    if not (home.data / "postgres").exists():
        say("making the databases and the log folder (once)")
    for name in ("postgres", "ledger"):
        postgres.initialise(home.data / name, home.secret("postgres"))
    broker = PARTS["kafka"]
    settings = kafka.properties(home.data / "kafka", home.bind, home.port(broker.port), home.port(broker.second_port))
    kafka.initialise(home.data / "kafka", home.run, jars.cache_dir() / "jars", settings)


def _wait_until_up(home: Home, say: Say) -> dict[str, Any]:
    said: set[str] = set()
    deadline = time.monotonic() + UP_TIMEOUT_S
    while True:
        now = status(home)
        for process in now["processes"]:
            if process["ready"] and process["name"] not in said:
                said.add(process["name"])
                say(f"  ready: {process['name']}")
        if failed := [p for p in now["processes"] if p["state"] == "failed"]:
            raise StackError("; ".join(f"{p['name']} {p['why']}: see `lab logs {p['name']}`" for p in failed))
        if now["state"] == "up" and all(p["ready"] for p in now["processes"]):
            return now
        if time.monotonic() > deadline:
            late = ", ".join(f"{p['name']} ({p['state']})" for p in now["processes"] if not p["ready"])
            raise StackError(f"not ready after {UP_TIMEOUT_S:g} s: {late or 'the supervisor'}; see `lab logs NAME`")
        time.sleep(0.1)


def down(home: Home, say: Say) -> bool:
    """Bring the lab down, waiting until no process and no port is left. Returns whether there was anything to end.

    Raises StackError when something does not end within 60 s.
    """
    state = home.read_state()
    if state is None:
        return _sweep(home, say)
    pid = int(state["pid"])
    try:
        call(home, "POST", "/shutdown", timeout_s=5)
    except NotUp:
        _terminate(pid)  # a supervisor that does not answer: its children die with it
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while psutil.pid_exists(pid) and not _is_zombie(pid):
        if time.monotonic() > deadline:
            raise StackError(f"the supervisor (pid {pid}) does not end; see `lab logs supervisor`")
        time.sleep(0.05)
    _sweep(home, say)
    return True


def _terminate(pid: int) -> None:
    for process in _lab_process(pid):
        process.terminate()


def _lab_process(pid: int) -> Iterator[psutil.Process]:
    try:
        process = psutil.Process(pid)
        if "services.stack.supervisor" in process.cmdline():
            yield process
    except psutil.Error:
        return


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _sweep(home: Home, say: Say) -> bool:
    """End what an unclean stop left behind: processes whose command line or environment names this lab's folder."""
    leftover = [p for p in psutil.process_iter() if p.pid != os.getpid() and _belongs_to(p, home)]
    for process in leftover:
        try:
            say(f"ending {process.name()} (pid {process.pid}), left behind by an earlier lab here")
            process.kill()
        except psutil.Error:
            pass
    psutil.wait_procs(leftover, timeout=5)
    (home.run / "supervisor.json").unlink(missing_ok=True)
    return bool(leftover)


def _belongs_to(process: psutil.Process, home: Home) -> bool:
    """Only what the supervisor started: servers with a data folder here, and services that were told this LAB_HOME."""
    try:
        words = process.cmdline()
        if any(word.startswith((str(home.data), str(home.run))) or f"={home.data}/" in word for word in words):
            return words[0].rpartition("/")[2] in ("postgres", "java", "prometheus")
        is_service = len(words) > 2 and words[1] == "-m" and words[2].startswith("services.")
        return is_service and process.environ().get("LAB_HOME") == str(home.path)
    except (psutil.Error, OSError):
        return False
