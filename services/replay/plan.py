"""A replay that is known to the broker: its window and how far it came lie in the offsets of its own group."""

import re
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from services.broker.reader import GroupOffsets, bounds
from services.replay.window import Kept, Span, WindowError

ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WAIT_S: Final = 10.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay copies, and where to. Never changes once its first transaction is committed."""

    id: str
    arm: str
    topic: str
    target: str  # the arm's redelivery topic
    asked: str  # the window as it was asked for
    spans: tuple[Span, ...]

    @property
    def group(self) -> str:
        """The consumer group that carries its progress; also its transactional id."""
        return f"replay.{self.id}"

    @property
    def count(self) -> int:
        return sum(span.count for span in self.spans)


class _Note(msgspec.Struct, frozen=True):
    """What is kept beside each partition's position."""

    arm: str
    target: str
    asked: str
    first: int
    last: int


Positions = dict[int, int]  # of each partition, the next offset to copy


def check_id(id_: str) -> str:
    """Raises WindowError for an id that cannot be one."""
    if not ID.fullmatch(id_):
        raise WindowError(f"the id {id_!r} does not match {ID.pattern}")
    return id_


def check_same(there: Plan, wanted: Plan) -> None:
    """Raises WindowError when an id that is in use is to mean something else."""
    if (there.arm, there.topic, there.asked) != (wanted.arm, wanted.topic, wanted.asked):
        raise WindowError(
            f"the id {there.id} is in use: it replays {there.asked} of {there.topic} into {there.arm}"
        )  # fmt: skip


def offsets_of(plan: Plan, positions: Mapping[int, int]) -> list[TopicPartition]:
    """Positions as they are committed with a transaction."""
    spans = {span.partition: span for span in plan.spans}
    return [
        TopicPartition(plan.topic, partition, position, _note(plan, spans[partition]))
        for partition, position in positions.items()
    ]


def _note(plan: Plan, span: Span) -> str:
    return msgspec.json.encode(_Note(plan.arm, plan.target, plan.asked, span.first, span.last)).decode()


def known(bootstrap: str, id_: str) -> tuple[Plan, Positions] | None:
    """A replay of this id as its last committed transaction left it, or None.

    Raises KafkaException when the broker does not answer within 10 s, WindowError when the group is no replay's.
    """
    with closing(GroupOffsets(bootstrap, _WAIT_S, stable=True)) as offsets:
        found = offsets.commits(f"replay.{id_}")
    if not found:
        return None
    try:
        notes = {p.partition: msgspec.json.decode(p.metadata or "", type=_Note) for p in found}
    except msgspec.DecodeError:
        raise WindowError(f"the id {id_} is in use: the group replay.{id_} is no replay's") from None
    note = notes[found[0].partition]
    spans = tuple(sorted(Span(partition, n.first, n.last) for partition, n in notes.items()))
    plan = Plan(id=id_, arm=note.arm, topic=found[0].topic, target=note.target, asked=note.asked, spans=spans)
    return plan, {p.partition: p.offset for p in found}


def kept(bootstrap: str, topic: str) -> dict[int, Kept]:
    """What each partition of a topic still has."""
    there = bounds(bootstrap, [topic])
    return {partition: Kept(there.firsts[topic, partition], end) for (_, partition), end in there.ends.items()}


def offsets_at(bootstrap: str, topic: str, partitions: Mapping[int, Any], time: datetime) -> dict[int, int | None]:
    """Of each partition, the first offset whose record is of that time or younger; None: there is none."""
    found = _at(bootstrap, topic, partitions, time)
    return {partition: offset if offset >= 0 else None for partition, (offset, _) in found.items()}


def oldest(bootstrap: str, topic: str, partitions: Mapping[int, Kept]) -> dict[int, datetime | None]:
    """The time of the oldest record of each partition that no longer begins at 0; None: none of its records is left."""
    cut = {partition: there for partition, there in partitions.items() if there.first > 0}
    found = _at(bootstrap, topic, cut, datetime.fromtimestamp(0, UTC))
    return {
        partition: datetime.fromtimestamp(milliseconds / 1000, UTC) if offset >= 0 else None
        for partition, (offset, milliseconds) in found.items()
    }


def _at(bootstrap: str, topic: str, partitions: Mapping[int, Any], time: datetime) -> dict[int, tuple[int, int]]:
    if not partitions:
        return {}
    spec = OffsetSpec.for_timestamp(max(0, int(time.timestamp() * 1000)))
    admin = _admin(bootstrap)
    asked = admin.list_offsets({TopicPartition(topic, p): spec for p in partitions}, request_timeout=_WAIT_S)
    return {p.partition: ((r := future.result()).offset, r.timestamp) for p, future in asked.items()}


def _admin(bootstrap: str) -> Any:
    """A client that the caller keeps until it has its answer: without one, the answer never comes."""
    # errors reach the caller as exceptions
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None})
