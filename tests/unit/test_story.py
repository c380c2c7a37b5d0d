"""One message's story from files: its spans, its lines, the chunks that held it, the attempts that lost their span."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.domain.messages import Coordinates
from services.story.attempts import Attempt, places_of, without_spans
from services.story.files import Files
from services.story.ledgers import Row
from services.story.tree import grow

ID = "0190a1b2-0000-7000-8000-000000000001"
AT = Coordinates("orders.v1", 3, 41)
CHUNK = {"topic": "orders.v1", "partition": 3, "first_offset": 40, "last_offset": 45, "count": 6}
ARM = "arm.at_least_once#0"


def line(second: int, event: str, life: str = "one", name: str = ARM, **fields: Any) -> dict[str, Any]:
    time = f"2026-11-24T09:00:{second:02d}.000000+00:00"
    return {"time": time, "level": "info", "event": event, "service.name": name, "life": life, **fields}


def span(
    name: str, span_id: str, parent_id: str = "", life: str = "one", start_ns: int = 1, **tags: Any
) -> dict[str, Any]:
    attributes = {"messaging.message.id": ID, **tags}
    return {
        "trace_id": "t", "span_id": span_id, "parent_id": parent_id, "name": name, "start_ns": start_ns, "end_ns": 9,
        "resource": {"service.name": ARM, "service.instance.id": life}, "attributes": attributes, "links": [],
    }  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in ("logs", "spans"):
        (tmp_path / folder).mkdir()
    return tmp_path


def write(file: Path, *lines: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_lines_and_spans_are_found_over_all_files_whatever_else_lies_in_them(home: Path) -> None:
    write(
        home / "logs" / f"{ARM}.log", line(2, "dead_letter", **{"message.id": ID}), line(1, "offset.received", **CHUNK)
    )
    write(home / "logs" / "orders.log.1", line(0, "dedup.decision", **{"original.message.id": ID, "message.id": ""}))
    (home / "logs" / "kafka.log").write_text(f"a server's own words {ID}\n{{half a line of json {ID}\n")
    write(home / "spans" / "a.jsonl", span("b", "2", start_ns=5), span("a", "1"))
    (home / "spans" / "b.jsonl").write_text('{"cut')
    files = Files(home)
    assert [one["event"] for one in files.events_of(ID)] == ["dedup.decision", "dead_letter"]
    assert [one["name"] for one in files.spans_of(ID)] == ["a", "b"]
    assert [one["name"] for one in files.spans_named(["2"])] == ["b"]


def test_a_lab_without_files_has_no_story(home: Path) -> None:
    files = Files(home)
    assert files.events_of(ID) == files.spans_of(ID) == files.chunks_over([AT]) == []


def test_the_chunks_that_held_a_record_and_the_first_commit_behind_it(home: Path) -> None:
    write(
        home / "logs" / f"{ARM}.log",
        line(0, "offset.committed", positions={"orders.v1/3": 40}),
        line(1, "offset.received", **CHUNK),
        line(2, "offset.received", **{**CHUNK, "first_offset": 46, "last_offset": 50}),
        line(3, "offset.received", **{**CHUNK, "partition": 4}),
        line(4, "offset.applied", **CHUNK),
        line(5, "offset.committed", positions={"orders.v1/3": 41}),
        line(6, "offset.committed", positions={"orders.v1/3": 46, "orders.v1/1": 5}),
        line(7, "offset.committed", positions={"orders.v1/3": 51}),
    )
    found = Files(home).chunks_over([AT])
    assert [(one["event"], one["time"][17:19]) for one in found] == [
        ("offset.received", "01"), ("offset.applied", "04"), ("offset.committed", "06"),
    ]  # fmt: skip
    assert {one["covers"] for one in found} == {"orders.v1/3/41"}


def test_of_an_arm_that_commits_first_the_commit_before_is_the_one(home: Path) -> None:
    write(
        home / "logs" / f"{ARM}.log",
        line(1, "offset.committed", positions={"orders.v1/3": 46}),
        line(2, "offset.received", **CHUNK),
    )
    assert [one["event"] for one in Files(home).chunks_over([AT])] == ["offset.received", "offset.committed"]


def test_a_transaction_that_was_given_up_before_is_not_taken_for_the_commit_of_what_came_later(home: Path) -> None:
    write(
        home / "logs" / f"{ARM}.log",
        line(0, "transaction.aborted", positions={"orders.v1/3": 12}),
        line(1, "offset.rewound", positions={"orders.v1/3": 12}),
        line(2, "offset.received", **CHUNK),
        line(3, "transaction.aborted", positions={"orders.v1/3": 41}),
        line(4, "offset.received", **CHUNK),
        line(5, "offset.applied", **CHUNK),
        line(6, "offset.committed", positions={"orders.v1/3": 46}),
    )
    assert [one["time"][17:19] for one in Files(home).chunks_over([AT])] == ["02", "03", "04", "05", "06"]


def fates(lines: list[dict[str, Any]], rows: list[Row], spans: list[dict[str, Any]]) -> list[Attempt]:
    chunks = [{**one, "covers": str(AT)} for one in lines if one["event"].startswith("offset.")]
    lives = [one for one in lines if one["event"].startswith("process.")]
    return without_spans(spans, chunks, lives, rows)


def test_a_life_that_ended_with_the_record_in_hand_lost_its_span() -> None:
    lines = [
        line(0, "process.started", "one"),
        line(1, "offset.received", "one", **CHUNK),
        line(5, "process.started", "two"),
        line(6, "offset.received", "two", **CHUNK),
        line(7, "offset.applied", "two", **CHUNK),
    ]
    charge = Row("at_least_once", "charge", AT, "one", 1.5)
    (attempt,) = fates(lines, [charge], [span("process orders.v1", "1", life="two")])
    assert (attempt.fate, attempt.process, attempt.life, attempt.effects) == ("killed", ARM, "one", ["charge"])
    assert attempt.at == "orders.v1/3/41"


def test_what_was_handled_without_a_span_was_not_sampled_and_what_is_at_work_is_in_hand() -> None:
    lines = [
        line(0, "process.started", "one"),
        line(1, "offset.received", "one", **CHUNK),
        line(2, "offset.applied", "one", **CHUNK),
        line(3, "process.started", "other", "arm.effectively_once#0"),
        line(4, "offset.received", "other", "arm.effectively_once#0", **CHUNK),
    ]
    assert [one.fate for one in fates(lines, [], [])] == ["not_sampled", "in_hand"]


def test_a_sampled_message_that_was_applied_by_a_life_that_ended_lost_its_span_with_it() -> None:
    lines = [
        line(1, "offset.received", "one", **CHUNK),
        line(2, "offset.applied", "one", **CHUNK),
        line(3, "process.started", "one"),
        line(4, "process.started", "two"),
    ]
    (attempt,) = fates(lines, [], [span("INSERT intents", "1", life="orders")])
    assert attempt.fate == "killed"


def test_an_effect_of_a_life_that_no_log_names_is_unknown() -> None:
    row = Row("at_least_once", "record", AT, "gone", 1.0)
    (attempt,) = fates([], [row], [])
    assert (attempt.fate, attempt.process) == ("unknown", "at_least_once")


def test_places_come_from_spans_lines_and_ledgers_once_each() -> None:
    here = {"messaging.destination.name": "orders.v1", "messaging.destination.partition.id": "3"}
    spans = [span("process orders.v1", "1", **here, **{"messaging.kafka.offset": 41, "delivery.origin": str(AT)})]
    row = Row("at_least_once", "record", Coordinates("a.b/c", 0, 1), "one", 1.0)
    assert places_of(spans, [{"at": str(AT)}], [row]) == [Coordinates("a.b/c", 0, 1), AT]


def test_a_tree_has_a_root_for_each_missing_parent_and_nothing_twice() -> None:
    spans = [
        span("c", "3", "2", start_ns=3),
        span("b", "2", "1", start_ns=2),
        span("d", "4", "missing"),
        span("c", "3", "2"),
    ]
    roots = grow([*spans, span("a", "1", "0")])
    assert sorted(root.span["name"] for root in roots) == ["a", "d"]
    names = [one["name"] for root in roots for one in root.walk()]
    assert sorted(names) == ["a", "b", "c", "d"]
