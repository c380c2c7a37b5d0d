"""The arms as data: one row an arm, from which processes, topics, audits, pages and docs are made."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from services.domain.failure_policy import TIERS, Tier
from services.domain.messages import KINDS, ORDERS, Kind

Hop = Literal["accept", "publish", "process"]
Promise = Literal["no_loss", "no_duplicate"]


# How an arm keeps what it has not published yet, and so which rows of its table `outbox` are waiting:
#   none             there is no outbox: what is committed and not published is held by nobody
#   until_confirmed  a row is removed when it is confirmed: all that are there
#   cursor           rows stay: those whose position is above progress.position
#   snapshot         rows stay a while: those whose xid is not visible in progress.snapshot (all, while it is null)
Outbox = Literal["none", "until_confirmed", "cursor", "snapshot"]


class PublisherArm(msgspec.Struct, frozen=True):
    """One way to get an intent onto its topic."""

    name: str
    gloss: str
    promises: frozenset[Promise]
    outbox: Outbox
    kinds: tuple[Kind, ...]

    def database(self, kind: Kind) -> str:
        """Where its intents are: the tables `intents`, `outbox` (unless it has none) and `progress`."""
        return kind.name if self.name == DEFAULT_PUBLISHER else f"{kind.name}_{self.name}"

    def topic(self, kind: Kind) -> str:
        """Where its publications go."""
        return kind.topic if self.name == DEFAULT_PUBLISHER else f"{kind.name}.{self.name}.v1"

    def producer(self, kind: Kind) -> str:
        """The process that accepts its requests."""
        return kind.name if self.name == DEFAULT_PUBLISHER else f"{kind.name}.{self.name}"


class ConsumerArm(msgspec.Struct, frozen=True):
    """One way to turn a topic's records into effects."""

    name: str
    gloss: str  # what it is, in six words at most
    promises: Mapping[str, frozenset[Promise]]  # by effect; an effect that is not here is not done
    per_record: bool = False  # promises count topic records, not message ids
    dedups: bool = False
    retries: bool = False  # through tier topics, by a lane process of its own
    dead_letters: bool = True  # what it will never apply is kept, and can be redriven
    commits_first: bool = False  # the offset before the effects

    @property
    def group(self) -> str:
        """The Kafka consumer group; also the id of its Faust app."""
        return f"payments.{self.name}"

    @property
    def lane_group(self) -> str:
        """The consumer group of its lane process."""
        return f"{self.group}.lane"

    @property
    def schema(self) -> str:
        """The schema of its tables in the database `payments`."""
        return self.name

    @property
    def effects(self) -> tuple[str, ...]:
        return tuple(self.promises)

    def retry_topic(self, tier: Tier) -> str:
        return f"payments.{self.name}.retry.{tier.name}"

    @property
    def retry_topics(self) -> tuple[str, ...]:
        return tuple(self.retry_topic(tier) for tier in TIERS) if self.retries else ()

    @property
    def redelivery_topic(self) -> str:
        """Where redriven and replayed records go: only this arm listens there. Empty for an arm without letters."""
        return f"payments.{self.name}.redelivery" if self.dead_letters else ""

    @property
    def dead_letter_topic(self) -> str:
        return f"payments.{self.name}.dlq" if self.dead_letters else ""

    @property
    def output_topic(self) -> str:
        """Of an arm with the effect `output`."""
        return f"payments.{self.name}.output" if "output" in self.promises else ""


_NOTHING: Final[frozenset[Promise]] = frozenset()
_NO_LOSS: Final[frozenset[Promise]] = frozenset({"no_loss"})
_BOTH: Final[frozenset[Promise]] = frozenset({"no_loss", "no_duplicate"})
_NO_DUPLICATE: Final[frozenset[Promise]] = frozenset({"no_duplicate"})

# Of the producers' API: an acknowledged request is one intent, however often it was sent with its key.
ACCEPT_PROMISES: Final = _BOTH

# The arm whose topics the consumer arms read; the others stand beside it, each with its own databases and topics.
DEFAULT_PUBLISHER: Final = "outbox"

PUBLISHER_ARMS: Final = {
    arm.name: arm
    for arm in (
        PublisherArm(DEFAULT_PUBLISHER, "intent and outbox row, one transaction", _NO_LOSS, "until_confirmed", KINDS),
        PublisherArm("dual_write_after_commit", "commit, then publish from the handler", _NOTHING, "none", (ORDERS,)),
        PublisherArm("dual_write_before_commit", "publish, then commit", _NOTHING, "none", (ORDERS,)),
        PublisherArm("cdc", "outbox rows from the write-ahead log", _NO_LOSS, "snapshot", (ORDERS,)),
        PublisherArm("id_cursor", "remembers the highest position published", _NOTHING, "cursor", (ORDERS,)),
    )
}

CONSUMER_ARMS: Final = {
    arm.name: arm
    for arm in (
        ConsumerArm(
            "at_least_once",
            "effects first, then the offset",
            {"record": _NO_LOSS, "charge": _NO_LOSS, "email": _NO_LOSS},
            retries=True,
        ),
        ConsumerArm(
            "effectively_once",
            "dedup, idempotency keys, then the offset",
            {"record": _BOTH, "charge": _BOTH, "email": _NO_DUPLICATE},
            dedups=True,
            retries=True,
        ),
        ConsumerArm(
            "at_most_once",
            "the offset first, then effects",
            {"record": _NO_DUPLICATE, "charge": _NO_DUPLICATE, "email": _NO_DUPLICATE},
            per_record=True,
            commits_first=True,
        ),
        ConsumerArm(
            "stock_faust",
            "the tutorial's loop, nothing added",
            {"record": _NOTHING, "charge": _NOTHING, "email": _NOTHING},
            dead_letters=False,
        ),
        ConsumerArm(
            "kafka_transactions",
            "output and offset in one transaction",
            {"record": _NOTHING, "charge": _NOTHING, "output": _BOTH},
            per_record=True,
        ),
    )
}
