"""Reading PromQL: which series a query asks for, and whether the catalogue has them."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from services.telemetry.catalogue import METRICS

# What Prometheus itself adds: to every series, and as series of its own.
TARGET_LABELS = {"instance", "job", "part"}
OWN = {
    "up": TARGET_LABELS,
    "scrape_duration_seconds": TARGET_LABELS,
    "scrape_samples_post_metric_relabeling": TARGET_LABELS,
    "traces_spanmetrics_latency_bucket": {"service", "span_name", "span_kind", "status_code", "le"},  # Tempo's
    "ALERTS": {"alertname", "alertstate", "severity", "hop", "arm", "effect", "process"},
}
VARIABLES = {
    "$__rate_interval": "20s", "$__range": "15m", "$__interval": "5s", "$arm|$publisher": "a|b", "$arm": "a",
    "$publisher": "b",
}  # fmt: skip
_INNER = ("lhs", "rhs", "expr", "args", "vector_selector", "param")


def bound(expr: str) -> str:
    """The query with its variables replaced, longest names first."""
    for name in sorted(VARIABLES, key=len, reverse=True):
        expr = expr.replace(name, VARIABLES[name])
    return expr


def selectors(expr: str) -> Iterator[Any]:
    """Every vector selector of a query. Raises ValueError when it does not parse."""
    yield from (node for node in nodes(expr) if type(node).__name__ == "VectorSelector")


def nodes(expr: str) -> Iterator[Any]:
    """Every node of a query's tree."""
    pending = [promql_parser.parse(bound(expr))]
    while pending:
        node = pending.pop()
        yield node
        for name in _INNER:
            inner = getattr(node, name, None)
            pending += inner if isinstance(inner, list) else [inner] if inner is not None else []


def faults_of(expr: str, recorded: dict[str, set[str]] | None = None) -> list[str]:
    """What a query asks for that nobody emits: metrics, labels, label values. `recorded`: rules' series and labels."""
    found = []
    for selector in selectors(expr):
        name = selector.name
        known = {**OWN, **(recorded or {})}
        if name in known:
            labels, values = known[name], {}
        elif (metric := _metric(name)) is None:
            found.append(f"no metric {name}")
            continue
        else:
            labels = {*metric.labels, *TARGET_LABELS, *({"le"} if name.endswith("_bucket") else ())}
            values = _values(metric)
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                found.append(f"{name} has no label {matcher.name}")
            elif matcher.name in values and not _can_match(matcher, values[matcher.name]):
                found.append(f"{name}: {matcher.name} is never {matcher.value!r}")
    return found


def _metric(name: str) -> Any:
    plain = re.sub("_(bucket|sum|count)$", "", name)
    for metric in METRICS.values():
        if metric.prometheus == name and metric.kind != "histogram":
            return metric
        if metric.prometheus == plain and metric.kind == "histogram" and plain != name:
            return metric
    return None


def _values(metric: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for emitter in metric.emitters:
        for label, values in emitter.values.items():
            found.setdefault(label, set()).update(values)
    return found


def _can_match(matcher: Any, values: set[str]) -> bool:
    if matcher.value in VARIABLES.values():  # a variable's stand-in
        return True
    kind = str(matcher.op).rpartition(".")[2]
    pattern = matcher.value if kind in ("Re", "NotRe") else re.escape(matcher.value)
    return any(re.fullmatch(pattern, value) for value in values)
