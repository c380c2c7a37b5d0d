"""Postgres as root where the machine allows no user namespace, as most containers' runtimes do not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.stack import client
from services.stack.home import Home
from tests import confined
from tests.conftest import free_home
from tests.waiting import comes

LAB = str(Path(sys.executable).with_name("lab"))
ALL_IDS, ROOT_ALONE = "65536", "1"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user id")


def run(ids: str, *command: str, home: Home | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command where there are so many user ids, and no other namespace."""
    place = {"LAB_HOME": str(home.path), "LAB_PORT_BASE": str(home.port_base)} if home else {}
    return subprocess.run(
        [sys.executable, "-I", "-S", confined.__file__, ids, *command],
        env={**os.environ, **place}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A lab's place in a folder that is private to root."""
    tmp_path.chmod(0o700)
    found = free_home(tmp_path / "lab")
    yield found
    run(ALL_IDS, LAB, "down", home=found)


def test_root_starts_postgres_as_another_user_in_a_folder_that_is_private_to_root(home: Home) -> None:
    up = run(ALL_IDS, LAB, "up", "--only", "ledger", home=home)
    assert up.returncode == 0, up.stderr
    (ledger,) = client.status(home)["processes"]
    server = psutil.Process(ledger["pid"])
    assert ledger["ready"]
    assert {*server.uids(), *(uid for child in server.children() for uid in child.uids())}.isdisjoint({0})
    held = next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "CapEff" in line)
    assert int(held.split()[1], 16) == 1 << 1, "CAP_DAC_OVERRIDE, and nothing else of root's"

    client.call(home, "POST", "/process/kill", {"names": ["ledger"]})

    def again() -> bool:
        (now,) = client.status(home)["processes"]
        return bool(now["ready"] and now["restarts"] == 1)

    assert comes(again, 60), "killed, it comes back as that user"
    down = run(ALL_IDS, LAB, "down", home=home)
    assert down.returncode == 0, down.stderr
    assert not server.is_running()


def test_where_there_is_no_other_user_the_lab_says_why_it_does_not_start(home: Home) -> None:
    up = run(ROOT_ALONE, LAB, "up", "--only", "ledger", home=home)
    assert up.returncode != 0
    assert "Traceback" not in up.stderr
    assert "run the lab as an ordinary user" in up.stderr


def test_the_other_user_ends_when_its_parent_was_killed() -> None:
    script = (
        "import os, signal, subprocess, sys\n"
        "from services.stack.spawn import child_setup, unprivileged\n"
        "command = unprivileged(['/bin/sleep', '60'], signal.SIGKILL)\n"
        "child = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=child_setup(signal.SIGKILL))\n"
        "named = lambda: open(f'/proc/{child.pid}/cmdline', 'rb').read().split(b'\\0')[0]\n"
        "while b'sleep' not in named() and child.poll() is None: pass\n"
        "assert child.poll() is None, child.returncode\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = run(ALL_IDS, sys.executable, "-c", script)
    assert parent.returncode == 256 - signal.SIGKILL, parent.stderr  # `confined` says how its child ended
    assert comes(lambda: not psutil.pid_exists(int(parent.stdout)), 30)
