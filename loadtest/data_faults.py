"""Bad data: records put onto a topic beside the publishers' own, as a faulty producer or another release would.

Each carries the header `lab-injected`, so that whoever reads the topic knows it, whatever the log beside says.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from services.broker.producer import producer_settings
from services.broker.reader import bounds
from services.domain.messages import (
    INJECTED_HEADER,
    KIND_OF_TYPE,
    KINDS,
    RUN_HEADER,
    RawHeaders,
    message_id_of,
)

MAX_COUNT: Final = 10_000
LOOK_BACK: Final = 5_000  # records of a partition, from its end, among which earlier ones are chosen
OLD_DAYS: Final = 30  # older than the longest dedup window
UNKNOWN_VERSION: Final = "v99"
TOPICS: Final = tuple(kind.topic for kind in KINDS)

_WAIT_S: Final = 10.0
_MS: Final = 1_000
_DAY_MS: Final = 86_400_000


class InjectionError(Exception):
    """Nothing, or not everything, could be put onto the topic; the message says why."""


class Raw(msgspec.Struct, frozen=True):
    """A record as it lies on a partition."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders

    @property
    def run(self) -> str:
        return header(self.headers, RUN_HEADER)


class Injected(msgspec.Struct, frozen=True):
    """A line of the log: what was put where. `at` in Unix seconds."""

    at: float
    kind: str
    topic: str
    partition: int
    offset: int
    message_id: UUID | None
    run: str


Content = tuple[bytes | None, RawHeaders]


def make(kind: str, earlier: Raw, draw: random.Random, now_ms: int) -> Raw:
    """The bad record of a kind, made from an earlier record of the topic and put behind it on its partition."""
    value, headers = MAKERS[kind](earlier, draw, now_ms)
    return Raw(earlier.partition, earlier.key, value, [*headers, (INJECTED_HEADER, kind.encode())])


def _poison(earlier: Raw, draw: random.Random, _: int) -> Content:
    return b"\xff\xfe{" + draw.randbytes(16), [(RUN_HEADER, earlier.run.encode())] if earlier.run else []


def _unknown_version(earlier: Raw, draw: random.Random, now_ms: int) -> Content:
    base = header(earlier.headers, "ce_type").rpartition(".")[0]
    new = {"ce_id": str(uuid7(now_ms, draw)), "ce_type": f"{base}.{UNKNOWN_VERSION}"}
    return earlier.value, replaced(earlier.headers, new)


def _conflict(earlier: Raw, _: random.Random, __: int) -> Content:
    body = _body(earlier)
    return msgspec.json.encode({**body, "amount_cents": body["amount_cents"] % 10**9 + 1}), earlier.headers


def _duplicate(earlier: Raw, _: random.Random, __: int) -> Content:
    return earlier.value, earlier.headers


def _older_than_window(earlier: Raw, draw: random.Random, now_ms: int) -> Content:
    then_ms = now_ms - OLD_DAYS * _DAY_MS
    new_id = uuid7(then_ms, draw)
    new = {"ce_id": str(new_id), "ce_time": datetime.fromtimestamp(then_ms / _MS, UTC).isoformat()}
    return msgspec.json.encode({**_body(earlier), "order_id": f"injected-{new_id}"}), replaced(earlier.headers, new)


MAKERS: Final[Mapping[str, Callable[[Raw, random.Random, int], Content]]] = {
    "poison": _poison,
    "unknown_version": _unknown_version,
    "conflict": _conflict,
    "duplicate": _duplicate,
    "older_than_window": _older_than_window,
}


def _body(record: Raw) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(record.value or b"")
    return body


def header(headers: RawHeaders, name: str) -> str:
    """The first value of a header, empty where there is none."""
    return next((data.decode("utf-8", "replace") for n, data in headers if n == name and data is not None), "")


def replaced(headers: RawHeaders, new: Mapping[str, str]) -> RawHeaders:
    """The headers with other values for some that they have."""
    return [(name, new[name].encode() if name in new else data) for name, data in headers]


def uuid7(at_ms: int, draw: random.Random) -> UUID:
    """A UUIDv7 (RFC 9562) of this millisecond."""
    return UUID(int=at_ms << 80 | 7 << 76 | draw.getrandbits(12) << 64 | 2 << 62 | draw.getrandbits(62))


def inject(
    bootstrap: str, log: Path, kind: str, topic: str, count: int, *, seed: int, run: str | None = None
) -> list[Injected]:
    """Put `count` bad records onto the topic, made from earlier ones (of `run`) that the seed chooses; then log them.

    Raises InjectionError when there is no earlier record, or when the broker does not confirm all.
    """
    draw = random.Random(seed)  # noqa: S311  # faults are to be repeatable, not secret
    try:
        earlier = recent(bootstrap, topic, run)
        if not earlier:
            whose = f" of run {run}" if run else ""
            raise InjectionError(f"{topic} has no record{whose} to start from: send some with `lab load`")
        chosen = islice(cycle(draw.sample(earlier, min(count, len(earlier)))), count)
        now_ms = int(time.time() * _MS)
        bad = [make(kind, one, draw, now_ms) for one in chosen]
        return put(bootstrap, log, kind, topic, bad)
    except KafkaException as error:
        raise InjectionError(f"the broker does not answer: {error.args[0].str()}") from error


def recent(bootstrap: str, topic: str, run: str | None) -> list[Raw]:
    """The newest events of each partition that publishers sent, in the order of the partitions."""
    limits = bounds(bootstrap, [topic])
    starts = {p: max(limits.firsts[p], end - LOOK_BACK) for p, end in limits.ends.items()}
    reading = {p: end for p, end in limits.ends.items() if starts[p] < end}
    settings = {"bootstrap.servers": bootstrap, "group.id": "data-faults", "enable.auto.commit": False}
    consumer = Consumer({**settings, "enable.partition.eof": True, "log_level": 0, "error_cb": lambda _: None})
    consumer.assign([TopicPartition(*p, starts[p]) for p in reading])
    try:
        read = sorted(_read(consumer, reading), key=lambda pair: pair[0])
    finally:
        consumer.close()
    return [record for _, record in read if _is_event(record, run)]


def _read(consumer: Any, ends: dict[tuple[str, int], int]) -> Iterable[tuple[tuple[int, int], Raw]]:
    """What lies between the consumer's positions and the ends, with partition and offset."""
    reading, deadline = set(ends), time.monotonic() + _WAIT_S
    while reading:
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"not read within {_WAIT_S:g} s"))
        for message in consumer.consume(1_000, 0.2):
            place = (message.topic(), message.partition())
            if message.error() is not None:
                if message.error().code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(message.error())
                reading.discard(place)
                continue
            if message.offset() + 1 >= ends[place]:
                reading.discard(place)
            if message.offset() < ends[place]:
                raw = Raw(message.partition(), message.key(), message.value(), message.headers() or [])
                yield (message.partition(), message.offset()), raw


def _is_event(record: Raw, run: str | None) -> bool:
    known = header(record.headers, "ce_type") in KIND_OF_TYPE and message_id_of(record.headers) is not None
    ours = run is None or record.run == run
    return known and ours and record.value is not None and not header(record.headers, INJECTED_HEADER)


def put(bootstrap: str, log: Path, kind: str, topic: str, bad: Sequence[Raw]) -> list[Injected]:
    """Produce, wait for the broker's word, then write the log: it never names a record that is not there.

    Raises InjectionError when the broker does not confirm all.
    """
    done: list[Injected] = []
    failed: list[str] = []

    def reporter(record: Raw) -> Any:
        def report(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append(error.str())
                return
            at = (message.partition(), message.offset())
            done.append(Injected(time.time(), kind, topic, *at, message_id_of(record.headers), record.run))

        return report

    settings = {**producer_settings(bootstrap, "data-faults"), "message.timeout.ms": int(_WAIT_S * _MS)}
    producer = Producer({**settings, "log_level": 0, "error_cb": lambda _: None})
    for r in bad:
        producer.produce(topic, r.value, r.key, r.partition, headers=list(r.headers), on_delivery=reporter(r))
    left = producer.flush(_WAIT_S + 5)
    with log.open("ab") as file:
        file.writelines(msgspec.json.encode(line) + b"\n" for line in done)
    if failed or left:
        why = failed[0] if failed else "no answer in time"
        raise InjectionError(f"the broker confirmed {len(done)} of {len(bad)} records: {why}")
    return done
