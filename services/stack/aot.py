"""Kafka's classes as a JVM has loaded and linked them, in a file that the next start reads (JEP 483, JEP 514).

It halves what a start of the broker costs; a stale or damaged one is not used by the JVM, which then starts as ever.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Final

from services.stack import kafka
from services.stack.errors import StackError
from services.stack.jars import cache_dir
from services.stack.spawn import child_setup

START_S: Final = 180.0  # 3 s where nothing else is at work
END_S: Final = 180.0  # it writes the file when it ends: 8 s
_LOCALHOST: Final = "127.0.0.1"


def find() -> Path | None:
    """The file for this Java and these jars, if it is here."""
    return file if (file := _file()).exists() else None


def options() -> list[str]:
    """What a JVM with Kafka's jars is told, so that it reads the file."""
    return [f"-XX:AOTCache={file}"] if (file := find()) else []


def make(heap_mb: int) -> None:
    """Start a broker on a log folder that is thrown away, end it, keep what it has loaded; older files are removed.

    The caller holds `jars.cache_lock`. Raises StackError when the broker does not start or end as it should.
    """
    file = _file()
    unfinished = file.with_suffix(".part")
    try:
        _make(unfinished, heap_mb)
        for old in cache_dir().glob("kafka-*.aot"):
            old.unlink()
        unfinished.rename(file)
    finally:
        for left in cache_dir().glob("kafka-*.part*"):
            left.unlink()


def _make(file: Path, heap_mb: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _free_ports(2) as (port, controller_port):
        data = Path(folder) / "data"
        settings = kafka.properties(data, _LOCALHOST, port, controller_port)
        kafka.initialise(data, Path(folder), cache_dir() / "jars", settings)
        command = kafka.command(Path(folder), cache_dir() / "jars", heap_mb, f"-XX:AOTCacheOutput={file}")
        _run(command, port, Path(folder) / "out")
    if not file.exists():
        raise StackError("its Java wrote no file")


def _run(command: list[str], port: int, out: Path) -> None:
    with out.open("wb") as output:
        broker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=child_setup(SIGKILL),  # noqa: PLW1509  # takes no lock
        )  # fmt: skip
    try:
        asyncio.run(_until_ready(broker, port))
        broker.terminate()
        broker.wait(END_S)
    except subprocess.TimeoutExpired:
        raise StackError(f"it did not end within {END_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(broker.pid, SIGKILL)  # the Java that writes the file is a child of the broker's
        broker.wait()


async def _until_ready(broker: subprocess.Popen[bytes], port: int) -> None:
    from services.stack.probes import kafka_ready  # noqa: PLC0415  # a slow import, needed once a machine

    deadline = time.monotonic() + START_S
    while not await kafka_ready(_LOCALHOST, port):
        if broker.poll() is not None:
            raise StackError(f"a broker ended with {broker.returncode}")
        if time.monotonic() > deadline:
            raise StackError(f"a broker was not ready within {START_S:g} s")
        await asyncio.sleep(0.1)


@contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody used a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_LOCALHOST, 0))
        ports = [probe.getsockname()[1] for probe in probes]
    yield ports


def _file() -> Path:
    """Named by what the JVM compares: its own version, and the jars with their sizes and times."""
    jars = sorted((cache_dir() / "jars").glob("*.jar"))
    looks = [(jar.name, (found := jar.stat()).st_size, found.st_mtime_ns) for jar in jars]
    java = (kafka.java().parent.parent / "release").read_text()
    return cache_dir() / f"kafka-{hashlib.sha256(repr((java, looks)).encode()).hexdigest()[:16]}.aot"
