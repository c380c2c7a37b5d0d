"""A benchmark as rounds: both contenders do the same work by turns, after a round each that does not count."""

from collections.abc import Callable
from typing import Protocol

from loadtest.bench.answer import Measured

Tell = Callable[[str], None]


class Contender(Protocol):
    """One of the two that do the work."""

    name: str

    async def round(self) -> Measured: ...


async def interleave(rounds: int, project: Contender, anchor: Contender, tell: Tell) -> list[tuple[Measured, Measured]]:
    """Rounds by turns. Who begins changes from round to round, so that what one leaves behind is not the other's."""
    found: list[tuple[Measured, Measured]] = []
    for number in range(rounds + 1):
        order = (project, anchor) if number % 2 else (anchor, project)
        results: dict[str, Measured] = {}
        for contender in order:
            tell(f"{_round(number, rounds)}: {contender.name}")
            results[contender.name] = await contender.round()
        if number:
            found.append((results[project.name], results[anchor.name]))
            tell(f"{_round(number, rounds)}: {_said(found[-1])}")
    return found


def _round(number: int, rounds: int) -> str:
    return f"round {number} of {rounds}" if number else "warming up"


def _said(results: tuple[Measured, Measured]) -> str:
    project, anchor = results
    unit = next(iter(project.values))
    return f"{project.values[unit]:,.0f} against {anchor.values[unit]:,.0f} {unit}"
