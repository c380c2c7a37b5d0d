"""`lab` as a shell sees it: exit codes, one sentence that says what to do, no traceback, nothing left behind."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.stack import control
from services.stack.home import Home
from services.stack.parts import PARTS
from tests.conftest import free_home, say

LAB = [sys.executable, "-m", "lab.main"]
ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.timeout(900)  # labs start here


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A lab that is not up; whatever a test starts in it is ended."""
    home = free_home(tmp_path / "lab")
    yield home
    control.down(home, say)


def environment(home: Home, **more: str) -> dict[str, str]:
    here = {"LAB_HOME": str(home.path), "LAB_PORT_BASE": str(home.port_base), "PYTHONPATH": str(ROOT)}
    return {**os.environ, "COLUMNS": "100", **here, **more}


def lab(home: Home, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `lab` to its end; a traceback is never an answer."""
    command = [*LAB, *words]
    done = subprocess.run(
        command, env=environment(home, **more), capture_output=True, text=True, timeout=360, check=False
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def belonging_to(home: Home) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and control._belongs_to(p, home)]


def names(home: Home) -> set[str]:
    """What runs of a lab; a process that ends while it is looked at does not."""
    found = set()
    for process in belonging_to(home):
        with suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("words", "more", "code", "sentence"),
    [
        (["kill", "nobody"], {}, 2, "unknown process 'nobody'; the processes are: postgres, ledger, kafka"),
        (["logs", "nobody"], {}, 2, "unknown process 'nobody'"),
        (["up", "--only", "nobody"], {}, 2, "unknown process 'nobody'"),
        (["status"], {"LAB_PORT_BASE": "many"}, 2, "LAB_PORT_BASE='many': say a number from 1024 to 65000"),
        (["up"], {"LAB_PORT_BASE": "80"}, 2, "LAB_PORT_BASE='80': say a number from 1024 to 65000"),
        (["scale", "relay", "-1"], {}, 2, "-1"),
        (["nothing-of-the-kind"], {}, 2, "nothing-of-the-kind"),
        (["kill", "relay#0"], {}, 3, "the lab is not up: start it with `lab up`"),
        (["scale", "relay", "2"], {}, 3, "the lab is not up"),
        (["env"], {}, 3, "the lab is not up"),
        (["logs", "kafka"], {}, 1, "was never started in this lab"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do(
    home: Home, words: list[str], more: dict[str, str], code: int, sentence: str
) -> None:
    done = lab(home, *words, **more)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert sentence in " ".join(done.stderr.split())
    assert not belonging_to(home)


def test_the_status_of_no_lab_is_down_and_to_end_it_is_fine(home: Home) -> None:
    assert json.loads(lab(home, "status", "--json").stdout) == {"state": "down", "processes": [], "urls": {}}
    done = lab(home, "down")
    assert (done.returncode, done.stderr) == (0, "the lab was not up\n")
    assert not home.path.exists()


def test_a_port_in_use_keeps_the_lab_from_starting_and_the_doctor_says_the_same(home: Home) -> None:
    with socket.create_server(("127.0.0.1", home.port(PARTS["ledger"].port))) as taken:
        port = taken.getsockname()[1]
        done = lab(home, "up", "--only", "ledger")
        doctor = lab(home, "doctor", "--json")
    assert done.returncode == 1
    assert f"port {port} (ledger) is in use by" in done.stderr
    assert f"(pid {os.getpid()}): stop that, or choose another block with LAB_PORT_BASE" in done.stderr
    assert doctor.returncode == 1
    answer = json.loads(doctor.stdout)
    assert (answer["ok"], answer["up"]) == (False, False)
    assert len(answer["problems"]) == 1
    assert answer["problems"][0] in done.stderr
    assert not (home.data / "ledger").exists()


@pytest.mark.parametrize("place", ["/proc/lab", "/dev/null/lab", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_named(home: Home, place: str) -> None:
    done = lab(home, "up", "--only", "ledger", LAB_HOME=place)
    assert done.returncode == 1
    assert f"cannot write to {place}" in done.stderr
    assert "LAB_HOME" in done.stderr


def test_without_a_network_one_sentence_says_so(home: Home, tmp_path: Path) -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    done = lab(home, "up", "--only", "ledger", LAB_CACHE=str(tmp_path / "cache"), **nowhere)
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("lab:")]
    assert "could not download" in sentence
    assert "connect to the network and run the command again" in sentence
    assert not belonging_to(home)


def test_a_cache_that_cannot_be_written_is_named(home: Home) -> None:
    done = lab(home, "up", "--only", "ledger", LAB_CACHE="/dev/null/cache")
    assert done.returncode == 1
    assert "cannot write to /dev/null/cache" in done.stderr
    assert "LAB_CACHE" in done.stderr


def starting(home: Home) -> subprocess.Popen[str]:
    """A `lab up` whose supervisor runs, and which still waits for Kafka."""
    command = [*LAB, "up", "--only", "provision"]
    up = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: names(home) >= {"postgres", "java"} and home.read_state() is not None)
    return up


def test_an_interrupted_up_leaves_nothing(home: Home) -> None:
    with starting(home) as up:
        up.send_signal(signal.SIGINT)
        _, err = up.communicate(timeout=120)
    assert up.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "lab: interrupted; nothing was left running"
    assert not belonging_to(home)
    assert home.read_state() is None


def test_a_killed_up_takes_the_supervisor_along(home: Home) -> None:
    with starting(home) as up:
        up.kill()
    wait_for(lambda: not belonging_to(home))


def test_one_lab_from_up_to_down(home: Home) -> None:
    up = lab(home, "up", "--only", "ledger", "--faults")
    assert up.returncode == 0, up.stderr
    assert "ready: ledger" in up.stderr

    status = json.loads(lab(home, "status", "--json").stdout)
    (ledger,) = status["processes"]
    assert status["state"] == "up"
    assert (
        ledger.items() >= {"name": "ledger", "kind": "postgres", "replica": 0, "state": "ready", "restarts": 0}.items()
    )
    assert ledger["rss_bytes"] > 2**20

    shown = lab(home, "status").stdout
    assert shown.startswith("up · 1 processes\n")
    assert "ledger" in shown
    assert json.loads(lab(home, "doctor", "--json").stdout)["up"] is True

    exports = lab(home, "env").stdout
    sourced = subprocess.run(
        ["bash", "-c", f'{exports}\necho "$LAB_HOME $LAB_LEDGER"'], capture_output=True, text=True, check=True
    )
    assert sourced.stdout.split() == [str(home.path), home.postgres_url("ledger")]

    started = [json.loads(line) for line in lab(home, "logs", "supervisor", "--json").stdout.splitlines()]
    assert [line["pid"] for line in started if line["event"] == "part.started"] == [ledger["pid"]]

    assert lab(home, "thaw", "ledger").returncode == 1  # the right words at the wrong time
    assert lab(home, "freeze", "ledger").returncode == 0
    assert "frozen" in lab(home, "status").stdout
    assert lab(home, "kill", "ledger", "--hold").returncode == 0
    wait_for(lambda: "held" in lab(home, "status").stdout)
    assert "lab restart ledger" in lab(home, "status").stdout
    assert lab(home, "restart", "ledger").returncode == 0
    assert lab(home, "up", "--only", "ledger").returncode == 0

    assert lab(home, "down").stderr == "down; the data is kept\n"
    assert lab(home, "down").stderr == "the lab was not up\n"
    assert not belonging_to(home)
    with socket.create_server(("127.0.0.1", home.port(PARTS["ledger"].port))):
        pass


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="the whole suite runs without root here")
@pytest.mark.parametrize("uid", [next(user.pw_uid for user in pwd.getpwall() if user.pw_uid), 43_210])
def test_who_is_not_root_needs_no_root(home: Home, uid: int) -> None:
    """In a namespace in which this user has another id (the second one has no name, as `docker run --user` gives)."""
    script = 'set -e; test "$(id -u)" = $0; "$@" up --only ledger; "$@" status; "$@" down'
    command = ["unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "sh", "-c", script, str(uid), *LAB]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("up · 1 processes")
    assert "down; the data is kept" in done.stderr
    assert not belonging_to(home)
