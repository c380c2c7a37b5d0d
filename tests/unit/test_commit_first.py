"""The commit before the effects: only what the broker confirmed is begun, and what was taken away never is."""

from typing import Any, NamedTuple

import pytest

from services.broker import delivery
from services.broker.delivery import SafeConsumer, StaleGeneration


class TP(NamedTuple):
    """A partition, as Faust names it."""

    topic: str
    partition: int


class Chunk:
    tp = TP("orders.v1", 0)
    offset = 41
    generation_id = 3


class App:
    """An app in which a chunk is fresh for so many looks."""

    def __init__(self, fresh_for: int) -> None:
        self.fresh_for = fresh_for
        self.reported: list[str] = []

    def is_fresh(self, chunk: Any) -> bool:
        self.fresh_for -= 1
        return self.fresh_for >= 0

    def report(self, event: str, **fields: Any) -> None:
        self.reported.append(event)


class Thread:
    """A broker that answers with each of these errors in turn, and then confirms."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.commits: list[tuple[int, dict[Any, int]]] = []

    async def commit_under(self, generation: int, positions: dict[Any, int]) -> None:
        self.commits.append((generation, positions))
        if self.errors:
            raise self.errors.pop(0)


def consumer(app: App, thread: Thread) -> Any:
    made: Any = SafeConsumer.__new__(SafeConsumer)
    made.app, made._thread = app, thread
    return made


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "COMMIT_PAUSE_S", 0.0)


async def test_a_chunk_is_committed_up_to_behind_its_end_under_its_own_generation() -> None:
    app, thread = App(fresh_for=1), Thread()
    assert await consumer(app, thread).commit_first(Chunk())
    assert thread.commits == [(3, {Chunk.tp: 42})]
    assert app.reported == ["offset.committed"]


async def test_what_is_not_confirmed_is_asked_for_again_while_the_chunk_is_ours() -> None:
    app, thread = App(fresh_for=9), Thread(TimeoutError(), ConnectionError())
    assert await consumer(app, thread).commit_first(Chunk())
    assert len(thread.commits) == 3
    assert app.reported == ["offset.commit_failed", "offset.commit_failed", "offset.committed"]


@pytest.mark.parametrize("error", [TimeoutError(), StaleGeneration()])
async def test_a_chunk_that_was_taken_away_before_it_was_confirmed_is_not_begun(error: Exception) -> None:
    app, thread = App(fresh_for=1), Thread(error)
    assert not await consumer(app, thread).commit_first(Chunk())
    assert len(thread.commits) == 1


async def test_of_a_chunk_that_is_stale_nothing_is_committed() -> None:
    thread = Thread()
    assert not await consumer(App(fresh_for=0), thread).commit_first(Chunk())
    assert thread.commits == []
