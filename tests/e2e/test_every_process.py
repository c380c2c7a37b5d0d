"""End to end: every process is killed once with SIGKILL under load, comes back by itself, and the auditor is asked."""

import json
from typing import Any

import pytest

from loadtest import run as load
from services.domain.audit import AuditRow
from services.domain.verdict import promises_of
from services.stack.parts import PARTS
from tests.conftest import Lab

# What dies together; `ledger` is the one that no fault touches.
STRIKES = (
    ("orders", "refunds", "relay#0", "arm.at_least_once#0", "arm.effectively_once#0", "arm.at_most_once#0", "provider"),
    ("arm.stock_faust#0", "arm.kafka_transactions#0", "retry.at_least_once#0", "retry.effectively_once#0", "postgres"),
    ("kafka", "prometheus", "alertmanager", "console", "zipkin", "probe", "auditor"),
)
SEED = 20261124

pytestmark = pytest.mark.usefixtures("swept")


@pytest.mark.timeout(2400)  # the waits below, and the sweep after it
def test_each_process_is_killed_once_under_load_and_nothing_promised_is_broken(lab: Lab) -> None:
    print(f"seed {SEED}")
    victims = {name for strike in STRIKES for name in strike}
    absent = victims - set(lab.status())
    assert absent <= {name for name, part in PARTS.items() if part.optional}, "what the machine could not get"
    assert {*victims - absent, "ledger"} == set(lab.status()), "a process of the lab is not killed by this test"
    lab.ready()
    before = {name: process["restarts"] for name, process in lab.status().items()}
    under_way = load.start(lab.home, rate=20, duration_s=2400, seed=SEED)  # ended when the last victim is back
    try:
        for names in STRIKES:
            strike = tuple(name for name in names if name not in absent)
            lab.killed_and_back(*strike)
        assert under_way.poll() is None, "the load ended by itself"
    finally:
        totals = under_way.stop()
    run = under_way.plan.run
    lab.drain()

    audit = json.loads(lab.cli("audit", "--json", "--run", run))
    assert audit["closes"]
    assert totals.acknowledged > 500
    for row in audit["rows"]:
        promises, name = _promises(row), f"{row['hop']}/{row['arm']}/{row['effect']}"
        assert row["unexpected"] == 0, name
        if promises:
            assert row["expected"] > 500, name
        if "no_loss" in promises:
            held = (row["lost"], row["waiting"], row["dead_lettered"])
            assert held == (0, 0, _given_up(audit, row)), name
        if "no_duplicate" in promises:
            assert row["duplicated"] == 0, name
    after = {name: process["restarts"] for name, process in lab.status().items()}
    restarts = {name: after[name] - before[name] for name in victims - absent}
    # these end themselves, too: when a transaction cannot be aborted, or when Faust stops, as after the broker's death
    for name in ("arm.kafka_transactions#0", "arm.stock_faust#0"):
        assert restarts.pop(name) >= 1, name
    assert restarts == dict.fromkeys(restarts, 1)


def _given_up(audit: Any, row: dict[str, Any]) -> int:
    """How many messages may be letters: kafka_transactions gives a batch up after six 503s or time-outs in a row."""
    causes = audit["dead_letter_causes"].get(f"{row['hop']}/{row['arm']}/{row['effect']}", {})
    return int(causes.get("attempts", 0)) if row["arm"] == "kafka_transactions" else 0


def _promises(row: dict[str, Any]) -> frozenset[str]:
    return frozenset(promises_of(AuditRow(hop=row["hop"], arm=row["arm"], effect=row["effect"])))
