"""Windows of a replay: what they say, and what is refused before anything is copied."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.main import application
from services.replay import plan as plans
from services.replay.plan import check_id, oldest
from services.replay.window import (
    Kept,
    Span,
    WindowError,
    check_age,
    check_reach,
    check_spans,
    check_times,
    parse_spans,
    parse_time,
    spans_between,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEPT = {0: Kept(10, 20), 1: Kept(0, 0)}


def test_a_window_of_offsets_names_partitions_and_includes_both_ends() -> None:
    assert parse_spans("2:5-5, 0:100-199") == (Span(0, 100, 199), Span(2, 5, 5))
    assert Span(0, 100, 199).count == 100


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "FIRST-LAST"),
        ("0", "'0'"),
        ("0:5", "'0:5'"),
        ("0:5-", "0:5-"),
        ("-1:0-5", "-1:0-5"),
        ("0:0-5,", "''"),
        ("0:6-5", "reversed"),
        ("0:0-5,0:7-8", "partition 0 is named twice"),
    ],
)
def test_what_is_no_window_of_offsets_is_named(text: str, named: str) -> None:
    with pytest.raises(WindowError, match=named):
        parse_spans(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", NOW),
        ("10m", NOW - timedelta(minutes=10)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("2d", NOW - timedelta(days=2)),
        ("2026-11-23T11:00:00", NOW - timedelta(hours=1)),
        ("2026-11-23T12:00:00+01:00", NOW - timedelta(hours=1)),
        ("2026-11-23T11:00:00Z", NOW - timedelta(hours=1)),
    ],
)
def test_times_are_ago_or_iso_and_utc_unless_they_say_otherwise(text: str, time: datetime) -> None:
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize("text", ["", "yesterday", "10", "-10m", "2026-13-01"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(WindowError, match="is no time"):
        parse_time(text, NOW)


def test_a_window_of_time_that_is_reversed_or_empty_is_refused() -> None:
    with pytest.raises(WindowError, match="reversed"):
        check_times(NOW, NOW - timedelta(seconds=1))
    with pytest.raises(WindowError, match="empty"):
        check_times(NOW, NOW)


@pytest.mark.parametrize(
    ("span", "named"),
    [
        (Span(2, 0, 0), "no partition 2"),
        (Span(0, 9, 12), "t/0/9 is beyond retention"),
        (Span(0, 10, 20), "t/0 does not reach 20: it holds 10 to 19"),
        (Span(1, 0, 0), "t/1 does not reach 0: empty"),
    ],
)
def test_offsets_that_are_gone_or_not_yet_there_are_refused(span: Span, named: str) -> None:
    check_spans("t", [Span(0, 10, 19)], KEPT)
    with pytest.raises(WindowError, match=named):
        check_spans("t", [span], KEPT)


def test_a_time_before_what_is_kept_is_refused_where_something_is_gone() -> None:
    check_reach("t", NOW, {0: NOW})
    check_reach("t", NOW - timedelta(days=9), {})
    with pytest.raises(WindowError, match="beyond retention"):
        check_reach("t", NOW - timedelta(seconds=1), {0: NOW})


def test_a_partition_of_which_nothing_is_left_is_cut_and_no_window_of_time_passes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(_: str, __: str, partitions: Iterable[int], ___: datetime) -> dict[int, tuple[int, int]]:
        return {
            partition: found for partition, found in {0: (-1, -1), 1: (3, 60_000)}.items() if partition in partitions
        }

    monkeypatch.setattr(plans, "_at", at)
    found = oldest("", "t", {0: Kept(5, 5), 1: Kept(3, 9), 2: Kept(0, 4), 3: Kept(0, 0)})
    assert found == {0: None, 1: datetime.fromtimestamp(60, UTC)}
    check_reach("t", NOW, {1: found[1]})
    with pytest.raises(WindowError, match=r"of t/0 every record is gone.*--offsets"):
        check_reach("t", NOW, found)


def test_a_window_of_time_becomes_spans_and_partitions_without_records_are_left_out() -> None:
    kept = {0: Kept(0, 20), 1: Kept(0, 20), 2: Kept(0, 20), 3: Kept(0, 20)}
    starts = {0: 5, 1: 5, 2: None, 3: 5}
    stops = {0: 8, 1: None, 2: None, 3: 5}
    assert spans_between(starts, stops, kept) == (Span(0, 5, 7), Span(1, 5, 19))


def test_what_an_arm_may_have_forgotten_needs_force() -> None:
    check_age("t", [Span(0, 5, 9)], {0: 5}, 600)
    for young in ({0: 6}, {0: None}):
        with pytest.raises(WindowError, match=r"t/0/5 is older than the dedup window, 0:10:00.*--force"):
            check_age("t", [Span(0, 5, 9)], young, 600)


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "a/b"])
def test_an_id_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(WindowError, match="does not match"):
        check_id(text)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "say --arm"),
        ("--arm nobody", "'nobody'"),
        ("--arm effectively_once", "say --topic"),
        ("--arm effectively_once --topic no.such", "'no.such'"),
        ("--arm effectively_once --topic orders.v1", "which window"),
        ("--arm effectively_once --topic orders.v1 --from 10m", "which window"),
        ("--arm effectively_once --topic orders.v1 --from 5m --to 10m", "reversed"),
        ("--arm effectively_once --topic orders.v1 --from 5m --to 5m", "empty"),
        ("--arm effectively_once --topic orders.v1 --offsets 0:9-5", "reversed"),
        ("--arm effectively_once --topic orders.v1 --offsets 0:1-5 --from 5m", "not both"),
        ("--id 'no good'", "no good"),
    ],
)
def test_what_is_wrong_is_named_with_exit_code_2(
    words: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    done = CliRunner().invoke(application(), f"replay {words}")
    assert done.exit_code == 2
    assert named in done.output.replace("\n", " ")
