"""A lab as in containers, in plain processes: each "container" is an address 127.0.0.x, with a keeper on it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec

from services.stack import client
from services.stack.home import Home
from services.stack.parts import SUPERVISOR_PORT
from tests.waiting import comes

ROOT: Final = Path(__file__).parents[1]
KEEPER: Final = ("-m", "services.stack.keeper")
# As it is, but for the module of its part, which is the stand-in.
_STANDING: Final = """
import sys
import msgspec
from services.stack import keeper
keeper.PARTS = {name: msgspec.structs.replace(part, module="tests.standing") for name, part in keeper.PARTS.items()}
keeper.main(sys.argv[1:])
"""
STANDING: Final = ("-c", _STANDING)


class Containers:
    """The processes of one lab: a supervisor, and a keeper for each part of `kept`."""

    def __init__(
        self, home: Home, kept: Mapping[str, str], *, keeper: Sequence[str] = KEEPER, settings: Mapping[str, str] = {}
    ) -> None:  # fmt: skip
        self.home = home
        self.kept = kept
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper = keeper
        self._settings = settings

    def environment(self, bind: str, **settings: str) -> dict[str, str]:
        own = msgspec.structs.replace(self.home, bind=bind).environment()
        lab = {"PYTHONPATH": str(ROOT), "LAB_FAULTS": "1", "LAB_ONLY": ",".join(self.kept)}
        return {**os.environ, **own, **lab, **self._settings, **settings}

    def start_keeper(self, part: str) -> None:
        self._start(part, [sys.executable, *self._keeper, part], self.kept[part])

    def start_supervisor(self, **settings: str) -> None:
        command = [sys.executable, "-m", "services.stack.supervisor"]
        self._start("supervisor", command, self.home.hosts["supervisor"], **settings)
        assert comes(lambda: self.home.read_state() is not None, 120)

    def _start(self, name: str, command: list[str], bind: str, **settings: str) -> None:
        with (self.home.logs / f"{name}.out").open("ab") as out:
            environment = self.environment(bind, **settings)
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(120)

    def end_all(self) -> None:
        """End everything, and see that nothing is left."""
        for process in self.processes.values():
            process.terminate()
        for name in list(self.processes):
            self.end(name)
        told = f"LAB_HOME={self.home.path}".encode()
        assert comes(lambda: not [pid for pid in Path("/proc").glob("[0-9]*") if told in _environment_of(pid)], 60)

    def process(self, name: str) -> dict[str, Any]:
        (found,) = [p for p in client.status(self.home)["processes"] if p["name"] == name]
        return dict(found)

    def until(self, name: str, /, timeout_s: float = 120, **wanted: Any) -> dict[str, Any]:
        """Wait until the status of a process has these values; returns it."""
        last: dict[str, Any] = {}

        def holds() -> bool:
            last.update(self.process(name))
            return all(last[key] == value for key, value in wanted.items())

        assert comes(holds, timeout_s), f"not {wanted}: {last}"
        return last

    def cli(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """`lab WORDS`, as who says it in the container of the supervisor."""
        command = [str(Path(sys.executable).with_name("lab")), *words]
        environment = self.environment(self.home.hosts["supervisor"])
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )  # fmt: skip

    def ask(self, part: str, method: str, path: str, token: str, body: bytes = b"") -> int:
        """The status with which a keeper answers."""
        url = f"http://{self.kept[part]}:{self.home.port(SUPERVISOR_PORT)}{path}"
        request = Request(url, body or None, {"Authorization": f"Bearer {token}"}, method=method)
        try:
            with urlopen(request, timeout=60) as answer:  # noqa: S310
                return int(answer.status)
        except HTTPError as error:
            return error.code


def _environment_of(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
