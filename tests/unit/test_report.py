"""The report says the verdict first, needs no network, escapes what it is given; lessons are plain words."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.alerts import differences, from_series
from loadtest.exercised import Counted, chances
from loadtest.kept import KeptFault, Played, Row, keep, kept, read_kept
from loadtest.lessons import lessons
from loadtest.live import ArmNow, lost_now, words
from loadtest.nemesis import Note
from loadtest.own import with_arm
from loadtest.report import html, markdown
from loadtest.scenario import Freeze, Kill, read
from loadtest.timeline import Chart, Timeline, draw, latencies
from loadtest.totals import Snapshot
from services.domain.audit import AuditDocument, Evidence
from services.stack.errors import StackError
from services.stack.nemesis import Fault
from services.stack.own import read_manifest

BEGAN = 1_800_000_000.0
EXAMPLES = Path(__file__).parents[2] / "examples" / "consumers"


def row(arm: str, verdict: str | None = "PASS", hop: str = "process", effect: str = "charge", **counts: Any) -> Row:
    promise = ("no_loss",) if verdict else ()
    return Row(hop=hop, arm=arm, effect=effect, promise=promise, verdict=verdict, exercised="kills: 2", **counts)  # type: ignore[arg-type]


def played(*rows: Row, **fields: Any) -> Played:
    evidence = [
        Evidence(
            hop="process",
            arm="at_most_once",
            effect="charge",
            state="lost",
            message_id="m-<1>",
            at=["orders.v1/0/7"],
            applications=0,
            reason="killed & gone",
        )
    ]
    document = AuditDocument(
        at=datetime.now(UTC),
        closes=True,
        rows=[],
        dead_letter_causes={},
        evidence=evidence,
        evidence_left_out={"process/at_most_once/charge/lost": 3},
        run="r-1",
        out_of_scope=0,
        undecodable=0,
        ledger_lines_skipped=0,
        truncated=[],
        took_s=0.1,
    )
    given = {
        "scenario": "crash-storm",
        "teaches": "Something <useful>.",
        "run": "r-1",
        "seed": 7,
        "verdict": "PASS",
        "closes": True,
        "expected_verdict": "PASS",
        "began": BEGAN,
        "load_ended": BEGAN + 10,
        "ended": BEGAN + 20,
        "interrupted": False,
        "drained": True,
        "still_waiting": [],
        "reasons": [],
        "controls": {"at_most_once lost": 4},
        "rows": list(rows),
        "faults": [
            KeptFault(
                name="process.after_read",
                target="arm.at_least_once#0",
                started=BEGAN + 2,
                ended=BEGAN + 5,
                fault="kill",
                by="failpoint",
            ),
            KeptFault(
                name="arm",
                target="process.after_read",
                started=BEGAN + 2,
                ended=BEGAN + 2,
                fault="arm",
                by="scenario",
                details={"action": "kill count=1"},
            ),
        ],
        "alerts": [],
        "report": "/x/report.html",
        "seen": {"kills": 1},
        "trials": {},
        "settings": {},
        "versions": {"kafka": "4"},
        "load": Snapshot(
            run="r-1", seed=7, rate=10, duration_s=10, planned=100, sent=100, acknowledged=100, carried_out=True
        ),
        "audit": document,
    }
    return Played(**{**given, **fields})


def pictures() -> Timeline:
    accepted = {f"m{n}": BEGAN + n / 10 for n in range(100)}
    applied = {"at_least_once": [*((id_, at + 0.5) for id_, at in accepted.items()), ("m3", BEGAN + 6)],
               "at_most_once": [(id_, at + 0.1) for id_, at in accepted.items() if id_ != "m5"]}  # fmt: skip
    charts = draw(BEGAN, BEGAN + 20, list(accepted.items()), accepted, applied, {"at_least_once": []})
    return Timeline(BEGAN, 1.0, charts, [latencies("call to answer", [0.01, 0.02])])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "polyline"):
            assert self.open.pop() == tag


def test_the_report_is_well_formed_needs_no_network_and_escapes() -> None:
    page = html(played(row("at_least_once"), row("at_most_once", None, lost=4)), pictures())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not [name for name, _ in tags.attributes if name in ("src", "href")]
    assert not re.search(r"https?://|@import|url\(", page)
    assert "m-&lt;1&gt;" in page
    assert "killed &amp; gone" in page
    assert "Something &lt;useful&gt;." in page
    assert page.index("PASS") < page.index("What was found")
    assert "3 more" in page


def test_every_fault_is_drawn_into_every_picture_and_what_only_armed_a_kill_is_not() -> None:
    page = html(played(row("at_least_once")), pictures())
    drawn = page.count('class="chart"')
    assert drawn == 4, "requests, behind, again, never; no retries: nothing to draw"
    assert page.count('class="window"') == drawn
    assert "Nothing to draw: retries." in page


def test_a_run_without_pictures_says_why() -> None:
    assert "the lab is down" in html(played(row("at_least_once")), Timeline(BEGAN, 1.0, [], [], "the lab is down"))


def test_markdown_says_the_same() -> None:
    text = markdown(played(row("at_least_once"), row("at_most_once", None, lost=4)), pictures())
    assert text.startswith("## PASS: crash-storm, seed 7")
    assert "| process | at_most_once | charge | 0 | 0 | 0 | 4 |" in text
    assert "`lab run crash-storm --seed 7`" in text


def test_the_pictures_come_from_the_events() -> None:
    charts = {chart.title: chart for chart in pictures().charts}

    def last(chart: Chart) -> dict[str, float]:
        return {series.name: series.values[-1] for series in chart.series}

    assert last(charts["Applied again, so far"]) == {"at_least_once": 1, "at_most_once": 0}
    assert last(charts["Never applied, by when it was accepted, so far"]) == {"at_least_once": 0, "at_most_once": 1}
    assert last(charts["Accepted and not yet applied"]) == {"at_least_once": 0, "at_most_once": 1}
    assert sum(charts["Requests sent"].series[0].values) == 100


def test_lessons_say_expected_damage_broken_promises_and_what_held_apart() -> None:
    found = lessons(
        played(
            row("at_most_once", None, lost=14),
            row("at_least_once", duplicated=2),
            row("effectively_once", "FAIL", lost=1),
            row("stock_faust", None, lost=1, effect="email"),
        )
    )
    assert [lesson.arm for lesson in found] == [
        "effectively_once", "at_most_once", "at_least_once", "stock_faust", "at_least_once",
    ]  # fmt: skip
    assert [(lesson.kind, lesson.text) for lesson in found] == [
        ("broken", "effectively_once LOST 1 charge: that breaks what it promises"),
        ("expected", "at_most_once LOST 14 charges, as expected: it commits first"),
        ("expected", "at_least_once DOUBLED 2 charges, as expected: it applies first, and does not remember"),
        ("expected", "stock_faust LOST 1 email, as expected: it commits what nobody has acknowledged"),
        ("kept", "at_least_once lost nothing, as promised (kills: 2)"),
    ]


def test_messages_that_still_wait_are_stuck() -> None:
    (lesson,) = lessons(played(row("at_least_once", "FAIL", waiting=3)))
    assert lesson.text == "at_least_once is STUCK: 3 charges still wait"


def test_runs_are_kept_and_listed_in_their_order(tmp_path: Path) -> None:
    second = played(row("at_least_once"), run="r-2", began=BEGAN + 100)
    for one in (second, played(row("at_least_once"))):
        keep(tmp_path, one)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "verdict.json").write_text("{")
    assert [one.run for one in kept(tmp_path)] == ["r-1", "r-2"]
    assert read_kept(tmp_path, "r-2") == second
    assert read_kept(tmp_path, "r-3") is None


def fault(what: str, target: str, by: str = "scenario", **details: Any) -> Fault:
    return Fault("id", what, target, BEGAN, by, 1, details, BEGAN + 1)  # type: ignore[arg-type]


def test_chances_count_what_was_done_to_whom() -> None:
    faults = [
        fault("kill", "arm.at_least_once#0", "failpoint", failpoint="process.after_read"),
        fault("kill", "arm.mine#0"),
        fault("freeze", "arm.at_most_once#0"),
        fault("kill", "relay#0"),
        fault("kill", "kafka"),
        fault("arm", "provider.after_applying_before_answer", action="error:http_500 count=3", acted=3),
        fault("data", "orders.v1", kind="duplicate", count=5),
        fault("data", "orders.v1", kind="poison", count=2),
    ]
    notes = [Note("mine", "arm.mine#0", BEGAN, {}, 4), Note("at_most_once", "arm.at_most_once#0", BEGAN, {}, 0)]
    counted = Counted({"mine": 2}, {"effectively_once": 6}, {"at_least_once": 1}, 9)
    found = chances(faults, notes, counted, played().load)
    assert found.kills == {"arm.at_least_once": 1}
    assert found.struck == {"arm.mine": 1, "relay": 1, "kafka": 1}, "a blow at an idle consumer tries nothing"
    assert found.due_again == {"mine": 2}
    assert found.trials["no_loss"] == {
        "kills of kafka under load": 1,
        "calls that the provider answered with error:http_500": 3,
        "injected records of the kind poison": 2,
    }
    assert found.trials["no_duplicate"] == {
        "calls that the provider applied and did not answer": 3,
        "injected records of the kind duplicate": 5,
    }
    assert found.seen["kills"] == 4
    assert found.seen["injected"] == 7
    assert found.seen["retries"] == 9


def test_the_live_line_names_only_what_there_is_to_say() -> None:
    now = [ArmNow("at_most_once", 0, 0, 3), ArmNow("at_least_once", 12, 4)]
    assert words(now) == "behind: at_least_once 12 · doubled: at_least_once 4 · lost: at_most_once 3"
    assert words([]) == ""


def test_a_consumer_of_ones_own_is_struck_as_often_as_its_model() -> None:
    manifest = read_manifest(EXAMPLES / "good.toml")
    storm = with_arm(read("crash-storm"), manifest)
    kills = [
        one for one in storm.fault_plan(1) if isinstance(one.step, Kill) and one.step.processes == ("arm.good_java",)
    ]
    assert len(kills) == 3
    zombie = with_arm(read("zombie"), manifest)
    assert any(
        isinstance(one.step, Freeze) and one.step.processes == ("arm.good_java",) for one in zombie.fault_plan(1)
    )
    assert zombie.promises is not None
    assert zombie.promises["good_java"] == ("no_loss", "no_duplicate")


@pytest.mark.parametrize("name", [file.name for file in EXAMPLES.glob("*.toml")])
def test_every_example_has_a_manifest_that_can_be_read(name: str) -> None:
    assert set(read_manifest(EXAMPLES / name).arm.promises) == {"charge"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name = "mine"', "command"),
        ('name = "mine"\ncommand = ["true"]\ncolour = 1', "colour"),
        ('name = "Mine!"\ncommand = ["true"]', "name"),
        ('name = "at_least_once"\ncommand = ["true"]', "taken"),
        ('name = "mine"\ncommand = ["{jvm}"]', "{jvm}"),
        ('name = "mine"\ncommand = ["true"]\npromises = ["speed"]', "promises"),
        ('name = "mine"\ncommand = ["true"]\noffsets = "file"', "offsets"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(StackError) as refused:
        read_manifest(tmp_path / "mine.toml")
    assert named in str(refused.value)


def test_the_report_of_a_run_survives_a_round_through_its_file() -> None:
    one = played(row("at_least_once"))
    assert msgspec.json.decode(msgspec.json.encode(one), type=Played) == one


def test_alerts_are_told_with_the_fault_before_them_and_what_is_missing() -> None:
    series = [
        {"metric": {"alertname": "EventsLost", "arm": "at_most_once"}, "values": [[BEGAN + 4, "1"], [BEGAN + 5, "1"]]},
        {"metric": {"alertname": "Watchdog"}, "values": [[BEGAN - 1, "1"]]},
        {"metric": {"alertname": "PartDown"}, "values": [[BEGAN - 1, "1"]]},
    ]
    lost, watchdog = from_series(series, [fault("kill", "arm.at_most_once#0")], BEGAN)
    assert (lost.name, lost.fault, lost.delay_s) == ("EventsLost", "kill arm.at_most_once#0", 4.0)
    assert (watchdog.fault, watchdog.delay_s) == (None, None)
    assert differences([lost, watchdog], ["Watchdog"], ["EventsLost"], ["effectively_once"]) == [], "another arm's"
    assert differences([lost], ["EventsLost", "PartDown"], ["EventsLost"], ["at_most_once"]) == [
        "PartDown did not fire",
        "EventsLost fired",
    ]


def test_lost_so_far_are_messages_by_the_auditors_last_pass() -> None:
    text = """
# TYPE delivery_audit_messages gauge
delivery_audit_messages{arm="at_most_once",effect="record",hop="process",state="lost"} 5.0
delivery_audit_messages{arm="at_most_once",effect="charge",hop="process",state="lost"} 7.0
delivery_audit_messages{arm="at_most_once",effect="charge",hop="process",state="waiting"} 40.0
delivery_audit_messages{arm="cdc",effect="publication",hop="publish",state="lost"} 9.0
"""
    assert lost_now(text) == {"at_most_once": 7}
