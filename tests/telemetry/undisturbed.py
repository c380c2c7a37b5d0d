"""Orders of which all is told: on a machine that stands still calls time out and exports fail, and one is placed again.

Only where that is seen to have happened, and four times at most: the last one is as it is.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from services.stack.parts import PARTS
from tests.conftest import Lab
from tests.telemetry.conftest import Prometheus
from tests.telemetry.journeys import Journey, Traces
from tests.waiting import comes

TIMES: Final = 4
_SLOW: Final = ("timeout", "connection_lost")
_DROPPED: Final = "sum(delivery_telemetry_dropped_total)"


def whole(
    lab: Lab, traces: Traces, place: Callable[[], Journey], told: Callable[[Journey], Any], within_s: float = 60
) -> Journey:
    """An order of which everything is told in every arm.

    Placed again where an arm processed it and did not apply it, spans were dropped or a process was started again.
    """
    for _ in range(TIMES - 1):
        before, journey = _lost(lab), place()
        if comes(lambda journey=journey: told(journey), within_s):  # type: ignore[misc]
            return journey
        if not _not_applied(lab, traces, journey) and _lost(lab) == before:  # type: ignore[misc]
            return journey
    last = place()
    comes(lambda: told(last), within_s)
    return last


def in_time(lab: Lab, place: Callable[[], Journey], told: Callable[[Journey], Any]) -> Journey:
    """An order of which this is told and no process says that it was put off because an answer did not come in time."""
    for _ in range(TIMES - 1):
        journey = place()
        comes(lambda journey=journey: told(journey) or timed_out(lab, journey), 120)  # type: ignore[misc]
        if not timed_out(lab, journey):
            return journey
    return place()


def timed_out(lab: Lab, journey: Journey) -> bool:
    """Whether a process put the message off because an answer did not come in time."""
    lines = said_of(lab, journey)
    return any(line["event"] == "message.deferred" and line["reason"] in _SLOW for line in lines)


def said_of(lab: Lab, journey: Journey) -> list[dict[str, Any]]:
    """The log lines of a message; none where nothing is said of it yet."""
    done = lab.run("logs", "--message", journey.message_id, "--json")
    lines: list[dict[str, Any]] = json.loads(done.stdout)["lines"] if done.stdout else []
    return lines


def _not_applied(lab: Lab, traces: Traces, journey: Journey) -> bool:
    """Whether the message was processed with another outcome."""
    (spans,) = lab.until(lambda: [traces.of(journey.trace_id)], "the trace store to answer", 120)
    outcomes = [span.tags.get("delivery.outcome") for span in spans if span.name.startswith("process ")]
    return any(outcome != "applied" for outcome in outcomes)


def _lost(lab: Lab) -> Any:
    """What rises where spans can have been lost: restarts, and what processes say that they dropped."""
    prometheus = Prometheus(lab.home.http_url(PARTS["prometheus"]))

    def lost() -> tuple[dict[str, int], list[str]]:
        dropped = [series["value"][1] for series in prometheus.query(_DROPPED)]
        return {name: process["restarts"] for name, process in lab.status().items()}, dropped

    return lab.until(lost, "Prometheus and the supervisor to answer", 120)
