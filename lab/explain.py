"""`lab explain`."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Table

from lab.output import Exit, answer_json, fail, home, out
from lab.stack import Json
from services.auditor.stores import Unreachable
from services.auditor.timeline import Life, Moment, life_of
from services.settings import read_settings

_COLOURS: Final = {"accept": "cyan", "publish": "blue", "process": "green", "fault": "red"}


def explain(
    message_id: Annotated[str, typer.Argument(help="A message id, as `lab audit --json` lists it.")],
    as_json: Json = False,
) -> None:
    """The whole life of one message over all hops and arms, as a timeline."""
    try:
        wanted = UUID(message_id)
    except ValueError:
        fail(Exit.USAGE, f"{message_id[:80]!r} is no message id: `lab audit --json` lists them, under evidence")
    place = home()
    if place.read_state() is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    settings = read_settings({**place.addresses(), "LAB_HOME": str(place.path)})
    try:
        life = asyncio.run(life_of(settings, wanted))
    except Unreachable as error:
        fail(Exit.NOT_UP, f"{error}; see `lab status`")
    except LookupError as error:
        fail(Exit.USAGE, str(error))
    if as_json:
        answer_json(life)
    else:
        show(life)


def show(life: Life) -> None:
    """Who it is, then what happened to it, a line each."""
    who = [f"message [bold]{life.message_id}[/]", life.kind or "[red]without an intent[/]"]
    who += [f"run {escape(life.run)}"] if life.run else []
    who += [f"key {escape(life.key)}"] if life.key else []
    who += [f"trace {life.trace_id}"] if life.trace_id else []
    out.print(" · ".join(who), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("time (UTC)", "hop", "who", "what"):
        table.add_column(name, overflow="fold", no_wrap=name == "time (UTC)")
    for moment in life.timeline:
        table.add_row(*_cells(moment))
    out.print(table)


def _cells(moment: Moment) -> tuple[str, str, str, str]:
    at = f"{datetime.fromtimestamp(moment.at, UTC):%H:%M:%S.%f}"[:-3]
    colour = _COLOURS[moment.hop]
    return at, f"[{colour}]{moment.hop}[/]", escape(moment.who), escape(moment.what)
