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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import faust

from services.bootstrap import Process
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import Coordinates, Message, decode
from services.payments.arms.base import Tools
from services.payments.equipment import equipped
from services.settings import Settings
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
        tools, message = self._tools, _decode(value)
        tools.metrics.add("messaging.client.consumed.messages", 1, arm=ARM.name, topic=message.at.topic)
        if "charge" in message.effects:
            await tools.provider.charge(message)
            tools.count("charge", "applied")
        await tools.ledger.try_to_insert_records([message])
        tools.count("record", "applied")
        if "email" in message.effects:
            await tools.provider.email(message.id, message.payload.customer_id, message.at)
            tools.count("email", "applied")


def _decode(value: bytes) -> Message:
    """The loop is given values; the envelope is in the headers of the event that Faust is at."""
    record = faust.current_event().message
    return decode(record.key, value, record.headers, Coordinates(record.topic, record.partition, record.offset))


async def run(process: Process) -> None:
    """Consume until SIGTERM. Raises RuntimeError when Faust ended by itself, TimeoutError when it does not end."""
    async with equipped(process, ARM) as tools:
        await _consume(process, stock_app(process.settings, Body(tools).apply))


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
