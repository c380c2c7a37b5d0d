"""From what a person asks for to a plan: a new one, or the one that the id already means."""

from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import msgspec

from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS
from services.replay.plan import Plan, Positions, check_id, check_same, kept, known, offsets_at, oldest
from services.replay.window import (
    Span,
    WindowError,
    check_age,
    check_reach,
    check_spans,
    check_times,
    parse_spans,
    parse_time,
    spans_between,
)
from services.settings import Settings

ARMS: Final = {arm.name: arm for arm in CONSUMER_ARMS.values() if arm.redelivery_topic}
TOPICS: Final = tuple(topic.name for topic in MAIN_TOPICS)


class Asked(msgspec.Struct, frozen=True):
    """A window as it was asked for, checked as far as that goes without a topic: spans, or a begin and an end."""

    arm: str
    topic: str
    text: str
    spans: tuple[Span, ...] = ()
    times: tuple[datetime, ...] = ()


def read_asked(
    arm: str | None,
    topic: str | None,
    begin: str | None,
    end: str | None,
    offsets: str | None,
    id_: str | None,
    now: datetime,
) -> Asked | None:
    """Raises WindowError for what cannot be meant; None where only an id is given."""
    if id_ is not None:
        check_id(id_)
        if not any((arm, topic, begin, end, offsets)):
            return None
    if arm not in ARMS:
        raise WindowError(f"unknown arm {arm!r}: say --arm, one of {', '.join(ARMS)}")
    if topic not in TOPICS:
        raise WindowError(f"unknown topic {topic!r}: say --topic, one of {', '.join(TOPICS)}")
    if offsets is not None:
        if begin is not None or end is not None:
            raise WindowError("say --offsets, or --from and --to; not both")
        return Asked(arm, topic, offsets, parse_spans(offsets))
    if begin is None or end is None:
        raise WindowError("which window? say --from TIME and --to TIME, or --offsets PARTITION:FIRST-LAST,…")
    times = parse_time(begin, now), parse_time(end, now)
    check_times(*times)
    return Asked(arm, topic, f"{begin}..{end}", times=times)


def make_plan(
    settings: Settings, asked: Asked | None, id_: str | None, now: datetime, *, force: bool
) -> tuple[Plan, Positions]:  # fmt: skip
    """The replay of this id as far as it came, or a new one. Raises WindowError for a window that cannot be copied."""
    there = known(settings.kafka, id_) if id_ is not None else None
    if asked is None:
        if there is None:
            raise WindowError(f"no replay has the id {id_!r}: say its --arm, --topic and window to begin one")
        return there
    spans = asked.spans if there is not None else _spans(settings, asked, now, force=force)
    plan = Plan(
        id=id_ or f"{now:%Y%m%dT%H%M%S}-{uuid4().hex[:6]}",
        arm=asked.arm,
        topic=asked.topic,
        target=ARMS[asked.arm].redelivery_topic,
        asked=asked.text,
        spans=spans,
    )
    if there is not None:
        check_same(there[0], plan)
        return there
    return plan, {span.partition: span.first for span in spans}


def _spans(settings: Settings, asked: Asked, now: datetime, *, force: bool) -> tuple[Span, ...]:
    bootstrap, topic = settings.kafka, asked.topic
    there = kept(bootstrap, topic)
    spans = asked.spans
    if asked.times:
        begin, end = asked.times
        check_reach(topic, begin, oldest(bootstrap, topic, there))
        starts, stops = (offsets_at(bootstrap, topic, there, time) for time in (begin, end))
        spans = spans_between(starts, stops, there)
        if not spans:
            raise WindowError(
                f"the window is empty: {topic} has no record from {begin.isoformat()} to {end.isoformat()}"
            )
    check_spans(topic, spans, there)
    if ARMS[asked.arm].dedups and not force:
        floor = now - timedelta(seconds=settings.dedup_window_s)
        check_age(topic, spans, offsets_at(bootstrap, topic, there, floor), settings.dedup_window_s)
    return spans
