"""Stands in for a service of the lab: ready at once, needs no server, and passes a failpoint ten times a second."""

import asyncio
from typing import Final

from services.bootstrap import Process, start_process
from services.telemetry.admin import serve_admin

FAILPOINT: Final = "publish.after_fetch"
EVERY_S: Final = 0.1


async def run(process: Process) -> None:
    """Until somebody ends it."""
    settings = process.settings
    await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: "")
    while True:
        await process.failpoints.hit(FAILPOINT)
        await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    asyncio.run(run(start_process()))
