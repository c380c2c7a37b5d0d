"""The log of faults: windows that begin and end, over the death of the supervisor that writes it."""

import asyncio
from pathlib import Path

import pytest

from services.stack.nemesis import NemesisLog, NemesisReader, read_faults
from services.telemetry.logs import Log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nemesis.jsonl"


def log(path: Path) -> NemesisLog:
    return NemesisLog(path, seed=7, log=Log("supervisor", "test", str(path.with_name("supervisor.log"))))


def test_a_fault_has_a_begin_and_an_end_and_keeps_what_is_said_at_both(path: Path) -> None:
    nemesis = log(path)
    killed = nemesis.begin("kill", "kafka", "cli", pid=9)
    nemesis.begin("arm", "publish.after_fetch", "scenario", action="kill")
    nemesis.end(killed, passes=3)
    nemesis.end(killed)  # a second end changes nothing
    kill, arm = read_faults(path)
    assert (kill.fault, kill.target, kill.by, kill.seed) == ("kill", "kafka", "cli", 7)
    assert kill.details == {"pid": 9, "passes": 3}
    assert kill.ended is not None
    assert kill.started <= kill.ended
    assert arm.ended is None


def test_a_fault_without_length_begins_and_ends_in_one_line(path: Path) -> None:
    log(path).begin("data", "orders.v1", "cli", ended=12.5)
    (fault,) = read_faults(path)
    assert fault.ended == 12.5
    assert len(path.read_bytes().splitlines()) == 1


async def test_a_fault_ends_when_its_condition_holds(path: Path) -> None:
    nemesis, over = log(path), asyncio.Event()
    nemesis.end_when(nemesis.begin("freeze", "relay#0", "cli"), over.is_set)
    await asyncio.sleep(0)
    assert read_faults(path)[0].ended is None
    over.set()
    async with asyncio.timeout(60):
        while read_faults(path)[0].ended is None:  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)


def test_what_a_killed_supervisor_left_open_ends_with_the_next_one(path: Path) -> None:
    log(path).begin("freeze", "relay#0", "cli")
    with path.open("ab") as file:
        file.write(b'{"id":"half a li')
    later = log(path)
    later.begin("kill", "kafka", "cli")
    freeze, kill = read_faults(path)
    assert freeze.ended is not None
    assert freeze.details["why"] == "a supervisor before this one ended"
    assert kill.ended is None
    later.end_all("the lab")
    assert read_faults(path)[1].ended is not None


def test_a_reader_follows_what_is_written_and_waits_for_whole_lines(path: Path) -> None:
    nemesis = log(path)
    nemesis.begin("kill", "kafka", "cli")
    reader = NemesisReader(path, from_end=True)
    assert reader.new() == []
    begun = nemesis.begin("kill", "postgres", "failpoint", failpoint="publish.after_fetch")
    nemesis.end(begun)
    with path.open("ab") as file:
        file.write(b"{")
    (fault,) = reader.new()
    assert (fault.id, fault.target) == (begun, "postgres")
    assert fault.ended is not None
    assert reader.new() == []


def test_no_log_is_no_faults(path: Path) -> None:
    assert read_faults(path) == []
