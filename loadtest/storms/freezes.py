"""Processes frozen for longer than the session: who takes over, what stays locked, what is stuck after the thaw."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from loadtest.storms.bench import CAUGHT_UP_S, Bench
from loadtest.storms.proof import Proof
from services.broker.reader import bounds, committed
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.messages import KINDS
from services.settings import Settings

SESSION_S: Final = Settings().session_timeout_s
TAKEN_OVER_S: Final = 2 * SESSION_S
FROZEN_S: Final = 3 * SESSION_S  # longer than a takeover may take, so that it is seen
AFTER_S: Final = 2.0  # what came so long after the freeze must be done by somebody else
RATE: Final = 20.0
EFFECTS_SHARE: Final = 0.5  # the tutorial's loop does one thing after another: more it could not keep up with

# What a process holds on the server `postgres`, apart from what every query takes for itself.
_LOCKS: Final = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE a.application_name = $1 AND l.granted AND l.locktype NOT IN ('virtualxid')
"""
_UNPUBLISHED: Final = "SELECT count(*) FROM outbox WHERE created_at <= $1"

Done = Callable[[], bool]


def arm(name: str, bench: Bench) -> None:
    """One of two replicas of a consumer arm."""
    part = f"arm.{name}"
    caught_up(bench, name)
    bench.scale(part, 2)
    bench.all_ready()
    _freeze(bench, f"{part}#0", lambda: main_topics_read(bench, CONSUMER_ARMS[name].group))


def lane(name: str, bench: Bench) -> None:
    """One of two replicas of a retry lane, with something in its tiers."""
    part, consumer = f"retry.{name}", CONSUMER_ARMS[name]
    bench.scale(part, 2)
    bench.all_ready()
    bench.arm("provider.before_applying", f"error:http_500 p=0.1 arm={name}")
    _freeze(bench, f"{part}#0", lambda: _committed(bench, consumer.lane_group, consumer.retry_topics))


def relay(bench: Bench) -> None:
    """One of two relays."""
    bench.scale("relay", 2)
    bench.all_ready()
    _freeze(bench, "relay#0", lambda: _published(bench))


def alone(process: str, bench: Bench) -> None:
    """A process that has no replica: what it does stands still until the thaw."""
    _freeze(bench, process, None)


def _freeze(bench: Bench, process: str, watch: Callable[[], Done] | None) -> None:
    """Freeze it under load. `watch`, called a moment after the freeze, says when somebody else has taken over."""
    before = bench.processes()
    with bench.load(RATE, 600, effects_share=EFFECTS_SHARE) as load:
        bench.until(lambda: load.snapshot().acknowledged > RATE, "a second's requests", 60)
        bench.act("freeze", process)
        began = time.monotonic()
        time.sleep(AFTER_S)
        if watch:
            bench.until(watch(), f"another one to take over from {process}", 60)
            took_s = time.monotonic() - began
            bench.found(f"taken over within {TAKEN_OVER_S:g} s", f"{took_s:.1f} s", took_s <= TAKEN_OVER_S)
        time.sleep(max(0.0, TAKEN_OVER_S - (time.monotonic() - began)))
        held = bench.value("postgres", _LOCKS, process)
        bench.found(f"locks of the frozen one after {TAKEN_OVER_S:g} s", held, held == 0)
        time.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        bench.act("thaw", process)
        ready_s = bench.all_ready()
        bench.found("ready again after the thaw", f"{ready_s:.1f} s", True)
    bench.audited(load.plan.run)
    again = {
        name for name, now in bench.processes().items() if name in before if now["restarts"] > before[name]["restarts"]
    }
    bench.found("processes that ended by themselves", ", ".join(sorted(again)) or "none")


def caught_up(bench: Bench, name: str) -> None:
    """Wait until the arm has read what is there: also an arm that nobody waits for otherwise."""
    bench.until(main_topics_read(bench, CONSUMER_ARMS[name].group), f"{name} to have caught up", CAUGHT_UP_S)


def main_topics_read(bench: Bench, group: str) -> Done:
    """Whether the group has committed all that is on the main topics now."""
    return _committed(bench, group, [topic.name for topic in MAIN_TOPICS])


def _committed(bench: Bench, group: str, topics: Sequence[str]) -> Done:
    """Whether the group has committed all that is on the topics now."""
    ends = bounds(bench.kafka, topics).ends

    def done() -> bool:
        positions = committed(bench.kafka, group)
        return all(positions.get(partition, 0) >= end for partition, end in ends.items())

    return done


def _published(bench: Bench) -> Done:
    """Whether the relay has published all that is in its outboxes now."""
    until, default = datetime.now(UTC), PUBLISHER_ARMS["outbox"]

    def done() -> bool:
        return not any(bench.value(default.database(kind), _UNPUBLISHED, until) for kind in KINDS)

    return done


def _proofs() -> Iterator[Proof]:
    for name in CONSUMER_ARMS:
        yield Proof(
            name=f"freeze.{name}",
            promise=f"One of two replicas is frozen for {FROZEN_S:g} s: the other takes over within "
            f"{TAKEN_OVER_S:g} s, no lock outlives its owner, nothing is stuck after the thaw.",
            run=functools.partial(arm, name),
            consumers=(name,),
        )
        if CONSUMER_ARMS[name].retries:
            yield Proof(
                name=f"freeze.retry.{name}",
                promise="The same with one of two retry lanes, while a tenth of the calls fail.",
                run=functools.partial(lane, name),
                consumers=(name,),
            )
    pair = ("outbox", "cdc")
    yield Proof(name="freeze.relay", promise="The same with one of two relays.", run=relay, publishers=pair)
    for process in ("orders", "cdc", "provider"):
        yield Proof(
            name=f"freeze.{process}",
            promise=f"It has no replica and is frozen for {FROZEN_S:g} s: no lock outlives its owner, nothing is lost, "
            "and nothing is stuck after the thaw.",
            run=functools.partial(alone, process),
            publishers=pair,
        )


PROOFS: Final = tuple(_proofs())
