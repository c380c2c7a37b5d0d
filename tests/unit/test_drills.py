"""Alert drills: every alert has one, and it is what its runbook says."""

import re
from pathlib import Path

import msgspec
import pytest

from dashboards import rules
from dashboards.profiles import DEMO
from loadtest.drills import (
    CALM_MINUTES,
    DRILLS,
    LIMIT_S,
    ROUNDS,
    Calm,
    Drill,
    Measured,
    calm,
    keep,
    keep_calm,
    measured,
    median_s,
    query_of,
    todo,
)
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
    file = tmp_path / "alerts.json"
    one = Measured(3.2, "kill relay#0", "page", "relay#0 does not answer", "now", "relay#0: 0")
    unseen = msgspec.structs.replace(one, shown="")
    assert measured(file) == {}
    keep({"PartDown": [one, one]}, file)
    results = measured(file)
    assert results == {"PartDown": [one, one]}
    assert [(drill.alert, left) for drill, left in todo(["PartDown", "RelayStalled"], results)] == [
        ("PartDown", 3), ("RelayStalled", 1),
    ]  # fmt: skip
    assert len(list(todo([], results))) == len(DRILLS)
    whole = {"PartDown": [unseen] * 5, "RelayStalled": [one]}
    assert [(drill.alert, left) for drill, left in todo(["PartDown", "RelayStalled"], whole)] == [("PartDown", 1)]
    assert list(todo(["PartDown"], {"PartDown": [unseen] * 4 + [one]})) == []


def test_what_is_written_down_is_of_every_drill_within_its_bound_and_shows_what_its_runbook_asks() -> None:
    results = measured()
    assert list(todo([], results)) == []
    for name, drill in DRILLS.items():
        if drill.rounds == ROUNDS:
            assert median_s(results[name]) <= LIMIT_S, name


def test_a_calm_that_is_written_down_was_long_on_a_lab_that_had_lost_something_and_paged_nobody() -> None:
    seen = calm()
    assert seen.minutes >= CALM_MINUTES
    assert seen.lost_before > 0
    assert seen.pages == []


def test_a_calm_is_written_down_and_read(tmp_path: Path) -> None:
    one = Calm(30.0, 30.0, 4, ["PartDown (page): relay#0 does not answer"], "now")
    keep_calm(one, tmp_path / "calm.json")
    assert calm(tmp_path / "calm.json") == one


@pytest.mark.parametrize("name", ALERTS)
def test_every_runbook_has_one_query(name: str) -> None:
    assert query_of(name)  # raises when there are none or two


@pytest.mark.parametrize("name", ALERTS)
def test_every_failpoint_that_a_runbook_arms_and_every_fault_that_it_injects_is_there(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    for failpoint, action in re.findall(r"^lab fault arm (\S+) (.*)$", text, re.MULTILINE):
        parse(failpoint, action)  # raises for a name or a word that there is not
    assert set(re.findall(r"lab fault inject (\w+)", text)) <= DATA_FAULTS.keys()
    assert set(re.findall(r"lab fault tamper (\w+)", text)) <= TAMPERINGS.keys()
    for process in re.findall(r"lab (?:kill|freeze|thaw|restart|scale) ([a-z_.]+)", text):
        find(process)
