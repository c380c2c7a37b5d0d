"""The closed list of failpoints. Each line says what has happened at this place, and what has not."""

from typing import Final, Literal, get_args

import msgspec

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS

ErrorKind = Literal["timeout", "connection", "database", "invalid", "http_400", "http_429", "http_500", "http_503"]
ERROR_KINDS: Final[tuple[ErrorKind, ...]] = get_args(ErrorKind)
HTTP_KINDS: Final = tuple(kind for kind in ERROR_KINDS if kind.startswith("http_"))
UNANSWERED_KINDS: Final[tuple[ErrorKind, ...]] = ("timeout", "connection", "database")

# What `error:` means, by the beginning of the failpoint's name; the longest that fits. It ends no process, unless the
# failure policy gives up: what is done again in place has failed for longer than GIVE_UP_AFTER_S.
ERRORS: Final = {
    "accept.": "503 to the client, who asks again under its key",
    "publish.": "the session with the source ends; the next one begins at its table or slot",
    "process.": "as if the last call of each message in hand had failed so: retry tier, dead letters, or dropped "
    "(at_most_once)",
    "process.after_retry_produced_before_commit": "no confirmation came: sent again in place",
    "process.after_dead_letter_produced_before_commit": "no confirmation came: sent and written again in place",
    "process.in_transaction_": "the transaction is aborted, its batch done again",
    "process.after_email_claimed_before_sent": "as if each call had failed so: pending again where surely nothing was "
    "sent, else uncertain; refused: a letter",
    "redrive.": "the command ends with exit code 1; again, it goes on from there",
    "replay.": "the command ends with exit code 1; again, it goes on from there",
    "provider.": "it is the provider's answer",
}


class Failpoint(msgspec.Struct, frozen=True):
    """One dangerous gap."""

    name: str
    owners: tuple[str, ...]  # processes, without replica number
    happened: str
    not_yet: str
    errors: tuple[ErrorKind, ...] = ERROR_KINDS  # what `error:` can be here
    by_account: bool = False  # `arm=` names whose call passes, not which process

    @property
    def on_error(self) -> str:
        """What an error injected here is taken for."""
        return ERRORS[max((start for start in ERRORS if self.name.startswith(start)), key=len)]

    @property
    def arms(self) -> tuple[str, ...]:
        """What `arm=` can name here: an arm, or one of its processes."""
        return (
            tuple(CONSUMER_ARMS) if self.by_account else tuple(dict.fromkeys([*map(arm_of, self.owners), *self.owners]))
        )


def selectors(process: str) -> tuple[str, str, str]:
    """What `arm=` may say for a pass of this process to count: nothing, its arm, the process without replica number."""
    return "", arm_of(process), process.partition("#")[0]


def arm_of(process: str) -> str:
    """The arm that a process works for: `relay` of `relay#1`, `at_least_once` of its own and of its lane's process."""
    return process.partition("#")[0].removeprefix("arm.").removeprefix("retry.").removeprefix("orders.")


REDRIVE: Final = "redrive"  # `lab dlq redrive` and `lab replay`, which pass failpoints as processes do
REPLAY: Final = "replay"
COMMANDS: Final = (REDRIVE, REPLAY)
_PRODUCERS: Final = tuple(arm.producer(kind) for arm in PUBLISHER_ARMS.values() for kind in arm.kinds)
_RELAY: Final = ("relay",)
_PUBLISHERS: Final = (*_RELAY, "cdc", "id_cursor")
_AT_LEAST_ONCE: Final = "arm.at_least_once"
_EFFECTIVELY_ONCE: Final = "arm.effectively_once"
_EFFECTIVE: Final = (_EFFECTIVELY_ONCE, "retry.effectively_once")
_RETRYING: Final = (_AT_LEAST_ONCE, "retry.at_least_once", *_EFFECTIVE)
_AT_MOST_ONCE: Final = ("arm.at_most_once",)
_KAFKA_TRANSACTIONS: Final = ("arm.kafka_transactions",)
_ARMS: Final = (*_RETRYING, *_AT_MOST_ONCE)

FAILPOINTS: Final = {
    point.name: point
    for point in (
        Failpoint("accept.before_commit", _PRODUCERS, "the request was read and checked", "the transaction"),
        Failpoint("accept.after_commit_before_answer", _PRODUCERS, "the transaction is committed", "the answer"),
        Failpoint(
            "accept.after_commit_before_produce",
            ("orders.dual_write_after_commit",),
            "the intent is committed",
            "its publication, and nobody else will",
        ),
        Failpoint(
            "accept.after_produce_before_commit",
            ("orders.dual_write_before_commit",),
            "the broker confirmed the record",
            "the intent's commit",
        ),
        Failpoint(
            "accept.after_insert_before_commit",
            ("orders.id_cursor",),
            "the outbox row has drawn its position",
            "the commit, which makes it seen",
        ),
        Failpoint("publish.after_fetch", _PUBLISHERS, "a batch was read from the outbox", "any produce"),
        Failpoint("publish.half_batch", _RELAY, "the first half of a batch was confirmed by the broker", "the rest"),
        Failpoint(
            "publish.after_produce_before_delete",
            _RELAY,
            "the broker confirmed the whole batch",
            "the rows' removal from the outbox",
        ),
        Failpoint(
            "redrive.half_way",
            (REDRIVE,),
            "a batch of letters is marked, with its outbox rows, in one transaction",
            "the next batch",
        ),
        Failpoint(
            "replay.half_way",
            (REPLAY,),
            "a batch of a replay was produced in a transaction",
            "its position, and the commit of both",
        ),
        Failpoint(
            "publish.after_produce_before_confirm",
            ("cdc", "id_cursor"),
            "the broker confirmed the whole batch",
            "the position up to which rows are published",
        ),
        Failpoint("process.after_read", _ARMS, "a chunk was read and decoded", "any effect"),
        Failpoint(
            "process.after_commit_before_effect",
            _AT_MOST_ONCE,
            "the offset of a chunk is committed",
            "any effect",
        ),
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
            "the records, or their completion (effectively_once)",
        ),
        Failpoint(
            "process.after_record_before_commit", _RETRYING, "records and charges of a chunk are applied", "the offset"
        ),
        Failpoint(
            "process.after_retry_produced_before_commit",
            _RETRYING,
            "the broker confirmed the failed messages of a chunk in their retry tier",
            "the offset",
            UNANSWERED_KINDS,
        ),
        Failpoint(
            "process.after_dead_letter_produced_before_commit",
            (*_RETRYING, *_KAFKA_TRANSACTIONS),
            "the letters of a chunk are in the dead letter topic and in the table",
            "the offset",
            UNANSWERED_KINDS,
        ),
        Failpoint(
            "process.during_rebalance",
            (*_ARMS, *_KAFKA_TRANSACTIONS),
            "the group takes partitions away; what was in hand of them is applied, or given up",
            "the last offsets, and the partitions' next owner",
            errors=(),
        ),
        Failpoint(
            "process.in_transaction_before_offsets",
            _KAFKA_TRANSACTIONS,
            "records and charges of a batch are applied, its output is produced, within the transaction",
            "the offsets",
            UNANSWERED_KINDS,
        ),
        Failpoint(
            "process.in_transaction_after_offsets",
            _KAFKA_TRANSACTIONS,
            "the offsets of the batch are in the transaction, too",
            "its commit",
            UNANSWERED_KINDS,
        ),
        Failpoint(
            "process.after_email_claimed_before_sent",
            _EFFECTIVE,
            "an email's row says that it is being sent",
            "the call",
        ),
        Failpoint(
            "provider.before_applying",
            ("provider",),
            "a charge or email was read and checked",
            "its application",
            HTTP_KINDS,
            by_account=True,
        ),
        Failpoint(
            "provider.after_applying_before_answer",
            ("provider",),
            "a charge (with its key) or email is applied",
            "the answer",
            HTTP_KINDS,
            by_account=True,
        ),
    )
}

# What can be put onto a topic beside what the publishers put there: `lab fault inject KIND`.
DATA_FAULTS: Final = {
    "poison": "bytes that are no event: no message id, no type, no JSON",
    "unknown_version": "an event of a version that nobody knows",
    "conflict": "the message id of an earlier record with another payload",
    "duplicate": "an exact copy of an earlier record",
    "older_than_window": "a valid event whose message id is older than any dedup window",
}

# What can be done to an arm's applied effects behind everybody's back: `lab fault tamper KIND ARM`.
TAMPERINGS: Final = {
    "remove": "the effect of a message is taken out of its store: lost",
    "repeat": "the effect of a message is written again: duplicated",
    "invent": "an effect is written for a message that no record asked for: unexpected",
}
