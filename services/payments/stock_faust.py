"""Arm `stock_faust`: what Faust's documentation shows, with Faust's defaults, and nothing added. The control.

Quick Start, "Application" (https://faust-streaming.github.io/faust/playbooks/quickstart.html):

    app = faust.App(
        'hello-world',
        broker='kafka://localhost:9092',
        value_serializer='raw',
    )

    greetings_topic = app.topic('greetings')

    @app.agent(greetings_topic)
    async def greet(greetings):
        async for greeting in greetings:
            print(greeting)

A test holds `stock_app` to that. Around it is only where it runs: addresses, folders, no web server, and the lab's
session time-out, so that a dead process is noticed as soon as that of any other arm.

What it loses: an exception of the loop's body acknowledges the event and restarts the agent, so its message is passed
like any other (faust/streams.py); a commit passes messages that nobody has acknowledged (faust/transport/consumer.py).
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import faust

from services.bootstrap import Process
from services.broker.delivery import ends_of, tell_rebalances
from services.broker.transactor import Fetched
from services.domain.arms import CONSUMER_ARMS
from services.domain.forwarding import Forwarding
from services.domain.messages import Coordinates, Message, decode
from services.payments.arms.base import Tools, outcome_of
from services.payments.dispatch import Source
from services.payments.equipment import equipped
from services.payments.observer import InHand
from services.payments.patience import CallFailed
from services.payments.trail import CURRENT, step
from services.settings import Settings
from services.storage.postgres import AWAY, in_doubt
from services.telemetry.admin import serve_admin

ARM: Final = CONSUMER_ARMS["stock_faust"]
STOP_TIMEOUT_S: Final = 5.0  # Faust's own wait for its streams has no end


def stock_app(settings: Settings, apply: Callable[[bytes], Awaitable[None]]) -> faust.App:
    """The documentation's application, with this arm's names."""
    app = faust.App(
        "payments.stock_faust",
        broker=f"kafka://{settings.kafka}",
        value_serializer="raw",
        **_surroundings(settings),
    )

    orders_topic = app.topic("orders.v1", "refunds.v1")

    @app.agent(orders_topic)
    async def process(orders):  # type: ignore[no-untyped-def]  # as it is in the documentation
        async for order in orders:
            await apply(order)

    return app


def _surroundings(settings: Settings) -> dict[str, Any]:
    return {
        "web_enabled": False,
        "datadir": str(Path(settings.home) / "data" / ARM.name),
        "broker_session_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.heartbeat_s,
    }


class Body:
    """The body of the loop: decodes, then does the effects one after another. What goes wrong, it raises."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def apply(self, value: bytes) -> None:
        """Apply the message that the agent has in hand."""
        record = _record(value)
        with self._tools.observer.in_hand([record]) as in_hand:
            await self._apply(record, in_hand)

    async def _apply(self, record: Fetched, in_hand: InHand) -> None:
        trail = self._tools.trails.begin(ARM.group)
        where: dict[str, Any] = {
            "topic": record.topic, "partition": record.partition, "count": 1,
            "first_offset": record.offset, "last_offset": record.offset,
        }  # fmt: skip
        self._tools.log.event("offset.received", arm=ARM.name, **where)
        message = _decode(record)
        trail.take({message.at: Source(record, Forwarding(origin=message.at))})
        try:
            await self._do(message)
        except BaseException as error:
            trail.mark(message.at, "dropped", reason=type(error).__name__)
            trail.finish([message], settled=False)
            raise
        ids = trail.finish([message], settled=False)
        in_hand.done()
        self._tools.log.event("offset.applied", arm=ARM.name, **where, **ids)

    async def _do(self, message: Message) -> None:
        tools = self._tools
        tools.metrics.add("messaging.client.consumed.messages", 1, arm=ARM.name, topic=message.at.topic)
        if "charge" in message.effects:
            await self._called("charge", message, tools.provider.charge(message))
        with step("record", [message]):
            await self._recorded(message)
        if "email" in message.effects:
            email = tools.provider.email(message.id, message.payload.customer_id, message.at)
            await self._called("email", message, email)

    async def _recorded(self, message: Message) -> None:
        try:
            await self._tools.ledger.try_to_insert_records([message])
        except AWAY as error:
            if not in_doubt(error):  # else the ledger has counted it
                self._tools.count("record", "failed")
            raise
        self._tools.count("record", "applied")

    async def _called(self, effect: str, message: Message, call: Awaitable[Any]) -> None:
        outcome = "uncertain"  # cancelled
        try:
            await _traced(effect, message, call)
            outcome = "applied"
        except CallFailed as error:
            outcome = outcome_of(error.failure)
            raise
        finally:
            self._tools.count(effect, outcome)


async def _traced(effect: str, message: Message, call: Awaitable[Any]) -> None:
    """Keep the time of a call of the provider."""
    start_ns, failed, trail = time.time_ns(), "", CURRENT.get()
    try:
        await call
    except CallFailed as error:
        failed = error.failure.reason
        raise
    finally:
        if trail is not None:
            trail.called(effect, message, start_ns, failed)


def _record(value: bytes) -> Fetched:
    """The loop is given values; the envelope is in the headers of the event that Faust is at."""
    at = faust.current_event().message
    timestamp_ms = int(at.timestamp * 1000)
    return Fetched(at.topic, at.partition, at.offset, timestamp_ms, at.key, value, at.headers or ())


def _decode(record: Fetched) -> Message:
    at = Coordinates(record.topic, record.partition, record.offset)
    return decode(record.key, record.value, record.headers, at)


async def run(process: Process) -> None:
    """Consume until SIGTERM. Raises RuntimeError when Faust ended by itself, TimeoutError when it does not end."""
    async with equipped(process, ARM) as tools:
        app = stock_app(process.settings, Body(tools).apply)
        tools.observer.watch_lag(lambda: ends_of(app))
        tell_rebalances(app, tools.observer.rebalanced)
        await _consume(process, app)


async def _consume(process: Process, app: faust.App) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = process.settings
    await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: _waits_for(app))
    app.finalize()
    await app.start()
    ends = [asyncio.create_task(end) for end in (stop.wait(), app.wait_until_stopped())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping", asked=stop.is_set())
    await asyncio.wait_for(app.stop(), STOP_TIMEOUT_S)
    if not stop.is_set():
        raise RuntimeError(f"Faust stopped by itself: {app.crash_reason!r}")


def _waits_for(app: faust.App) -> str:
    return "" if app.consumer_generation_id > 0 and not app.rebalancing else "an assignment of partitions"
