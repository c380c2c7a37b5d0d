"""How a session knows that it is alive: by when it asked last, not by when it read the answer."""

from typing import Any

from services.relay.session import FRESH_S, SQL, Session


class Frozen:
    """The statements of a process that is frozen for `for_s` while each answer lies unread."""

    def __init__(self, for_s: float) -> None:
        self.now = 100.0
        self.asked: list[str] = []
        self._for_s = for_s

    def session(self) -> Session:
        return Session({name: _Statement(self, name) for name in SQL}, lambda: self.now)

    def answer(self, name: str) -> list[Any]:
        self.asked.append(name)
        self.now += self._for_s
        return []


class _Statement:
    def __init__(self, process: Frozen, name: str) -> None:
        self._process = process
        self._name = name

    async def fetch(self, *_: Any, **__: Any) -> list[Any]:
        return self._process.answer(self._name)


async def test_an_answer_that_was_read_at_once_needs_no_second_question() -> None:
    process = Frozen(0.1)
    session = process.session()
    await session.turn_over([], [], 10)
    await session.ensure_fresh()
    assert process.asked == ["turn_over"]


async def test_after_a_freeze_the_session_is_asked_for_before_anything_is_sent() -> None:
    process = Frozen(FRESH_S + 0.1)
    session = process.session()
    await session.turn_over([], [], 10)
    await session.ensure_fresh()
    assert process.asked == ["turn_over", "ping"]
