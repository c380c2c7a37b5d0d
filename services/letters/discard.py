"""Discard: a parked letter will never be applied. Where its arm has an inbox, the id is known there from now on."""

from collections.abc import Sequence
from uuid import uuid4

from services.letters.letters import ARMS, Selection, sql
from services.letters.parked import Desk, Outcome, Parked, Tell, batches, with_originals


async def discard(desk: Desk, selection: Selection, tell: Tell, *, dry_run: bool = False) -> Outcome:
    """Discard the parked letters of a selection, batch by batch, each with its tombstones in one transaction.

    Raises what asyncpg and confluent-kafka raise; what was changed by then stays changed.
    """
    outcome = Outcome(operation=f"discard.{uuid4().hex[:12]}")
    async for arm, letters in batches(desk, selection):
        if dry_run:
            outcome.changed += len(letters)
        else:
            await _discard(desk, arm, letters, outcome)
        tell(outcome)
    return outcome


async def _discard(desk: Desk, arm: str, letters: Sequence[Parked], outcome: Outcome) -> None:
    # no lock is held while the broker is asked; a value that is gone for good leaves a tombstone of nothing: a copy of
    # it would be a conflict, and not applied either
    restored = {letter.name: letter for letter in await with_originals(desk, letters)} if ARMS[arm].dedups else {}
    async with desk.database.transaction():
        rows = await desk.database.fetch(
            sql(arm, "discard"),
            [letter.name.number for letter in letters],
            [letter.rounds for letter in letters],
            desk.actor,
            desk.why,
        )
        taken = {row["letter"] for row in rows}
        if ARMS[arm].dedups:
            buried = [restored.get(letter.name, letter) for letter in letters if letter.name.number in taken]
            await desk.database.execute(
                sql(arm, "tombstones"),
                [letter.name.number for letter in buried],
                uuid4(),
                [_type(letter) for letter in buried],
                [letter.value for letter in buried],
            )
    outcome.changed += len(taken)
    for letter in letters:
        if letter.name.number not in taken:
            outcome.leave_out(letter, "was changed by somebody else meanwhile")


def _type(letter: Parked) -> bytes:
    """The type as consumers read it: the first header of the name counts."""
    found = next((value for name, value in letter.headers if name == "ce_type" and value is not None), b"")
    return found.decode("utf-8", "replace").encode()
