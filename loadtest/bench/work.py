"""A benchmark as rounds: both contenders do the same work by turns, after a round each that does not count."""

from collections.abc import Callable
from typing import Protocol

from loadtest.bench.answer import Measured, mean_of

Tell = Callable[[str], None]


class Contender(Protocol):
    """One of the two that do the work."""

    name: str

    async def round(self) -> Measured: ...


async def interleave(
    rounds: int, project: Contender, anchor: Contender, tell: Tell, *, turns: int = 1
) -> list[tuple[Measured, Measured]]:
    """Rounds by turns. Who begins changes from turn to turn, so that what one leaves behind is not the other's.

    A round is the mean of so many turns of each: a machine whose speed drifts is the same to both of them.
    """
    found: list[tuple[Measured, Measured]] = []
    for number in range(rounds + 1):
        results: dict[str, list[Measured]] = {project.name: [], anchor.name: []}
        for turn in range(turns):
            order = (project, anchor) if (number + turn) % 2 else (anchor, project)
            for contender in order:
                tell(f"{_round(number, rounds)}: {contender.name}")
                results[contender.name].append(await contender.round())
        if number:
            found.append((mean_of(results[project.name]), mean_of(results[anchor.name])))
            tell(f"{_round(number, rounds)}: {_said(found[-1])}")
    return found


def _round(number: int, rounds: int) -> str:
    return f"round {number} of {rounds}" if number else "warming up"


def _said(results: tuple[Measured, Measured]) -> str:
    project, anchor = results
    unit = next(iter(project.values))
    return f"{project.values[unit]:,.0f} against {anchor.values[unit]:,.0f} {unit}"
