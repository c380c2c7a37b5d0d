"""Telemetry that is off says nothing but what went wrong."""

import json
from pathlib import Path

from services.telemetry.metrics import Metrics
from services.telemetry.silence import SilentLog, SilentMetrics

LABELS = {"arm": "at_least_once", "topic": "orders.v1"}


def test_silent_metrics_stay_as_they_began() -> None:
    loud, silent = Metrics("arm.at_least_once#0", "life"), SilentMetrics("arm.at_least_once#0", "life")
    for metrics in (loud, silent):
        metrics.add("messaging.client.consumed.messages", 7, **LABELS)
        metrics.record("messaging.process.duration", 0.1, arm="at_least_once")
    assert b'messages_total{arm="at_least_once",topic="orders.v1"} 7.0' in loud.exposition()
    assert b" 7.0" not in silent.exposition()


def test_a_silent_log_keeps_warnings(tmp_path: Path) -> None:
    log = SilentLog("relay#0", "life", str(tmp_path / "log"))
    log.event("process.started", pid=1)
    log.event("relay.rewound", level="warning", failed=2)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["event"] == "relay.rewound"
