"""What the supervisor makes of what keepers say, and of keepers that say nothing."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.stack import kept as kept_module
from services.stack.child import State
from services.stack.errors import NotKept
from services.stack.faults import back, thawed
from services.stack.kept import Kept, Line, Told, Watched
from services.stack.parts import PARTS
from services.telemetry.logs import Log

RELAY = PARTS["relay"]


def told(state: State, pid: int | None = 7) -> bytes:
    return msgspec.json.encode(Told(state, pid, 0, 1, ""))


class Keeper(Line):
    """A keeper that says what a test puts into it, when the test lets it."""

    def __init__(self, says: bytes) -> None:
        self.says, self.may_answer, self.ordered = says, asyncio.Event(), list[str]()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def ask(self, path: str) -> bytes:
        says = self.says
        self.asked.set()
        await self.may_answer.wait()
        if not says:
            raise ProcessLookupError("its keeper does not answer")
        return says

    async def order(self, path: str, **words: Any) -> bytes:
        self.ordered.append(path)
        if not self.says:
            await asyncio.Event().wait()  # for ever
        return self.says


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log("supervisor", "test", str(tmp_path / "supervisor.log"))


async def test_what_a_keeper_says_is_so_and_one_that_is_silent_is_away(log: Log) -> None:
    keeper = Keeper(told("ready"))
    process = Kept(RELAY, 0, keeper, log)
    await process.look()
    assert (process.state, process.pid, process.ready, process.why_not("kill")) == ("ready", 7, True, "")
    keeper.says = b""
    await process.look()
    assert (process.state, process.pid, process.ready) == ("away", None, False)
    assert process.why_not("kill") == "relay#0: its keeper does not answer"
    keeper.says = told("held", None)
    await process.look()
    assert process.why_not("kill") == "relay#0 is not running (it is held)"
    assert process.why_not("restart") == ""


@pytest.mark.parametrize("late", [told("ready"), b""])
async def test_an_answer_that_an_order_has_overtaken_is_no_news(log: Log, late: bytes) -> None:
    keeper = Keeper(late)
    process = Kept(RELAY, 0, keeper, log)
    keeper.may_answer.clear()
    looking = asyncio.create_task(process.look())
    await keeper.asked.wait()
    keeper.says = told("frozen")
    await process.freeze()
    keeper.may_answer.set()
    await looking
    assert process.state == "frozen"
    assert keeper.ordered == ["/0/freeze"]


async def test_a_keeper_that_is_silent_for_a_moment_ends_no_fault(log: Log) -> None:
    keeper = Keeper(told("frozen"))
    process = Kept(RELAY, 0, keeper, log)
    await process.look()
    ended = (thawed(process, 7), back(process, 7))
    keeper.says = b""
    await process.look()
    assert not any(end() for end in ended)
    keeper.says = told("ready")
    await process.look()
    assert [end() for end in ended] == [True, False]
    keeper.says = told("ready", 8)
    await process.look()
    assert all(end() for end in ended)


async def test_a_keeper_that_does_not_answer_keeps_nobody_from_dying(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "EXPECT_S", 0.01)
    async with asyncio.timeout(60):
        await Kept(RELAY, 0, Keeper(b""), log).expect_death()


async def test_a_server_is_seen_and_not_struck(log: Log) -> None:
    answers = [False, True, False]

    async def probe() -> bool:
        return answers.pop(0)

    server = Watched(PARTS["kafka"], 0, probe, log)
    seen = []
    for _ in range(3):
        await server.look()
        seen.append(server.state)
    assert seen == ["starting", "ready", "unready"]
    for strike in (server.kill(hold=False), server.freeze(), server.thaw(), server.restart(), server.expect_death()):
        with pytest.raises(NotKept, match="docker compose kill kafka"):
            await strike
