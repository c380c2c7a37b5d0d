"""What of a soak holds, and what has shown nothing."""

from typing import Any

import msgspec
import pytest

from loadtest.soak import Growth, Soak, flaws, has_died, report
from loadtest.totals import Snapshot

MIB = 1 << 20
SENT = Snapshot(
    run="soak", seed=1, rate=100.0, duration_s=600.0, planned=60_000, sent=60_000, acknowledged=60_000, carried_out=True
)  # fmt: skip
SEEN = Soak(600.0, [3] * 590, [Growth("orders", 60 * MIB, 62 * MIB)], [])


def test_all_acknowledged_and_nothing_grown_holds() -> None:
    assert flaws(SEEN, SENT) == []
    assert report(SEEN, SENT).startswith("holds: 60000 of 60000 acknowledged")


@pytest.mark.parametrize(
    ("seen", "sent", "said"),
    [
        ({}, {"carried_out": False}, "the load ended before its plan did"),
        ({}, {"acknowledged": 59_999}, "59999 of 60000 were acknowledged"),
        ({"pending": []}, {}, "0 looks in 600 s are too few"),
        ({"pending": [3] * 400}, {}, "400 looks in 600 s are too few"),
        ({"growths": []}, {}, "no process was looked at"),
        ({"pending": [*[3] * 590, 100]}, {}, "100 outbox rows waited (bound 100)"),
        ({"growths": [Growth("orders", 60 * MIB, 65 * MIB)]}, {}, "grew over the bound: orders"),
        ({"growths": [Growth("kafka", 600 * MIB, 631 * MIB)]}, {}, "grew over the bound: kafka"),
        ({"died": ["relay#0"]}, {}, "died, or was killed: relay#0"),
    ],
)
def test_what_was_lost_unseen_or_grown_does_not_hold(seen: dict[str, Any], sent: dict[str, Any], said: str) -> None:
    soak, totals = msgspec.structs.replace(SEEN, **seen), msgspec.structs.replace(SENT, **sent)
    assert flaws(soak, totals) == [said]
    assert report(soak, totals).startswith(f"DOES NOT HOLD: {said}\n")


@pytest.mark.parametrize(
    ("lives", "sizes", "dead"),
    [
        ([0, 0, 0], [5, 6, 5], False),
        ([0, 0, 0], [0, 6, 5], False),  # it had not begun
        ([0, 1, 1], [5, 6, 5], True),
        ([0, 0, 0], [5, 0, 0], True),  # held, or it waits for its next start
    ],
)
def test_another_life_or_none_is_a_death(lives: list[int], sizes: list[int], dead: bool) -> None:
    assert has_died(lives, sizes) == dead
