"""Each alert on synthetic series, by promtool: it fires, it resolves, it is silent just below; resets, gaps, absences.

Series are written as promtool reads them, a sample a second: `0x30 3x60` is 31 times 0, then 61 times 3; `_` is none.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from dashboards import generate, rules
from dashboards.layout import CONSOLE
from dashboards.page import FILE, page
from dashboards.profiles import DEMO, PROFILES, Profile
from services.telemetry.catalogue import METRICS
from tests.dashboards.promql import faults_of
from tests.dashboards.tools import run

RUNBOOKS = Path(rules.__file__).parent / "runbooks"
ALERTS = list(rules.alerts(DEMO))
NAMES = list(dict.fromkeys(alert.name for alert in ALERTS))


class Firing(msgspec.Struct):
    """An alert that shall fire: its labels besides the name, and how its summary begins."""

    labels: dict[str, str]
    summary: str


class Case(msgspec.Struct):
    """A history, and what shall fire when: at a second, these and no others of the alert."""

    alert: str
    says: str
    series: dict[str, str]
    expected: dict[int, list[Firing]]


def row(metric: str, arm: str, effect: str = "record", **more: str) -> str:
    labels = {"hop": "process", "arm": arm, "effect": effect, **more}
    said = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{metric}{{{said}}}"


def fires(severity: str, summary: str, **labels: str) -> list[Firing]:
    return [Firing({"severity": severity, **labels}, summary)]


LOST = row("delivery_audit_lost_total", "effectively_once", instance="auditor")
NO_LOSS = {row("delivery_promise_info", "effectively_once", promise="no_loss"): "1x400"}
PROMISING = {"hop": "process", "arm": "effectively_once", "effect": "record"}
FREE_LOST = row("delivery_audit_lost_total", "at_most_once", instance="auditor")
FREE = {"hop": "process", "arm": "at_most_once", "effect": "record"}
EXTRA = row("delivery_audit_extra_applications_total", "effectively_once", instance="auditor")
GHOSTS = row("delivery_audit_unexpected_total", "effectively_once", instance="auditor")
EXPECTED = "delivery_audit_expected_total"
LETTERS = 'delivery_topic_end_offsets_total{place="dead_letters", arm="a", topic="t"}'
RETRIED = 'delivery_topic_end_offsets_total{place="retry", arm="a", topic="r"}'
COMMITTED = 'delivery_group_committed_offsets_total{arm="a", topic="orders.v1"}'
LAG = 'delivery_group_lag_seconds{arm="a", topic="orders.v1", partition="0"}'
DUPLICATES = 'delivery_dedup_decisions_total{hop="process", arm="a", decision="duplicate"}'
FIRST = 'delivery_dedup_decisions_total{hop="process", arm="a", decision="first"}'
REDELIVERED = 'delivery_topic_end_offsets_total{place="redelivery", arm="a", topic="d"}'
AUDITED = "delivery_audit_last_success_timestamp_seconds"
UP = 'delivery_part_up{part="relay", process="relay#0"}'
RESTARTS = 'delivery_part_restarts_total{part="relay", process="relay#0"}'


def lost(many: int) -> list[Firing]:
    return fires("page", f"LOST {many} at process, effectively_once, record: a promise is broken", **PROMISING)


def budget(metric: str, arm: str, alert: str, word: str) -> list[Case]:
    bad, all_ = row(metric, arm), row(EXPECTED, arm)
    labels = {"hop": "process", "arm": arm, "effect": "record", "window": "5m"}
    return [
        Case(
            alert,
            "2 % for minutes",
            {bad: "0+0.04x600", all_: "0+2x600"},
            {400: fires("page", f"2% of {arm}, record {word} within 5m: the budget is 0.1%", **labels)},
        ),
        Case(alert, "1.4 % is just below 14.4 times the budget", {bad: "0+0.028x600", all_: "0+2x600"}, {400: []}),
        Case(alert, "one kill, over for a minute", {bad: "0x300 20x300", all_: "0+2x600"}, {400: []}),
        Case(alert, "half of too few events", {bad: "0+0.5x600", all_: "0+1x600"}, {400: []}),
        Case(alert, "no series", {}, {400: []}),
    ]


CASES = [
    Case(
        "EventsLost",
        "fires where no loss is promised, and resolves",
        {LOST: "0x30 3x60", **NO_LOSS},
        {30: [], 31: lost(3), 40: lost(3), 45: []},
    ),
    Case(
        "EventsLost",
        "a second loss half a minute later fires again",
        {LOST: "0x30 3x29 5x30", **NO_LOSS},
        {33: lost(3), 50: [], 62: lost(2), 75: []},
    ),
    Case(
        "EventsLost",
        "information where nothing is promised",
        {FREE_LOST: "0x30 7x60", **NO_LOSS},
        {32: fires("info", "LOST 7 at process, at_most_once, record (nothing is promised)", **FREE), 45: []},
    ),
    Case("EventsLost", "a lab that has lost before is calm", {LOST: "14x90", **NO_LOSS}, {5: [], 60: []}),
    Case(
        "EventsLost",
        "a rise while nobody scraped is seen after",
        {LOST: "0x30 _x120 3x30", **NO_LOSS},
        {100: [], 152: lost(3), 170: []},
    ),
    Case(
        "EventsLost", "a loss after the counter began anew", {LOST: "5x30 0x5 1x60", **NO_LOSS}, {33: [], 38: lost(1)}
    ),
    Case("EventsLost", "the counter begins anew, nothing is lost", {LOST: "5x30 0x60", **NO_LOSS}, {31: [], 50: []}),
    Case(
        "EventsLost",
        "a loss seconds after the series appeared is counted and not estimated",
        {LOST: "_x30 0x2 3x30", **NO_LOSS},
        {33: lost(3), 36: lost(3), 60: []},
    ),
    Case("EventsLost", "no series", NO_LOSS, {31: []}),
    Case(
        "EffectDuplicated",
        "fires where no duplicate is promised, and resolves",
        {EXTRA: "0x30 2x60", row("delivery_promise_info", "effectively_once", promise="no_duplicate"): "1x90"},
        {
            30: [],
            32: fires("page", "DOUBLED 2 at process, effectively_once, record: a promise is broken", **PROMISING),
            45: [],
        },
    ),
    Case(
        "EffectDuplicated",
        "a promise of no loss is none of no duplicate",
        {EXTRA: "0x30 2x60", **NO_LOSS},
        {32: fires("info", "DOUBLED 2 at process, effectively_once, record (nothing is promised)", **PROMISING)},
    ),
    Case("EffectDuplicated", "no series, and one that stays", {EXTRA: "9x90"}, {60: []}),
    Case(
        "UnexpectedEffect",
        "fires and resolves",
        {GHOSTS: "0x30 1x60", **NO_LOSS},
        {
            32: fires(
                "page", "1 without an intent at process, effectively_once, record: a promise is broken", **PROMISING
            ),
            45: [],
        },
    ),
    Case(
        "UnexpectedEffect",
        "information without a promise",
        {GHOSTS: "0x30 1x60"},
        {
            32: fires(
                "info", "1 without an intent at process, effectively_once, record (nothing is promised)", **PROMISING
            )
        },
    ),
    *budget("delivery_audit_lost_total", "at_most_once", "LossBudgetBurn", "lost"),
    *budget("delivery_audit_extra_applications_total", "at_least_once", "DuplicateBudgetBurn", "doubled"),
    Case(
        "DedupHitsSustained",
        "one hit in ten, on and on",
        {DUPLICATES: "0+1x200", FIRST: "0+9x200"},
        {29: [], 120: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a")},
    ),
    Case(
        "DedupHitsSustained",
        "a burst of one kill",
        {DUPLICATES: "0x60 50x200", FIRST: "0+9x260"},
        {70: [], 95: [], 120: []},
    ),
    Case("DedupHitsSustained", "just below one in a hundred", {DUPLICATES: "0+0.1x300", FIRST: "0+10x300"}, {200: []}),
    Case(
        "DedupHitsSustained",
        "a replay sends again on purpose",
        {DUPLICATES: "0+1x200", FIRST: "0+9x200", REDELIVERED: "0+1x200"},
        {120: []},
    ),
    Case("DedupHitsSustained", "no series", {FIRST: "0+9x200"}, {120: []}),
    Case(
        "DeadLetterInflow",
        "ten at once, and a minute later silence",
        {LETTERS: "0x30 10x120"},
        {30: [], 40: fires("page", "10 letters of a within a minute", arm="a"), 100: []},
    ),
    Case("DeadLetterInflow", "a single poison record", {LETTERS: "0x30 1x120"}, {40: []}),
    Case("DeadLetterInflow", "five are not more than five", {LETTERS: "0x60 5x120"}, {70: []}),
    Case("DeadLetterInflow", "no series", {}, {40: []}),
    Case(
        "DeadLetterBacklog",
        "one left alone for a minute, until it is looked at",
        {'delivery_dead_letters_depth{arm="a"}': "0x30 1x90 0x30"},
        {60: [], 95: fires("info", "1 letters of a are parked and nobody looks", arm="a"), 125: []},
    ),
    Case("DeadLetterBacklog", "redriven at once", {'delivery_dead_letters_depth{arm="a"}': "0x30 9x50 0x60"}, {95: []}),
    Case(
        "GroupLagGrowing",
        "grows beyond ten seconds while others commit",
        {LAG: "0x10 0+1x60 0x30", COMMITTED: "0+1x120"},
        {22: [], 45: fires("page", "a is 34s behind and does not catch up", arm="a"), 80: []},
    ),
    Case(
        "GroupLagGrowing",
        "behind, and nobody commits",
        {LAG: "7x90", COMMITTED: "5x90"},
        {10: [], 40: fires("page", "a is 7s behind and does not catch up", arm="a")},
    ),
    Case(
        "GroupLagGrowing",
        "the arm is gone, and its commits with it",
        {LAG: "7x90"},
        {40: fires("page", "a is 7s behind and does not catch up", arm="a")},
    ),
    Case("GroupLagGrowing", "a burst that drains", {LAG: "0x5 30-1x60", COMMITTED: "0+50x120"}, {30: [], 45: []}),
    Case("GroupLagGrowing", "five seconds are not more than five", {LAG: "5x90", COMMITTED: "5x90"}, {60: []}),
    Case(
        "RetryStorm",
        "one in ten for a minute and a half",
        {RETRIED: "0+1x200", COMMITTED: "0+10x200"},
        {10: [], 100: fires("page", "a retries 10% of what it consumes", arm="a")},
    ),
    Case("RetryStorm", "just below one in twenty", {RETRIED: "0+0.5x200", COMMITTED: "0+10x200"}, {100: []}),
    Case("RetryStorm", "one ambiguous time-out", {RETRIED: "0x60 1x140", COMMITTED: "0x200"}, {100: []}),
    Case(
        "RelayStalled",
        "the oldest row is six seconds old, then published",
        {'delivery_outbox_oldest_age_seconds{arm="outbox", source="orders"}': "0x10 0+1x20 0x30"},
        {15: [], 17: fires("page", "the oldest row of outbox has waited 6s to be published", arm="outbox"), 40: []},
    ),
    Case(
        "RelayStalled",
        "a restart of the relay takes less",
        {'delivery_outbox_oldest_age_seconds{arm="outbox", source="orders"}': "0x10 0+1x5 0x30"},
        {16: [], 20: []},
    ),
    Case(
        "SlotHoldingWal",
        "more than the bound, and let go",
        {'delivery_slot_lag_bytes{arm="cdc"}': "0x10 67108864x30 0x10"},
        {5: [], 20: fires("page", "the slot of cdc holds 64MiB of the write-ahead log", arm="cdc"), 45: []},
    ),
    Case("SlotHoldingWal", "the bound itself", {'delivery_slot_lag_bytes{arm="cdc"}': "33554432x30"}, {20: []}),
    Case(
        "AuditStale",
        "a frozen auditor is not scraped, and still missed",
        {AUDITED: "0+1x30 _x60 95+1x30"},
        {30: [], 40: [], 45: fires("page", "no audit for 15s: nobody sees what is lost"), 95: []},
    ),
    Case(
        "AuditStale",
        "an auditor that answers and does not audit",
        {AUDITED: "0+1x30 30x60"},
        {40: [], 45: fires("page", "no audit for 15s: nobody sees what is lost")},
    ),
    Case("AuditStale", "a lab without an auditor", {}, {45: []}),
    Case(
        "TelemetryGap",
        "rows that no counter knows",
        {'delivery_audit_telemetry_gap{arm="a", signal="record"}': "0x10 4x20 0x9"},
        {5: [], 15: fires("info", "4 rows of a, record that no counter knows", arm="a", signal="record"), 35: []},
    ),
    Case(
        "PartDown",
        "held for five seconds, and back",
        {UP: "1x100 0x20 1x30"},
        {102: [], 105: fires("page", "relay#0 does not answer", process="relay#0"), 122: []},
    ),
    Case(
        "PartDown",
        "down for good",
        {UP: "1x100 0x200"},
        {250: fires("page", "relay#0 does not answer", process="relay#0")},
    ),
    Case("PartDown", "a restart within two seconds", {UP: "1x100 0x1 1x30"}, {101: [], 104: []}),
    Case("PartDown", "a lab that starts", {UP: "0x40 1x60"}, {10: [], 40: []}),
    Case(
        "PartDown",
        "a part that never came",
        {UP: "0x200"},
        {60: [], 120: fires("page", "relay#0 does not answer", process="relay#0")},
    ),
    Case("PartDown", "no series", {}, {10: []}),
    Case(
        "PartRestarted",
        "once, and over",
        {RESTARTS: "0x30 1x60"},
        {30: [], 32: fires("info", "relay#0 was started again", process="relay#0"), 45: []},
    ),
    Case("PartRestarted", "another supervisor counts from 0", {RESTARTS: "7x30 0x60"}, {32: [], 45: []}),
    Case("Watchdog", "always", {}, {0: fires("info", "always fires"), 90: fires("info", "always fires")}),
]


@pytest.mark.parametrize("alert", NAMES)
def test_on_synthetic_series(alert: str, tmp_path: Path) -> None:
    file = tmp_path / "test.yml"
    tests = [_promtool_test(case) for case in CASES if case.alert == alert]
    rule_file = str(generate.GENERATED / "rules-demo.yml")
    file.write_text(yaml.safe_dump({"rule_files": [rule_file], "evaluation_interval": "1s", "tests": tests}))
    run("promtool", "test", "rules", file)


def _promtool_test(case: Case) -> dict[str, Any]:
    wanted = [
        {
            "eval_time": f"{at}s",
            "alertname": case.alert,
            "exp_alerts": [
                {"exp_labels": firing.labels, "exp_annotations": _annotations(case.alert, firing)} for firing in firings
            ],
        }
        for at, firings in case.expected.items()
    ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"name": case.says, "interval": "1s", "input_series": series, "alert_rule_test": wanted}


def _annotations(alert: str, firing: Firing) -> Mapping[str, str]:
    summary = next(a.summary for a in ALERTS if a.name == "Watchdog") if alert == "Watchdog" else firing.summary
    return {"summary": summary, "runbook_url": f"{CONSOLE}/runbooks/{alert}"}


def test_every_alert_is_shown_to_fire_and_to_be_silent() -> None:
    firing = {case.alert for case in CASES if any(case.expected.values())}
    silent = {case.alert for case in CASES if not all(case.expected.values())}
    assert firing == set(NAMES)
    assert silent == set(NAMES) - {"Watchdog"}


def test_the_table_of_the_design_is_complete() -> None:
    assert NAMES == [
        "EventsLost", "EffectDuplicated", "UnexpectedEffect", "LossBudgetBurn", "DuplicateBudgetBurn",
        "DedupHitsSustained", "DeadLetterInflow", "DeadLetterBacklog", "GroupLagGrowing", "RetryStorm", "RelayStalled",
        "SlotHoldingWal", "AuditStale", "TelemetryGap", "PartDown", "PartRestarted", "Watchdog",
    ]  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_rule_asks_for_nothing_that_nobody_emits(profile: Profile) -> None:
    recorded = {record.name: {"hop", "arm", "effect"} for record in rules.records(profile)}
    exprs = [*(record.expr for record in rules.records(profile)), *(alert.expr for alert in rules.alerts(profile))]
    assert [fault for expr in exprs for fault in faults_of(expr, recorded)] == []


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_what_is_recorded_stands_before_the_alerts_that_read_it(profile: Profile) -> None:
    (group,) = rules.group(profile)["groups"]
    kinds = ["record" if "record" in rule else "alert" for rule in group["rules"]]
    assert kinds == sorted(kinds, reverse=True)
    assert group["interval"] == "1s"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_no_rule_uses_what_only_one_version_of_prometheus_reads_or_what_is_forbidden(profile: Profile) -> None:
    text = generate.files()[f"rules-{profile.name}.yml"]
    assert not re.search(r"\ble=|absent|info\(|limitk|double_exponential|holt_winters|@ ", text)


def test_both_profiles_have_the_same_alerts_and_severities() -> None:
    demo, production = ({(a.name, a.severity) for a in rules.alerts(profile)} for profile in PROFILES)
    assert demo == production


def test_a_rate_window_holds_four_scrapes_of_what_it_reads() -> None:
    """Arms, auditor, probe and supervisor are scraped every second, all others every five."""
    windows = [int(n) for alert in ALERTS for n in re.findall(r"increase\([^\[]*\[(\d+)s\]", alert.expr)]
    assert windows
    assert min(windows) >= 4


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_a_summary_has_the_numbers(alert: rules.Alert) -> None:
    assert "$value" in alert.summary or alert.name in ("PartDown", "PartRestarted", "Watchdog")


def test_alerts_and_runbooks_are_one_to_one() -> None:
    assert sorted(file.stem for file in RUNBOOKS.glob("*.md")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_what_it_means_how_to_confirm_what_to_do_and_how_to_make_it_happen(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n\n")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Confirm", "What to do", "Make it happen here"]
    confirm = text.split("## ")[1]
    assert "panel" in confirm or name in ("DeadLetterBacklog", "Watchdog")
    assert "`lab " in text
    assert "```sh\nlab up" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_names_only_panels_and_metrics_that_there_are(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    for query in re.findall(r"^- Query: `(.*)`", text, re.MULTILINE):
        assert faults_of(query, {record.name: {"arm"} for record in rules.records(DEMO)}) == []
    boards = "".join(text for name, text in generate.files().items() if name.startswith("lab-"))
    titles = set(re.findall(r'^   "title": "(.*)"', boards, re.MULTILINE))
    for line in (line for line in text.splitlines() if "panel" in line and line.startswith("- ")):
        for shown in re.findall(r"\*([A-Z][^*]+)\*", line):
            assert any(title.startswith(shown) for title in titles), f"{name}: no panel {shown!r}"
    assert set(re.findall(r"/runbooks/(\w+)", text)) <= set(NAMES)
    assert set(re.findall(r"`(delivery_\w+)`", text)) <= {metric.prometheus for metric in METRICS.values()}


def test_promtool_and_amtool_are_content_with_what_is_committed() -> None:
    for profile in PROFILES:
        run("promtool", "check", "rules", generate.GENERATED / f"rules-{profile.name}.yml")
    run("amtool", "check-config", generate.GENERATED / "alertmanager.yml")


def test_no_two_rules_make_the_same_alert() -> None:
    for profile in PROFILES:
        most = Counter((a.name, a.severity, a.window) for a in rules.alerts(profile)).most_common(1)
        assert most[0][1] == 1


def test_the_page_of_alerts_is_what_the_code_would_write() -> None:
    assert FILE.read_text() == page(), "out of date: run `make docs`"
