"""Every metric and log event of the lab, declared once. Code can emit nothing else.

Names and units follow OpenTelemetry (UCUM units); `prometheus` is the exact name that Prometheus sees.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from services.domain.arms import ACCEPT_PROMISES, CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, ConsumerArm
from services.domain.failure_policy import TIERS
from services.domain.messages import KINDS

Kind = Literal["counter", "gauge", "histogram"]
Values = Mapping[str, tuple[str, ...]]  # label -> all the values that it takes; a series for each combination

MOST_OF_A_PROCESS: Final = 300  # series; a test holds every part to it, with all that it may ever emit
MOST_OF_A_LAB: Final = 2_000  # with all arms, one replica each

# Of every histogram: seconds, 1 ms and twice as much each time, to 65.536 s.
BOUNDS_S: Final = tuple(0.001 * 2**n for n in range(17))


class Emitter(msgspec.Struct, frozen=True):
    """A part that emits a metric, and the closed set of label values that its processes emit it with."""

    part: str  # as in services/stack/parts.py, or `supervisor`
    values: Values = {}

    def series(self) -> Iterator[dict[str, str]]:
        """Every combination of the label values."""
        found: list[dict[str, str]] = [{}]
        for label, values in self.values.items():
            found = [{**one, label: value} for one in found for value in values]
        yield from found


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument. Labels are closed sets: message ids, keys and paths are never labels.

    Of a counter every series is there at 0 from the start of its process, except of one that is `observed`: asked for
    at each scrape, absent while it is not known. `emitted`: whether anything emits it yet.
    """

    name: str
    kind: Kind
    unit: str
    prometheus: str
    description: str
    labels: tuple[str, ...] = ()
    emitters: tuple[Emitter, ...] = ()
    observed: bool = False
    emitted: bool = True

    @property
    def owners(self) -> tuple[str, ...]:
        """The parts that emit it."""
        return tuple(dict.fromkeys(emitter.part for emitter in self.emitters))


class Event(msgspec.Struct, frozen=True):
    """One kind of log line."""

    name: str
    description: str
    fields: tuple[str, ...] = ()


# --- who emits, and the closed sets of label values

PRODUCERS: Final = tuple(
    (arm.producer(kind), arm.name) for arm in PUBLISHER_ARMS.values() for kind in arm.kinds
)  # (part, publisher arm)
PUBLISHING: Final = (("relay", DEFAULT_PUBLISHER), ("cdc", "cdc"), ("id_cursor", "id_cursor"))
SERVICES: Final = (
    *(part for part, _ in PRODUCERS),
    *(part for part, _ in PUBLISHING),
    *(f"arm.{arm}" for arm in CONSUMER_ARMS),
    *(f"retry.{arm.name}" for arm in CONSUMER_ARMS.values() if arm.retries),
    "provider",
    "probe",
    "auditor",
    "console",
    "load",
)

DECISIONS: Final = ("first", "duplicate", "conflict")
RESUMED: Final = "resumed"  # met again, but its effects were not done yet
# applied: done by this process. replayed: the provider had done it before. failed: surely not done, and tried again or
# dropped. refused: for ever. uncertain: it may have been done, and the answer did not come.
OUTCOMES: Final = ("applied", "replayed", "failed", "refused", "uncertain")
IN_PLACE: Final = "in_place"
RETRY_REASONS: Final = (
    "timeout", "connection", "connection_lost", "busy", "rate_limited", "provider_error", "database",
)  # fmt: skip
LETTER_REASONS: Final = (
    "refused", "attempts", "conflict", "older_than_window", "uncertain",
    "undecodable", "unknown_type", "invalid", "no_message_id",
)  # fmt: skip
REDRIVE_OUTCOMES: Final = ("applied", "deferred", "returned")
COMMIT_OUTCOMES: Final = ("committed", "failed")
SENT_OUTCOMES: Final = ("confirmed", "refused", "failed")
OTHER_ARM: Final = "other"  # an account of the provider that no arm of this lab has
GAP_SIGNALS: Final = ("record", "charge", "email", "dedup", "dead_letters")
DROPPED_SIGNALS: Final = ("span", "log", "message")

_MAIN: Final = {kind.topic: kind.partitions for kind in KINDS}


def _consumers(arm: ConsumerArm) -> Iterator[str]:
    yield f"arm.{arm.name}"
    if arm.retries:
        yield f"retry.{arm.name}"


def _topics_of(arm: ConsumerArm, part: str) -> tuple[str, ...]:
    """What a part of an arm reads. An arm without a lane reads its redelivery topic itself."""
    own = tuple(topic for topic in (*arm.retry_topics, arm.redelivery_topic) if topic)
    if part.startswith("retry."):
        return own
    return tuple(_MAIN) if arm.retries else tuple(_MAIN) + own


def _each_part(values: Iterable[tuple[ConsumerArm, Values]]) -> tuple[Emitter, ...]:
    return tuple(Emitter(part, {"arm": (arm.name,), **more}) for arm, more in values for part in _consumers(arm))


def _consumer_emitters(**values: tuple[str, ...]) -> tuple[Emitter, ...]:
    """Every consumer arm and lane, with the same values besides its arm."""
    return _each_part((arm, values) for arm in CONSUMER_ARMS.values())


def _everywhere() -> tuple[Emitter, ...]:
    return tuple(Emitter(part) for part in (*SERVICES, "supervisor"))


_ROWS: Final = (
    *(("accept", arm.name, "intent") for arm in PUBLISHER_ARMS.values()),
    *(("publish", arm.name, "publication") for arm in PUBLISHER_ARMS.values()),
    *(("process", arm.name, effect) for arm in CONSUMER_ARMS.values() for effect in arm.effects),
)  # of an audit: hop, arm, effect


_HOP_ARMS: Final = tuple(dict.fromkeys((hop, arm) for hop, arm, _ in _ROWS))


def audit_states(hop: str, arm: str) -> tuple[str, ...]:
    """The states that messages can be in at a hop, as an arm does it."""
    if hop == "accept":
        return ("applied_once", "duplicated", "uncertain", "lost")
    if hop == "publish":
        return ("applied_once", "duplicated", "waiting", "dead_lettered", "lost")
    consumer = CONSUMER_ARMS[arm]
    letters = ("dead_lettered", "discarded") if consumer.dead_letters else ()
    return ("applied_once", "duplicated", "waiting", *letters, *(["uncertain"] if consumer.dedups else []), "lost")


def _row(hop: str, arm: str, effect: str) -> Values:
    return {"hop": (hop,), "arm": (arm,), "effect": (effect,)}


def _audited(hops: Iterable[str] = ("accept", "publish", "process")) -> tuple[Emitter, ...]:
    """Every row of an audit."""
    return tuple(Emitter("auditor", _row(*row)) for row in _ROWS if row[0] in hops)


def _promised() -> Iterator[Emitter]:
    for hop, arm, effect in _ROWS:
        if hop == "accept":
            promises = ACCEPT_PROMISES
        elif hop == "publish":
            promises = PUBLISHER_ARMS[arm].promises
        else:
            promises = CONSUMER_ARMS[arm].promises[effect]
        if promises:
            yield Emitter("auditor", {**_row(hop, arm, effect), "promise": tuple(sorted(promises))})


def _group_topics() -> tuple[Emitter, ...]:
    """The published topics of every arm's group; what waits in retry topics waits on purpose."""
    return tuple(
        Emitter("probe", {"arm": (arm,), "topic": (topic,), "partition": _numbers(partitions)})
        for arm in CONSUMER_ARMS
        for topic, partitions in _MAIN.items()
    )


def _owned() -> tuple[Emitter, ...]:
    """The partitions that a process of an arm may own, of the topics that its group reads."""
    return tuple(
        Emitter(f"arm.{arm.name}", {"arm": (arm.name,), "topic": (topic,), "partition": _numbers(_MAIN.get(topic, 1))})
        for arm in CONSUMER_ARMS.values()
        for topic in _topics_of(arm, f"arm.{arm.name}")
    )


def _numbers(partitions: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(partitions))


def _topic_places() -> tuple[Emitter, ...]:
    places = [("main", arm.name, arm.topic(kind)) for arm in PUBLISHER_ARMS.values() for kind in arm.kinds]
    for arm in CONSUMER_ARMS.values():
        places += [("retry", arm.name, topic) for topic in arm.retry_topics]
        own = (
            ("redelivery", arm.redelivery_topic),
            ("dead_letters", arm.dead_letter_topic),
            ("output", arm.output_topic),
        )
        places += [(place, arm.name, topic) for place, topic in own if topic]
    return tuple(Emitter("probe", {"place": (p,), "arm": (a,), "topic": (t,)}) for p, a, t in places)


def _outboxes() -> tuple[Emitter, ...]:
    own = [
        (arm.name, arm.database(kind)) for arm in PUBLISHER_ARMS.values() if arm.outbox != "none" for kind in arm.kinds
    ]
    return tuple(
        Emitter("probe", {"arm": (arm,), "source": (s,)}) for arm, s in [*own, (DEFAULT_PUBLISHER, "payments")]
    )


def _each_signal() -> tuple[Emitter, ...]:
    return tuple(Emitter("auditor", {"arm": (arm.name,), "signal": gap_signals(arm)}) for arm in CONSUMER_ARMS.values())


def gap_signals(arm: ConsumerArm) -> tuple[str, ...]:
    """What an arm's processes count that its stores tell, too, by life."""
    has = {"dedup": arm.dedups, "dead_letters": arm.dead_letters, **dict.fromkeys(arm.effects, True)}
    return tuple(signal for signal in GAP_SIGNALS if has.get(signal))


def _sent() -> tuple[Emitter, ...]:
    outcomes = {"outcome": SENT_OUTCOMES}
    redrives = tuple(arm.redelivery_topic for arm in CONSUMER_ARMS.values() if arm.redelivery_topic)
    return (
        Emitter("relay", {"topic": (*_MAIN, *redrives), **outcomes}),
        *(
            Emitter(arm.name, {"topic": tuple(arm.topic(kind) for kind in arm.kinds), **outcomes})
            for arm in PUBLISHER_ARMS.values()
            if arm.name in ("cdc", "id_cursor")
        ),
    )


METRICS: Final = {
    metric.name: metric
    for metric in (
        # --- what a process saw itself: summed over replicas, lost with the process
        Metric(
            name="delivery.dedup.decisions",
            kind="counter",
            unit="{decision}",
            prometheus="delivery_dedup_decisions_total",
            description="Decisions about a message id: first, or met again as duplicate, resumed or conflict. "
            "Hop accept: Idempotency-Keys of requests; process: the inbox; charge: the provider's keys.",
            labels=("hop", "arm", "decision"),
            emitters=(
                *(Emitter(part, {"hop": ("accept",), "arm": (arm,), "decision": DECISIONS}) for part, arm in PRODUCERS),
                *(
                    Emitter(part, {"hop": ("process",), "arm": (arm.name,), "decision": (*DECISIONS, RESUMED)})
                    for arm in CONSUMER_ARMS.values()
                    if arm.dedups
                    for part in _consumers(arm)
                ),
                Emitter(
                    "provider",
                    {"hop": ("charge",), "arm": (*CONSUMER_ARMS, OTHER_ARM), "decision": DECISIONS},
                ),
            ),
        ),
        Metric(
            name="delivery.effects",
            kind="counter",
            unit="{effect}",
            prometheus="delivery_effects_total",
            description="Effects by outcome, as the process that caused them saw them: applied, replayed (the provider "
            "had applied it), failed (surely not done), refused (for ever), uncertain (no answer).",
            labels=("arm", "effect", "outcome"),
            emitters=_each_part((arm, {"effect": arm.effects, "outcome": OUTCOMES}) for arm in CONSUMER_ARMS.values()),
        ),
        Metric(
            name="delivery.retries",
            kind="counter",
            unit="{retry}",
            prometheus="delivery_retries_total",
            description="Messages sent to a retry tier, and statements repeated in place (tier in_place), by reason.",
            labels=("arm", "tier", "reason"),
            emitters=_each_part(
                (
                    arm,
                    {
                        "tier": (*(tier.name for tier in TIERS if arm.retries), IN_PLACE),
                        "reason": RETRY_REASONS,
                    },
                )
                for arm in CONSUMER_ARMS.values()
            ),
        ),
        Metric(
            name="delivery.dead_letters",
            kind="counter",
            unit="{message}",
            prometheus="delivery_dead_letters_total",
            description="Records that an arm set down as dead letters, by reason.",
            labels=("arm", "reason"),
            emitters=_each_part(
                (arm, {"reason": LETTER_REASONS}) for arm in CONSUMER_ARMS.values() if arm.dead_letters
            ),
        ),
        Metric(
            name="delivery.redrives",
            kind="counter",
            unit="{message}",
            prometheus="delivery_redrives_total",
            description="Redriven letters that an arm received, by what became of them: applied (or met again and "
            "skipped), deferred to a retry tier, returned to the dead letters.",
            labels=("arm", "outcome"),
            emitters=tuple(
                Emitter(
                    f"{'retry' if arm.retries else 'arm'}.{arm.name}", {"arm": (arm.name,), "outcome": REDRIVE_OUTCOMES}
                )
                for arm in CONSUMER_ARMS.values()
                if arm.redelivery_topic
            ),
        ),
        Metric(
            name="delivery.redeliveries",
            kind="counter",
            unit="{message}",
            prometheus="delivery_redeliveries_total",
            description="Records that the broker handed to an arm again, as far as its process can know: an offset "
            "that this life was handed before, or, with an inbox, one that any life reserved. Never evidence.",
            labels=("arm",),
            emitters=_consumer_emitters(),
        ),
        Metric(
            name="delivery.offset_commits",
            kind="counter",
            unit="{commit}",
            prometheus="delivery_offset_commits_total",
            description="Offset commits of a consumer arm, by outcome.",
            labels=("arm", "outcome"),
            emitters=_consumer_emitters(outcome=COMMIT_OUTCOMES),
        ),
        Metric(
            name="delivery.rebalances",
            kind="counter",
            unit="{rebalance}",
            prometheus="delivery_rebalances_total",
            description="Assignments of partitions, empty ones too, that its group gave this process: one a rebalance, "
            "its own joining among them. An arm and its retry lane are two groups.",
            labels=("arm",),
            emitters=_consumer_emitters(),
        ),
        Metric(
            name="delivery.consumer_lag.messages",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_consumer_lag_messages",
            description="Records of the partitions that this process owns which it has not finished. Only owned "
            "partitions are there; a dead process has none: see delivery_group_lag_messages.",
            labels=("arm", "topic", "partition"),
            emitters=_owned(),
        ),
        Metric(
            name="delivery.consumer_lag",
            kind="gauge",
            unit="s",
            prometheus="delivery_consumer_lag_seconds",
            description="Age of the last record that this process finished in a partition that it owns, while there "
            "are later ones; 0 when there are none.",
            labels=("arm", "topic", "partition"),
            emitters=_owned(),
        ),
        Metric(
            name="messaging.client.sent.messages",
            kind="counter",
            unit="{message}",
            prometheus="messaging_client_sent_messages_total",
            description="Messages that a publisher tried to send to the broker, by outcome.",
            labels=("topic", "outcome"),
            emitters=_sent(),
        ),
        Metric(
            name="messaging.client.consumed.messages",
            kind="counter",
            unit="{message}",
            prometheus="messaging_client_consumed_messages_total",
            description="Messages delivered to an arm.",
            labels=("arm", "topic"),
            emitters=tuple(
                Emitter(part, {"arm": (arm.name,), "topic": _topics_of(arm, part)})
                for arm in CONSUMER_ARMS.values()
                for part in _consumers(arm)
            ),
        ),
        Metric(
            name="messaging.process.duration",
            kind="histogram",
            unit="s",
            prometheus="messaging_process_duration_seconds",
            description="How long an arm took for a chunk (stock_faust: a message), from receipt to the last effect.",
            labels=("arm",),
            emitters=_consumer_emitters(),
        ),
        Metric(
            name="delivery.end_to_end",
            kind="histogram",
            unit="s",
            prometheus="delivery_end_to_end_seconds",
            description="From the intent (ce_time) to the end of its effects: one sample a chunk, of its oldest "
            "message, and one each for messages that are traced or not plainly applied.",
            labels=("arm",),
            emitters=_consumer_emitters(),
        ),
        Metric(
            name="delivery.publish_delay",
            kind="histogram",
            unit="s",
            prometheus="delivery_publish_delay_seconds",
            description="From the outbox row to the broker's confirmation: one sample a batch, of its oldest row.",
            labels=("arm",),
            emitters=tuple(Emitter(part, {"arm": (arm,)}) for part, arm in PUBLISHING),
        ),
        Metric(
            name="delivery.loop_lag",
            kind="histogram",
            unit="s",
            prometheus="delivery_loop_lag_seconds",
            description="How much later than asked the process's event loop woke up, sampled several times a second.",
            emitters=tuple(Emitter(part) for part in SERVICES if part != "auditor"),  # it has 300 series without
        ),
        Metric(
            name="delivery.process_info",
            kind="gauge",
            unit="{process}",
            prometheus="delivery_process_info",
            description="1; the label says which life (incarnation) of the process answers the scrape.",
            labels=("life",),
            emitters=_everywhere(),
        ),
        Metric(
            name="delivery.counted_until_timestamp",
            kind="gauge",
            unit="s",
            prometheus="delivery_counted_until_timestamp_seconds",
            description="The effects that this process caused before this time are all in its counters; of later ones "
            "some may still be in hand. What observed == audited goes by.",
            emitters=tuple(Emitter(part) for arm in CONSUMER_ARMS.values() for part in _consumers(arm)),
        ),
        Metric(
            name="delivery.circuit.open",
            kind="gauge",
            unit="{circuit}",
            prometheus="delivery_circuit_open",
            description="1 while the circuit breaker holds back this process's calls to the provider, or tries one; "
            "0 while they pass. Waiting for it costs a message no attempt.",
            labels=("arm",),
            emitters=tuple(
                Emitter(part, {"arm": (arm.name,)})
                for arm in CONSUMER_ARMS.values()
                if arm.retries
                for part in _consumers(arm)
            ),
        ),
        Metric(
            name="delivery.telemetry.dropped",
            kind="counter",
            unit="{item}",
            prometheus="delivery_telemetry_dropped_total",
            description="Telemetry that was given up rather than waited for: spans (exporter away or slow), log lines "
            "(rate bound), per-message spans, lines and samples (message: the token bucket was empty).",
            labels=("signal",),
            emitters=tuple(Emitter(part, {"signal": DROPPED_SIGNALS}) for part in SERVICES),
        ),
        Metric(
            name="process.memory.usage",
            kind="gauge",
            unit="By",
            prometheus="process_memory_usage_bytes",
            description="Resident memory of the process.",
            emitters=_everywhere(),
        ),
        Metric(
            name="process.cpu.time",
            kind="counter",
            unit="s",
            prometheus="process_cpu_time_seconds_total",
            description="Processor time that the process has used, user and system.",
            emitters=_everywhere(),
            observed=True,
        ),
        Metric(
            name="process.open_file_descriptors",
            kind="gauge",
            unit="{file_descriptor}",
            prometheus="process_open_file_descriptors",
            description="Open files and sockets of the process.",
            emitters=_everywhere(),
        ),
        # --- shared state, by one emitter: the probe
        Metric(
            name="delivery.group_lag.messages",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_group_lag_messages",
            description="Records between a group's committed offset and the end of the partition, dead consumers "
            "included. 0 does not mean done for at_most_once: it commits first.",
            labels=("arm", "topic", "partition"),
            emitters=_group_topics(),
        ),
        Metric(
            name="delivery.group_lag",
            kind="gauge",
            unit="s",
            prometheus="delivery_group_lag_seconds",
            description="Now minus the broker's time of the first record the group has not committed; 0 without one.",
            labels=("arm", "topic", "partition"),
            emitters=_group_topics(),
        ),
        Metric(
            name="delivery.group.committed_offsets",
            kind="counter",
            unit="{record}",
            prometheus="delivery_group_committed_offsets_total",
            description="Committed offsets of a group, summed over a topic's partitions: what it has consumed, by its "
            "own account, whatever was killed.",
            labels=("arm", "topic"),
            emitters=tuple(
                Emitter("probe", {"arm": (arm.name,), "topic": _topics_of(arm, part)})
                for arm in CONSUMER_ARMS.values()
                for part in _consumers(arm)
            ),
            observed=True,
        ),
        Metric(
            name="delivery.topic.end_offsets",
            kind="counter",
            unit="{record}",
            prometheus="delivery_topic_end_offsets_total",
            description="End offsets of a topic, summed over its partitions; place: main, retry, redelivery, "
            "dead_letters, output. They survive every SIGKILL: inflow alerts go by them.",
            labels=("place", "arm", "topic"),
            emitters=_topic_places(),
            observed=True,
        ),
        Metric(
            name="delivery.outbox.pending",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_outbox_pending",
            description="Outbox rows that are not published yet, by publisher arm and source database.",
            labels=("arm", "source"),
            emitters=_outboxes(),
        ),
        Metric(
            name="delivery.outbox.oldest_age",
            kind="gauge",
            unit="s",
            prometheus="delivery_outbox_oldest_age_seconds",
            description="Age of the oldest outbox row that is not published yet; 0 without one.",
            labels=("arm", "source"),
            emitters=_outboxes(),
        ),
        Metric(
            name="delivery.dead_letters.depth",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_dead_letters_depth",
            description="Letters that are parked: neither redriven nor discarded.",
            labels=("arm",),
            emitters=(
                Emitter("probe", {"arm": tuple(arm.name for arm in CONSUMER_ARMS.values() if arm.dead_letters)}),
            ),
        ),
        Metric(
            name="delivery.dead_letters.oldest_age",
            kind="gauge",
            unit="s",
            prometheus="delivery_dead_letters_oldest_age_seconds",
            description="Since when the oldest parked letter is there; 0 without one. A redrive that failed makes a "
            "letter no younger.",
            labels=("arm",),
            emitters=(
                Emitter("probe", {"arm": tuple(arm.name for arm in CONSUMER_ARMS.values() if arm.dead_letters)}),
            ),
        ),
        Metric(
            name="delivery.slot_lag",
            kind="gauge",
            unit="By",
            prometheus="delivery_slot_lag_bytes",
            description="Write-ahead log that the arm's replication slot holds back; of one that is lost, the most "
            "that the server lets a slot hold (max_slot_wal_keep_size).",
            labels=("arm",),
            emitters=(Emitter("probe", {"arm": ("cdc",)}),),
        ),
        Metric(
            name="delivery.probe.last_success_timestamp",
            kind="gauge",
            unit="s",
            prometheus="delivery_probe_last_success_timestamp_seconds",
            description="When the probe last had a whole answer of a store; the gauges of one that does not answer "
            "are absent.",
            labels=("store",),
            emitters=(Emitter("probe", {"store": ("kafka", "postgres")}),),
        ),
        # --- the auditor
        Metric(
            name="delivery.audit.messages",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_audit_messages",
            description="The last audit's counts by state, for pictures.",
            labels=("hop", "arm", "effect", "state"),
            emitters=tuple(Emitter("auditor", {**_row(*row), "state": audit_states(row[0], row[1])}) for row in _ROWS),
        ),
        Metric(
            name="delivery.audit.unexplained",
            kind="gauge",
            unit="{message}",
            prometheus="delivery_audit_unexplained",
            description="Messages for which the last audit has no state, over all rows: 0, or the law does not close.",
            emitters=(Emitter("auditor"),),
        ),
        Metric(
            name="delivery.audit.expected",
            kind="counter",
            unit="{message}",
            prometheus="delivery_audit_expected_total",
            description="Messages that were found to be expected on the hop process: what rates of loss are shares of.",
            labels=("hop", "arm", "effect"),
            emitters=_audited(["process"]),
        ),
        Metric(
            name="delivery.audit.lost",
            kind="counter",
            unit="{message}",
            prometheus="delivery_audit_lost_total",
            description="Messages that were found lost. It only rises, over restarts, too: a loss that was taken back "
            "is in delivery_audit_retractions_total.",
            labels=("hop", "arm", "effect"),
            emitters=_audited(),
        ),
        Metric(
            name="delivery.audit.extra_applications",
            kind="counter",
            unit="{application}",
            prometheus="delivery_audit_extra_applications_total",
            description="Applications of an effect beyond the first that were found.",
            labels=("hop", "arm", "effect"),
            emitters=_audited(),
        ),
        Metric(
            name="delivery.audit.unexpected",
            kind="counter",
            unit="{message}",
            prometheus="delivery_audit_unexpected_total",
            description="Effects without an intent (ghosts) that were found.",
            labels=("hop", "arm", "effect"),
            emitters=_audited(),
        ),
        Metric(
            name="delivery.audit.retractions",
            kind="counter",
            unit="{message}",
            prometheus="delivery_audit_retractions_total",
            description="Losses that were counted and then found after all.",
            labels=("hop", "arm"),
            emitters=tuple(Emitter("auditor", {"hop": (hop,), "arm": (arm,)}) for hop, arm in _HOP_ARMS),
        ),
        Metric(
            name="delivery.promise_info",
            kind="gauge",
            unit="{promise}",
            prometheus="delivery_promise_info",
            description="1 for every promise that is made: a broken one is a page, the same without a promise is not.",
            labels=("hop", "arm", "effect", "promise"),
            emitters=tuple(_promised()),
        ),
        Metric(
            name="delivery.audit.last_success_timestamp",
            kind="gauge",
            unit="s",
            prometheus="delivery_audit_last_success_timestamp_seconds",
            description="When the last whole audit was done.",
            emitters=(Emitter("auditor"),),
        ),
        Metric(
            name="delivery.audit.telemetry_gap",
            kind="gauge",
            unit="{row}",
            prometheus="delivery_audit_telemetry_gap",
            description="Rows in the stores that the counters of the lives that wrote them do not account for, those "
            "after their last scrape left out. 0 after the drain and one more scrape.",
            labels=("arm", "signal"),
            emitters=_each_signal(),
        ),
        # --- the supervisor
        Metric(
            name="delivery.part_up",
            kind="gauge",
            unit="{process}",
            prometheus="delivery_part_up",
            description="Whether a process that is expected answers its readiness probe.",
            labels=("part", "process"),
            emitters=(Emitter("supervisor"),),
        ),
        Metric(
            name="delivery.part_restarts",
            kind="counter",
            unit="{restart}",
            prometheus="delivery_part_restarts_total",
            description="How often the supervisor started a process again.",
            labels=("part", "process"),
            emitters=(Emitter("supervisor"),),
            observed=True,
        ),
    )
}

EVENTS: Final = {
    event.name: event
    for event in (
        Event("process.started", "A process began: its name, pid and life.", ("pid",)),
        Event("process.stopping", "A process was asked to end and lets go of what it holds."),
        Event("part.started", "The supervisor started a process.", ("part", "pid")),
        Event("part.ready", "A process answers its readiness probe.", ("part",)),
        Event("part.unready", "A process that was ready no longer answers its readiness probe.", ("part",)),
        Event("part.exited", "A process ended, with its exit code (negative: the signal).", ("part", "code")),
        Event("part.not_started", "A process could not be started; it is tried again.", ("part", "why")),
        Event("part.failed", "A process ended too often and is not started again.", ("part", "why")),
        Event(
            "part.killed",
            "A process did not end when asked to, or grew over its memory bound, and was killed.",
            ("part", "why"),
        ),
        Event("fault", "A fault began or ended: what, on whom, by whom.", ("id",)),
        Event("log.message", "A line of a library's own logging.", ("logger", "message")),
        Event(
            "log.dropped",
            "Lines were not written, because there were too many of them: how many, of which events.",
            ("count", "events"),
        ),
        Event(
            "offset.received",
            "A chunk of a partition was handed to an arm: first and last offset, count.",
            ("arm", "topic", "partition", "first_offset", "last_offset", "count"),
        ),
        Event(
            "offset.applied",
            "All effects of a chunk are done.",
            ("arm", "topic", "partition", "first_offset", "last_offset", "count"),
        ),
        Event("offset.committed", "The broker confirmed a group's new position.", ("arm", "positions")),
        Event(
            "offset.commit_failed",
            "A commit failed or timed out; it is tried again with the next one.",
            ("arm", "positions", "error"),
        ),
        Event("offset.revoked", "Partitions were taken from this process.", ("arm", "partitions")),
        Event(
            "offset.rewound", "An arm went back to its committed positions: what it had in hand comes again.", ("arm",)
        ),
        Event(
            "dedup.decision",
            "A message id was met again: where it was first seen, and what was decided.",
            ("hop", "arm", "decision", "reason", "dedup.key", "message.id", "original.message.id"),
        ),
        Event(
            "dedup.window",
            "The dedup window moved on: partitions made and dropped, rows deleted.",
            ("made", "dropped", "deleted"),
        ),
        Event(
            "dead_letter",
            "A record that this arm will never apply: its coordinates and the reason.",
            ("arm", "at", "reason", "detail", "message.id"),
        ),
        Event(
            "effect.dropped",
            "An effect failed in an arm that does not retry: nothing brings it back.",
            ("arm", "effect", "at", "detail", "message.id"),
        ),
        Event(
            "transaction.fenced",
            "The broker takes nothing more of a producer: its process ends, and starts anew.",
            ("positions", "error"),
        ),
        Event(
            "transaction.aborted",
            "A Kafka transaction was given up: its batch is read and done again.",
            ("positions", "error"),
        ),
        Event(
            "message.deferred",
            "A message goes to a retry tier: attempts so far, tier and reason.",
            ("arm", "at", "tier", "attempts", "reason", "detail", "message.id"),
        ),
        Event(
            "call.retried",
            "A call failed in a way that may pass; it is made again.",
            ("what", "attempt", "reason", "detail", "delay_s"),
        ),
        Event("relay.shards", "The outbox shards that this relay owns changed.", ("source", "shards", "members")),
        Event(
            "relay.source_lost",
            "A source's connection ended, and with it the shards; the relay connects again.",
            ("source", "error"),
        ),
        Event("relay.rewound", "A publication failed; the relay starts again from the table.", ("source", "failed")),
        Event("slot.made", "The replication slot was gone or invalidated; there is a new one.", ("source",)),
        Event(
            "slot.republished",
            "After the loss of a slot, all kept rows were published again: how many.",
            ("source", "rows"),
        ),
        Event(
            "slot.lag",
            "The log that a slot holds back crossed its bound, or the slot is gone: over or not.",
            ("held_bytes", "over", "gone"),
        ),
        Event(
            "relay.set_aside",
            "The broker refuses a row for ever; it was moved out of the way.",
            ("source", "position", "reason"),
        ),
        Event("audit.failed", "A pass of the auditor ended early: a store could not be read.", ("why",)),
        Event(
            "email.uncertain",
            "Nobody can know whether it was sent: its sender died, or the call was not answered.",
            ("arm", "message.id", "claimed_by"),
        ),
    )
}
