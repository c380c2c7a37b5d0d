"""Which alerts fired during a run, as Prometheus remembers them, and after which fault."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from services.stack.nemesis import Fault

_STEP_S: Final = 1
_MOST_POINTS: Final = 10_000  # Prometheus answers 11,000 at most
_TIMEOUT_S: Final = 10.0
_SCRAPED: Final = ("__name__", "instance", "job", "part")
_QUERY: Final = 'ALERTS{alertstate="firing"}'


class Fired(msgspec.Struct, frozen=True):
    """An alert that began to fire. `fault`: the last one that had begun by then, and how long before."""

    name: str
    at: float
    arm: str = ""
    fault: str | None = None
    delay_s: float | None = None


def fired(prometheus: str, began: float, ended: float, faults: Sequence[Fault]) -> list[Fired] | None:
    """The alerts of a run in the order in which they began; None where there is no Prometheus to ask."""
    step_s = max(_STEP_S, int((ended - began) / _MOST_POINTS))
    query = urllib.parse.urlencode({"query": _QUERY, "start": began - step_s, "end": ended, "step": step_s})
    try:
        series = _asked(f"{prometheus}/api/v1/query_range?{query}")["result"]
    except (OSError, ValueError, KeyError):
        return None
    return sorted(from_series(series, faults, began), key=lambda one: one.at)


def firing(prometheus: str) -> set[str]:
    """The names of the alerts that fire now. Raises OSError, ValueError, KeyError where Prometheus does not answer.

    By its rules, not by the series ALERTS: of one that was cut off by a restart a query tells for five minutes.
    """
    alerts = _asked(f"{prometheus}/api/v1/alerts")["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def series(prometheus: str, query: str) -> dict[str, float]:
    """What an instant query gives, by labels. Raises OSError, ValueError, KeyError where Prometheus does not answer."""
    found = _asked(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")["result"]
    return {_labels(one["metric"]): float(one["value"][1]) for one in found}


def _labels(metric: dict[str, str]) -> str:
    """Without those that say who was scraped."""
    return ", ".join(value for name, value in sorted(metric.items()) if name not in _SCRAPED)


def _asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  # our own
        return json.load(answer)["data"]


def from_series(series: Iterable[dict[str, Any]], faults: Sequence[Fault], began: float) -> Iterable[Fired]:
    """One a series: its first point is when it began. What fired before the run is of another one. Pure."""
    for one in series:
        at = float(one["values"][0][0])
        labels = one["metric"]
        if at < began and labels["alertname"] != "Watchdog":
            continue
        before = [fault for fault in faults if fault.started <= at and fault.fault != "arm"]
        last = max(before, key=lambda fault: fault.started, default=None)
        yield Fired(
            labels["alertname"], at, labels.get("arm", ""), f"{last.fault} {last.target}" if last else None,
            round(at - last.started, 1) if last else None,
        )  # fmt: skip


def differences(
    found: Collection[Fired], must: Iterable[str], must_not: Iterable[str], arms: Collection[str]
) -> list[str]:  # fmt: skip
    """What is not as the scenario wants it. `arms`: those that it is about; a lab that is up may have more."""
    names = {one.name for one in found if not one.arm or one.arm in arms}
    return [f"{name} did not fire" for name in must if name not in names] + [
        f"{name} fired" for name in must_not if name in names
    ]
