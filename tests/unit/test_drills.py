"""Alert drills: every alert has one, and it is what its runbook says."""

import re
from pathlib import Path

import pytest

from dashboards import rules
from dashboards.profiles import DEMO
from loadtest.drills import DRILLS, Drill, Measured, keep, measured, todo
from services.failpoints.grammar import parse
from services.failpoints.names import DATA_FAULTS, TAMPERINGS
from services.stack.parts import find

RUNBOOKS = Path(rules.__file__).parent / "runbooks"
ALERTS = {alert.name: [a.severity for a in rules.alerts(DEMO) if a.name == alert.name] for alert in rules.alerts(DEMO)}


def test_every_severity_of_every_alert_has_a_drill() -> None:
    severities = {(name, severity) for name, found in ALERTS.items() for severity in found}
    assert {(drill.alert, drill.severity) for drill in DRILLS.values()} == severities


@pytest.mark.parametrize("drill", DRILLS.values(), ids=lambda drill: drill.name)
def test_a_drill_does_what_the_runbook_says_and_expects_a_severity_that_there_is(drill: Drill) -> None:
    runbook = (RUNBOOKS / f"{drill.alert}.md").read_text()
    for command in drill.strike:
        assert command in runbook
    assert drill.severity in ALERTS[drill.alert]
    if drill.publishers:
        assert f"--publishers outbox,{','.join(drill.publishers)}" in runbook


def test_the_alerts_of_loss_duplicates_letters_and_outages_are_measured_five_times() -> None:
    several = {name for name, drill in DRILLS.items() if drill.rounds == 5}
    assert several == {
        "EventsLost",
        "EventsLost/page",
        "EffectDuplicated",
        "EffectDuplicated/page",
        "DeadLetterInflow",
        "PartDown",
    }


def test_drills_go_on_where_they_stopped(tmp_path: Path) -> None:
    file, one = tmp_path / "alerts.json", Measured(3.2, "kill relay#0", "page", "relay#0 does not answer", "now")
    assert measured(file) == {}
    keep({"PartDown": [one, one]}, file)
    results = measured(file)
    assert results == {"PartDown": [one, one]}
    assert [(drill.alert, left) for drill, left in todo(["PartDown", "RelayStalled"], results)] == [
        ("PartDown", 3), ("RelayStalled", 1),
    ]  # fmt: skip
    assert len(list(todo([], results))) == len(DRILLS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_failpoint_that_a_runbook_arms_and_every_fault_that_it_injects_is_there(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    for failpoint, action in re.findall(r"^lab fault arm (\S+) (.*)$", text, re.MULTILINE):
        parse(failpoint, action)  # raises for a name or a word that there is not
    assert set(re.findall(r"lab fault inject (\w+)", text)) <= DATA_FAULTS.keys()
    assert set(re.findall(r"lab fault tamper (\w+)", text)) <= TAMPERINGS.keys()
    for process in re.findall(r"lab (?:kill|freeze|thaw|restart|scale) ([a-z_.]+)", text):
        find(process)
