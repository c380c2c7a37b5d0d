"""Every log event on the real stack with its fields, tied to traces where there is one; the lines of one message."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.domain.arms import CONSUMER_ARMS
from services.telemetry.catalogue import EVENTS
from services.telemetry.logs import BURST, Log
from tests.conftest import Lab
from tests.telemetry.journeys import Journey, Traces, select
from tests.telemetry.undisturbed import in_time, said_of, whole

pytestmark = pytest.mark.timeout(900)
TESTS = Path(__file__).parent.parent
HERE = "telemetry/test_logs.py"
ONE = "test_the_life_of_an_offset_is_told_by_every_arm"

LAST_PARTITION = """
SELECT inhrelid::regclass::text FROM pg_inherits
 WHERE inhparent = 'effectively_once.inbox'::regclass AND inhrelid <> 'effectively_once.inbox_default'::regclass
 ORDER BY inhrelid::regclass::text DESC LIMIT 1
"""

# Each event, and the file and test that make it appear on real parts.
SHOWN_BY = {
    "process.started": (HERE, "test_every_process_says_that_it_began_and_that_it_ends"),
    "process.stopping": (HERE, "test_every_process_says_that_it_began_and_that_it_ends"),
    "part.started": (HERE, "test_the_supervisor_tells_of_its_parts"),
    "part.ready": (HERE, "test_the_supervisor_tells_of_its_parts"),
    "part.exited": (HERE, "test_the_supervisor_tells_of_its_parts"),
    "part.unready": ("integration/test_supervisor.py", "part.unready"),
    "part.not_started": ("integration/test_supervisor.py", "part.not_started"),
    "part.failed": ("integration/test_supervisor.py", "part.failed"),
    "part.killed": ("integration/test_supervisor.py", "part.killed"),
    "fault": (HERE, "test_the_supervisor_tells_of_its_parts"),
    "log.message": (HERE, "test_a_flood_is_bounded_and_said"),
    "log.dropped": (HERE, "test_a_flood_is_bounded_and_said"),
    "offset.received": (HERE, ONE),
    "offset.applied": (HERE, ONE),
    "offset.committed": (HERE, ONE),
    "offset.commit_failed": ("unit/test_commit_first.py", "offset.commit_failed"),
    "offset.revoked": (HERE, "test_partitions_that_are_taken_away_are_told_of"),
    "offset.rewound": (HERE, "test_a_transaction_that_is_given_up_rewinds"),
    "dedup.decision": (HERE, "test_a_dedup_decision_says_all_that_it_was_made_from"),
    "dedup.window": (HERE, "test_the_dedup_window_moves_on"),
    "dead_letter": (HERE, "test_a_message_that_is_refused_is_told_of_by_every_arm_in_its_way"),
    "effect.dropped": (HERE, "test_a_message_that_is_refused_is_told_of_by_every_arm_in_its_way"),
    "transaction.fenced": ("integration/test_more_arms.py", "transaction.fenced"),
    "transaction.aborted": (HERE, "test_a_transaction_that_is_given_up_rewinds"),
    "message.deferred": (HERE, "test_a_message_that_failed_is_told_of_with_its_attempt_and_tier"),
    "call.retried": (HERE, "test_an_outage_of_the_database_is_told_of"),
    "relay.shards": (HERE, "test_an_outage_of_the_database_is_told_of"),
    "relay.source_lost": (HERE, "test_an_outage_of_the_database_is_told_of"),
    "relay.rewound": ("integration/test_relay.py", "relay.rewound"),
    "slot.made": ("integration/test_publishers.py", "slot.made"),
    "slot.republished": ("integration/test_publishers.py", "slot.republished"),
    "slot.lag": ("integration/test_publishers.py", "slot.lag"),
    "relay.set_aside": ("integration/test_relay.py", "relay.set_aside"),
    "audit.failed": (HERE, "test_an_outage_of_the_database_is_told_of"),
    "email.uncertain": ("integration/test_arms.py", "email.uncertain"),
}


def test_every_event_of_the_catalogue_has_its_test() -> None:
    assert SHOWN_BY.keys() == EVENTS.keys()
    for event, (file, mark) in SHOWN_BY.items():
        text = (TESTS / file).read_text()
        assert f"def {mark}(" in text if mark.startswith("test_") else f'"{mark}"' in text, event


def now() -> str:
    """A mark: what is written from here on has a time that is not before it."""
    return datetime.now(UTC).isoformat()


def lines(lab: Lab, process: str, event: str, since: str = "", **fields: Any) -> list[dict[str, Any]]:
    """The lines of an event that a process wrote; `_` in a field's name stands for `.` where there is such a field."""
    found = []
    file = lab.home.log_file(process)
    for text in file.read_text().splitlines() if file.exists() else []:
        line = parsed(text)
        same = all(line.get(name, line.get(name.replace("_", "."))) == value for name, value in fields.items())
        if line.get("event") == event and line["time"] >= since and same:
            found.append(line)
    return found


def parsed(text: str) -> dict[str, Any]:
    """A line of a log; empty for what a server or library wrote in its own form."""
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def wait_for(lab: Lab, process: str, event: str, since: str = "", **fields: Any) -> dict[str, Any]:
    """The first line of an event that a process writes; asserts that it has the fields of the catalogue."""
    lab.until(lambda: lines(lab, process, event, since, **fields), f"{event} {fields} in the log of {process}")
    line = lines(lab, process, event, since, **fields)[0]
    assert set(EVENTS[event].fields) <= line.keys(), line
    assert {"time", "level", "event", "service.name", "life"} <= line.keys()
    return line


@pytest.fixture(scope="module")
def traces(lab: Lab) -> Traces:
    return Traces(lab)


_LIFE = ["offset.received", "offset.applied", "offset.committed"]
LIVES = {
    **{f"arm.{arm}#0": _LIFE for arm in ("at_least_once", "effectively_once", "kafka_transactions")},
    "arm.at_most_once#0": ["offset.committed", "offset.received", "offset.applied"],
    "arm.stock_faust#0": ["offset.received", "offset.applied"],  # its commits cannot be heard
}


@pytest.fixture(scope="module")
def journey(lab: Lab, traces: Traces) -> Journey:
    """An order that every arm applied and, where it does, committed, and of which all is told."""

    def complete(journey: Journey) -> bool:
        spans = traces.of(journey.trace_id)
        return (
            all(select(spans, "process orders.v1", f"arm.{arm}", delivery_outcome="applied") for arm in CONSUMER_ARMS)
            and all(select(spans, "commit orders.v1", f"arm.{arm}") for arm in CONSUMER_ARMS if arm != "stock_faust")
            and LIVES.items() <= lives(lab, journey).items()
        )

    return whole(lab, traces, lambda: traces.order(effects="record,charge"), complete)


def lives(lab: Lab, journey: Journey) -> dict[str, list[str]]:
    """By process, each event at its first time: a chunk that was delivered again is told of again."""
    found: dict[str, dict[str, None]] = {}
    for line in said_of(lab, journey):
        assert set(EVENTS[line["event"]].fields) <= line.keys(), line
        if line["event"] in _LIFE:
            found.setdefault(line["service.name"], {})[line["event"]] = None
    return {process: list(events) for process, events in found.items()}


def test_the_life_of_an_offset_is_told_by_every_arm(lab: Lab, journey: Journey) -> None:
    lab.until(lambda: LIVES.items() <= lives(lab, journey).items(), lambda: f"{LIVES}, there was {lives(lab, journey)}")


def test_the_lines_of_a_message_are_readable_and_without_colours_where_none_are_wanted(
    lab: Lab, journey: Journey
) -> None:
    text = lab.cli("logs", "--message", journey.message_id)
    assert "offset.applied arm=at_least_once topic=orders.v1" in text
    assert "\x1b[" not in text
    lab.cli("logs", exits=2)
    lab.cli("logs", "orders", "--message", journey.message_id, exits=2)


def test_a_dedup_decision_says_all_that_it_was_made_from(lab: Lab, traces: Traces, journey: Journey) -> None:
    accept = msg_of(lab, traces, journey)
    assert (accept["hop"], accept["decision"], accept["dedup.key"]) == ("accept", "duplicate", journey.key)
    lab.cli("fault", "inject", "duplicate", "--count", "1")
    wanted = {"hop": "process", "reason": "producer_duplicate", "decision": "duplicate"}  # others inject conflicts
    line = wait_for(lab, "arm.effectively_once#0", "dedup.decision", **wanted)
    assert line["arm"] == "effectively_once"
    assert line["dedup.key"] == line["message.id"] == line["original.message.id"]
    assert line["first_seen"] != line["at"]
    assert line["first_seen"].startswith(("orders.v1/", "refunds.v1/"))
    assert line["first_seen_time"] < line["time"]
    assert len(line["trace_id"]) == 32
    assert len(line["span_id"]) == 16


def msg_of(lab: Lab, traces: Traces, journey: Journey) -> dict[str, Any]:
    """What the producer says of a request that came again."""
    assert traces.send(journey, effects="record,charge")[0] == 201
    line = wait_for(lab, "orders", "dedup.decision", dedup_key=journey.key)
    assert line["original.message.id"] == journey.message_id
    assert line["trace_id"] == journey.trace_id
    return line


def test_a_message_that_failed_is_told_of_with_its_attempt_and_tier(lab: Lab, traces: Traces) -> None:
    def place() -> Journey:
        lab.arm("provider.before_applying", "error:http_500", "arm=at_least_once", "count=1")
        return traces.order(effects="record,charge")

    def told(journey: Journey) -> Any:
        return lines(lab, "arm.at_least_once#0", "message.deferred", message_id=journey.message_id)

    journey = in_time(lab, place, told)
    line = wait_for(lab, "arm.at_least_once#0", "message.deferred", message_id=journey.message_id)
    assert (line["attempts"], line["tier"], line["reason"]) == (1, "1s", "provider_error")
    assert line["trace_id"] == journey.trace_id
    process = traces.wait_for(journey.trace_id, "process orders.v1", "arm.at_least_once")
    assert process.id == line["span_id"]


def test_a_message_that_is_refused_is_told_of_by_every_arm_in_its_way(lab: Lab, traces: Traces) -> None:
    for arm, event in (("at_least_once", "dead_letter"), ("at_most_once", "effect.dropped")):

        def place(arm: str = arm) -> Journey:
            lab.arm("provider.before_applying", "error:http_400", f"arm={arm}")
            return traces.order(effects="record,charge")

        def told(journey: Journey, arm: str = arm, event: str = event) -> Any:
            return lines(lab, f"arm.{arm}#0", event, message_id=journey.message_id)

        journey = in_time(lab, place, told)
        line = wait_for(lab, f"arm.{arm}#0", event, message_id=journey.message_id)
        assert line["trace_id"] == journey.trace_id
        lab.cli("fault", "clear")


def test_a_transaction_that_is_given_up_rewinds(lab: Lab, traces: Traces) -> None:
    """Four times at most: one that the broker has fenced meanwhile is begun anew by another life."""
    arm = "arm.kafka_transactions#0"
    for _ in range(4):
        lab.arm("process.in_transaction_before_offsets", "error:database", "arm=kafka_transactions", "count=1")
        mark = now()
        traces.order(effects="record")
        aborted = wait_for(lab, arm, "transaction.aborted", mark)
        positions = aborted["positions"]
        lab.until(
            lambda mark=mark, positions=positions: (
                lines(lab, arm, "offset.rewound", mark, positions=positions)
                or lines(lab, arm, "transaction.fenced", mark)
            ),
            "offset.rewound",
        )
        if lines(lab, arm, "offset.rewound", mark, positions=positions):
            break
    wait_for(lab, arm, "offset.rewound", mark, positions=positions)


def test_partitions_that_are_taken_away_are_told_of(lab: Lab) -> None:
    lab.cli("scale", "arm.at_least_once", "2")
    try:
        line = wait_for(lab, "arm.at_least_once#0", "offset.revoked")
        assert all(name.startswith(("orders.v1/", "refunds.v1/")) for name in line["partitions"])
    finally:
        lab.cli("scale", "arm.at_least_once", "1")


def test_the_supervisor_tells_of_its_parts(lab: Lab) -> None:
    mark = now()
    lab.killed_and_back("refunds")
    wait_for(lab, "supervisor", "part.exited", mark, part="refunds", code=-9)
    wait_for(lab, "supervisor", "fault", mark)
    for event in ("part.started", "part.ready"):
        wait_for(lab, "supervisor", event, part="refunds")  # at the start
        wait_for(lab, "supervisor", event, mark, part="refunds")


def test_every_process_says_that_it_began_and_that_it_ends(lab: Lab) -> None:
    mark = now()
    lab.cli("restart", "refunds")
    ended = wait_for(lab, "refunds", "process.stopping", mark)
    began = wait_for(lab, "refunds", "process.started", life=ended["life"])
    assert began["time"] < ended["time"]


async def test_the_dedup_window_moves_on(lab: Lab) -> None:
    """At its start, and twice a minute, each life makes the partitions that are missing: here one of a day to come.

    Whichever of the two processes comes first.
    """
    processes = ("retry.effectively_once#0", "arm.effectively_once#0")

    def made() -> list[dict[str, Any]]:
        return [line for process in processes for line in lines(lab, process, "dedup.window") if line["made"] == 1]

    before = len(made())
    payments = await asyncpg.connect(f"{lab.home.postgres_url('postgres')}/payments")
    try:
        await payments.execute(f"DROP TABLE {await payments.fetchval(LAST_PARTITION)}")
    finally:
        await payments.close()
    lab.cli("restart", "retry.effectively_once#0")
    lab.until(lambda: len(made()) > before, "dedup.window")
    assert all(set(EVENTS["dedup.window"].fields) <= line.keys() for line in made())


def test_an_outage_of_the_database_is_told_of(lab: Lab, traces: Traces) -> None:
    """Held down until everybody has told of it; meanwhile the arms have a message that they cannot apply."""
    traces.order()  # a duplicate is made of it
    lab.drain()
    mark = now()
    lab.cli("kill", "postgres", "--hold")
    try:
        lab.cli("fault", "inject", "duplicate")
        wait_for(lab, "relay#0", "relay.source_lost", mark, source="orders")
        arms = ("arm.at_least_once#0", "arm.effectively_once#0")
        lab.until(lambda: any(lines(lab, arm, "call.retried", mark) for arm in arms), "call.retried")
        wait_for(lab, "auditor", "audit.failed", mark)
    finally:
        lab.cli("restart", "postgres")
    wait_for(lab, "relay#0", "relay.shards", mark, source="orders")
    lab.ready()
    line = next(line for arm in arms for line in lines(lab, arm, "call.retried", mark))
    assert set(EVENTS["call.retried"].fields) <= line.keys()


@pytest.fixture
def log(tmp_path: Path) -> tuple[Log, Path]:
    file = tmp_path / "a.log"
    return Log("a", "life", str(file)), file


def test_a_flood_is_bounded_and_said(log: tuple[Log, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flooded, file = log
    dropped: list[int] = []
    flooded.on_drop = dropped.append
    for number in range(3 * BURST):
        flooded.event("log.message", logger="a", message=str(number))
    flooded.event("process.stopping")
    written = [json.loads(line) for line in file.read_text().splitlines()]
    messages = [line for line in written if line["event"] == "log.message"]
    assert BURST <= len(messages) < 2 * BURST
    said = [line for line in written if line["event"] == "log.dropped"]
    assert all(set(EVENTS["log.dropped"].fields) <= line.keys() for line in said)
    assert sum(line["count"] for line in said) == sum(dropped) == 3 * BURST - len(messages)
    assert sum(line["events"]["log.message"] for line in said) == sum(dropped)
    assert written[-1]["event"] == "process.stopping"  # another event has a bound of its own
