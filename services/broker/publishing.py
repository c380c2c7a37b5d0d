"""The life of a process that publishes one outbox: loop, readiness, an end in good order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Final, Protocol

from services.bootstrap import Process
from services.broker.producer import BatchProducer
from services.telemetry.admin import serve_admin

STOP_TIMEOUT_S: Final = 3.0
BROKER_RETRY_S: Final = 0.2
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0


class Publisher(Protocol):
    """A loop that goes on through every outage until it is told to stop."""

    connected: bool  # to the database

    async def run(self) -> None: ...


async def run_publisher(process: Process, make: Callable[[BatchProducer, asyncio.Event], Publisher]) -> None:
    """Publish until SIGTERM or SIGINT; then what is in flight has 3 s to be confirmed. `make` is given the stop event.

    An error of the loop is raised, so that the supervisor starts a new life.
    """
    settings, stopping = process.settings, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    producer = BatchProducer(settings.kafka, settings.process)
    publisher = make(producer, stopping)
    broker = asyncio.create_task(_until_broker_answers(producer))

    def ready() -> str:
        return "waits for the database" if not publisher.connected else "" if broker.done() else "waits for the broker"

    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, ready)
    loop, signalled = asyncio.create_task(publisher.run()), asyncio.create_task(stopping.wait())
    await asyncio.wait([loop, signalled], return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping")
    try:
        await asyncio.wait_for(loop, STOP_TIMEOUT_S)
    except TimeoutError:
        return  # what is in flight comes again in the next life
    finally:
        broker.cancel()
        await asyncio.gather(broker, return_exceptions=True)
        producer.close()
        await admin.cleanup()


async def back_off(stopping: asyncio.Event, failures: int) -> None:
    """Wait longer the more failures in a row there were, 2 s at most; less when it is time to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), min(FIRST_DELAY_S * 2 ** min(failures, 10), LONGEST_DELAY_S))


async def _until_broker_answers(producer: BatchProducer) -> None:
    while not await producer.broker_answers():  # noqa: ASYNC110  # a look that fails has waited 2 s already
        await asyncio.sleep(BROKER_RETRY_S)
