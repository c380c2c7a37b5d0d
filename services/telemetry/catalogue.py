"""Every metric and log event of the lab, declared once. Code can emit nothing else.

Names and units follow OpenTelemetry (UCUM units); `prometheus` is the exact name that Prometheus sees.
"""

from typing import Final, Literal

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """One instrument. `labels` are closed sets: message ids, keys and paths are never labels."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    prometheus: str
    description: str
    labels: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """One kind of log line."""

    name: str
    description: str


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(
            "delivery.dedup.decisions",
            "counter",
            "{decision}",
            "delivery_dedup_decisions_total",
            "Decisions about a message met again: first, duplicate, resumed or conflict.",
            ("hop", "arm", "decision"),
        ),
        Metric(
            "delivery.effects",
            "counter",
            "{effect}",
            "delivery_effects_total",
            "Effects by outcome, as the process that caused them saw them.",
            ("arm", "effect", "outcome"),
        ),
        Metric(
            "delivery.dead_letters",
            "counter",
            "{message}",
            "delivery_dead_letters_total",
            "Records that an arm will never apply, by reason.",
            ("arm", "reason"),
        ),
        Metric(
            "delivery.offset_commits",
            "counter",
            "{commit}",
            "delivery_offset_commits_total",
            "Offset commits of a consumer arm.",
            ("arm", "outcome"),
        ),
        Metric(
            "messaging.client.sent.messages",
            "counter",
            "{message}",
            "messaging_client_sent_messages_total",
            "Messages that a producer tried to send to the broker, by outcome.",
            ("topic", "outcome"),
        ),
        Metric(
            "delivery.slot_lag",
            "gauge",
            "By",
            "delivery_slot_lag_bytes",
            "Write-ahead log that the arm's replication slot holds back.",
            ("arm",),
        ),
        Metric(
            "messaging.client.consumed.messages",
            "counter",
            "{message}",
            "messaging_client_consumed_messages_total",
            "Messages delivered to the application.",
            ("arm", "topic"),
        ),
        Metric(
            "delivery.retries",
            "counter",
            "{retry}",
            "delivery_retries_total",
            "Messages sent to a retry tier, and statements repeated in place (tier `in_place`), by reason.",
            ("arm", "tier", "reason"),
        ),
    )
}

EVENTS: Final = {
    event.name: event
    for event in (
        Event("process.started", "A process began: its name, pid and life."),
        Event("process.stopping", "A process was asked to end and lets go of what it holds."),
        Event("part.started", "The supervisor started a process."),
        Event("part.ready", "A process answers its readiness probe."),
        Event("part.unready", "A process that was ready no longer answers its readiness probe."),
        Event("part.exited", "A process ended, with its exit code (negative: the signal)."),
        Event("part.failed", "A process ended too often and is not started again."),
        Event("part.killed", "A process did not end when asked to, or grew over its memory bound, and was killed."),
        Event("fault", "A fault began or ended: what, on whom, by whom."),
        Event("log.message", "A line of a library's own logging."),
        Event("offset.received", "A chunk of a partition was handed to an arm: first and last offset, count."),
        Event("offset.applied", "All effects of a chunk are done."),
        Event("offset.committed", "The broker confirmed a group's new position."),
        Event("offset.commit_failed", "A commit failed or timed out; it is tried again with the next one."),
        Event("offset.revoked", "Partitions were taken from this process."),
        Event("dedup.decision", "A message id was met again: where it was first seen, and what was decided."),
        Event("dedup.window", "The dedup window moved on: partitions made and dropped, rows deleted."),
        Event("dead_letter", "A record that this arm will never apply: its coordinates and the reason."),
        Event("effect.dropped", "An effect failed in an arm that does not retry: nothing brings it back."),
        Event("transaction.fenced", "The broker takes nothing more of a producer: its process ends, and starts anew."),
        Event("transaction.aborted", "A Kafka transaction was given up: its batch is read and done again."),
        Event("message.deferred", "A message goes to a retry tier: attempts so far, tier and reason."),
        Event("call.retried", "A call failed in a way that may pass; it is made again."),
        Event("relay.shards", "The outbox shards that this relay owns changed."),
        Event("relay.source_lost", "A source's connection ended, and with it the shards; the relay connects again."),
        Event("relay.rewound", "A publication failed; the relay starts again from the table."),
        Event("slot.made", "The replication slot was gone or invalidated; there is a new one."),
        Event("slot.republished", "After the loss of a slot, all kept rows were published again: how many."),
        Event("slot.lag", "The log that a slot holds back crossed its bound, or the slot is gone: over or not."),
        Event("relay.set_aside", "The broker refuses a row for ever; it was moved out of the way."),
        Event("email.uncertain", "Nobody can know whether it was sent: its sender died, or the call was not answered."),
    )
}
