"""Waiting on conditions. Who does not answer now, because the machine stands still, has not said no for good."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaException

from services.auditor.stores import Unreachable
from services.stack.client import NotUp
from services.storage.postgres import AWAY

T = TypeVar("T")


class NotAnswered(AssertionError):
    """A command of the lab says that a part of it does not answer."""


class Failed:
    """A condition that could not be asked at last: it does not hold."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __bool__(self) -> bool:
        return False


# Between two looks: as long as a condition takes, a few times over. Two cores are shared with what is waited for, and
# what asks a broker or a whole log at once again keeps it from coming.
SHARE: Final = 4
AT_MOST_S: Final = 1.0

PASSING: Final = (*AWAY, KafkaException, NotUp, Unreachable, NotAnswered)  # what a wait goes on after


async def until(condition: Callable[[], Any], what: str = "what the test waits for", timeout_s: float = 120) -> Any:
    """Wait until the condition, a function or a coroutine function, holds; returns what it gave.

    Raises AssertionError that says what did not come true, and of what the condition failed at last.
    """
    deadline, last = time.monotonic() + timeout_s, ""
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                said = condition()
                if held := await said if inspect.isawaitable(said) else said:
                    return held
            last = ""
        except PASSING as error:
            last = f"; it fails: {error!r:.500}"
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}{last}"
        await asyncio.sleep(_pause_s(began, 0.05))


def comes(condition: Callable[[], Any], timeout_s: float) -> Any:
    """What the condition gives when it holds in time; else what it gave or `Failed` with at last, which is false.

    Asked once more after the time is over, so that a machine that stood still does not decide.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        late = (began := time.monotonic()) > deadline
        try:
            said = condition()
        except PASSING as error:
            said = Failed(error)
        if said or late:
            return said
        time.sleep(_pause_s(began, 0.2))


def _pause_s(began: float, at_least: float) -> float:
    """After a look that began then."""
    return max(at_least, min(SHARE * (time.monotonic() - began), AT_MOST_S))


async def answered(call: Callable[[], Awaitable[T]], times: int = 3) -> T:
    """What a call that changes nothing gives; asked again where something did not answer."""
    for _ in range(times - 1):
        with contextlib.suppress(*PASSING):
            return await call()
    return await call()
