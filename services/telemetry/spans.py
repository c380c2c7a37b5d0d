"""Every span of the lab and every attribute that one may have: the catalogue's part for traces.

Names, kinds and attributes follow OpenTelemetry's conventions for messaging, HTTP and databases; what they have no word
for is `delivery.*`. A title's fields are attributes, with `_` for `.`.
"""

from typing import Final, Literal

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.messages import KINDS


class Attribute(msgspec.Struct, frozen=True):
    """One attribute of spans, or field of log events."""

    name: str
    description: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of span; `attributes` are names of ATTRIBUTES. `parent` and `links` name kinds of spans, for people."""

    name: str
    title: str
    kind: Literal["internal", "server", "client", "producer", "consumer"]
    description: str
    parent: str = ""
    links: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()


ATTRIBUTES: Final = {
    attribute.name: attribute
    for attribute in (
        Attribute("messaging.system", "`kafka`"),
        Attribute("messaging.operation.name", "send, receive, poll, process or commit"),
        Attribute("messaging.operation.type", "send, receive, process or settle, as the conventions sort them"),
        Attribute("messaging.destination.name", "The topic."),
        Attribute("messaging.destination.partition.id", "The partition, as text."),
        Attribute("messaging.consumer.group.name", "The consumer group."),
        Attribute("messaging.message.id", "The message id (`ce_id`)."),
        Attribute("messaging.kafka.offset", "The record's offset."),
        Attribute("messaging.kafka.message.key", "The record's key, the customer id."),
        Attribute("messaging.batch.message_count", "How many messages a batch or chunk has."),
        Attribute("http.request.method", "The method."),
        Attribute("http.route", "The route, without ids."),
        Attribute("http.response.status_code", "The answer's status."),
        Attribute("db.system.name", "`postgresql`"),
        Attribute("db.namespace", "The database, with the arm's schema where it has one."),
        Attribute("db.operation.name", "INSERT or UPDATE."),
        Attribute("db.collection.name", "The table."),
        Attribute("delivery.arm", "The publisher or consumer arm."),
        Attribute("delivery.outcome", "What came of it: applied, duplicate, deferred, dead_lettered, dropped, …"),
        Attribute("delivery.effect", "record, charge, email or output."),
        Attribute("delivery.decision", "What the inbox or the idempotency key said: first, duplicate, conflict, …"),
        Attribute("delivery.reason", "Why: the reason of a failure, of a letter, or of a repetition."),
        Attribute("delivery.attempt", "Which attempt this is, from 1."),
        Attribute("delivery.tier", "The retry tier that it goes to."),
        Attribute("delivery.via", "How the record came, if not on its topic: retry, redrive, replay."),
        Attribute("delivery.operation", "The id of the redrive or replay."),
        Attribute("delivery.origin", "topic/partition/offset where the arm first met the record."),
        Attribute("delivery.offset.first", "The first offset of a chunk."),
        Attribute("delivery.offset.last", "The last offset of a chunk."),
        Attribute("delivery.run", "The run that the message belongs to."),
        Attribute("delivery.count", "How many messages an operation changed."),
    )
}

_PRODUCERS: Final = tuple(arm.producer(kind) for arm in PUBLISHER_ARMS.values() for kind in arm.kinds)
_DUAL_WRITES: Final = tuple(
    arm.producer(kind)
    for arm in PUBLISHER_ARMS.values()
    for kind in KINDS
    if kind in arm.kinds and arm.outbox == "none"
)
_PUBLISHING: Final = ("relay", *(n for n, a in PUBLISHER_ARMS.items() if n != DEFAULT_PUBLISHER and a.outbox != "none"))
_ARMS: Final = tuple(f"arm.{name}" for name in CONSUMER_ARMS)
_LANES: Final = tuple(f"retry.{arm.name}" for arm in CONSUMER_ARMS.values() if arm.retries)
_DEDUPING: Final = tuple(
    f"{word}.{arm.name}" for arm in CONSUMER_ARMS.values() if arm.dedups for word in ("arm", "retry")
)

_MESSAGING: Final = (
    "messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name",
)  # fmt: skip
_RECORD: Final = (
    *_MESSAGING, "messaging.message.id", "messaging.destination.partition.id", "messaging.kafka.offset",
    "messaging.consumer.group.name", "delivery.arm", "delivery.origin",
)  # fmt: skip
_DB: Final = (
    "db.system.name", "db.namespace", "db.operation.name", "db.collection.name", "messaging.message.id", "delivery.arm",
    "delivery.effect", "delivery.outcome", "messaging.batch.message_count",
)  # fmt: skip
_CALL: Final = (
    "http.request.method", "http.route", "messaging.message.id", "delivery.arm", "delivery.effect", "delivery.outcome",
    "delivery.reason",
)  # fmt: skip
_SENT_ON: Final = (
    *_MESSAGING, "messaging.message.id", "delivery.arm", "delivery.origin", "delivery.reason", "delivery.attempt",
)  # fmt: skip

SPANS: Final = {
    span.name: span
    for span in (
        Span(
            name="request",
            title="{http_request_method} {http_route}",
            kind="server",
            description="A request, from its headers to its answer.",
            parent="the caller's span",
            attributes=(
                "http.request.method",
                "http.route",
                "http.response.status_code",
                "messaging.message.id",
                "delivery.arm",
                "delivery.decision",
                "delivery.run",
            ),
            owners=_PRODUCERS,
        ),
        Span(
            name="insert",
            title="INSERT intents",
            kind="client",
            description="Intent, idempotency key and outbox row: one round trip.",
            parent="request",
            attributes=_DB,
            owners=_PRODUCERS,
        ),
        Span(
            name="send",
            title="send {messaging_destination_name}",
            kind="producer",
            description="A message's publication, from its batch's start to the broker's report. Its record names it.",
            parent="request",
            links=("send.batch", "redrive"),
            attributes=(
                *_MESSAGING,
                "messaging.message.id",
                "messaging.kafka.message.key",
                "delivery.arm",
                "delivery.outcome",
                "delivery.via",
                "delivery.operation",
                "delivery.reason",
            ),
            owners=(*_PUBLISHING, *_DUAL_WRITES),
        ),
        Span(
            name="send.batch",
            title="send",
            kind="client",
            description="A batch of outbox rows with the broker; only batches of which a message has spans.",
            attributes=(
                "messaging.system",
                "messaging.operation.name",
                "messaging.operation.type",
                "messaging.batch.message_count",
                "delivery.arm",
            ),
            owners=_PUBLISHING,
        ),
        Span(
            name="poll",
            title="poll {messaging_destination_name}",
            kind="client",
            description="A chunk of one partition, from the arm's receipt to its last effect; only chunks of which a "
            "message has spans.",
            attributes=(
                *_MESSAGING,
                "messaging.destination.partition.id",
                "messaging.consumer.group.name",
                "messaging.batch.message_count",
                "delivery.arm",
                "delivery.offset.first",
                "delivery.offset.last",
            ),
            owners=_ARMS + _LANES,
        ),
        Span(
            name="receive",
            title="receive {messaging_destination_name}",
            kind="client",
            description="From the broker's time of the record until the arm has it in hand: what it waited.",
            parent="send",
            attributes=_RECORD,
            owners=_ARMS + _LANES,
        ),
        Span(
            name="process",
            title="process {messaging_destination_name}",
            kind="consumer",
            description="A message in an arm's hand, until all its effects are done or it was sent on.",
            parent="receive",
            links=("poll", "process of the attempt before", "redrive", "replay"),
            attributes=(
                *_RECORD,
                "delivery.outcome",
                "delivery.decision",
                "delivery.reason",
                "delivery.attempt",
                "delivery.via",
                "delivery.operation",
                "delivery.run",
            ),
            owners=_ARMS + _LANES,
        ),
        Span(
            name="reserve",
            title="INSERT inbox",
            kind="client",
            description="Dedup decision and reservation of a chunk, one transaction.",
            parent="process",
            attributes=_DB,
            owners=_DEDUPING,
        ),
        Span(
            name="record",
            title="INSERT records",
            kind="client",
            description="The effect `record` of a chunk, one statement.",
            parent="process",
            attributes=_DB,
            owners=tuple(name for name in _ARMS + _LANES if name not in _DEDUPING),
        ),
        Span(
            name="complete",
            title="UPDATE records",
            kind="client",
            description="Inbox done, record applied, email row pending: one transaction.",
            parent="process",
            attributes=_DB,
            owners=_DEDUPING,
        ),
        Span(
            name="call",
            title="{http_request_method} {http_route}",
            kind="client",
            description="One call of the provider: a charge or an email.",
            parent="process",
            attributes=_CALL,
            owners=_ARMS + _LANES,
        ),
        Span(
            name="output",
            title="send {messaging_destination_name}",
            kind="producer",
            description="The record once more, into the open transaction.",
            parent="process",
            attributes=_SENT_ON,
            owners=("arm.kafka_transactions",),
        ),
        Span(
            name="retry",
            title="send {messaging_destination_name}",
            kind="producer",
            description="A message that failed goes to a retry tier.",
            parent="process",
            attributes=(*_SENT_ON, "delivery.tier"),
            owners=tuple(
                f"{word}.{arm.name}" for arm in CONSUMER_ARMS.values() if arm.retries for word in ("arm", "retry")
            ),
        ),
        Span(
            name="dead_letter",
            title="send {messaging_destination_name}",
            kind="producer",
            description="A message that will never be applied goes to the dead letters.",
            parent="process",
            attributes=_SENT_ON,
            owners=tuple(name for name in _ARMS + _LANES if CONSUMER_ARMS[name.partition(".")[2]].dead_letters),
        ),
        Span(
            name="commit",
            title="commit {messaging_destination_name}",
            kind="client",
            description="From a message's last effect until the broker confirmed a position behind it: what a crash "
            "would bring again. Of an arm that commits first, the moment of the commit.",
            parent="process",
            attributes=_RECORD,
            owners=tuple(name for name in _ARMS + _LANES if name != "arm.stock_faust"),
        ),
        Span(
            name="redrive",
            title="redrive",
            kind="internal",
            description="A redrive of dead letters; its ids come from the operation's id.",
            attributes=("delivery.operation", "delivery.count"),
            owners=("lab",),
        ),
        Span(
            name="replay",
            title="replay {messaging_destination_name}",
            kind="internal",
            description="A replay of a window of a topic; its ids come from the operation's id.",
            attributes=("messaging.destination.name", "delivery.arm", "delivery.operation", "delivery.count"),
            owners=("lab",),
        ),
    )
}
