"""Lanes: order within a partition, partitions side by side, and nothing that runs on after its assignment."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from services.broker import lanes as module
from services.broker.lanes import DEPTH, Lanes


class TP(NamedTuple):
    """A partition, as Faust names it."""

    topic: str
    partition: int


ONE, OTHER = TP("orders.v1", 0), TP("orders.v1", 1)


class Chunk:
    def __init__(self, tp: TP, offset: int, generation: int) -> None:
        self.tp, self.offset, self.generation_id = tp, offset, generation


class Event:
    def __init__(self, app: "App", tp: TP, offset: int) -> None:
        self.message = Chunk(tp, offset, app.generation)
        self.acked = False

    def ack(self) -> None:
        self.acked = True


class App:
    """What lanes ask of an app: whether a chunk is fresh, and its consumer's back-pressure."""

    def __init__(self) -> None:
        self.generation = 1
        self.full: set[TP] = set()
        self.abandoned: list[int] = []
        self.consumer = self

    def is_fresh(self, chunk: Chunk) -> bool:
        return chunk.generation_id == self.generation

    def on_buffer_full(self, tp: TP) -> None:
        self.full.add(tp)

    def on_buffer_drop(self, tp: TP) -> None:
        self.full.discard(tp)

    def abandon(self, chunk: Chunk) -> None:
        self.abandoned.append(chunk.offset)


class Handler:
    """Notes what it begins and ends; waits at a gate."""

    def __init__(self) -> None:
        self.begun: list[tuple[TP, int]] = []
        self.ended: list[tuple[TP, int]] = []
        self.gates = {ONE: asyncio.Event(), OTHER: asyncio.Event()}
        self.breaks_at: int | None = None

    def open(self) -> None:
        for gate in self.gates.values():
            gate.set()

    async def handle(self, chunk: Chunk) -> None:
        self.begun.append((chunk.tp, chunk.offset))
        await self.gates[chunk.tp].wait()
        if chunk.offset == self.breaks_at:
            raise RuntimeError("broken")
        self.ended.append((chunk.tp, chunk.offset))


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.001)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def handler() -> Handler:
    return Handler()


@pytest.fixture
async def lanes(app: App, handler: Handler) -> Lanes:
    return Lanes(app, handler.handle)  # type: ignore[arg-type]


async def test_chunks_of_a_partition_are_handled_one_by_one_in_order(app: App, handler: Handler, lanes: Lanes) -> None:
    events = [Event(app, ONE, n) for n in range(5)]
    for event in events:
        lanes.put(event)
    await until(lambda: len(handler.begun) == 1)
    assert not any(event.acked for event in events)
    handler.open()
    await until(lambda: all(event.acked for event in events))
    assert handler.begun == [(ONE, n) for n in range(5)] == handler.ended


async def test_a_partition_that_stands_still_holds_no_other_one_up(app: App, handler: Handler, lanes: Lanes) -> None:
    handler.gates[OTHER].set()
    stuck = [Event(app, ONE, n) for n in range(DEPTH + 5)]
    going = [Event(app, OTHER, n) for n in range(DEPTH + 5)]
    for event in stuck + going:
        lanes.put(event)
    await until(lambda: all(event.acked for event in going))
    assert not any(event.acked for event in stuck)
    assert app.full == {ONE}


async def test_a_full_partition_is_fetched_from_again_once_there_is_room(
    app: App, handler: Handler, lanes: Lanes
) -> None:
    for n in range(DEPTH - 1):
        lanes.put(Event(app, ONE, n))
    assert app.full == set()
    lanes.put(Event(app, ONE, DEPTH - 1))
    assert app.full == {ONE}
    handler.open()
    await until(lambda: len(handler.ended) == DEPTH)
    assert app.full == set()


async def test_a_chunk_of_an_older_generation_is_abandoned_wherever_it_waits(
    app: App, handler: Handler, lanes: Lanes
) -> None:
    old = [Event(app, ONE, n) for n in range(3)]
    for event in old:
        lanes.put(event)
    await until(lambda: len(handler.begun) == 1)
    late = Event(app, OTHER, 7)  # delivered before the rebalance, put after it
    app.generation = 2
    fresh = Event(app, OTHER, 8)
    lanes.put(late)
    lanes.put(fresh)
    handler.open()
    await until(lambda: fresh.acked and old[0].acked)
    assert sorted(app.abandoned) == [1, 2, 7]
    assert handler.begun == [(ONE, 0), (OTHER, 8)]


async def test_the_first_error_ends_all_work(app: App, handler: Handler, lanes: Lanes) -> None:
    handler.breaks_at = 0
    events = [Event(app, tp, n) for n in range(3) for tp in (ONE, OTHER)]
    for event in events:
        lanes.put(event)
    await until(lambda: len(handler.begun) == 2)
    handler.gates[ONE].set()
    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(lanes.failed, 30)
    handler.breaks_at = None
    handler.open()
    await lanes.settle()
    assert handler.begun == [(ONE, 0), (OTHER, 0)]
    assert [event.message.tp for event in events if event.acked] == [OTHER]


async def test_settling_waits_for_what_is_in_hand(app: App, handler: Handler, lanes: Lanes) -> None:
    event, waiting = Event(app, ONE, 0), Event(app, ONE, 1)
    lanes.put(event)
    lanes.put(waiting)
    await until(lambda: len(handler.begun) == 1)
    app.generation = 2
    settling = asyncio.create_task(lanes.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    handler.open()
    await settling
    assert event.acked
    assert not waiting.acked


async def test_settling_is_bounded_and_what_is_late_is_given_up(
    app: App, handler: Handler, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    late = Event(app, ONE, 0)
    lanes.put(late)
    await until(lambda: len(handler.begun) == 1)
    app.generation = 2
    await asyncio.wait_for(lanes.settle(), 30)
    fresh = Event(app, ONE, 0)
    lanes.put(fresh)  # the partition came back: its lane is free
    await until(lambda: len(handler.begun) == 2)
    handler.open()
    await until(lambda: fresh.acked)
    assert not late.acked
    assert handler.ended == [(ONE, 0)]
    assert not lanes.failed.done()


async def test_after_the_stop_nothing_more_begins(app: App, handler: Handler, lanes: Lanes) -> None:
    events = [Event(app, ONE, n) for n in range(3)]
    for event in events:
        lanes.put(event)
    await until(lambda: len(handler.begun) == 1)
    handler.open()
    await lanes.stop()
    lanes.put(Event(app, OTHER, 0))
    assert [event.acked for event in events] == [True, False, False]
    assert handler.begun == [(ONE, 0)]
