"""What a redrive leaves alone before anything is marked, and that a dry run finds the same and passes nothing."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.letters.letters import Selection, sql
from services.letters.redrive import LARGEST_BYTES, redrive
from tests.lettering import Free, desk

ARM = "at_least_once"


class Database:
    """Parked letters, by the sizes of their kept values."""

    def __init__(self, *kept: int) -> None:
        self.kept = kept
        self.redriven: list[int] = []

    async def fetchval(self, _: str) -> int:
        return len(self.kept)

    async def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        if statement == sql(ARM, "page"):
            return [self._row(n, kept) for n, kept in enumerate(self.kept, 1) if n > arguments[5]]
        assert statement == sql(ARM, "redrive")
        self.redriven += arguments[0]
        return [{"letter": letter} for letter in arguments[0]]

    def _row(self, letter: int, kept: int) -> dict[str, Any]:
        place = {"letter": letter, "topic": "orders.v1", "partition": 0, "offset": letter}
        life = {"message_id": None, "rounds": 0, "first_failure": datetime.now(UTC)}
        return {**place, **life, "key": b"c", "headers": '[["trace", null]]', "away": False, "kept": kept}


class Counting(Free):
    """Failpoints whose passes are counted."""

    def __init__(self) -> None:
        self.passed: list[str] = []

    async def hit(self, name: str) -> None:
        self.passed.append(name)


@pytest.mark.parametrize("force", [False, True])
async def test_a_letter_that_no_producer_sends_is_left_parked_with_the_reason(force: bool) -> None:
    """Its value fitted when it was sent first; with what the way back adds it does not."""
    database = Database(10, LARGEST_BYTES - 50, LARGEST_BYTES + 1)
    outcome = await redrive(
        desk(database), Selection(arms=[ARM]), lambda _: None, window_s=1.0, force=force
    )  # fmt: skip
    assert database.redriven == [1]
    assert set(outcome.left_out) == {f"{ARM}/2", f"{ARM}/3"}
    assert all("larger than a producer sends" in why for why in outcome.left_out.values())


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_dry_run_tells_the_same_and_passes_no_failpoint(dry_run: bool) -> None:
    database, failpoints, told = Database(10, LARGEST_BYTES, 20), Counting(), []
    outcome = await redrive(
        desk(database, failpoints=failpoints), Selection(arms=[ARM]), lambda so_far: told.append(so_far.changed),
        window_s=1.0, dry_run=dry_run,
    )  # fmt: skip
    assert (outcome.changed, list(outcome.left_out), told) == (2, [f"{ARM}/2"], [2])
    assert failpoints.passed == ([] if dry_run else ["redrive.half_way"])
    assert database.redriven == ([] if dry_run else [1, 3])
