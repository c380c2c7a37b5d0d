"""The closed list of failpoints. Each line says what has happened at this place, and what has not."""

from typing import Final

import msgspec


class Failpoint(msgspec.Struct, frozen=True):
    """One dangerous gap."""

    name: str
    owners: tuple[str, ...]  # processes, without replica number
    happened: str
    not_yet: str


_PRODUCERS: Final = ("orders", "refunds")
_RELAY: Final = ("relay",)
_AT_LEAST_ONCE: Final = "arm.at_least_once"
_EFFECTIVELY_ONCE: Final = "arm.effectively_once"
_EFFECTIVE: Final = (_EFFECTIVELY_ONCE, "retry.effectively_once")
_RETRYING: Final = (_AT_LEAST_ONCE, "retry.at_least_once", *_EFFECTIVE)
_ARMS: Final = _RETRYING

FAILPOINTS: Final = {
    point.name: point
    for point in (
        Failpoint("accept.before_commit", _PRODUCERS, "the request was read and checked", "the transaction"),
        Failpoint("accept.after_commit_before_answer", _PRODUCERS, "intent and outbox row are committed", "the answer"),
        Failpoint("publish.after_fetch", _RELAY, "a batch was read from the outbox", "any produce"),
        Failpoint("publish.half_batch", _RELAY, "the first half of a batch was confirmed by the broker", "the rest"),
        Failpoint(
            "publish.after_produce_before_delete",
            _RELAY,
            "the broker confirmed the whole batch",
            "the rows' removal from the outbox",
        ),
        Failpoint("process.after_read", _ARMS, "a chunk was read and decoded", "any effect"),
        Failpoint(
            "process.after_reserve_before_charge",
            _EFFECTIVE,
            "the ids are reserved, their records pending",
            "any charge",
        ),
        Failpoint(
            "process.after_charge_before_record",
            _ARMS,
            "the charges of a chunk were applied",
            "the records (at_least_once) or their completion (effectively_once)",
        ),
        Failpoint(
            "process.after_record_before_commit", _ARMS, "records and charges of a chunk are applied", "the offset"
        ),
        Failpoint(
            "process.after_retry_produced_before_commit",
            _RETRYING,
            "the broker confirmed the failed messages of a chunk in their retry tier",
            "the offset",
        ),
        Failpoint(
            "process.after_dead_letter_produced_before_commit",
            _RETRYING,
            "the letters of a chunk are in the dead letter topic and in the table",
            "the offset",
        ),
        Failpoint(
            "process.after_email_claimed_before_sent",
            _EFFECTIVE,
            "an email's row says that it is being sent",
            "the call",
        ),
    )
}
