"""Spans of publications. A sampled message's record names the span of its publication, from which consumers go on."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from opentelemetry.trace import SpanContext

from services.broker.producer import Record
from services.domain.forwarding import OPERATION, SPAN
from services.domain.messages import RawHeaders, message_id_of
from services.telemetry.tracecontext import SAMPLED_BYTES
from services.telemetry.tracing import Linked, Tracer, context_of, new_context, operation_context, traceparent_of

_TRACEPARENT: Final = "traceparent"  # the last header of a record that was made from an outbox row
_OPERATION: Final = {
    "messaging.system": "kafka", "messaging.operation.name": "send", "messaging.operation.type": "send",
}  # fmt: skip


class Sending(msgspec.Struct, frozen=True):
    """A batch with spans to come: those of the records at these indexes."""

    records: Sequence[Record]
    contexts: Mapping[int, SpanContext]
    parents: Mapping[int, SpanContext | None]
    start_ns: int


class Sends:
    """Of one publisher arm."""

    def __init__(self, tracer: Tracer, arm: str) -> None:
        self._tracer = tracer
        self._arm = arm

    def begin(self, records: Sequence[Record]) -> Sending | None:
        """Before a batch is sent: give its sampled records their spans' names. Costs a look at a byte a record."""
        traced = [index for index, record in enumerate(records) if is_sampled(record[3])]
        granted = [index for index in traced if self._tracer.grant()]
        if not granted:
            return None
        parents = {index: context_of(_header(records[index][3], _TRACEPARENT)) for index in granted}
        contexts = {index: new_context(parent) for index, parent in parents.items()}
        for index, context in contexts.items():
            headers = records[index][3]
            if isinstance(headers, list):
                headers[-1] = (_TRACEPARENT, traceparent_of(context).encode())
        return Sending(records, contexts, parents, time.time_ns())

    def begin_redriven(self, records: Sequence[Record]) -> Sending | None:
        """The same of redriven letters: each has a span; its record stays as it is."""
        granted = [index for index, _ in enumerate(records) if self._tracer.grant()]
        parents = {index: context_of(_header(records[index][3], _TRACEPARENT)) for index in granted}
        contexts = {index: new_context(parent) for index, parent in parents.items()}
        return Sending(records, contexts, parents, time.time_ns()) if granted else None

    def end(self, sending: Sending | None, failed: Mapping[int, str]) -> None:
        """The broker reported the batch: make its spans. `failed`: why, by index."""
        if sending is None:
            return
        batch, end_ns = new_context(), time.time_ns()
        count = {"messaging.batch.message_count": len(sending.records), "delivery.arm": self._arm}
        self._tracer.span(
            "send.batch", batch, start_ns=sending.start_ns, end_ns=end_ns, attributes={**_OPERATION, **count}
        )  # fmt: skip
        for index, context in sending.contexts.items():
            self._one(sending, index, context, [Linked(batch, "batch")], end_ns, failed.get(index, ""))

    def _one(
        self, sending: Sending, index: int, context: SpanContext, links: list[Linked], end_ns: int, error: str
    ) -> None:
        topic, key, _, headers = sending.records[index]
        operation, before = _header(headers, OPERATION), context_of(_header(headers, SPAN))
        if before is not None:
            links.append(Linked(before, "attempt"))
        if operation:
            links.append(Linked(operation_context(operation), "redrive"))
        self._tracer.span(
            "send",
            context,
            parent=sending.parents[index],
            start_ns=sending.start_ns,
            end_ns=end_ns,
            attributes={
                **_OPERATION,
                "messaging.destination.name": topic,
                "messaging.message.id": str(message_id_of(headers) or ""),
                "messaging.kafka.message.key": (key or b"").decode("utf-8", "replace"),
                "delivery.arm": self._arm,
                "delivery.outcome": "failed" if error else "confirmed",
                **({"delivery.reason": error} if error else {}),
                **({"delivery.via": "redrive", "delivery.operation": operation} if operation else {}),
            },
            links=links,
            error=error,
        )


def is_sampled(headers: RawHeaders) -> bool:
    """Whether the record of an outbox row is sampled; Postgres's jsonb keeps `traceparent` last of its headers."""
    name, value = headers[-1]
    return name == _TRACEPARENT and value is not None and value[-1] in SAMPLED_BYTES


def _header(headers: RawHeaders, name: str) -> str:
    return next((value.decode("ascii", "replace") for key, value in headers if key == name and value is not None), "")
