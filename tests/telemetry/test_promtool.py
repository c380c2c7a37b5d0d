"""Every metric that a part may ever emit passes Prometheus's own check, whether a lab has the part or not."""

import subprocess

import pytest

from services.telemetry.catalogue import METRICS, SERVICES
from services.telemetry.metrics import Metrics
from services.telemetry.vitals import observe_vitals


def everything(part: str) -> bytes:
    """What a part answers that has emitted every series that it may."""
    metrics = Metrics(part, "a-life")
    observe_vitals(metrics, "a-life")
    emit = {"counter": metrics.add, "gauge": metrics.set, "histogram": metrics.record}
    for metric in METRICS.values():
        if metric.name.startswith("process.") or metric.name == "delivery.process_info":
            continue  # the vitals
        for emitter in metric.emitters:
            for labels in (
                emitter.series() if emitter.part == part and emitter.values.keys() == set(metric.labels) else ()
            ):
                emit[metric.kind](metric.name, 1, **labels)
    return metrics.exposition()


@pytest.mark.parametrize("part", [*SERVICES, "supervisor"])
def test_what_a_part_can_emit_is_clean(part: str, promtool: str) -> None:
    text = everything(part)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert b"otel_scope" not in text
