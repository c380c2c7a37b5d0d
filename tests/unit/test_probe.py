"""The probe's decisions: lag from offsets, what is read together, what a scrape sees when a store is away."""

from pathlib import Path

import pytest

from dashboards.profiles import PROFILES
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.probe import board as boards
from services.probe.board import Board, BrokerSaid, PostgresSaid
from services.probe.databases import Pending, outboxes_of, slot_lag
from services.probe.lag import Lag, Topics, lags, rounds
from services.stack.postgres import command
from services.telemetry.metrics import Metrics

ORDERS = "orders.v1"
THERE = Topics(
    firsts={(ORDERS, 0): 5, (ORDERS, 1): 0, ("other", 0): 0}, ends={(ORDERS, 0): 20, (ORDERS, 1): 7, ("other", 0): 9}
)


def test_a_group_is_behind_by_what_it_has_not_committed() -> None:
    assert list(lags(THERE, [ORDERS], {(ORDERS, 0): 12, (ORDERS, 1): 7})) == [
        Lag(ORDERS, 0, 12, 8),
        Lag(ORDERS, 1, 7, 0),
    ]


def test_a_group_without_a_commit_counts_from_the_logs_start() -> None:
    assert [lag.messages for lag in lags(THERE, [ORDERS], {})] == [15, 7]


def test_an_offset_committed_after_the_ends_were_read_is_no_lag() -> None:
    assert [lag.messages for lag in lags(THERE, [ORDERS], {(ORDERS, 0): 25, (ORDERS, 1): 7})] == [0, 0]


def test_a_topics_end_is_the_sum_over_its_partitions() -> None:
    assert THERE.end_of(ORDERS) == 27


def test_a_reader_is_at_one_place_of_a_partition_at_a_time() -> None:
    places = [(ORDERS, 0, 5), (ORDERS, 1, 3), (ORDERS, 0, 9), (ORDERS, 0, 5)]
    assert rounds(places) == [{(ORDERS, 0): 5, (ORDERS, 1): 3}, {(ORDERS, 0): 9}]


def test_redriven_letters_wait_in_an_outbox_of_their_own() -> None:
    publishers = [PUBLISHER_ARMS["outbox"], PUBLISHER_ARMS["dual_write_after_commit"], PUBLISHER_ARMS["cdc"]]
    assert outboxes_of(publishers, list(CONSUMER_ARMS.values())) == [
        ("outbox", "orders", "until_confirmed"),
        ("outbox", "refunds", "until_confirmed"),
        ("cdc", "orders_cdc", "snapshot"),
        ("outbox", "payments", "until_confirmed"),
    ]


def test_a_slot_that_is_lost_never_looks_better_than_one_that_holds_too_much() -> None:
    assert slot_lag(5, 1000, invalidated=False) == 5
    assert slot_lag(0, 1000, invalidated=True) == 1000  # what Postgres says of an invalidated one
    assert slot_lag(None, 1000, invalidated=None) == 1000
    assert all(profile.slot_bytes < 1 << 30 for profile in PROFILES), "the servers' bound raises every profile's alarm"
    assert "max_slot_wal_keep_size=1GB" in command(Path(), "", 0)


class Watching:
    """A board, and what a scrape sees of it."""

    def __init__(self) -> None:
        self.metrics = Metrics("probe", "a-life")
        self.board = Board(self.metrics)

    def seen(self, name: str) -> list[str]:
        lines = self.metrics.exposition().decode().splitlines()
        return [line for line in lines if line.startswith(name)]


def broker_said() -> BrokerSaid:
    behind = [Lag(ORDERS, 0, 12, 8), Lag(ORDERS, 1, 7, 0), Lag(ORDERS, 2, 1, 1)]
    return BrokerSaid(
        {("main", "outbox", ORDERS): 27},
        {("at_least_once", ORDERS): 19},
        {"at_least_once": behind},
        {(ORDERS, 0, 12): 0.0},
    )


def test_lag_in_seconds_is_absent_where_the_records_time_is_not_known_and_0_at_the_end() -> None:
    watching = Watching()
    watching.board.broker_said(broker_said())
    zero, one = sorted(watching.seen("delivery_group_lag_seconds"), key=lambda line: 'partition="0"' in line)
    assert 'partition="1"' in zero
    assert zero.endswith(" 0.0")
    assert float(one.rpartition(" ")[2]) > 1e9  # since 1970


def test_while_the_broker_is_away_its_gauges_are_absent_and_those_of_postgres_are_not() -> None:
    watching = Watching()
    watching.board.broker_said(broker_said())
    watching.board.postgres_said(PostgresSaid({("outbox", "orders"): Pending(3, 1.5)}, {}, {}), whole=True)
    assert watching.seen("delivery_topic_end_offsets_total")
    watching.board.broker_said(None)
    for name in ("delivery_topic_end_offsets_total", "delivery_group_lag", "delivery_group_committed"):
        assert not watching.seen(name)
    assert watching.seen("delivery_outbox_pending{") == ['delivery_outbox_pending{arm="outbox",source="orders"} 3.0']
    assert len(watching.seen("delivery_probe_last_success_timestamp_seconds{")) == 2


def test_of_parked_letters_a_scrape_sees_how_many_there_are_and_how_old_the_oldest_is() -> None:
    watching = Watching()
    letters = {"at_least_once": Pending(2, 61.5), "effectively_once": Pending(0, 0.0)}
    watching.board.postgres_said(PostgresSaid({}, letters, {}), whole=True)
    for name, figures in (("depth", (2.0, 0.0)), ("oldest_age_seconds", (61.5, 0.0))):
        assert watching.seen(f"delivery_dead_letters_{name}{{") == [
            f'delivery_dead_letters_{name}{{arm="{arm}"}} {figure}'
            for arm, figure in zip(letters, figures, strict=True)
        ]


def test_an_age_is_never_negative_though_the_clock_was_set_back() -> None:
    assert Pending.of({"rows": 1, "oldest_s": -0.5}) == Pending(1, 0.0)


def test_a_look_that_does_not_come_back_leaves_no_old_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching()
    watching.board.broker_said(broker_said())
    monkeypatch.setattr(boards, "STALE_S", 0.0)
    assert not watching.seen("delivery_group_lag")


def test_the_probe_is_ready_once_both_stores_have_answered() -> None:
    board = Watching().board
    assert board.waits_for == "kafka"
    board.broker_said(broker_said())
    assert board.waits_for == "postgres"
    board.postgres_said(PostgresSaid({}, {}, {}), whole=True)
    assert not board.waits_for
