"""`lab audit`."""

import asyncio
import contextlib
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from lab.output import Exit, answer_json, fail, home, out, say
from lab.stack import Json
from services.auditor.audit import Unreachable
from services.auditor.audit import audit as carry_out
from services.auditor.findings import Findings
from services.domain.audit import COUNTS, LISTED, AuditDocument, AuditRow, Evidence
from services.settings import read_settings
from services.stack.home import Home
from services.stack.parts import PARTS
from services.stack.running import arms_of, with_intents

_WIDTH: Final = 100
_ANSWER_S: Final = 10.0
_EXAMPLES: Final = 5
_QUIET_S: Final = 1.0  # an audit that takes less says nothing of its progress
_EVERY_S: Final = 5.0
_ALWAYS: Final = ("expected", "applied_once")
_BAD: Final = {"lost": "red", "unexpected": "red", "unexplained": "red", "duplicated": "yellow", "uncertain": "yellow"}
_HEADINGS: Final = {
    "applied_once": "applied\nonce",
    "extra_applications": "extra\napplied",
    "dead_lettered": "dead\nlettered",
    "unexpected": "un-\nexpected",
    "unexplained": "un-\nexplained",
    "also_held": "also\nheld",
}


def audit(
    run: Annotated[str | None, typer.Option(help="Only this run; all runs by default.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="The client ledger's folder; the lab's by default.")] = None,
    live: Annotated[bool, typer.Option("--live", help="At once: the auditor's last pass over all runs.")] = False,
    as_json: Json = False,
) -> None:
    """Prove what was lost and what was done twice, from the stores themselves. Exit code 1: the law does not close."""
    place = home()
    if place.read_state() is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    try:
        document = _ask(place) if live else asyncio.run(_judge(place, run, ledger))
    except Unreachable as error:
        fail(Exit.NOT_UP, f"{error}; see `lab status`")
    if as_json:
        answer_json(document)
    else:
        show(document)
    sys.exit(Exit.DONE if document.closes else Exit.FAILED)


async def _judge(place: Home, run: str | None, ledger: Path | None) -> AuditDocument:
    """A whole audit, carried out here: nothing that the auditor process has in hand is needed for it. It is kept."""
    settings = read_settings({**place.addresses(), "LAB_HOME": str(place.path)})
    arms = await with_intents(settings.postgres, arms_of(place), run)
    document = await carry_out(
        settings, run, ledger=ledger, arms=arms.consumers, publishers=arms.publishers, say=_progress()
    )
    findings = Findings(settings, ())
    with contextlib.suppress(Unreachable):
        await findings.keep(document)
    await findings.close()
    return document


def _ask(place: Home) -> AuditDocument:
    """The last pass of the auditor process. Raises Unreachable."""
    url = f"{place.admin_url(PARTS['auditor'])}/live"
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:  # noqa: S310  # our own address
            return msgspec.json.decode(answer.read(), type=AuditDocument)
    except OSError as error:
        raise Unreachable(f"the auditor does not answer ({error}): without --live this is judged here") from error


def _progress() -> Callable[[str], None]:
    """A line now and then for who waits."""
    due = time.monotonic() + _QUIET_S

    def progress(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            say(f"audit: reading {text}")
            due = time.monotonic() + _EVERY_S

    return progress


def show(document: AuditDocument) -> None:
    """The answer first, then the table, then the first few messages that people ask about."""
    out.print(headline(document), soft_wrap=True)
    for text in _remarks(document):
        out.print(f"[dim]{text}[/]", soft_wrap=True)
    for table in tables(document.rows, min(_WIDTH, out.width)):
        out.print(table)
    for item in sorted(document.evidence, key=lambda item: LISTED.index(item.state))[:_EXAMPLES]:
        out.print(_example(item), soft_wrap=True)
    more = len(document.evidence) - _EXAMPLES + sum(document.evidence_left_out.values())
    if more > 0:
        out.print(f"[dim]{more:,} more: `lab audit --json`, under evidence[/]")


def headline(document: AuditDocument) -> str:
    """One line: does the law close, and what was lost, doubled and unexpected, over all rows."""
    sums = {count: sum(getattr(row, count) for row in document.rows) for count in COUNTS}
    closes = "[bold green]the law closes[/]"
    if not document.closes:
        closes = f"[bold red]the law does not close: {sums['unexplained']:,} unexplained[/]"
    parts = (f"{state} {_coloured(state, sums[state])}" for state in ("lost", "duplicated", "unexpected", "waiting"))
    return " · ".join([closes, *parts])


def _remarks(document: AuditDocument) -> Iterable[str]:
    if document.run:
        yield f"run {escape(document.run)} only"
    if document.out_of_scope:
        yield f"{document.out_of_scope:,} intents under keys that are in no client ledger are not judged on accept"
    if document.undecodable:
        yield f"{document.undecodable:,} records without a message id, known by their coordinates"
    if document.ledger_lines_skipped:
        yield f"{document.ledger_lines_skipped:,} lines of the client ledger were cut or unreadable"
    if document.truncated:
        yield f"the broker has dropped the first records of {', '.join(document.truncated)}: absent is uncertain there"


def tables(rows: Sequence[AuditRow], width: int) -> Iterator[Table]:
    """The rows; a count that is 0 everywhere has no column, and columns that do not fit go into a table below."""
    names = ("hop", "arm", "effect")
    room = width - sum(max(len(getattr(row, name)) for row in rows) + 1 for name in names)
    left, chosen = room, list[str]()
    for count in COUNTS:
        if count not in _ALWAYS and not any(getattr(row, count) for row in rows):
            continue
        needed = 1 + max(*map(len, _heading(count).split()), *(len(f"{getattr(row, count):,}") for row in rows))
        if chosen and needed > left:
            yield _table(rows, names, chosen)
            left, chosen = room, []
        left -= needed
        chosen.append(count)
    yield _table(rows, names, chosen)


def _table(rows: Sequence[AuditRow], names: Sequence[str], counts: Sequence[str]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in names:
        made.add_column(f"\n{name}", no_wrap=True)
    for count in counts:
        made.add_column(_heading(count), justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*(getattr(row, name) for name in names), *(_coloured(c, getattr(row, c)) for c in counts))
    return made


def _heading(count: str) -> str:
    return _HEADINGS.get(count, f"\n{count}")


def _coloured(count: str, value: int) -> str:
    if not value:
        return "[dim]0[/]"
    return f"[{_BAD[count]}]{value:,}[/]" if count in _BAD else f"{value:,}"


def _example(item: Evidence) -> str:
    name = item.message_id or item.key or "no message id"
    details = [f"applied {item.applications}", *item.at[:3]]
    details += [f"key {item.key}"] if item.key and item.message_id else []
    details += [f"trace {item.trace_id}"] if item.trace_id else []
    details += [text] if (text := item.why or item.reason) else []
    where = f"{item.hop}/{item.arm}/{item.effect}"
    colour = _BAD.get(item.state, "cyan")
    return f"[{colour}]{item.state}[/] {where} {escape(name)} [dim]{escape(' · '.join(details))}[/]"
