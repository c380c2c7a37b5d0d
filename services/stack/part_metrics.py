"""What the supervisor says to Prometheus: of every process that is expected, whether it works, and its restarts.

A process that is killed and back within a scrape is never seen down by `up`; Postgres and Kafka have no endpoint.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from services.telemetry.metrics import Metrics
from services.telemetry.vitals import observe_vitals

if TYPE_CHECKING:
    from services.stack.child import Managed

Series = Iterator[tuple[float, Mapping[str, str]]]


def part_metrics(children: Mapping[str, "Managed"], life: str) -> Metrics:
    """The supervisor's metrics, read off its children at each scrape."""
    metrics = Metrics("supervisor", life)
    observe_vitals(metrics, life)

    def processes() -> Iterator[tuple["Managed", Mapping[str, str]]]:
        for child in children.values():
            if child.part.kind != "task":
                yield child, {"part": child.part.name, "process": child.name}

    def up() -> Series:
        for child, labels in processes():
            yield float(child.ready), labels

    def restarts() -> Series:
        for child, labels in processes():
            yield child.restarts, labels

    metrics.observe("delivery.part_up", up)
    metrics.observe("delivery.part_restarts", restarts)
    return metrics
