"""What stands for Prometheus and a trace store: services are scraped, and their spans are taken, for nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web


@contextlib.asynccontextmanager
async def scraping(url: str, every_s: float) -> AsyncIterator[None]:
    """Read `url` as often as Prometheus does, while the block runs."""

    async def scrape() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as response:
                        await response.read()
                await asyncio.sleep(every_s)

    task = asyncio.create_task(scrape())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def span_sink(bind: str, port: int) -> AsyncIterator[str]:
    """A trace store that takes every span and keeps none; gives its base URL."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202)

    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/{path:.*}", take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, bind, port).start()
    try:
        yield f"http://{bind}:{port}"
    finally:
        await runner.cleanup()
