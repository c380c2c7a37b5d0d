"""Scenarios played on the whole lab: the verdict, its document and its files; an early end; what cannot be played."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SETTINGS, Lab

pytestmark = [pytest.mark.usefixtures("swept"), pytest.mark.timeout(1200)]

LOAD = """
teaches = "A small storm."
drain_s = 300
[arms]
consumers = ["at_most_once", "at_least_once", "effectively_once"]
[load]
phases = [{ rate = 25, duration_s = %d }]
effects_share = 1.0
timeout_share = 0.05
"""
STORM = """
[[faults]]
do = "arm"
at_s = %d
failpoint = "%s"
action = "kill count=1 arm=%s"
"""
GAPS = (
    (2, "process.after_commit_before_effect", "at_most_once"),
    (3, "process.after_record_before_commit", "at_least_once"),
    (4, "process.after_record_before_commit", "effectively_once"),
)
# At twenty a second two cores keep up. Who is slow gives a batch up after six time-outs, and that is no fault here.
CALM = """
teaches = "A green run without a fault proves nothing."
drain_s = 300
dead_letter_causes = ["attempts"]
[load]
phases = [{ rate = 20, duration_s = 8 }]
effects_share = 1.0
"""
RELAY = '[[faults]]\ndo = "arm"\nat_s = 5\nfailpoint = "publish.after_produce_before_delete"\naction = "kill count=1"\n'


def played(lab: Lab, file: Path | str, *words: str) -> tuple[dict[str, Any], int]:
    """The document of `lab run FILE --json`, and its exit code."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lab")), "run", str(file), "--json", *words],
        env=environment(lab), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr[-2000:]
    return json.loads(done.stdout), done.returncode


def environment(lab: Lab) -> dict[str, str]:
    """What `Lab.run` gives its commands: a lab that is up with other settings cannot play."""
    home = {"LAB_HOME": str(lab.home.path), "LAB_PORT_BASE": str(lab.home.port_base)}
    return {**os.environ, **SETTINGS, **home}


def test_a_storm_is_judged_by_what_it_put_to_the_test(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "small-storm.toml"
    file.write_text(LOAD % 14 + "".join(STORM % gap for gap in GAPS) + RELAY)
    document, code = played(lab, file, "--seed", "4")
    assert (document["verdict"], code, document["reasons"]) == ("PASS", 0, []), document["rows"]
    assert document["closes"]
    assert document["scenario"] == "small-storm"
    assert document["run"] == "small-storm-4"
    rows = {(row["hop"], row["arm"], row["effect"]): row for row in document["rows"]}
    assert rows["process", "at_most_once", "record"]["lost"] > 0
    assert rows["process", "at_least_once", "record"]["duplicated"] > 0
    for row in rows.values():
        parts = ("applied_once", "duplicated", "waiting", "dead_lettered", "discarded", "uncertain", "lost")
        assert sum(row[part] for part in parts) == row["expected"]
        assert bool(row["promise"]) == bool(row["verdict"])
        assert bool(row["exercised"]) == bool(row["promise"])
    kills = [fault for fault in document["faults"] if fault["fault"] == "kill"]
    assert len(kills) == len(GAPS) + 1
    assert all(kill["ended"] > kill["started"] for kill in kills)
    assert document["seen"]["redeliveries_due"] > 0

    report = Path(document["report"])
    assert "PASS" in report.read_text()
    assert "small-storm" in lab.cli("report", "small-storm-4", "--markdown")
    listed = json.loads(lab.cli("runs", "--json"))["runs"]
    assert [run["verdict"] for run in listed if run["run"] == "small-storm-4"] == ["PASS"]


def test_without_a_fault_nothing_is_proved(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "no-fault.toml").write_text(CALM)
    document, code = played(lab, tmp_path / "no-fault.toml")
    assert (document["verdict"], code) == ("INCONCLUSIVE", 3)
    process = [row for row in document["rows"] if row["hop"] == "process" and row["promise"]]
    if document["seen"]["dedup_hits"]:  # something was delivered again all the same: that put this arm to the test
        assert all(row["verdict"] != "FAIL" for row in process)
        process = [row for row in process if row["arm"] != "effectively_once" or not row["exercised"]]
    assert {row["verdict"] for row in process} == {"INCONCLUSIVE"}
    assert all("had no chance to break" in row["why"] for row in process)


def test_ctrl_c_ends_the_load_and_audits_what_there_is(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "long.toml"
    file.write_text(LOAD % 600)
    running = subprocess.Popen(
        [str(Path(sys.executable).with_name("lab")), "run", str(file), "--json", "--seed", "9"],
        env=environment(lab), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_hears_ctrl_c,  # noqa: PLW1509  # takes no lock, imports nothing
    )  # fmt: skip
    try:
        ledger = lab.home.ledger / "long-9.jsonl"
        lab.until(lambda: ledger.exists() and ledger.stat().st_size > 10_000, "requests in the ledger")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=600)  # a drain has 300 s
    finally:
        running.kill()
    assert running.returncode == 3, err[-2000:]
    document = json.loads(out)
    assert document["interrupted"]
    assert "the run was interrupted" in document["reasons"]
    assert document["verdict"] == "INCONCLUSIVE"
    assert document["closes"]
    assert 0 < document["load"]["sent"] < document["load"]["planned"]


def _hears_ctrl_c() -> None:
    """A suite in the background ignores SIGINT, and its children do, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_cannot_be_played_is_refused_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    assert lab.cli("run", "no-such-scenario", exits=2) == ""
    (tmp_path / "typo.toml").write_text(LOAD % 4 + "\nrat = 3\n")
    assert lab.cli("run", str(tmp_path / "typo.toml"), exits=2) == ""
    assert lab.cli("run", "calm", "--arm", str(tmp_path / "none.toml"), exits=2) == ""
    assert lab.cli("report", "no-such-run", exits=2) == ""
