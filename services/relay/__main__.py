"""`python -m services.relay [DATABASE=TOPIC …]`: relays the lab's own sources, or the named ones."""

import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from services.bootstrap import Process, start_process
from services.broker.producer import BatchProducer
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import KINDS
from services.relay.records import redelivery_of
from services.relay.source import Source, SourceRelay
from services.telemetry.admin import serve_admin

STOP_TIMEOUT_S: Final = 3.0
BROKER_RETRY_S: Final = 0.2
# A batch is tens of thousands of small objects without a cycle; the default (700) walks through them again and again:
# a fifth of the relay's processor time.
GC_THRESHOLD: Final = 100_000
# People redrive, and wait for it as people do; a look into an empty table costs as much as into a full one.
REDRIVES: Final = Source(
    "payments",
    {arm.name: arm.redelivery_topic for arm in CONSUMER_ARMS.values() if arm.dead_letters},
    redelivery_of,
    idle_poll_ms=100.0,
    redrives=True,
)


def sources_of(arguments: Sequence[str]) -> list[Source]:
    """The sources of `DATABASE=TOPIC` arguments, whatever the rows' type; without any, the lab's own.

    Raises ValueError for an argument of another form.
    """
    if not arguments:
        return [*(Source(kind.name, {kind.type: kind.topic}) for kind in KINDS), REDRIVES]
    sources = []
    for argument in arguments:
        database, equals, topic = argument.partition("=")
        if not (database and equals and topic):
            raise ValueError(f"{argument!r} is not of the form DATABASE=TOPIC")
        sources.append(Source(database, {kind.type: topic for kind in KINDS}))
    return sources


async def run(process: Process, sources: Sequence[Source]) -> None:
    """Relay until SIGTERM or SIGINT; then what is in flight has 3 s to be confirmed and removed."""
    settings, stopping = process.settings, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    producer = BatchProducer(settings.kafka, settings.process)
    relays = [SourceRelay(source, process, producer, stopping) for source in sources]
    broker = asyncio.create_task(_until_broker_answers(producer))

    def ready() -> str:
        away = [source.database for source, relay in zip(sources, relays, strict=True) if not relay.connected]
        return f"waits for the database {away[0]}" if away else "" if broker.done() else "waits for the broker"

    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, ready)
    loops = [asyncio.create_task(relay.run()) for relay in relays]
    await _until_over(loops, stopping)
    process.log.event("process.stopping")
    await asyncio.wait(loops, timeout=STOP_TIMEOUT_S)
    for task in (*loops, broker):
        task.cancel()
    await asyncio.gather(*loops, broker, return_exceptions=True)
    producer.close()
    await admin.cleanup()


async def _until_over(loops: Sequence["asyncio.Task[None]"], stopping: asyncio.Event) -> None:
    """Wait for the signal. A loop that ends before is a defect: raised, so that the supervisor starts a new life."""
    signalled = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait([signalled, *loops], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _until_broker_answers(producer: BatchProducer) -> None:
    while not await producer.broker_answers():  # noqa: ASYNC110  # a look that fails has waited 2 s already
        await asyncio.sleep(BROKER_RETRY_S)


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    uvloop.run(run(start_process(), sources_of(sys.argv[1:])))
