"""Kafka's classes as a JVM has loaded and linked them, in a file that the next start reads (JEP 483, JEP 514).

The broker starts the sooner. A file of another Java or of other jars, or one that was cut off, is not used by the JVM,
which then starts as ever.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from typing import Final

from services.stack import kafka
from services.stack.errors import StackError
from services.stack.jars import cache_dir
from services.stack.spawn import child_setup

START_S: Final = 90.0  # seconds; a few where nothing else is at work
END_S: Final = 90.0  # it writes the file when it ends
_KEPT: Final = 2  # files: clones beside each other may have other jars
_LOCALHOST: Final = "127.0.0.1"


def find() -> Path | None:
    """The file for this Java and these jars, if it is here."""
    return file if (file := _file()).exists() else None


def options() -> list[str]:
    """What a JVM with Kafka's jars is told, so that it reads the file."""
    return [f"-XX:AOTCache={file}"] if (file := find()) else []


def make(heap_mb: int) -> None:
    """Start a broker on a log folder that is thrown away, end it, keep what it has loaded; old files are removed.

    The caller holds `jars.cache_lock`. Raises StackError when the broker does not start or end as it should, OSError.
    """
    unfinished = (file := _file()).with_suffix(".part")
    try:
        _make(unfinished, heap_mb)
        unfinished.rename(file)
        by_age = sorted(cache_dir().glob("kafka-*.aot"), key=lambda old: old.stat().st_mtime)
        for old in by_age[:-_KEPT]:
            old.unlink()
    finally:
        for left in cache_dir().glob("kafka-*.part*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _make(file: Path, heap_mb: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="kafka-", suffix=".part", dir=cache_dir()))
    data, (port, controller_port) = folder / "data", _free_ports(2)
    kafka.initialise(
        data, folder, cache_dir() / "jars", kafka.properties(data, _LOCALHOST, port, controller_port)
    )  # fmt: skip
    _run(kafka.command(folder, cache_dir() / "jars", heap_mb, f"-XX:AOTCacheOutput={file}"), port, folder / "out")
    if not file.exists() or Path(f"{file}.config").exists():  # that one is removed when the file is whole
        raise StackError(f"its Java wrote no class file{_last_words(folder / 'out')}")


def _last_words(out: Path) -> str:
    said = out.read_text(errors="replace").strip().splitlines()
    return f"; it said: {said[-1][:300]}" if said else ""


def _run(command: list[str], port: int, out: Path) -> None:
    with out.open("wb") as output:
        broker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=child_setup(SIGKILL),  # noqa: PLW1509  # takes no lock
        )  # fmt: skip
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller may be in a loop of its own
            ready = thread.submit(asyncio.run, _until_ready(broker, port)).result()
        if not ready:
            raise StackError(f"a broker was not ready within {START_S:g} s{_last_words(out)}")
        broker.terminate()
        broker.wait(END_S)
    except subprocess.TimeoutExpired:
        raise StackError(f"a broker did not end within {END_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(broker.pid, SIGKILL)  # the Java that writes the file is a child of the broker's
        broker.wait()


async def _until_ready(broker: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it answers in time, and lives."""
    from services.stack.probes import kafka_ready  # noqa: PLC0415  # a slow import, needed once a machine

    deadline = time.monotonic() + START_S
    while broker.poll() is None and time.monotonic() < deadline:
        if await kafka_ready(_LOCALHOST, port):
            return True
        await asyncio.sleep(0.1)
    return False


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_LOCALHOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def _file() -> Path:
    """Named by what the JVM compares: its own version, and the jars with their sizes and times."""
    jars = sorted((cache_dir() / "jars").glob("*.jar"))
    looks = [(jar.name, (found := jar.stat()).st_size, found.st_mtime_ns) for jar in jars]
    java = (kafka.java().parent.parent / "release").read_text()
    return cache_dir() / f"kafka-{hashlib.sha256(repr((java, looks)).encode()).hexdigest()[:16]}.aot"
