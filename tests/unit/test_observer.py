"""What a process of an arm says of what it is handed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from services.broker.delivery import make_app, tell_rebalances
from services.broker.transactor import Fetched, Transactor
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import Coordinates, time_of
from services.payments.lane import Lane, _Listener
from services.payments.observer import Observer
from services.payments.stock_faust import stock_app
from services.settings import Settings
from services.telemetry.metrics import Metrics

TOPIC = "orders.v1"


class Watched:
    """An observer of an arm, and what a scrape sees of it."""

    def __init__(self, arm: str = "at_least_once") -> None:
        self.metrics = Metrics(f"arm.{arm}#0", "a-life")
        self.observer = Observer(self.metrics, CONSUMER_ARMS[arm])

    def value(self, name: str, *labels: str) -> float:
        """The one sample of a name with these labels; absent is an error."""
        lines = self.metrics.exposition().decode().splitlines()
        found = [line for line in lines if line.startswith(name) and all(label in line for label in labels)]
        assert len(found) == 1, found
        return float(found[0].rpartition(" ")[2])

    def handle(self, *offsets: int, partition: int = 0) -> None:
        with self.observer.in_hand(records(*offsets, partition=partition)) as in_hand:
            in_hand.done()


def records(*offsets: int, partition: int = 0) -> list[Fetched]:
    made = ("ce_time", datetime.now(UTC).isoformat().encode())
    return [Fetched(TOPIC, partition, offset, 1_000, b"k", b"v", [made]) for offset in offsets]


def test_an_offset_that_this_life_was_handed_before_is_a_redelivery() -> None:
    watched = Watched()
    watched.handle(0, 1, 2)
    watched.handle(0, 1, 2, partition=1)
    assert watched.value("delivery_redeliveries_total") == 0
    watched.handle(1, 2, 3)
    assert watched.value("delivery_redeliveries_total") == 2


def test_a_batch_of_several_partitions_is_looked_at_by_partition() -> None:
    watched = Watched("kafka_transactions")
    mixed = [*records(0, 1), *records(5, partition=1), *records(2)]
    for _ in range(2):
        with watched.observer.in_hand(mixed) as in_hand:
            in_hand.done()
    assert watched.value("delivery_redeliveries_total") == len(mixed)
    watched.observer.watch_lag(lambda: {(TOPIC, 0): 10, (TOPIC, 1): 10})
    assert watched.value("delivery_consumer_lag_messages", 'partition="0"') == 7
    assert watched.value("delivery_consumer_lag_messages", 'partition="1"') == 4


def test_an_arm_with_an_inbox_counts_what_the_inbox_says() -> None:
    watched = Watched("effectively_once")
    watched.handle(0)
    watched.handle(0)
    assert watched.value("delivery_redeliveries_total") == 0
    watched.observer.redelivered(3)
    assert watched.value("delivery_redeliveries_total") == 3


def test_a_chunk_is_one_sample_and_each_special_message_one_more() -> None:
    watched, chunk = Watched(), records(*range(100))
    with watched.observer.in_hand(chunk) as in_hand:
        in_hand.done(special=[chunk[7], chunk[0]])  # the oldest is there anyway
    assert watched.value("delivery_end_to_end_seconds_count") == 2
    assert watched.value("messaging_process_duration_seconds_count") == 1


def test_what_is_not_finished_is_no_sample() -> None:
    watched = Watched()
    with pytest.raises(RuntimeError), watched.observer.in_hand(records(0)):
        raise RuntimeError
    assert "messaging_process_duration" not in watched.metrics.exposition().decode()


def test_everything_is_counted_up_to_the_beginning_of_the_oldest_work_in_hand() -> None:
    watched = Watched()
    with watched.observer.causing():
        began = watched.value("delivery_counted_until_timestamp_seconds")
        with watched.observer.causing():
            assert watched.value("delivery_counted_until_timestamp_seconds") == began
        assert watched.value("delivery_counted_until_timestamp_seconds") == began
    assert watched.value("delivery_counted_until_timestamp_seconds") > began


def test_work_that_failed_is_in_hand_no_more() -> None:
    watched = Watched()
    before = time.time()
    with pytest.raises(RuntimeError), watched.observer.causing():
        raise RuntimeError
    assert watched.metrics.counted_until() > before


def test_lag_is_told_of_owned_partitions_in_which_something_was_handled() -> None:
    watched = Watched()
    watched.handle(0, 1, 2)
    watched.handle(0, partition=1)
    watched.observer.watch_lag(lambda: {(TOPIC, 0): 10, (TOPIC, 2): 5, (TOPIC, 1): 1, (TOPIC, 3): None})
    assert watched.value("delivery_consumer_lag_messages", 'partition="0"') == 7
    assert watched.value("delivery_consumer_lag_messages", 'partition="1"') == 0
    assert watched.value("delivery_consumer_lag_seconds", 'partition="1"') == 0
    assert watched.value("delivery_consumer_lag_seconds", 'partition="0"') > 1e9  # since the second of 1970
    assert 'partition="2"' not in watched.metrics.exposition().decode()


async def nothing(*_: Any, **__: Any) -> None:
    """What a rebalance has no need of here."""


@pytest.mark.parametrize(
    ("arm", "make"),
    [
        ("at_least_once", lambda: make_app("payments.at_least_once", Settings())),
        ("at_most_once", lambda: make_app("payments.at_most_once", Settings(), commits_first=True)),
        ("stock_faust", lambda: stock_app(Settings(), nothing)),
    ],
)
async def test_each_assignment_that_faust_is_given_is_one_rebalance(arm: str, make: Callable[[], Any]) -> None:
    watched, app, other = Watched(arm), make(), make()
    tell_rebalances(app, watched.observer.rebalanced)
    assert watched.value("delivery_rebalances_total") == 0
    for count, assigned in enumerate([{(TOPIC, 0)}, {(TOPIC, 0), (TOPIC, 1)}, set()], start=1):
        await app.on_partitions_revoked.send(assigned)
        await app.on_partitions_assigned.send(assigned)
        await other.on_partitions_assigned.send(assigned)
        assert watched.value("delivery_rebalances_total") == count


async def test_each_assignment_of_a_retry_lane_is_one_rebalance() -> None:
    watched = Watched()
    lane = Lane(CONSUMER_ARMS["at_least_once"], Settings(), nothing, print, nothing, watched.observer.rebalanced)
    for count in (1, 2):
        await _Listener(lane).on_partitions_revoked(set())
        assert not lane.assigned.is_set()
        await _Listener(lane).on_partitions_assigned(set())
        assert lane.assigned.is_set()
        assert watched.value("delivery_rebalances_total") == count


def test_each_assignment_of_a_transactor_is_one_rebalance() -> None:
    watched = Watched("kafka_transactions")
    transactor: Any = Transactor.__new__(Transactor)
    transactor._releasing, transactor._rebalanced = lambda: None, watched.observer.rebalanced
    for count in (1, 2):
        transactor._on_revoke()
        transactor._on_assign()
        assert watched.value("delivery_rebalances_total") == count


def test_a_redriven_letter_is_applied_deferred_or_returned() -> None:
    watched = Watched("at_most_once")
    one, two, three, four = (Coordinates(TOPIC, 0, offset) for offset in range(4))
    vias = {one: "redrive", two: "redrive", three: "redrive", four: "replay"}
    watched.observer.redriven(vias, buried={one, four}, later={one, two})
    for outcome in ("returned", "deferred", "applied"):
        assert watched.value("delivery_redrives_total", f'outcome="{outcome}"') == 1


@pytest.mark.parametrize("value", [b"yesterday", b"\xff", b""])
def test_a_time_that_cannot_be_read_is_none(value: bytes) -> None:
    assert time_of([("ce_time", value)]) is None
