"""`lab fault` and the striking commands as a shell sees them while no lab is up: exit codes and sentences."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.main import application
from services.failpoints.names import FAILPOINTS
from services.stack import client, control
from services.stack.home import Home
from services.stack.nemesis import NemesisLog
from services.telemetry.logs import Log

ROOT = Path(__file__).parents[2]


def lab(home: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `lab WORDS`; a traceback is never an answer."""
    environment = {**os.environ, "LAB_HOME": str(home), "LAB_PORT_BASE": "60000", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lab.main", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentences"),
    [
        ("fault arm no.such.failpoint kill", 2, ["unknown failpoint 'no.such.failpoint'", "publish.after_fetch"]),
        ("fault arm publish.after_fetch explode", 2, ["unknown action 'explode'", "kill, pause:SECONDS"]),
        ("fault arm publish.after_fetch kill often=1", 2, ["'often=1'", "p=, nth=, count=, arm="]),
        ("fault arm publish.half_batch kill arm=orders", 2, ["arm=orders", "for relay only"]),
        ("fault arm publish.after_fetch error:luck", 2, ["unknown error kind 'luck'", "timeout, connection"]),
        ("fault arm publish.after_fetch kill nth=2 count=1", 3, ["the lab is not up"]),
        ("fault clear no.such.failpoint", 2, ["unknown failpoint 'no.such.failpoint'"]),
        ("fault clear", 3, ["the lab is not up"]),
        ("fault inject rot", 2, ["unknown data fault 'rot'", "poison, unknown_version"]),
        ("fault inject poison --topic payments", 2, ["unknown topic 'payments'", "orders.v1"]),
        ("fault inject poison --count 0", 2, ["count"]),
        ("fault inject poison", 3, ["the lab is not up"]),
        ("fault tamper burn effectively_once", 2, ["unknown tampering 'burn'", "remove, repeat, invent"]),
        ("fault tamper remove nobody", 2, ["unknown consumer arm 'nobody'", "at_most_once"]),
        ("fault tamper remove at_least_once --effect output", 2, ["unknown effect 'output'", "record, charge, email"]),
        (
            "fault tamper remove kafka_transactions --effect email",
            2,
            ["'email'", "kafka_transactions", "record, charge"],
        ),
        ("fault tamper remove at_least_once --count 0", 2, ["count"]),
        ("fault tamper remove at_least_once", 3, ["the lab is not up"]),
        ("kill nobody", 2, ["unknown process 'nobody'; the processes are: postgres"]),
        ("freeze relay#0 nobody kafka nothing", 2, ["unknown process 'nobody'", "unknown process 'nothing'"]),
        ("kill relay#0 kafka", 3, ["the lab is not up"]),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_started(
    tmp_path: Path, words: str, code: int, sentences: list[str]
) -> None:
    home = tmp_path / "lab"
    exited, out, err = lab(home, *words.split())
    assert exited == code, err
    assert out == ""
    for sentence in sentences:
        assert sentence in err
    assert not home.exists()


def test_names_are_listed_without_a_lab_and_the_rest_says_that_it_is_down(tmp_path: Path) -> None:
    code, out, _ = lab(tmp_path, "fault", "list", "--names")
    assert (code, out.split()) == (0, list(FAILPOINTS))
    code, out, err = lab(tmp_path, "fault", "list", "--json")
    answer = json.loads(out)
    assert (code, answer["allowed"]) == (3, False)
    assert [point["name"] for point in answer["failpoints"]] == list(FAILPOINTS)
    assert "the lab is not up" in err
    code, out, _ = lab(tmp_path, "fault", "list")
    assert code == 3
    for point in FAILPOINTS.values():
        assert point.name in out
        assert point.not_yet in out


def test_the_history_of_a_lab_that_is_down_is_shown_with_the_newest_last(tmp_path: Path) -> None:
    assert json.loads(lab(tmp_path, "fault", "history", "--json")[1]) == {"faults": []}
    (tmp_path / "run").mkdir()
    log = Log("supervisor", "test", str(tmp_path / "log"))
    nemesis = NemesisLog(tmp_path / "run" / "nemesis.jsonl", seed=7, log=log)
    nemesis.end(nemesis.begin("freeze", "relay#0", "cli", pid=9))
    nemesis.begin("arm", "publish.after_fetch", "scenario", action="kill")

    faults = json.loads(lab(tmp_path, "fault", "history", "--json")[1])["faults"]
    assert [(f["fault"], f["target"], f["by"], f["seed"]) for f in faults] == [
        ("freeze", "relay#0", "cli", 7),
        ("arm", "publish.after_fetch", "scenario", 7),
    ]
    assert faults[0]["started"] <= faults[0]["ended"]
    assert faults[1]["ended"] is None
    assert len(json.loads(lab(tmp_path, "fault", "history", "--json", "--last", "1")[1])["faults"]) == 1
    _, *lines = lab(tmp_path, "fault", "history")[1].splitlines()
    assert "relay#0" in lines[0]
    assert "since" in lines[1]
    assert "action=kill" in lines[1]


@pytest.mark.parametrize("faults", [True, False])
def test_the_seed_of_the_faults_is_said_where_there_can_be_faults(
    faults: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setattr(Home, "read_state", lambda _: {"pid": 1, "port_base": 60_000})
    status = {"state": "up", "processes": [], "urls": {}, "faults": faults, "seed": 4711}
    monkeypatch.setattr(control, "up", lambda *_, **__: status)
    listed = {"allowed": faults, "seed": 4711, "armed": [], "passes": []}
    monkeypatch.setattr(client, "failpoints", lambda _: listed)
    for words in ("up", "fault list"):
        done = CliRunner().invoke(application(), words)
        assert done.exit_code == 0, done.output
        assert ("seed 4711" in done.output) is faults
