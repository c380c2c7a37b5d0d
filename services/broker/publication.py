"""From what an outbox row holds to its Kafka record, and what becomes of one that the broker refuses."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from services.broker.producer import BatchProducer, Failure, Record
from services.domain.messages import KIND_OF_TYPE, record_headers, time_of
from services.telemetry.metrics import Metrics

_EXTRA: Final = msgspec.json.Decoder(dict[str, str])


class Unpublishable(ValueError):
    """A row from which no record can be made; `reason` is a closed word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def publication(
    topic: str | None, message_id: UUID, key: bytes, type_: str, payload: bytes, headers: str | bytes, time: datetime
) -> Record:
    """The record of a row; the value is the payload's bytes, untouched. `topic`: where this type goes, if anywhere.

    Raises Unpublishable with reason `unknown_type` or `invalid_headers`.
    """
    if topic is None or type_ not in KIND_OF_TYPE:
        raise Unpublishable("unknown_type")
    try:
        extra = _EXTRA.decode(headers)
    except msgspec.DecodeError:
        raise Unpublishable("invalid_headers") from None
    fields = record_headers(message_id=message_id, kind=KIND_OF_TYPE[type_], time=time, extra=extra.items())
    return topic, key, payload, fields


def record_delay(metrics: Metrics, arm: str, records: Sequence[Record]) -> None:
    """A batch of a publisher arm was confirmed: one sample, of its oldest row."""
    if records and (made_at := time_of(records[0][3])) is not None:
        metrics.record("delivery.publish_delay", max(0.0, time.time() - made_at), arm=arm)


class NotConfirmed(Exception):
    """Records were not confirmed, and may be another time."""


async def refused(producer: BatchProducer, records: Sequence[Record], failures: Sequence[Failure]) -> dict[int, str]:
    """The indexes of the records that the broker refuses for ever, with the reason; each was sent once more, alone.

    Raises NotConfirmed when any other record was not confirmed.
    """
    check_for_ever(failures)
    found: dict[int, str] = {}
    for failure in failures:
        again = await producer.send([records[failure.index]])
        check_for_ever(again)
        if again:
            found[failure.index] = again[0].reason
    return found


def check_for_ever(failures: Sequence[Failure]) -> None:
    """Raises NotConfirmed unless all of these records would be refused again."""
    for failure in failures:
        if not failure.for_ever:
            raise NotConfirmed(failure.reason)
