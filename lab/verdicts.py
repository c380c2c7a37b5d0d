"""A verdict on one screen: expected damage amber, broken promises red, and in plain words what it means."""

from typing import Final

from rich.markup import escape
from rich.table import Table

from lab.output import out
from loadtest.kept import Played, Row
from loadtest.lessons import lessons

_LESSONS: Final = {"expected": "yellow", "broken": "red"}
COLOURS: Final = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def show(played: Played) -> None:
    """The verdict first, then the table, then why, then the lesson. Fits into 80 columns where it can."""
    totals = played.load
    closes = "the law closes" if played.closes else "the law does NOT close"
    kills = sum(fault.fault == "kill" for fault in played.faults)
    out.print(
        f"\n[bold {COLOURS[played.verdict]}]{played.verdict}[/]  {played.scenario}, seed {played.seed}: "
        f"{totals.acknowledged} of {totals.sent} requests acknowledged, {kills} kills, {closes}",
        soft_wrap=True,
    )
    out.print(_table(played.rows))
    for row in played.rows:
        if row.why:
            out.print(f"[{COLOURS[row.verdict or 'INCONCLUSIVE']}]{row.name}[/]: {row.why}", soft_wrap=True)
    for reason in played.reasons:
        out.print(f"[yellow]{escape(reason)}[/]", soft_wrap=True)
    found = lessons(played)
    for lesson in found:
        if lesson.kind != "kept":
            out.print(f"[{_LESSONS[lesson.kind]}]{escape(lesson.text)}[/]", soft_wrap=True)
    unkept = {row.arm for row in played.rows if row.verdict not in ("PASS", None)}  # on whichever hop
    if kept := dict.fromkeys(lesson.arm for lesson in found if lesson.kind == "kept" and lesson.arm not in unkept):
        out.print(f"[green]as promised (✓): {', '.join(kept)}[/]", soft_wrap=True)
    out.print(f"[dim]by what each was put to the test: {escape(played.report)}[/]", soft_wrap=True)


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading in ("hop", "arm", "effect"):
        table.add_column(heading, no_wrap=True)
    counts = [("expected", "expected"), ("once", "applied_once"), ("duplicated", "duplicated"), ("lost", "lost")]
    counts += [("ghosts", "unexpected")] if any(row.unexpected for row in rows) else []
    any_open = any(_still_open(row) for row in rows)
    for heading in [*(heading for heading, _ in counts), *(["open"] if any_open else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        cells = [row.hop, row.arm, row.effect, *(_count(row, name) for _, name in counts)]
        cells += [str(_still_open(row))] if any_open else []
        mark = f"[{COLOURS[row.verdict]}]{row.verdict}[/]" if row.verdict else "[dim]none[/]"
        table.add_row(*cells, mark)
    return table


def _still_open(row: Row) -> int:
    return row.waiting + row.dead_lettered + row.discarded + row.uncertain + row.unexplained


_PROMISED: Final = {"duplicated": "no_duplicate", "lost": "no_loss"}


def _count(row: Row, name: str) -> str:
    count: int = getattr(row, name)
    if name not in _PROMISED and name != "unexpected":
        return str(count)
    if _PROMISED.get(name, "") in row.promise:
        return f"[bold red]{count} ✗[/]" if count else "[green]0 ✓[/]"
    return f"[yellow]{count}[/]  " if count else "[dim]0[/]  "
