"""From a board and what was chosen to the queries that are asked: pure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from services.console.boards import Board, Target

POINTS: Final = 240  # of a line, at most
SCRAPE_S: Final = 5  # as in Grafana's provisioning: rate windows are at least four of them
EVERYTHING: Final = "$__all"


class View(msgspec.Struct, frozen=True):
    """What a page shows: the time range in Unix seconds, and the chosen values of each variable (none: all)."""

    from_s: float
    to_s: float
    chosen: Mapping[str, Sequence[str]] = {}

    @property
    def step_s(self) -> int:
        return max(1, math.ceil((self.to_s - self.from_s) / POINTS))

    @property
    def aligned(self) -> tuple[int, int]:
        """The range on multiples of the step, so that a line does not tremble as time goes on."""
        step = self.step_s
        return math.floor(self.from_s / step) * step, math.floor(self.to_s / step) * step


def words(board: Board, view: View) -> dict[str, str]:
    """What each variable of a query stands for, as Grafana would put it there.

    Raises ValueError for a value that the variable does not have.
    """
    found = {
        "__rate_interval": f"{max(view.step_s + SCRAPE_S, 4 * SCRAPE_S)}s",
        "__interval": f"{view.step_s}s",
        "__range": f"{max(1, round(view.to_s - view.from_s))}s",
    }
    for variable in board.variables:
        values = view.chosen.get(variable.name, ())
        if variable.type == "constant":
            found[variable.name] = variable.query
        elif not values or EVERYTHING in values:
            found[variable.name] = variable.all_value
        elif unknown := [value for value in values if value not in variable.values]:
            raise ValueError(f"{variable.label} is never {unknown[0]!r}")
        else:
            quoted = [re.escape(value) for value in values]
            found[variable.name] = quoted[0] if len(quoted) == 1 else f"({'|'.join(quoted)})"
    return found


def expression(target: Target, values: Mapping[str, str], view: View) -> str:
    """The query with its variables replaced. Raises KeyError for a variable that the board lacks."""
    within = rf"(\1 BETWEEN to_timestamp({view.from_s}) AND to_timestamp({view.to_s}))"
    text = re.sub(r"\$__timeFilter\((\w+)\)", within, target.expr or target.raw_sql)
    # `$1` is label_replace's
    return re.sub(r"\$(?:\{(\w+)(?::regex)?\}|([A-Za-z_]\w*))", lambda found: values[found[1] or found[2]], text)


def legend(target: Target, labels: Mapping[str, str]) -> str:
    """The name of a series: the labels that it lacks leave nothing behind."""
    named = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), target.legend_format)
    return " ".join(named.split())
