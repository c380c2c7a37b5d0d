"""HTTP services for tests: in this loop on a database of the test's own, or as a process like the lab starts them."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
from starlette.applications import Starlette

from services.bootstrap import Process
from services.failpoints import Failpoints
from services.http.database import Database
from services.http.serving import make_server
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Answer(msgspec.Struct):
    """An HTTP answer, read whole."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def faulty(self) -> list[str]:
        """The fields that the problem document names."""
        return [error["field"] for error in self.json.get("errors", [])]


class Client:
    """Calls one service."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body` is sent as it is when it is bytes or a stream, else as JSON; `_` in a header's name stands for `-`."""
        data = msgspec.json.encode(body) if isinstance(body, dict) else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, data=data, headers=names) as response:
            return Answer(response.status, response.headers, await response.read())


def adhoc_process(settings: Settings, log_file: Path) -> Process:
    """What a process has, made for this loop."""
    failpoints = Failpoints("adhoc", "", "", allowed=False)
    log, metrics = Log("adhoc", "test", str(log_file)), Metrics("adhoc", "test")
    return Process(settings, uuid4(), log, metrics, failpoints, Tracer("adhoc", "test"))


@asynccontextmanager
async def serving(app: Starlette, database: Database) -> AsyncIterator[Client]:
    """Serve in this loop on a free port until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app)
    watch = asyncio.create_task(database.watch())
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(session, f"http://127.0.0.1:{listener.getsockname()[1]}")
            await until(lambda: _ready(client))
            yield client
    finally:
        server.should_exit = True
        await task
        watch.cancel()
        await database.close()


@asynccontextmanager
async def running(module: str, settings: Settings, log_file: Path) -> AsyncIterator[tuple[Client, Client, Any]]:
    """A process of the lab: a client of its service, one of its admin endpoint, and the process itself."""
    port, admin_port = free_port(), free_port()
    given = {
        "LAB_POSTGRES": settings.postgres,
        "LAB_LEDGER": settings.ledger,
        "LAB_PROCESS": "test",
        "LAB_HTTP_PORT": str(port),
        "LAB_ADMIN_PORT": str(admin_port),
        "LAB_LOG_FILE": str(log_file),
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, env=given, cwd=ROOT)
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(session, f"http://127.0.0.1:{port}")
            admin = Client(session, f"http://127.0.0.1:{admin_port}")
            await until(lambda: _ready(admin))
            await until(lambda: _ready(client))
            yield client, admin, process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _ready(client: Client) -> bool:
    try:
        return (await client.call("GET", "/readyz")).status == 200
    except aiohttp.ClientError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Wire:
    """A way to Postgres that can be cut (connections are reset, new ones refused) and stopped (bytes go nowhere)."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._address = server.rpartition("@")[2].rpartition(":")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = free_port()

    @property
    def server(self) -> str:
        """The server's address through this wire."""
        return f"{self._server.rpartition('@')[0]}@127.0.0.1:{self.port}"

    async def join(self) -> None:
        self._flowing.set()
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def cut(self) -> None:
        self._flowing.set()
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        self._flowing.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._address
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._flowing.wait()
                writer.write(data)
        except OSError:
            pass
        writer.transport.abort()


async def logged(file: Path, event: str) -> bool:
    """Whether a log has an event."""
    return event in await asyncio.to_thread(file.read_text)


async def apply(server: str, database: str, *schemas: Path) -> asyncpg.Connection:
    """A connection to a database that now has the schemas; the caller closes it."""
    connection = await asyncpg.connect(f"{server}/{database}")
    for schema in schemas:
        await connection.execute(await asyncio.to_thread(schema.read_text))
    return connection
