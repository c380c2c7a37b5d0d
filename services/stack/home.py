"""Where a lab lives: its folders, ports, secrets and addresses."""

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from services.stack.errors import StackError
from services.stack.parts import GUESTS, PARTS, SUPERVISOR_PORT, Part

SUPERVISOR = "services.stack.supervisor"
# LAB_HOSTS=compose: each part answers in the container of its name. Kafka tells a client where to go on to, and has a
# listener for each network; `lab` is the container of the supervisor.
COMPOSE: Final[Mapping[str, str]] = {**{name: name for name in PARTS}, "kafka": "kafka:9092", "supervisor": "lab"}


class Home(msgspec.Struct, frozen=True):
    """One lab. Two labs with different folders and port bases run beside each other."""

    path: Path
    port_base: int
    bind: str = "127.0.0.1"
    hosts: Mapping[str, str] = {}  # part -> host or host:port, of parts that others start (containers)
    secret_folder: Path | None = None  # where it is not `run`

    @classmethod
    def from_environment(cls) -> "Home":
        """LAB_HOME (default `.lab`) and LAB_PORT_BASE (default: where the lab in that folder runs, else 21000).

        Of a lab in containers also LAB_BIND, LAB_SECRETS (a folder), and LAB_HOSTS: `compose`, or `part=host[:port]`
        with commas between. Raises ValueError when LAB_HOSTS is neither, and when the port base is no number, leaves no
        room below 65536, or is not the running lab's: at another one there may be another lab.
        """
        text = os.environ.get("LAB_PORT_BASE", "")
        if text and (not text.isdecimal() or not 1024 <= int(text) <= 65_000):
            raise ValueError(f"LAB_PORT_BASE={text!r}: say a number from 1024 to 65000")
        home = cls(
            Path(os.environ.get("LAB_HOME", ".lab")).resolve(),
            int(text or 21_000),
            os.environ.get("LAB_BIND", "127.0.0.1"),
            _hosts(os.environ.get("LAB_HOSTS", "")),
            Path(folder) if (folder := os.environ.get("LAB_SECRETS")) else None,
        )
        running = home.read_state()
        base = home.port_base if running is None else running.get("port_base", home.port_base)
        if base == home.port_base:
            return home
        if text:
            raise ValueError(f"the lab in {home.path} runs on LAB_PORT_BASE={base}, not on {text}")
        return msgspec.structs.replace(home, port_base=base)

    def environment(self) -> dict[str, str]:
        """The variables from which a process of this lab makes the same home."""
        settings = {"LAB_HOME": str(self.path), "LAB_PORT_BASE": str(self.port_base), "LAB_BIND": self.bind}
        if self.hosts:
            settings["LAB_HOSTS"] = ",".join(f"{part}={host}" for part, host in self.hosts.items())
        if self.secret_folder:
            settings["LAB_SECRETS"] = str(self.secret_folder)
        return settings

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """State of the running lab; secrets."""
        return self.path / "run"

    @property
    def ledger(self) -> Path:
        """The client ledger: what the load saw."""
        return self.path / "ledger"

    @property
    def nemesis_log(self) -> Path:
        """Every fault, with its begin and its end."""
        return self.run / "nemesis.jsonl"

    @property
    def injected_log(self) -> Path:
        """Every record that a data fault put onto a topic, for people: readers go by the records' header."""
        return self.run / "injected.jsonl"

    def log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def span_file(self, name: str) -> Path:
        """Where a process's spans lie: the lab's own store of traces."""
        return self.path / "spans" / f"{name}.jsonl"

    def create(self) -> None:
        """Make the folders; what lies in them is for the owner alone.

        Raises StackError when that cannot be.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.data, self.logs, self.run, self.ledger, self.path / "runs"):
                folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=self.run).close()
        except OSError as error:
            raise StackError(
                f"cannot write to {self.path} ({error.strerror}): choose another folder with LAB_HOME"
            ) from error

    def port(self, offset: int) -> int:
        return self.port_base + offset

    def secret(self, name: str) -> str:
        """A secret of this lab (the database password, the token), drawn once."""
        file = self._secret_file(name)
        if not file.exists():
            with tempfile.NamedTemporaryFile("w", dir=file.parent) as drawn:  # mode 0600
                drawn.write(secrets.token_urlsafe(24))
                drawn.flush()
                with contextlib.suppress(FileExistsError):  # another process was quicker: its secret holds
                    os.link(drawn.name, file)
        return file.read_text()

    @property
    def token(self) -> str:
        """What the running lab asks for; empty when it is missing: one drawn now, the lab would not know."""
        with contextlib.suppress(FileNotFoundError):
            return self._secret_file("token").read_text()
        return ""

    def _secret_file(self, name: str) -> Path:
        return (self.secret_folder or self.run) / f"{name}.secret"

    def at(self, part: str, offset: int) -> str:
        """host:port of a part (or of `supervisor`), for another process of this lab."""
        host = self.hosts.get(part, self.bind)
        return host if ":" in host else f"{host}:{self.port(offset)}"

    @property
    def supervisor_url(self) -> str:
        return f"http://{self.at('supervisor', SUPERVISOR_PORT)}"

    def postgres_url(self, part: str) -> str:
        """Address of the server `postgres` or `ledger`, without a database.

        With the password, unless others have started it: then every client looks into PGPASSFILE.
        """
        user = "lab" if part in self.hosts else f"lab:{self.secret('postgres')}"
        return f"postgresql://{user}@{self.at(part, PARTS[part].port)}"

    def http_url(self, part: Part) -> str:
        return f"http://{self.at(part.name, part.port)}"

    def admin_url(self, part: Part, replica: int = 0) -> str:
        """Where a process says whether it is ready, and its metrics."""
        return f"http://{self.at(part.name, part.admin_port + replica)}"

    def addresses(self) -> dict[str, str]:
        """LAB_… addresses as processes, shells and a user's own consumer read them."""
        return {
            "LAB_KAFKA": self.at("kafka", PARTS["kafka"].port),
            "LAB_POSTGRES": self.postgres_url("postgres"),
            "LAB_LEDGER": self.postgres_url("ledger"),
            "LAB_PROVIDER": self.http_url(PARTS["provider"]),
            "LAB_PROMETHEUS": self.http_url(PARTS["prometheus"]),
            "LAB_ZIPKIN": self.http_url(PARTS["zipkin"]),
            "LAB_SUPERVISOR": self.supervisor_url,
        }

    def urls(self) -> dict[str, str]:
        """What a person or a client may open."""
        table = {**PARTS, **GUESTS}
        return {name: self.http_url(part) for name, part in table.items() if part.port and _speaks_http(part)}

    def read_state(self) -> dict[str, Any] | None:
        """What the running supervisor wrote of itself, or None; a half-written or stale file counts as none.

        A pid is given to another process some day, so the process must be a supervisor of this folder.
        """
        try:
            state: dict[str, Any] = json.loads((self.run / "supervisor.json").read_text())
            return state if self._is_supervised_by(int(state["pid"])) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _is_supervised_by(self, pid: int) -> bool:
        process = Path("/proc") / str(pid)
        if SUPERVISOR.encode() not in (process / "cmdline").read_bytes().split(b"\0"):
            return False
        try:
            told = (process / "environ").read_bytes().split(b"\0")
        except PermissionError:  # another user's, or another namespace's: better to ask it than to start beside it
            return True
        return b"LAB_HOME=" + os.fsencode(self.path) in told


def _hosts(text: str) -> Mapping[str, str]:
    if text == "compose":
        return COMPOSE
    hosts = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    if wrong := [name for name, host in hosts.items() if name not in COMPOSE or not host]:
        raise ValueError(f"LAB_HOSTS={text!r}: {wrong[0]!r} names no part with its host: say part=host, or compose")
    return hosts


def _speaks_http(part: Part) -> bool:
    return part.kind in ("service", "prometheus", "alertmanager", "zipkin", "grafana")
