"""Kafka's classes in a file: made at the first start, and taken by the JVM, which would go on in silence without."""

import subprocess

import psutil

from services.stack import aot, jars, kafka
from tests.conftest import Infra


def test_the_broker_reads_its_classes_from_the_file(infra: Infra) -> None:
    port = int(infra.kafka.rpartition(":")[2])
    (broker,) = {
        c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    }
    command = psutil.Process(broker).cmdline()
    assert (file := aot.find()) is not None
    assert f"-XX:AOTCache={file}" in command
    assert str(file) in {region.path for region in psutil.Process(broker).memory_maps()}


def test_java_takes_the_file_or_would_say_why_not() -> None:
    assert aot.find() is not None
    strict = [str(kafka.java()), *aot.options(), "-XX:AOTMode=on", "-cp", f"{jars.cache_dir()}/jars/*"]
    done = subprocess.run(
        [*strict, "kafka.tools.StorageTool", "random-uuid"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wrong = [*strict[:-1], f"{jars.cache_dir()}/maven/*"]
    refused = subprocess.run(
        [*wrong, "kafka.tools.StorageTool", "random-uuid"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
