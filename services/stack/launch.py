"""From a row of the table to a command line: what is run, with which environment, and how it is asked to end."""

import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from services.stack import alertmanager, aot, grafana, kafka, postgres, prometheus, zipkin
from services.stack.home import Home
from services.stack.jars import cache_dir
from services.stack.own import Manifest
from services.stack.own import environment as own_environment
from services.stack.parts import GUESTS, PARTS, Part, UnknownPart, find, of_arms

# Settings that a user may give to `lab up` for all processes; the rest is the table's.
PASSED_ON: Final = (
    "LAB_SESSION_TIMEOUT_S", "LAB_HEARTBEAT_S", "LAB_CHUNK", "LAB_PROVIDER_TIMEOUT_S", "LAB_PROVIDER_CONCURRENCY",
    "LAB_KEY_LIFETIME_S", "LAB_RELAY_BATCH", "LAB_RELAY_IDLE_POLL_MS", "LAB_POOL_SIZE", "LAB_PUBLISHERS",
    "LAB_CONSUMERS",
    "LAB_SLOT_LAG_BOUND_MB",
    "LAB_DEDUP_WINDOW_S", "LAB_APPLY_OLDER_THAN_WINDOW", "LAB_CHARGE_AFTER_KEY_LIFETIME", "LAB_TRACE_RATIO",
    "LAB_TRACE_BUDGET_PER_S", "LAB_OTLP",
)  # fmt: skip


# By itself glibc raises these bounds with each large block that is freed, until what a busy minute took is never given
# back; and it keeps more arenas than there are processors.
_MALLOC: Final = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


class Launch(msgspec.Struct, frozen=True):
    """How one process is started and ended."""

    command: list[str]
    environment: dict[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    unprivileged: bool = False
    stop_timeout_s: float = 8.0


def launch(part: Part, replica: int, home: Home, *, faults: bool) -> Launch:
    """The launch of one replica of a part."""
    if part.kind == "postgres":
        # SIGINT is Postgres's fast shutdown: open transactions are rolled back, the data is left clean.
        return Launch(
            postgres.command(home.data / part.name, home.bind, home.port(part.port)),
            postgres.environment(),
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            unprivileged=True,
            stop_timeout_s=15.0,
        )
    if part.kind == "kafka":
        command = kafka.command(home.run, cache_dir() / "jars", part.memory_mb, *aot.options())
        return Launch(command, _plain_environment(), stop_timeout_s=20.0)
    if (server := _server(part, home)) is not None:
        command, settings = server
        return Launch(command, {**_plain_environment(), **settings})
    command = [sys.executable, "-m", part.module, *part.arguments]
    return Launch(command, service_environment(part, replica, home, os.environ, faults=faults))


def _server(part: Part, home: Home) -> tuple[list[str], Mapping[str, str]] | None:
    """Command line and settings of a part that stores or shows telemetry; None: it is another kind of part."""
    if part.kind == "prometheus":
        return prometheus.command(home), prometheus.ENVIRONMENT
    if part.kind == "alertmanager":
        return alertmanager.command(home), {}
    if part.kind == "zipkin":
        settings = zipkin.environment(home.bind, home.port(part.port))
        return zipkin.command(zipkin.find() or Path("zipkin.jar")), settings
    if part.kind == "grafana":
        return grafana.command(home, grafana.find() or Path("grafana")), grafana.environment(home)
    return None


def own_launch(manifest: Manifest, home: Home) -> Launch:
    """The launch of a consumer of the user's own."""
    return Launch(list(manifest.command), {**_plain_environment(), **own_environment(manifest, home)})


def service_environment(
    part: Part, replica: int, home: Home, given: Mapping[str, str], *, faults: bool
) -> dict[str, str]:
    """The environment of a Python process of the lab: every setting by name, little inherited."""
    name = part.instance(replica)
    settings = {
        **home.environment(),
        "LAB_PROCESS": name,
        "LAB_HTTP_PORT": str(home.port(part.port) if part.port else 0),
        "LAB_ADMIN_PORT": str(home.port(part.admin_port + replica) if part.admin_port else 0),
        "LAB_LOG_FILE": str(home.log_file(name)),
        "LAB_SPAN_FILE": str(home.span_file(name)),
        "LAB_TOKEN": home.secret("token"),
        "LAB_FAULTS": "1" if faults else "0",
        **home.addresses(),
        **{name: given[name] for name in PASSED_ON if name in given},
    }
    root = Path(__file__).parent.parent.parent
    python = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(root), **_MALLOC}
    return {**_plain_environment(), **python, **settings}


def _plain_environment() -> dict[str, str]:
    keep = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "LAB_CACHE", "PGPASSFILE")
    return {"TZ": "UTC", **{name: os.environ[name] for name in keep if name in os.environ}}


def order_of_start(only: Collection[str] = ()) -> list[str]:
    """Part names, each after all that it depends on; the reverse is the order of the end.

    `only`: these parts and what they need, instead of those of the default arms. Raises UnknownPart for a name that
    the table lacks.
    """
    ordered: list[str] = []

    def visit(name: str) -> None:
        for dependency in PARTS[name].after:
            visit(dependency)
        if name not in ordered:
            ordered.append(name)

    for name in only or of_arms():
        if name in GUESTS:
            raise UnknownPart(f"{name} is started beside a lab, not as a part of it")
        visit(find(name)[0].name)
    return ordered


def depth(name: str) -> int:
    """How many parts in a row must be ready before this one starts."""
    return 1 + max((depth(dependency) for dependency in PARTS[name].after), default=-1)
