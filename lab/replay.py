"""`lab replay`."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import uuid4

import typer
from confluent_kafka import KafkaException

from lab.dlq import lab_settings
from lab.load import display
from lab.output import Exit, answer_json, fail, home, out, say
from lab.stack import Json
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS
from services.failpoints import Failpoints
from services.replay.copying import copy
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


def replay(
    arm: Annotated[str | None, typer.Option(help="The arm that gets the records again, it alone.")] = None,
    topic: Annotated[str | None, typer.Option(help="orders.v1 or refunds.v1.")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="2026-11-23T12:00:00 (UTC) or 10m (ago).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, or now; excluded.")] = None,
    offsets: Annotated[
        str | None, typer.Option(help="PARTITION:FIRST-LAST,…; both included. Instead of --from and --to.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Names the replay; given again, it is resumed.")] = None,
    force: Annotated[bool, typer.Option(help="Also what is older than the arm's dedup window.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; copy nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a past window of a topic to one arm again. Killed half way, it is resumed by its id with nothing doubled."""
    now = datetime.now(UTC)
    with _sentences(id_):
        asked = _asked(arm, topic, begin, end, offsets, id_, now)
    place = home()
    state = place.read_state()
    if state is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    settings = lab_settings(place)
    with _sentences(id_):
        plan, positions = _plan(settings, asked, id_, now, force=force)
        done = sum(positions[span.partition] - span.first for span in plan.spans)
        if dry_run:
            _tell(plan, done, 0, dry_run=True, as_json=as_json)
            return
        if plan.id != id_:
            say(f"replay {plan.id}: if it is cut off, `lab replay --id {plan.id}` goes on")
    failpoints = Failpoints("replay", settings.supervisor, place.secret("token"), allowed=bool(state["faults"]))
    with _sentences(plan.id), display() as line:
        copied = copy(settings.kafka, plan, failpoints, lambda n: line(f"{done + n} of {plan.count} records copied"))
    _tell(plan, done, copied, dry_run=False, as_json=as_json)


class _Asked:
    """What the command line says, checked as far as that goes without a lab."""

    def __init__(self, arm: str, topic: str, text: str, spans: tuple[Span, ...], times: tuple[datetime, ...]) -> None:
        self.arm, self.topic, self.text, self.spans, self.times = arm, topic, text, spans, times


def _asked(
    arm: str | None,
    topic: str | None,
    begin: str | None,
    end: str | None,
    offsets: str | None,
    id_: str | None,
    now: datetime,
) -> _Asked | None:
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
        return _Asked(arm, topic, offsets, parse_spans(offsets), ())
    if begin is None or end is None:
        raise WindowError("which window? say --from TIME and --to TIME, or --offsets PARTITION:FIRST-LAST,…")
    times = parse_time(begin, now), parse_time(end, now)
    check_times(*times)
    return _Asked(arm, topic, f"{begin}..{end}", (), times)


def _plan(
    settings: Settings, asked: _Asked | None, id_: str | None, now: datetime, *, force: bool
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


def _spans(settings: Settings, asked: _Asked, now: datetime, *, force: bool) -> tuple[Span, ...]:
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


def _tell(plan: Plan, done: int, copied: int, *, dry_run: bool, as_json: bool) -> None:
    window: list[dict[str, Any]] = [{"partition": s.partition, "from": s.first, "to": s.last} for s in plan.spans]
    if as_json:
        answer_json(
            {
                "id": plan.id, "arm": plan.arm, "topic": plan.topic, "to": plan.target, "window": window,
                "records": plan.count, "copied_before": done, "copied": copied, "dry_run": dry_run,
            }
        )  # fmt: skip
        return
    spans = ", ".join(f"{s.partition}:{s.first}-{s.last}" for s in plan.spans)
    before = f", {done:,} of them before" if done else ""
    if dry_run:
        out.print(
            f"{plan.count:,} records of {plan.topic} ({spans}) would be copied to {plan.target}{before}", markup=False
        )
    else:
        out.print(f"{done + copied:,} records of {plan.topic} ({spans}) copied to {plan.target}{before}", markup=False)


@contextlib.contextmanager
def _sentences(id_: str | None) -> Iterator[None]:
    again = f"`lab replay --id {id_}` goes on from there" if id_ else "nothing was copied"
    try:
        yield
    except WindowError as error:
        fail(Exit.USAGE, str(error))
    except KafkaException as error:
        fail(Exit.NOT_UP, f"the broker does not answer as it should ({error.args[0].str()}): {again}")
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, f"interrupted: {again}")
