"""From answers to what a panel draws: lines and numbers by name, tables by column. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from services.console.ask import legend
from services.console.boards import MergeTransformation, OrganizeTransformation, SortByTransformation, Table, Target

Labels = Mapping[str, str]


class Line(msgspec.Struct, frozen=True):
    """Points as [Unix seconds, value]; null where there is a gap."""

    name: str
    points: list[tuple[float, float | None]]


class Number(msgspec.Struct, frozen=True):
    name: str
    value: float | None


class Rows(msgspec.Struct, frozen=True):
    columns: list[str]
    rows: list[list[Any]]


def lines(target: Target, result: Iterable[Any], step_s: int) -> list[Line]:
    """A line a series of a range answer, sorted by name; a null is put where points are missing."""
    found = [Line(legend(target, s["metric"]), _with_gaps(s["values"], step_s)) for s in result]
    return sorted(found, key=lambda line: line.name)


def _with_gaps(values: Sequence[tuple[float, str]], step_s: int) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = []
    for at, text in values:
        if points and at - points[-1][0] > 1.5 * step_s:
            points.append((points[-1][0] + step_s, None))
        points.append((at, number(text)))
    return points


def numbers(target: Target, result: Iterable[Any]) -> list[Number]:
    """A number a series of an instant answer, sorted by name."""
    found = [Number(legend(target, s["metric"]), number(s["value"][1])) for s in result]
    return sorted(found, key=lambda one: one.name)


def number(text: str) -> float | None:
    """A sample's value; NaN and infinities have no place on a chart."""
    value = float(text)
    return value if math.isfinite(value) else None


def table(panel: Table, answers: Sequence[tuple[Target, Iterable[Any]]]) -> Rows:
    """The rows of a table: a row a label set, joined over the queries if the panel merges them."""
    several = len(answers) > 1 or any(isinstance(step, MergeTransformation) for step in panel.transformations)
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for target, result in answers:
        heading = f"Value #{target.ref_id}" if several else "Value"
        for series in result:
            labels = {key: text for key, text in series["metric"].items() if key != "__name__"}
            row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            row[heading] = number(series["value"][1])
    return organized(panel, [rows[labels] for labels in sorted(rows)])


def organized(panel: Table, rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows in the order and under the headings that the panel gives; other fields are hidden."""
    for step in panel.transformations:
        if isinstance(step, SortByTransformation):
            rows = _sorted(rows, step.options.sort[0].field)
        if isinstance(step, OrganizeTransformation):
            fields = sorted(step.options.index_by_name, key=lambda field: step.options.index_by_name[field])
            headings = [step.options.rename_by_name[field] for field in fields]
            return Rows(headings, [[row.get(field) for field in fields] for row in rows])
    fields = list(dict.fromkeys(field for row in rows for field in row))
    return Rows(fields, [[row.get(field) for field in fields] for row in rows])


def _sorted(rows: Iterable[Mapping[str, Any]], field: str) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: str(row.get(field, "")))
