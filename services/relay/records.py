"""From an outbox row to a Kafka record, and from a batch's failures to what happens with each row. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

import msgspec

from services.broker.producer import Failure, Record
from services.broker.publication import Unpublishable, publication
from services.domain.redrive import parse_redriven

Row = tuple[int, UUID, int, str, str, bytes, str, datetime]  # as the statement `turn_over` selects
POSITION: Final = 0
SHARD: Final = 2


def record_of(row: Row, topics: Mapping[str, str]) -> Record:
    """The record of a row; the value is the payload's bytes, untouched. `topics` gives the topic of each type.

    Raises Unpublishable with reason `unknown_type` or `invalid_headers`.
    """
    _, message_id, _, key, type_, payload, headers, created_at = row
    return publication(topics.get(type_), message_id, key.encode(), type_, payload, headers, created_at)


def redelivery_of(row: Row, topics: Mapping[str, str]) -> Record:
    """The record of a redriven letter, for its arm alone: as it was, with the headers of its new station.

    Raises Unpublishable with reason `unknown_type` (no such arm) or `invalid_headers`.
    """
    _, _, _, _, arm, payload, headers, _ = row
    topic = topics.get(arm)
    if topic is None:
        raise Unpublishable("unknown_type")
    try:
        letter = parse_redriven(headers)
    except msgspec.DecodeError:
        raise Unpublishable("invalid_headers") from None
    return topic, letter.key, None if letter.null else payload, letter.headers


Word = Literal["confirmed", "refused", "failed"]
WORDS: Final = get_args(Word)


class Outcome(msgspec.Struct, frozen=True):
    """Positions of a batch by what the broker said of them."""

    confirmed: list[int]
    refused: dict[int, str]  # for ever, with the reason
    failed: dict[int, str]  # to be published again

    def word(self, position: int) -> Word:
        """What became of a position of this batch."""
        return "refused" if position in self.refused else "failed" if position in self.failed else "confirmed"

    def revised(self, position: int, failures: Sequence[Failure]) -> "Outcome":
        """The outcome after a refused position was sent once more, alone."""
        again = outcome_of([position], failures)
        refused = {p: reason for p, reason in self.refused.items() if p != position}
        return Outcome(self.confirmed + again.confirmed, refused | again.refused, self.failed | again.failed)


def outcome_of(positions: Sequence[int], failures: Iterable[Failure]) -> Outcome:
    """Sort the positions of a batch by the failures reported for their indexes."""
    refused: dict[int, str] = {}
    failed: dict[int, str] = {}
    for failure in failures:
        (refused if failure.for_ever else failed)[positions[failure.index]] = failure.reason
    return Outcome([p for p in positions if p not in refused and p not in failed], refused, failed)
