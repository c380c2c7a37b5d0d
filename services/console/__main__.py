"""`python -m services.console`: the composition root of the console."""

import asyncio
import signal
import socket
from pathlib import Path

import aiohttp

from services.bootstrap import Process, start_process
from services.console.app import Console, make_app
from services.console.received import Received
from services.console.sources import Evidence, Prometheus
from services.http.serving import make_server
from services.stack.parts import PARTS
from services.telemetry.admin import serve_admin


def main() -> None:
    """Serve the boards until asked to end."""
    asyncio.run(_serve(start_process()))


async def _serve(process: Process) -> None:
    settings = process.settings
    home = Path(settings.home)
    (home / "run").mkdir(parents=True, exist_ok=True)
    evidence = Evidence(settings.ledger)
    listener = socket.create_server((settings.bind, settings.http_port), backlog=128)
    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: "")
    async with aiohttp.ClientSession() as session:
        console = Console(
            Prometheus(settings.prometheus, session),
            evidence,
            home,
            Received(home / "run" / "pages.jsonl"),
            settings.port_base + PARTS["zipkin"].port,
        )
        server = make_server(make_app(console))

        def stop() -> None:
            process.log.event("process.stopping")
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await server.serve(sockets=[listener])
    await evidence.close()
    await admin.cleanup()


if __name__ == "__main__":
    main()
