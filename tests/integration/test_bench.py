"""The benchmarks in small: they do the work that they say, on real services, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.bench import consume, ingest, relay
from loadtest.bench.answer import Answer
from loadtest.bench.place import servers
from services.stack.home import Home
from tests.conftest import free_home, say

LAB = Path(sys.executable).with_name("lab")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Servers as a benchmark starts them."""
    home = free_home(tmp_path_factory.mktemp("bench"))
    with servers(home, say) as started:
        yield started
    assert not (home.path / "bench").exists()


def silent(_: str) -> None:
    """Progress that nobody looks at."""


def figures(answer: Answer) -> dict[str, Any]:
    document = answer.document()
    return {figure["unit"]: figure for figure in (document, *document["also"])}


def test_orders_are_accepted_by_the_service_and_inserted_by_pgbench(place: Home) -> None:
    found = figures(ingest.bench(place, 1, 400, silent))
    assert found["orders per second"]["ratio_median"] > 0
    assert found["CPU us per order, service"]["median"]["project"] > 0
    assert found["CPU us per order, service"]["ratio_median"] is None, "pgbench has no service"
    assert 0 < found["ms, p50"]["median"]["project"] <= found["ms, p99"]["median"]["project"]


@pytest.mark.parametrize("arm", ["outbox", "cdc"])  # id_cursor differs from them in its statements
def test_rows_of_each_publisher_arm_become_readable(place: Home, arm: str) -> None:
    found = figures(relay.bench(place, arm, 1, 2_000, 0.2, silent))
    assert found["rows per second"]["ratio_median"] > 0
    for unit in ("CPU us per row, publisher", "ms to readable at 500/s, p50"):
        assert found[unit]["median"]["project"] > 0
        assert found[unit]["median"]["anchor"] > 0


@pytest.mark.parametrize("arm", consume.ARMS)
def test_an_arm_and_the_bare_loop_apply_every_message(place: Home, arm: str) -> None:
    found = figures(consume.bench(place, arm, 1, 2_000, silent))
    assert found["messages per second"]["ratio_median"] > 0
    assert found["CPU us per message, consumer"]["median"]["anchor"] > 0


def test_an_interrupted_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    home = free_home(tmp_path)
    environment = {**os.environ, "LAB_HOME": str(tmp_path), "LAB_PORT_BASE": str(home.port_base)}
    process = subprocess.Popen(
        [LAB, "bench", "ingest"],
        env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=_ctrl_c_works,  # noqa: PLW1509
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1" in line:
            process.send_signal(signal.SIGINT)
            break
    assert "nothing was left running" in process.stderr.read()
    assert process.wait(30) == 130
    assert not (tmp_path / "bench").exists()
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_words(p))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _ctrl_c_works() -> None:
    """A shell's background job ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_answer_is_one_json_document_with_the_agreed_shape(tmp_path: Path) -> None:
    home = free_home(tmp_path)
    environment = {**os.environ, "LAB_HOME": str(tmp_path), "LAB_PORT_BASE": str(home.port_base)}
    words = [LAB, "bench", "ingest", "--rounds", "1", "--requests", "100", "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document.keys() >= {"work", "rounds", "ratio_median", "unit", "host", "versions"}
    assert [round_.keys() for round_ in document["rounds"]] == [{"project", "anchor"}]
