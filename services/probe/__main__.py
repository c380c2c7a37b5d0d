"""`python -m services.probe`: the composition root of the probe."""

import asyncio
import signal

import uvloop

from services.bootstrap import Process, start_process
from services.probe.board import Board
from services.probe.looks import Watched, watch_broker, watch_postgres
from services.telemetry.admin import serve_admin


async def run(process: Process) -> None:
    """Look until SIGTERM or SIGINT. A loop that ends before is a defect: raised, so that a new life is started."""
    settings, stopping = process.settings, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    board, watched = Board(process.metrics), Watched.of(settings)
    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: board.waits_for)
    loops = [
        asyncio.create_task(watch_broker(process, watched, board), name="broker"),
        asyncio.create_task(watch_postgres(process, watched, board), name="postgres"),
    ]
    signalled = asyncio.create_task(stopping.wait(), name="signal")
    done, _ = await asyncio.wait([signalled, *loops], return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping")
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await admin.cleanup()
    for task in done:
        task.result()


if __name__ == "__main__":
    uvloop.run(run(start_process()))
