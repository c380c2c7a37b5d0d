"""The arms as data: one row an arm, from which processes, audits, pages and docs are made."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

Hop = Literal["accept", "publish", "process"]
Promise = Literal["no_loss", "no_duplicate"]


class PublisherArm(msgspec.Struct, frozen=True):
    """One way to get an intent onto its topic."""

    name: str
    gloss: str
    promises: frozenset[Promise]


class ConsumerArm(msgspec.Struct, frozen=True):
    """One way to turn a topic's records into effects."""

    name: str
    gloss: str  # what it is, in about six words
    promises: Mapping[str, frozenset[Promise]]  # by effect
    per_record: bool = False  # promises count topic records, not message ids
    dedups: bool = False

    @property
    def group(self) -> str:
        """The Kafka consumer group; also the id of its Faust app."""
        return f"payments.{self.name}"

    @property
    def schema(self) -> str:
        """The schema of its tables in the database `payments`."""
        return self.name


_NO_LOSS: Final[frozenset[Promise]] = frozenset({"no_loss"})
_BOTH: Final[frozenset[Promise]] = frozenset({"no_loss", "no_duplicate"})
_NO_DUPLICATE: Final[frozenset[Promise]] = frozenset({"no_duplicate"})

# Of the producers' API: an acknowledged request is one intent, however often it was sent with its key.
ACCEPT_PROMISES: Final = _BOTH

PUBLISHER_ARMS: Final = {
    arm.name: arm for arm in (PublisherArm("outbox", "intent and outbox row, one transaction", _NO_LOSS),)
}

CONSUMER_ARMS: Final = {
    arm.name: arm
    for arm in (
        ConsumerArm(
            "at_least_once",
            "effects first, then the offset",
            {"record": _NO_LOSS, "charge": _NO_LOSS, "email": _NO_LOSS},
        ),
        ConsumerArm(
            "effectively_once",
            "dedup, idempotency keys, then the offset",
            {"record": _BOTH, "charge": _BOTH, "email": _NO_DUPLICATE},
            dedups=True,
        ),
    )
}
