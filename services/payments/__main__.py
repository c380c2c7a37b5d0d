"""The composition root of a consumer arm, `python -m services.payments ARM`, and of its retry lane, `… lane ARM`."""

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final, NoReturn

import uvloop

from services.bootstrap import Process, start_process
from services.broker.delivery import DeliveryApp, ends_of, make_app, tell_rebalances
from services.broker.lanes import Lanes
from services.broker.producer import BatchProducer
from services.broker.topics import subscriptions
from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.payments import stock_faust, transactions
from services.payments.arms.at_least_once import AtLeastOnce
from services.payments.arms.at_most_once import AtMostOnce, committed_first
from services.payments.arms.base import Arm, Tools
from services.payments.arms.effectively_once import EffectivelyOnce
from services.payments.dispatch import Dispatch
from services.payments.equipment import equipped
from services.payments.handler import Handler
from services.payments.lane import Lane
from services.telemetry.admin import serve_admin

ARMS: Final[dict[str, Callable[[Tools], Arm]]] = {
    "at_least_once": AtLeastOnce,
    "effectively_once": EffectivelyOnce,
    "at_most_once": AtMostOnce,
}
ROOTS: Final = {"stock_faust": stock_faust.run, "kafka_transactions": transactions.run}  # not chunk by chunk
STOP_TIMEOUT_S: Final = 5.0
# A chunk is thousands of objects that live for a moment; Python's defaults spend a fifth of the CPU on looking at them.
GC_THRESHOLDS: Final = (20_000, 50, 50)


async def run(process: Process, arm: ConsumerArm, work: "Work") -> None:
    """Do the work until SIGTERM; returns then. Raises what ended it, with nothing unfinished committed."""
    async with equipped(process, arm) as tools:
        dispatch = Dispatch(tools, BatchProducer(process.settings.kafka, process.settings.process))
        applying = ARMS[arm.name](tools)
        await work(process, tools, applying, Handler(tools, applying, dispatch))


async def consume(process: Process, tools: Tools, arm: Arm, handler: Handler) -> None:
    """The arm itself: Faust hands chunks to the lanes, beside what the arm does besides."""
    app = make_app(tools.arm.group, process.settings, commits_first=tools.arm.commits_first)
    first = tools.arm.commits_first
    lanes = Lanes(app, committed_first(app, tools, handler.handle_chunk) if first else handler.handle_chunk)
    topics = dict(subscriptions())[tools.arm.group]
    app.settle = lanes.settle
    app.releasing = partial(tools.failpoints.hit, "process.during_rebalance")
    app.report = _reporter(tools)
    tools.observer.watch_lag(lambda: ends_of(app))
    tell_rebalances(app, tools.observer.rebalanced)

    @app.agent(app.topic(*(topic.name for topic in topics), value_type=bytes, value_serializer="raw"))  # type: ignore[untyped-decorator]
    async def receive(stream: Any) -> None:
        async for event in stream.noack().events():
            lanes.put(event)

    app.finalize()
    await serve_admin(
        process.settings.bind, process.settings.admin_port, process.metrics, lambda: _waits_for(app)
    )  # fmt: skip
    await app.start()
    await _until_end(
        process,
        {"Faust": app.wait_until_stopped(), "beside": arm.run_beside(), "lanes": lanes.failed},
        lambda: _let_go(app, lanes),
    )


async def serve_lane(process: Process, tools: Tools, arm: Arm, handler: Handler) -> None:
    """The arm's retry lane: tiers and redelivery, beside what the arm does besides."""
    releasing = partial(tools.failpoints.hit, "process.during_rebalance")
    rebalanced = tools.observer.rebalanced
    lane = Lane(tools.arm, process.settings, handler.handle, _reporter(tools), releasing, rebalanced)
    await serve_admin(
        process.settings.bind, process.settings.admin_port, process.metrics,
        lambda: "" if lane.assigned.is_set() else "an assignment of partitions",
    )  # fmt: skip
    await _until_end(process, {"lane": lane.run(), "beside": arm.run_beside(), "failed": lane.failed}, lane.stop)


Work = Callable[[Process, Tools, Arm, Handler], Awaitable[None]]


async def _until_end(
    process: Process, parts: Mapping[str, Awaitable[Any]], let_go: Callable[[], Awaitable[None]]
) -> None:
    """Until one of the parts ends, or SIGTERM comes.

    Raises what ended the work, and TimeoutError when it could not let go of everything in time.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asked = asyncio.create_task(stop.wait(), name="signal")
    ends = {asyncio.ensure_future(part): name for name, part in parts.items()} | {asked: "signal"}
    ended, running = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping", asked=stop.is_set(), ended=sorted(ends[part] for part in ended))
    for task in running:
        task.cancel()
    letting_go = asyncio.create_task(_after(running, let_go), name="letting go")
    await asyncio.wait({letting_go}, timeout=STOP_TIMEOUT_S)
    for task in ended:
        await task
    if not letting_go.done():
        raise TimeoutError(f"not let go of everything within {STOP_TIMEOUT_S:g} s")
    await letting_go
    if not stop.is_set():
        raise RuntimeError(f"ended by itself: {', '.join(ends[part] for part in ended)}")


async def _after(cancelled: Iterable[asyncio.Future[Any]], let_go: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(let_go(), asyncio.wait(cancelled))


async def _let_go(app: DeliveryApp, lanes: Lanes) -> None:
    """Finish what is in hand, commit it, leave the group (so that its partitions are not waited for)."""
    await lanes.stop()
    await app.consumer.maybe_wait_for_commit_to_finish()  # it began before the last chunks were finished
    await app.consumer.commit()
    await app.stop()


def _waits_for(app: DeliveryApp) -> str:
    """What keeps the arm from working: it is ready once the group has given it an assignment, if an empty one."""
    if app.consumer_generation_id <= 0 or app.rebalancing:
        return "an assignment of partitions"
    return ""


def _reporter(tools: Tools) -> Any:
    arm, outcomes = tools.arm.name, {"offset.committed": "committed", "offset.commit_failed": "failed"}

    def report(event: str, **fields: Any) -> None:
        if event in outcomes:
            tools.metrics.add("delivery.offset_commits", 1, arm=arm, outcome=outcomes[event])
        if event == "offset.committed":
            tools.trails.committed(fields["positions"])
        elif event == "offset.revoked":
            tools.trails.forget(fields["partitions"])
        tools.log.event(event, arm=arm, **fields)

    return report


def main() -> None:
    """Run what the command line names. Exit code 0 after SIGTERM, 1 after an error, 2 for an unknown arm."""
    root = _root(sys.argv[1:])
    if root is None:
        names = ", ".join([*ARMS, *ROOTS])
        sys.stderr.write(f"usage: python -m services.payments [lane] ARM; the arms are {names}\n")
        sys.exit(2)
    gc.set_threshold(*GC_THRESHOLDS)
    process = start_process()
    code = 0
    try:
        uvloop.run(root(process))
    except BaseException:
        traceback.print_exc()
        code = 1
    process.tracer.close()
    _exit(code)


def _root(words: list[str]) -> Callable[[Process], Coroutine[Any, Any, None]] | None:
    match words:
        case [name] if name in ROOTS:
            return ROOTS[name]
        case [name] if name in ARMS:
            return partial(run, arm=CONSUMER_ARMS[name], work=consume)
        case ["lane", name] if name in ARMS and CONSUMER_ARMS[name].retries:
            return partial(run, arm=CONSUMER_ARMS[name], work=serve_lane)
    return None


def _exit(code: int) -> NoReturn:
    """End at once. Faust's threads are waited for otherwise: one that hangs stays in the group and does no work."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
