"""What happened to a chunk, kept as a few times a step; spans are made of it afterwards, for the messages worth it.

The chunk in hand is in CURRENT: what works on it notes there what it does. Work that belongs to no chunk finds None.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from opentelemetry.sdk.trace import Event
from opentelemetry.trace import SpanContext

from services.domain.arms import ConsumerArm
from services.domain.forwarding import Forwarding
from services.domain.messages import RUN_HEADER, Coordinates, Message, RawHeaders, message_id_of
from services.telemetry.tracecontext import SAMPLED_DIGITS
from services.telemetry.tracing import (
    Linked,
    Tracer,
    context_of,
    log_fields,
    new_context,
    operation_context,
    sampled,
)

AWAITING: Final = 1_000  # messages of a process whose commit is awaited for its span
EVENTS: Final = 100  # of a chunk's span
FAILED: Final = frozenset({"deferred", "dead_lettered", "dropped", "aborted"})

Attributes = Mapping[str, Any]


class Record(Protocol):
    """What is read of a record."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    headers: RawHeaders


class Source(Protocol):
    """A record as it was taken, and its life so far."""

    @property
    def record(self) -> Any: ...

    @property
    def life(self) -> Forwarding: ...


class Step:
    """One statement or produce for several messages."""

    def __init__(self, name: str, start_ns: int, messages: Sequence[Message], attributes: Attributes) -> None:
        self.name = name
        self.start_ns, self.end_ns = start_ns, time.time_ns()
        self.attributes = attributes
        self._messages = messages

    @cached_property
    def places(self) -> frozenset[Coordinates]:
        return frozenset(message.at for message in self._messages)


class Single(msgspec.Struct, frozen=True):
    """What was done for one message: a call of the provider, a record sent on."""

    name: str
    at: Coordinates
    start_ns: int
    end_ns: int
    attributes: Attributes
    error: str = ""


class Awaited(msgspec.Struct, frozen=True):
    """A message with spans whose offset is not known to be committed."""

    offset: int
    context: SpanContext
    attributes: Attributes
    since_ns: int


class Trails:
    """Of one process of an arm: begins trails, and makes the spans of commits, which come later."""

    def __init__(self, tracer: Tracer, arm: ConsumerArm) -> None:
        self.tracer = tracer
        self.arm = arm
        self._awaited: dict[str, deque[Awaited]] = {}
        self._count = 0
        self._confirmed: dict[str, tuple[int, int]] = {}  # of each partition: position, and when it was confirmed

    def begin(self, group: str) -> "Trail":
        """The trail of a chunk, from now on the current one."""
        trail = Trail(self, group)
        CURRENT.set(trail)
        return trail

    def committed(self, positions: Mapping[str, int]) -> None:
        """The broker confirmed these positions, by `topic/partition`."""
        now_ns = time.time_ns()
        for name, position in positions.items():
            self._confirmed[name] = (position, now_ns)
            waiting = self._awaited.get(name)
            while waiting and waiting[0].offset < position:
                self._span(waiting.popleft(), now_ns)
                self._count -= 1

    def forget(self, partitions: Sequence[str]) -> None:
        """These were taken away: whoever has them now commits."""
        for name in partitions:
            self._confirmed.pop(name, None)
            self._count -= len(self._awaited.pop(name, ()))

    def awaits(self, name: str, awaited: Awaited) -> None:
        """A message was handled. Where the commit comes first it is known already; beyond AWAITING there is no span."""
        position, at_ns = self._confirmed.get(name, (0, 0))
        if self.arm.commits_first and awaited.offset < position:
            self._span(awaited, at_ns)
        elif self._count < AWAITING:
            self._awaited.setdefault(name, deque()).append(awaited)
            self._count += 1

    def _span(self, awaited: Awaited, end_ns: int) -> None:
        operation = {"messaging.operation.name": "commit", "messaging.operation.type": "settle"}
        self.tracer.span(
            "commit",
            new_context(awaited.context),
            parent=awaited.context,
            start_ns=awaited.since_ns,
            end_ns=end_ns,
            attributes={**awaited.attributes, **operation},
        )


class Trail:
    """One chunk. Costs a few microseconds, whatever its size, until a message of it is worth spans."""

    def __init__(self, trails: Trails, group: str) -> None:
        self._trails = trails
        self._group = group
        self._began_ns = time.time_ns()
        self._sources: Mapping[Coordinates, Source] = {}
        self._steps: list[Step] = []
        self._singles: dict[Coordinates, list[Single]] = {}
        self._marks: dict[Coordinates, dict[str, Any]] = {}  # what was anything but plainly applied
        self._contexts: dict[Coordinates, SpanContext | None] = {}  # of the `process` spans to come
        self._events: list[Event] = []
        self.told: list[Any] = []  # records of the messages that have spans

    def take(self, sources: Mapping[Coordinates, Source]) -> None:
        """The records of this chunk, by their origins."""
        self._sources = sources

    @contextlib.contextmanager
    def step(self, name: str, messages: Sequence[Message], **attributes: Any) -> Iterator[None]:
        """Keep the time of a statement that is for all of these."""
        start_ns = time.time_ns()
        yield
        self._steps.append(Step(name, start_ns, messages, attributes))

    def called(self, effect: str, message: Message, start_ns: int, failed: str = "") -> None:
        """Keep the time of a call of the provider that ended now, if it may become a span."""
        if failed or message.via or sampled(message.traceparent):
            outcome = {"delivery.outcome": "failed", "delivery.reason": failed} if failed else {}
            attributes = {**call_attributes(effect, self._trails.arm.name, message.id), **outcome}
            self._note(Single("call", message.at, start_ns, time.time_ns(), attributes, failed))

    def sent(self, name: str, at: Coordinates, topic: str, start_ns: int, attributes: Attributes) -> None:
        """Keep the time of a produce that was confirmed now."""
        operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
        common = {"messaging.system": "kafka", "messaging.destination.name": topic, "delivery.origin": str(at)}
        self._note(Single(name, at, start_ns, time.time_ns(), {**common, **operation, **attributes}))

    def retried(self, what: str, attempt: int, reason: str) -> None:
        """A statement failed and is done again in place: an event of the chunk's span."""
        if len(self._events) < EVENTS:
            attributes: Attributes = {"delivery.step": what, "delivery.attempt": attempt, "delivery.reason": reason}
            self._events.append(Event("retried in place", attributes, time.time_ns()))

    def mark(self, at: Coordinates, outcome: str, **attributes: Any) -> dict[str, str]:
        """A message is anything but plainly applied. Returns the fields that tie its log line to its span."""
        given = {f"delivery.{name}": value for name, value in attributes.items()}
        self._marks.setdefault(at, {}).update({"delivery.outcome": outcome, **given})
        return log_fields(self.open(at), self._traceparent(at))

    def open(self, at: Coordinates) -> SpanContext | None:
        """The `process` span that a message will have; None for one that is not of this chunk or not granted any."""
        if at not in self._contexts:
            granted = at in self._sources and self._trails.tracer.grant()
            self._contexts[at] = new_context(context_of(self._traceparent(at))) if granted else None
        return self._contexts[at]

    def finish(
        self, messages: Sequence[Message], *, outcome: str = "applied", special: bool = False, settled: bool = True
    ) -> dict[str, str]:
        """Make the spans: of the sampled messages and of those that were marked, or where it is `special`, of all.

        `outcome`: of those without a mark. `settled`: their commit will be heard of. Returns the log fields of the
        chunk's span, if there is one.
        """
        chosen = [m.at for m in messages if special or m.traceparent[-1:] in SAMPLED_DIGITS]
        granted = [at for at in dict.fromkeys((*chosen, *self._marks)) if self.open(at) is not None]
        self.told = [self._sources[at].record for at in granted]
        if not granted:
            return {}
        chunk = new_context()
        end_ns = time.time_ns()
        self._chunk_span(chunk, end_ns)
        for at in granted:
            self._message_spans(at, chunk, end_ns, outcome)
            if settled:
                self._await_commit(at, end_ns)
        return log_fields(chunk)

    def _note(self, single: Single) -> None:
        self._singles.setdefault(single.at, []).append(single)

    def _traceparent(self, at: Coordinates) -> str:
        source = self._sources.get(at)
        return _header(source.record.headers, "traceparent") if source is not None else ""

    def _chunk_span(self, context: SpanContext, end_ns: int) -> None:
        records = [source.record for source in self._sources.values()]
        first, last = records[0], records[-1]
        one_partition = (first.topic, first.partition) == (last.topic, last.partition)
        place = {
            "messaging.destination.partition.id": str(first.partition),
            "delivery.offset.first": first.offset,
            "delivery.offset.last": last.offset,
        }
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "poll",
            "messaging.operation.type": "receive",
            "messaging.destination.name": first.topic,
            "messaging.consumer.group.name": self._group,
            "messaging.batch.message_count": len(records),
            "delivery.arm": self._trails.arm.name,
            **(place if one_partition else {}),
        }
        self._trails.tracer.span(
            "poll", context, start_ns=self._began_ns, end_ns=end_ns, attributes=attributes, events=self._events
        )

    def _message_spans(self, at: Coordinates, chunk: SpanContext, end_ns: int, plain: str) -> None:
        tracer, source = self._trails.tracer, self._sources[at]
        process, mark = self._contexts[at], self._marks.get(at, {})
        assert process is not None  # noqa: S101  # it was granted
        receive, common = new_context(process), self._common(at, source)
        began_ns = self._began_ns
        tracer.span(
            "receive",
            receive,
            parent=context_of(self._traceparent(at)),
            start_ns=source.record.timestamp * 1_000_000,
            end_ns=began_ns,
            attributes={**common, "messaging.operation.name": "receive", "messaging.operation.type": "receive"},
        )
        outcome = mark.get("delivery.outcome", plain)
        tracer.span(
            "process",
            process,
            parent=receive,
            start_ns=began_ns,
            end_ns=end_ns,
            attributes={
                **common, "messaging.operation.name": "process", "messaging.operation.type": "process",
                **_life(source), "delivery.outcome": outcome, **mark,
            },
            links=[Linked(chunk, "chunk"), *_links(source.life)],
            error=str(mark.get("delivery.reason") or outcome) if outcome in FAILED else "",
        )  # fmt: skip
        self._effect_spans(at, process, common["messaging.message.id"])

    def _await_commit(self, at: Coordinates, since_ns: int) -> None:
        source, process = self._sources[at], self._contexts[at]
        assert process is not None  # noqa: S101  # it was granted
        name = f"{source.record.topic}/{source.record.partition}"
        self._trails.awaits(name, Awaited(source.record.offset, process, self._common(at, source), since_ns))

    def _effect_spans(self, at: Coordinates, process: SpanContext, message_id: str) -> None:
        tracer, arm = self._trails.tracer, self._trails.arm.name
        ids = {"messaging.message.id": message_id, "delivery.arm": arm}
        for step in self._steps:
            if at in step.places:
                attributes = {**_DATABASE.get(step.name, {}), **step.attributes, **ids}
                tracer.span(
                    step.name, new_context(process), parent=process, start_ns=step.start_ns, end_ns=step.end_ns,
                    attributes=attributes,
                )  # fmt: skip
        for one in self._singles.get(at, ()):
            tracer.span(
                one.name, new_context(process), parent=process, start_ns=one.start_ns, end_ns=one.end_ns,
                attributes={**one.attributes, **ids}, error=one.error,
            )  # fmt: skip

    def _common(self, at: Coordinates, source: Source) -> dict[str, Any]:
        record = source.record
        return {
            "messaging.system": "kafka",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": self._group,
            "messaging.message.id": str(message_id_of(record.headers) or ""),
            "delivery.arm": self._trails.arm.name,
            "delivery.origin": str(at),
        }


CURRENT: ContextVar[Trail | None] = ContextVar("trail", default=None)


def call_attributes(effect: str, arm: str, message_id: UUID) -> dict[str, Any]:
    """What a span says of a call of the provider."""
    return {
        "http.request.method": "POST",
        "http.route": f"/v1/{effect}s",
        "delivery.effect": effect,
        "delivery.outcome": "applied",
        "delivery.arm": arm,
        "messaging.message.id": str(message_id),
    }


def _life(source: Source) -> dict[str, Any]:
    life = source.life
    run = _header(source.record.headers, RUN_HEADER)
    return {
        "delivery.attempt": life.attempts + 1,
        **({"delivery.via": life.via} if life.via else {}),
        **({"delivery.operation": life.operation} if life.operation else {}),
        **({"delivery.run": run} if run else {}),
    }


def _links(life: Forwarding) -> Iterator[Linked]:
    if (before := context_of(life.span)) is not None:
        yield Linked(before, "attempt")
    if life.operation:
        yield Linked(operation_context(life.operation), life.via)


def _header(headers: RawHeaders, name: str) -> str:
    """The first header of a name, as it counts; empty where there is none."""
    return next((value.decode("ascii", "replace") for key, value in headers if key == name and value is not None), "")


def _database(operation: str, table: str, effect: str = "record") -> dict[str, str]:
    place = {"db.system.name": "postgresql", "db.namespace": "payments", "db.collection.name": table}
    return {**place, "db.operation.name": operation, "delivery.effect": effect}


_DATABASE: Final = {
    "reserve": _database("INSERT", "inbox"),
    "record": _database("INSERT", "records"),
    "complete": _database("UPDATE", "records"),
}


def step(name: str, messages: Sequence[Message], **attributes: Any) -> contextlib.AbstractContextManager[None]:
    """`Trail.step` of the chunk in hand, if there is one."""
    trail = CURRENT.get()
    return contextlib.nullcontext() if trail is None else trail.step(name, messages, **attributes)


def mark(at: Coordinates, outcome: str, **attributes: Any) -> dict[str, str]:
    """`Trail.mark` of the chunk in hand, if there is one."""
    trail = CURRENT.get()
    return {} if trail is None else trail.mark(at, outcome, **attributes)
