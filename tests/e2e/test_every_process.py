"""End to end: every process is killed once with SIGKILL under load, comes back by itself, and the auditor is asked."""

import json

import pytest

from loadtest import run as load
from tests.conftest import Lab

# Each dies once; `ledger` is the one that no fault touches.
VICTIMS = (
    "orders", "refunds", "provider", "relay#0", "arm.at_least_once#0", "arm.effectively_once#0", "prometheus",
    "postgres", "kafka",
)  # fmt: skip
SEED = 20261124


@pytest.mark.timeout(420)
def test_each_process_is_killed_once_under_load_and_nothing_promised_is_broken(lab: Lab) -> None:
    print(f"seed {SEED}")
    assert set(VICTIMS) | {"ledger"} == set(lab.status()), "a process of the table is not killed by this test"
    before = {name: process["restarts"] for name, process in lab.status().items()}
    under_way = load.start(lab.home, rate=30, duration_s=600, seed=SEED)  # ended when the last victim is back
    try:
        for name in VICTIMS:
            lab.cli("kill", name)
            lab.until(lambda name=name: _is_back(lab, name, before[name]), f"{name} to be back")
        assert under_way.poll() is None, "the load ended by itself"
    finally:
        totals = under_way.stop()
    lab.cli("drain", "--timeout", "60s", timeout_s=90)

    audit = json.loads(lab.cli("audit", "--json", "--run", under_way.plan.run))
    rows = {(row["hop"], row["arm"], row["effect"]): row for row in audit["rows"]}
    assert audit["closes"]
    assert totals.acknowledged > 500
    assert rows["accept", "outbox", "intent"]["expected"] >= totals.acknowledged
    assert rows["accept", "outbox", "intent"]["duplicated"] == 0
    for name, row in rows.items():
        assert (row["lost"], row["unexpected"], row["waiting"]) == (0, 0, 0), name
    for effect in ("record", "charge"):
        row = rows["process", "effectively_once", effect]
        assert row["expected"] > 500
        assert (row["duplicated"], row["dead_lettered"]) == (0, 0), effect
    assert rows["process", "effectively_once", "email"]["duplicated"] == 0
    after = {name: process["restarts"] for name, process in lab.status().items()}
    assert {name: after[name] - before[name] for name in VICTIMS} == dict.fromkeys(VICTIMS, 1)


def _is_back(lab: Lab, name: str, restarts: int) -> bool:
    """It was started again and everything is ready: what depends on it, too."""
    now = lab.status()
    return now[name]["restarts"] == restarts + 1 and all(process["ready"] for process in now.values())
