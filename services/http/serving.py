"""One worker that serves until it is asked to end, then finishes what is in flight."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.bootstrap import Process
from services.http.database import Database
from services.http.problem import EXCEPTION_HANDLERS, Problem
from services.telemetry.admin import serve_admin

GRACE_S: Final = 3  # requests in flight get so long after SIGTERM; with the pool's second the end comes within 5 s
KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections: they close them, no request meets a closed one


class _Server(uvicorn.Server):
    """Uvicorn raises the signal again after its end, so that the exit code is not 0; here the signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Uvicorn refuses what is no HTTP (an unknown method, a broken header) in plain text; here it is a problem, too."""

    def send_400_response(self, msg: str) -> None:
        answer = Problem("no_http", f"{msg} (method, path or a header)").response()
        head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"connection: close\r\n\r\n" + bytes(answer.body))
        self.transport.close()


def make_app(routes: Sequence[Route], database: Database, openapi: bytes) -> Starlette:
    """The routes of a service, and besides /healthz, /readyz and /openapi.json; every refusal is a problem."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse((database.waits_for or "ready") + "\n", 503 if database.waits_for else 200)

    async def schema(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/openapi.json", schema)]
    return Starlette(routes=[*routes, *own], exception_handlers=EXCEPTION_HANDLERS)


async def serve(process: Process, app: Starlette, database: Database) -> None:
    """Serve `app` on the process's port until SIGTERM or SIGINT. Raises OSError when a port is taken."""
    settings = process.settings
    listener = socket.create_server((settings.bind, settings.http_port), backlog=2048)
    server = make_server(app)
    stop = _stopper(process, server)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    watch = asyncio.create_task(database.watch())
    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: database.waits_for)
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        await database.close()
        await admin.cleanup()


def make_server(app: Starlette) -> uvicorn.Server:
    """The HTTP server of an app; it ends when its `should_exit` is set, and leaves signals alone."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    return _Server(config)


def _stopper(process: Process, server: uvicorn.Server) -> Callable[[], None]:
    def stop() -> None:
        process.log.event("process.stopping")
        server.should_exit = True

    return stop
