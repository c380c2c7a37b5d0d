"""Zipkin, the native trace store and its page: one jar on the Java runtime of a wheel, spans in its memory.

It keeps no links and no types; the lab's own span files do (`lab trace`). What it drops it drops without a word.
"""

from pathlib import Path
from typing import Final

from services.stack.jars import Jar, Progress, cache_dir, install_one
from services.stack.kafka import java

# `slim`: without storages that need a server. Its memory is bounded by spans, 100,000 of the demo's are 17 minutes.
JAR: Final = Jar(
    "io.zipkin", "zipkin-server", "3.6.1", "981b1de6139b4f8f787a909c308028732f9713ae5284353d2a5aa404d1094775", "slim"
)
MEM_MAX_SPANS: Final = 100_000
HEAP_MB: Final = 320  # measured: 96 MiB end at 30,000 of our spans, 256 MiB hold 100,000 (365 MiB resident)
HOW_TO: Final = (
    "Zipkin could not be downloaded: its page is missing, `lab trace` is not. Connect to the network and run `lab up` "
    "again."
)


def find() -> Path | None:
    """The jar, if it is here. A file there was checked before it got its name."""
    file = _folder() / JAR.file_name
    return file if file.exists() else None


def install(progress: Progress) -> Path:
    """Download the jar (86 MB), `progress` in bytes. The caller holds `jars.cache_lock`. Raises StackError."""
    return install_one(JAR, _folder(), progress)


def _folder() -> Path:
    return cache_dir() / "zipkin"  # not beside Kafka's jars: they are all on its class path


def command(jar: Path) -> list[str]:
    """The server's command line."""
    return [
        str(java()),
        f"-Xms{HEAP_MB}m",
        f"-Xmx{HEAP_MB}m",
        "-XX:+AlwaysPreTouch",  # all that it will ever have is there from the start: what grows then is a leak
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:MaxMetaspaceSize=96m",
        "-XX:ReservedCodeCacheSize=48m",
        "-XX:MaxDirectMemorySize=32m",
        "-XX:+ExitOnOutOfMemoryError",
        "-jar",
        str(jar),
    ]


def environment(bind: str, port: int) -> dict[str, str]:
    """Its settings."""
    return {
        "STORAGE_TYPE": "mem",
        "MEM_MAX_SPANS": str(MEM_MAX_SPANS),
        "ARMERIA_PORTS_0_IP": bind,  # SERVER_ADDRESS is not heard: it would listen everywhere
        "ARMERIA_PORTS_0_PORT": str(port),
        "ARMERIA_PORTS_0_PROTOCOLS_0": "http",
        "QUERY_LOOKBACK": str(60 * 60 * 1000),
        "SELF_TRACING_ENABLED": "false",
        "JAVA_LOGGING_LEVEL": "WARN",
    }
