"""Kafka's classes in a file: made at the first start, and taken by the JVM, which would go on in silence without."""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from services.stack import aot, control, jars, kafka
from services.stack.errors import StackError
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


def java(mode: str, path: str) -> int:
    """The exit code of a small tool of Kafka's that is told to read the file."""
    command = [str(kafka.java()), *aot.options(), f"-XX:AOTMode={mode}", "-cp", path, "kafka.tools.StorageTool"]
    return subprocess.run([*command, "random-uuid"], capture_output=True, check=False).returncode


def test_java_takes_the_file_and_starts_without_one_of_other_jars(infra: Infra, tmp_path: Path) -> None:
    jars_ = f"{jars.cache_dir()}/jars/*"
    assert java("on", jars_) == 0, "`on` refuses to start without the file"
    assert java("on", f"{tmp_path}:{jars_}") != 0
    assert java("auto", f"{tmp_path}:{jars_}") == 0


@pytest.mark.parametrize(
    "error", [StackError("a broker was not ready"), OSError(28, "No space left"), KeyboardInterrupt()]
)
def test_a_making_that_fails_or_is_interrupted_leaves_nothing(
    infra: Infra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    shutil.copytree(jars.cache_dir() / "jars", tmp_path / "jars")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))

    def fails(command: list[str], _: int, __: Path) -> None:
        (option,) = (word for word in command if word.startswith("-XX:AOTCacheOutput="))
        Path(option.partition("=")[2]).write_text("half of it")
        raise error

    monkeypatch.setattr(aot, "_run", fails)
    said: list[str] = []
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            control._link_kafka(said.append)
    else:
        control._link_kafka(said.append)
        assert str(error) in said[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["jars"]
    assert aot.options() == []
