"""The admin endpoint of every process, on a port of its own: /healthz /readyz /metrics."""

from collections.abc import Callable

from aiohttp import web

from services.telemetry.metrics import Metrics


async def serve_admin(bind: str, port: int, metrics: Metrics, ready: Callable[[], str]) -> web.AppRunner:
    """Start the endpoint in the running loop. `ready` returns an empty text, or what the process waits for.

    Raises OSError when the port is taken. The caller ends it with `cleanup()`.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        waits_for = ready()
        return web.Response(text=(waits_for or "ready") + "\n", status=503 if waits_for else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, bind, port).start()
    return runner
