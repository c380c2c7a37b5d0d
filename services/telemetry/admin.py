"""The admin endpoint of every process, on a port of its own: /healthz /readyz /metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from aiohttp import web

from services.telemetry.metrics import Metrics
from services.telemetry.vitals import watch_loop

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def serve_admin(
    bind: str, port: int, metrics: Metrics, ready: Callable[[], str], more: Iterable[web.RouteDef] = ()
) -> web.AppRunner:
    """Start the endpoint in the running loop. `ready` returns an empty text, or what the process waits for.

    Raises OSError when the port is taken. The caller ends it with `cleanup()`.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        waits_for = ready()
        return web.Response(text=(waits_for or "ready") + "\n", status=503 if waits_for else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def loop_watched(_: web.Application) -> AsyncIterator[None]:
        watch = asyncio.create_task(watch_loop(metrics), name="loop lag")
        yield
        watch.cancel()

    app = web.Application()
    if metrics.emits("delivery.loop_lag"):
        app.cleanup_ctx.append(loop_watched)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    app.add_routes(more)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, bind, port).start()
    return runner
