"""A real small lab whose services have keepers, beside servers that others have started: load, a kill, an audit.

As in containers: one environment for all, a task that takes its keeper's place, the password in PGPASSFILE, the gentle
load from the start, and the command line beside the supervisor.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from lab.output import Exit
from loadtest.ledger import ledger_file, outcomes, read
from services.stack import client, control
from services.stack.nemesis import read_faults
from services.stack.parts import PARTS
from tests.conftest import free_home, say
from tests.containers import ROOT, Containers
from tests.waiting import NotAnswered, comes

KEPT: Final = {
    name: f"127.0.0.{number}"
    for number, name in enumerate(
        ("orders", "refunds", "provider", "relay", "arm.at_least_once", "retry.at_least_once", "arm.effectively_once",
         "retry.effectively_once"),
        start=10,
    )
}  # fmt: skip
ARMS: Final = {"LAB_PUBLISHERS": "outbox", "LAB_CONSUMERS": "at_least_once,effectively_once"}
GAP: Final = "process.after_record_before_commit"
RUN: Final = "kept"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Servers of a lab of their own; the rest kept, provisioned, and under the gentle load."""
    servers = free_home(tmp_path_factory.mktemp("servers"))
    control.up(servers, faults=False, seed=1, only=("postgres", "ledger", "kafka"), say=say)
    folder = tmp_path_factory.mktemp("kept")
    hosts = {name: f"127.0.0.1:{servers.port(PARTS[name].port)}" for name in ("postgres", "ledger", "kafka")}
    hosts |= {**KEPT, "provision": "127.0.0.9", "supervisor": "127.0.0.9"}
    home = msgspec.structs.replace(servers, path=folder / "lab", hosts=hosts, secret_folder=folder / "secrets")
    (folder / "secrets").mkdir()
    home.create()
    home.secret("token")
    passwords = folder / "secrets" / "pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text(f"*:*:*:lab:{servers.secret('postgres')}\n")
    made = Containers(home, KEPT, settings={"PGPASSFILE": str(passwords), "LAB_PROVIDER_TIMEOUT_S": "8", **ARMS})
    try:
        provision = [sys.executable, "-m", "services.stack.keeper", "provision"]
        subprocess.run(provision, env=made.environment("127.0.0.9"), cwd=ROOT, check=True, timeout=120)
        made.start_supervisor(LAB_GUESTS="load")
        for part in KEPT:
            made.start_keeper(part)
        assert comes(lambda: client.status(home)["state"] == "up", 300), client.status(home)
        yield made
    finally:
        made.end_all()
        control.down(servers, say)


def answer(lab: Containers, *words: str, timeout_s: float = 300) -> Any:
    done = lab.cli(*words, "--json", timeout_s=timeout_s)
    if done.returncode == Exit.NOT_UP:
        raise NotAnswered(done.stderr[-2000:])
    assert done.returncode == Exit.DONE, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_gentle_load_runs_from_the_start_and_ends_when_it_is_told_to(lab: Containers) -> None:
    lab.until("load#0", ready=True)
    folder = ledger_file(lab.home.path, "x").parent

    def acknowledged() -> bool:
        return any("acknowledged" in outcomes(read(file)).values() for file in folder.glob("gentle-*"))

    assert comes(acknowledged, 120)
    assert lab.cli("scale", "load", "0").returncode == 0
    assert not any(p["name"] == "load#0" for p in client.status(lab.home)["processes"])


def test_a_failpoints_kill_through_the_keeper_doubles_where_nothing_dedups_and_the_audit_says_so(
    lab: Containers,
) -> None:
    before = lab.process("arm.at_least_once#0")["restarts"]
    for arm in ("at_least_once", "effectively_once"):
        assert lab.cli("fault", "arm", GAP, "kill", "count=1", f"arm={arm}").returncode == 0
    load = answer(lab, "load", "--rate", "20", "--duration", "8s", "--seed", "7", "--run", RUN)
    assert load["acknowledged"] > 100
    for arm in ("at_least_once", "effectively_once"):
        lab.until(f"arm.{arm}#0", ready=True)
    assert lab.process("arm.at_least_once#0")["restarts"] > before
    drained = answer(lab, "drain", "--timeout", "240s")
    assert drained["drained"]
    audited = comes(lambda: answer(lab, "audit", "--run", RUN), 180)  # a store may be silent once
    assert audited, "the audit was not answered"
    assert audited["closes"]
    rows = {(row["arm"], row["effect"]): row for row in audited["rows"]}
    for arm in ("at_least_once", "effectively_once"):
        assert rows[arm, "record"]["expected"] > 100
        assert (rows[arm, "record"]["lost"], rows[arm, "record"]["waiting"]) == (0, 0)
    assert rows["at_least_once", "record"]["duplicated"] > 0
    assert rows["effectively_once", "record"]["duplicated"] == 0
    kills = [fault for fault in read_faults(lab.home.nemesis_log) if fault.fault == "kill"]
    assert {kill.target for kill in kills} == {"arm.at_least_once#0", "arm.effectively_once#0"}
    assert comes(lambda: all(fault.ended for fault in read_faults(lab.home.nemesis_log) if fault.fault == "kill"), 60)
    assert lab.cli("logs", "arm.at_least_once").stdout


def test_a_scenario_that_strikes_the_broker_is_not_begun(lab: Containers) -> None:
    done = lab.cli("run", "broker-restart")
    assert done.returncode == 2
    assert "kafka runs in a container of its own image, without a keeper" in done.stderr
    assert not list((lab.home.path / "runs").glob("broker-restart*"))
