"""Spans of the catalogue, made after the fact: the hot path keeps times, and only what is worth it becomes a span.

Worth it is a message whose traceparent has the sampled flag, or whose outcome is anything but plainly applied; the
latter have no spans of their ancestors, which did not know. Made as the SDK's finished spans, not by its tracer: ids
are needed before (they travel in records), times are long past, and a started span costs 50 µs.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
)

from services.settings import Settings
from services.telemetry.budget import Budget
from services.telemetry.exporting import Outlet, outlets
from services.telemetry.metrics import Metrics
from services.telemetry.spans import SPANS
from services.telemetry.tracecontext import SAMPLED_DIGITS, parts_of

BURST_S: Final = 4.0  # the budget of so many seconds may be spent at once: a crash doubles a chunk, not a minute
COUNTED_EVERY_S: Final = 0.5
DROPPED: Final = "delivery.telemetry.dropped"
_FLAGS: Final = TraceFlags(TraceFlags.SAMPLED)  # of every span that is made: the flag of its message may say otherwise
_OK: Final = Status(StatusCode.UNSET)

Attributes = Mapping[str, Any]


class Linked(msgspec.Struct, frozen=True):
    """A span that another one points to, and why: chunk, batch, attempt, operation."""

    context: SpanContext
    why: str


class Tracer:
    """Makes the spans of one process. Bounded in how many, and never in the way."""

    def __init__(
        self, process: str, life: str, *, ways: Iterable[Outlet] = (), per_s: float = 0.0,
        metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self._resource = Resource({"service.name": process, "service.instance.id": life})
        self._ways = list(ways)
        self._budget = Budget(per_s, per_s * BURST_S)
        self._refused = 0
        self._counted_at = 0.0
        self._metrics = metrics

    def grant(self) -> bool:
        """Whether one more message may have spans; counted where not. Without a way out there are none."""
        if not self._ways:
            return False
        granted = self._budget.grant()
        self._refused += not granted
        if self._refused and time.monotonic() - self._counted_at > COUNTED_EVERY_S:
            self._count_refused()
        return granted

    def _count_refused(self) -> None:
        """Not one by one: a chunk of which every message is refused spans must not pay for 500 counters."""
        self._counted_at = time.monotonic()
        if self._metrics is not None:
            self._metrics.add(DROPPED, self._refused, signal="message")
        self._refused = 0

    def span(
        self,
        key: str,
        context: SpanContext,
        *,
        parent: SpanContext | None = None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        links: Sequence[Linked] = (),
        events: Sequence[Event] = (),
        error: str = "",
    ) -> None:
        """Make one finished span of the catalogue. Raises KeyError for a key or an attribute that it lacks."""
        declared = SPANS[key]
        if unknown := attributes.keys() - declared.attributes:
            raise KeyError(f"the catalogue's span {key} has no {', '.join(sorted(unknown))}")
        span = ReadableSpan(
            name=declared.title.format_map({name.replace(".", "_"): value for name, value in attributes.items()}),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={**attributes, **_searchable(links), **({"error.type": error} if error else {})},
            links=[Link(one.context, {"delivery.link": one.why}) for one in links],
            events=events,
            kind=SpanKind[declared.kind.upper()],
            status=Status(StatusCode.ERROR, error) if error else _OK,
            start_time=min(start_ns, end_ns),  # clocks are set back now and then
            end_time=end_ns,
        )
        for way in self._ways:
            way.put(span)

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what is queued, as far as it goes in this time."""
        self._count_refused()
        for way in self._ways:
            way.close(timeout_s / len(self._ways))
        self._ways = []


def make_tracer(settings: Settings, life: str, metrics: Metrics) -> Tracer:
    """The tracer of a process, with the ways out that its settings name."""

    def dropped(count: int) -> None:
        metrics.add(DROPPED, count, signal="span")

    file = Path(settings.span_file) if settings.span_file else None
    per_s = settings.trace_budget_per_s if settings.telemetry else 0.0
    ways = outlets(file, settings.zipkin, settings.otlp, dropped) if per_s > 0 else ()
    return Tracer(settings.process, life, ways=ways, per_s=per_s, metrics=metrics)


def _searchable(links: Sequence[Linked]) -> dict[str, str]:
    """Links as attributes: Zipkin keeps nothing else of them."""
    return {
        f"link.{number}.{name}": value
        for number, link in enumerate(links)
        for name, value in (
            ("trace_id", format_trace_id(link.context.trace_id)),
            ("span_id", format_span_id(link.context.span_id)),
            ("why", link.why),
        )
    }


def sampled(traceparent: str) -> bool:
    """Whether the caller wants spans. `traceparent` may be anything."""
    return traceparent[-1:] in SAMPLED_DIGITS


def context_of(traceparent: str) -> SpanContext | None:
    """The span that a traceparent names, None where it names none rightly."""
    found = parts_of(traceparent)
    return SpanContext(int(found[0], 16), int(found[1], 16), is_remote=True, trace_flags=_FLAGS) if found else None


def new_context(of: SpanContext | None = None) -> SpanContext:
    """The ids of a span to come: in the trace of another one, or in one of its own."""
    trace_id = of.trace_id if of is not None else int.from_bytes(secrets.token_bytes(16), "big")
    return SpanContext(trace_id, int.from_bytes(secrets.token_bytes(8), "big"), is_remote=False, trace_flags=_FLAGS)


def operation_context(operation: str) -> SpanContext:
    """The span of a redrive or replay, from its id alone: whoever meets one of its records can link to it."""
    digest = hashlib.sha256(operation.encode()).digest()
    trace_id, span_id = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=_FLAGS)


def traceparent_of(context: SpanContext, *, is_sampled: bool = True) -> str:
    """The header that names this span."""
    flags = "01" if is_sampled else "00"
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{flags}"


def log_fields(context: SpanContext | None, traceparent: str = "") -> dict[str, str]:
    """The fields that tie a log line to its trace: the span's ids, else the trace that the message belongs to."""
    if context is not None:
        return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}
    found = parts_of(traceparent)
    return {"trace_id": found[0]} if found else {}
