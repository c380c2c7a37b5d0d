"""Where benchmarks run: servers of their own in a folder of their own, gone when the benchmark ends."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.stack import control
from services.stack.checks import ports
from services.stack.client import status
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.launch import launch
from services.stack.parts import PARTS
from services.stack.spawn import child_setup

Say = Callable[[str], None]
_READY_S: Final = 120.0
_STOP_S: Final = 10.0
_BLOCK: Final = 200  # ports


@contextmanager
def servers(home: Home, say: Say) -> Iterator[Home]:
    """Postgres and the broker, provisioned, apart from the lab of `home`; nothing of them is left behind.

    Raises StackError when another benchmark is at work there, or when they do not start.
    """
    folder = home.path / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with (home.path / "bench.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("another benchmark is at work here: wait for it, or choose another LAB_HOME") from None
        place = _free_block(folder, home)
        _remove(place, lambda _: None)  # what a benchmark left that was killed
        try:
            control.up(place, faults=False, seed=1, only=("provision",), say=say)
            yield place
        finally:
            _remove(place, lambda _: None)


def _remove(place: Home, say: Say) -> None:
    control.down(place, say)
    shutil.rmtree(place.path, ignore_errors=True)


def _free_block(folder: Path, home: Home) -> Home:
    """A lab in `folder` on ports that nobody uses: the block of `home`, or one above it."""
    for base in range(home.port_base, 65_000, _BLOCK):
        place = Home(folder, base, home.bind)
        if not any(_in_use(home.bind, port) for port in ports(place)):
            return place
    raise StackError(f"there is no block of free ports above {home.port_base}: choose another LAB_PORT_BASE")


def _in_use(bind: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((bind, port)) == 0


def server_pids(place: Home, *names: str) -> dict[str, int]:
    """Process ids of servers, by name."""
    running = {process["name"]: process["pid"] for process in status(place)["processes"]}
    return {name: running[name] for name in names}


class Child:
    """A process that was started for a benchmark."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def check(self) -> None:
        """Raises StackError when it has ended."""
        if (code := self._process.poll()) is not None:
            raise StackError(f"{' '.join(map(str, self._process.args))} ended with {code}")  # type: ignore[arg-type]

    def stop(self) -> None:
        """End it in good order, or by force after 10 s."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def service(place: Home, name: str, *arguments: str, **settings: str) -> Iterator[Child]:
    """A process of the table of parts as the lab starts it, ready; `settings` are LAB_ variables."""
    part = PARTS[name]
    how = launch(part, 0, place, faults=False)
    environment = {**how.environment, **settings}
    with _running([*how.command, *arguments], environment, place.log_file(name)) as child:
        _until_ready(f"http://{place.bind}:{environment['LAB_ADMIN_PORT']}/readyz", child)
        yield child


@contextmanager
def anchor(place: Home, name: str, *arguments: str) -> Iterator[Child]:
    """A module of `loadtest.bench.anchors` as a process, at work."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), **place.addresses()}
    command = [sys.executable, "-m", f"loadtest.bench.anchors.{name}", *arguments]
    with _running(command, environment, place.log_file(f"anchor.{name}")) as child:
        yield child


@contextmanager
def _running(command: list[str], environment: dict[str, str], log_file: Path) -> Iterator[Child]:
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=child_setup(signal.SIGKILL),  # noqa: PLW1509  # takes no lock
        )  # fmt: skip
    child = Child(process)
    try:
        yield child
    finally:
        child.stop()


def _until_ready(url: str, child: Child) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        child.check()
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  # our own address
                return
        except OSError:
            time.sleep(0.05)
    raise StackError(f"not ready within {_READY_S:g} s: {url}")
