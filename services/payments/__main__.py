"""The composition root of a consumer arm: `python -m services.payments ARM`."""

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

import uvloop

from services.bootstrap import Process, start_process
from services.broker.delivery import DeliveryApp, ask_broker, make_app
from services.broker.lanes import Lanes
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.payments.arms.at_least_once import AtLeastOnce
from services.payments.arms.base import Arm, Tools
from services.payments.arms.effectively_once import EffectivelyOnce
from services.payments.handler import Handler
from services.payments.ledger import Ledger
from services.payments.patience import Patience
from services.payments.third_party import Provider
from services.storage.postgres import pool
from services.telemetry.admin import serve_admin

ARMS: Final[dict[str, Callable[[Tools], Arm]]] = {"at_least_once": AtLeastOnce, "effectively_once": EffectivelyOnce}
STOP_TIMEOUT_S: Final = 5.0
# A chunk is thousands of objects that live for a moment; Python's defaults spend a fifth of the CPU on looking at them.
GC_THRESHOLDS: Final = (20_000, 50, 50)


async def run(process: Process, arm: ConsumerArm) -> None:
    """Consume until SIGTERM; returns then. Raises what ended the work, with nothing unfinished committed."""
    settings = process.settings
    patience = Patience(arm.name, process.log, process.metrics)
    connections = await patience.until_done(
        "connect to Postgres",
        lambda: pool(settings.postgres, "payments", name=settings.process, size=settings.pool_size),
    )
    try:
        await patience.until_done("ask the broker", lambda: ask_broker(settings.kafka))
        async with Provider(settings, arm.name, process.life) as provider:
            ledger = Ledger(connections, arm, process.life, patience)
            tools = Tools(
                arm,
                settings,
                process.life,
                process.log,
                process.metrics,
                process.failpoints,
                ledger,
                provider,
                patience,
            )
            await consume(process, make_app(arm.group, settings), tools, ARMS[arm.name](tools))
    finally:
        connections.terminate()  # a close would wait for a server that may be frozen


async def consume(process: Process, app: DeliveryApp, tools: Tools, arm: Arm) -> None:
    """Run the Faust app, the lanes and what the arm does beside, until one of them ends or SIGTERM comes.

    Raises what ended the work, and TimeoutError when it could not let go of everything in time.
    """
    settings = process.settings
    lanes = Lanes(app, Handler(tools, arm).handle)
    app.settle = lanes.settle
    app.report = _reporter(process, tools.arm.name)

    @app.agent(app.topic(*(topic.name for topic in MAIN_TOPICS), value_type=bytes, value_serializer="raw"))  # type: ignore[untyped-decorator]
    async def receive(stream: Any) -> None:
        async for event in stream.noack().events():
            lanes.put(event)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: _waits_for(app))
    app.finalize()
    await app.start()
    ends = {
        asyncio.create_task(stop.wait(), name="signal"),
        asyncio.create_task(app.wait_until_stopped(), name="Faust"),
        asyncio.create_task(arm.run_beside(), name="beside"),
        asyncio.ensure_future(lanes.failed),
    }
    ended, running = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping", asked=stop.is_set())
    for task in running:
        task.cancel()
    letting_go = asyncio.create_task(_let_go(app, lanes, running), name="letting go")
    await asyncio.wait({letting_go}, timeout=STOP_TIMEOUT_S)
    for task in ended:
        await task
    if not letting_go.done():
        raise TimeoutError(f"not let go of everything within {STOP_TIMEOUT_S:g} s")
    await letting_go
    if not stop.is_set():
        raise RuntimeError(f"Faust stopped by itself: {app.crash_reason!r}")


async def _let_go(app: DeliveryApp, lanes: Lanes, cancelled: Iterable[asyncio.Future[Any]]) -> None:
    """Finish what is in hand, commit it, leave the group (so that its partitions are not waited for)."""
    await asyncio.gather(lanes.stop(), asyncio.wait(cancelled))
    await app.consumer.maybe_wait_for_commit_to_finish()  # it began before the last chunks were finished
    await app.consumer.commit()
    await app.stop()


def _waits_for(app: DeliveryApp) -> str:
    """What keeps the arm from working: it is ready once the group has given it an assignment, if an empty one."""
    if app.consumer_generation_id <= 0 or app.rebalancing:
        return "an assignment of partitions"
    return ""


def _reporter(process: Process, arm: str) -> Any:
    outcomes = {"offset.committed": "committed", "offset.commit_failed": "failed"}

    def report(event: str, **fields: Any) -> None:
        if event in outcomes:
            process.metrics.add("delivery.offset_commits", 1, arm=arm, outcome=outcomes[event])
        process.log.event(event, **fields)

    return report


def main() -> None:
    """Run the arm that the command line names. Exit code 0 after SIGTERM, 1 after an error, 2 for an unknown arm."""
    if len(sys.argv) != 2 or sys.argv[1] not in ARMS:
        sys.exit(f"usage: python -m services.payments ARM; the arms are {', '.join(ARMS)}")
    gc.set_threshold(*GC_THRESHOLDS)
    process = start_process()
    try:
        uvloop.run(run(process, CONSUMER_ARMS[sys.argv[1]]))
    except BaseException:
        traceback.print_exc()
        _exit(1)
    _exit(0)


def _exit(code: int) -> NoReturn:
    """End at once. Faust's threads are waited for otherwise: one that hangs stays in the group and does no work."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
