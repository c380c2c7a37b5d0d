"""`lab bench ingest | relay | consume | audit | telemetry`."""

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lab.load import display
from lab.output import Exit, answer_json, errors_as_sentences, fail, home, out, say, seconds
from lab.stack import Json
from services.domain.arms import DEFAULT_PUBLISHER
from services.stack.home import Home

if TYPE_CHECKING:
    from loadtest.bench.answer import Answer
    from loadtest.bench.work import Tell

app = typer.Typer(
    help="Benchmarks: the lab's own services and a simple anchor by turns, on servers of their own.",
    no_args_is_help=True,
)

Rounds = Annotated[int, typer.Option(min=1, max=100, help="Rounds of each; one more is done first and not counted.")]


@app.command()
def ingest(
    rounds: Rounds = 5,
    requests: Annotated[int, typer.Option(min=100, help="Orders a round.")] = 5_000,
    as_json: Json = False,
) -> None:
    """Orders over HTTP, against pgbench with the same two inserts."""
    from loadtest.bench import ingest as work  # noqa: PLC0415  # the CLI starts without what only this needs

    _carry_out(lambda place, tell: work.bench(place, rounds, requests, tell), as_json=as_json)


@app.command()
def relay(
    arm: Annotated[str, typer.Option(help="Publisher arm: outbox, cdc or id_cursor.")] = DEFAULT_PUBLISHER,
    rounds: Rounds = 5,
    rows: Annotated[int, typer.Option(min=100, help="Rows that are drained a round.")] = 100_000,
    duration: Annotated[str, typer.Option(help="How long single rows are committed, a round: 4s.")] = "4s",
    as_json: Json = False,
) -> None:
    """Outbox rows to readable records: drain, and latency at 500/s; against SKIP LOCKED and DELETE."""
    from loadtest.bench import relay as work  # noqa: PLC0415

    if arm not in work.ARMS:
        fail(Exit.USAGE, f"there is no outbox of the arm {arm!r}; there are {', '.join(work.ARMS)}")
    duration_s = seconds(duration)
    _carry_out(lambda place, tell: work.bench(place, arm, rounds, rows, duration_s, tell), as_json=as_json)


@app.command()
def consume(
    arm: Annotated[str, typer.Option(help="Consumer arm: at_least_once or effectively_once.")] = "effectively_once",
    rounds: Rounds = 5,
    messages: Annotated[int, typer.Option(min=100, help="Messages a round.")] = 100_000,
    as_json: Json = False,
) -> None:
    """Records with the effect `record` alone, by an arm; against bare aiokafka with the same SQL."""
    from loadtest.bench import consume as work  # noqa: PLC0415

    if arm not in work.ARMS:
        fail(Exit.USAGE, f"the arm {arm!r} has no benchmark; there are {', '.join(work.ARMS)}")
    _carry_out(lambda place, tell: work.bench(place, arm, rounds, messages, tell), as_json=as_json)


@app.command()
def audit(
    rounds: Rounds = 3,
    messages: Annotated[int, typer.Option(min=10_000, help="Messages that are judged.")] = 10_000_000,
    cold: Annotated[int, typer.Option(min=1_000, help="Rows of each store that are read cold.")] = 200_000,
    as_json: Json = False,
) -> None:
    """Messages judged from what was taken in: at most 60 s and 1 GB for ten million; the cold read's rate."""
    from loadtest.bench import audit as work  # noqa: PLC0415

    _carry_out(lambda place, tell: work.bench(place, rounds, messages, cold, tell), as_json=as_json)


@app.command()
def telemetry(
    of: Annotated[str, typer.Option(help="ingest or consume.")] = "ingest",
    rounds: Rounds = 10,
    count: Annotated[int, typer.Option(min=0, help="Messages at full speed a round; by default 8000 or 50000.")] = 0,
    duration: Annotated[str, typer.Option(help="How long there are 200 messages a second, a round.")] = "8s",
    as_json: Json = False,
) -> None:
    """CPU of a service with telemetry on (the default profile), against the same with telemetry off."""
    from loadtest.bench import telemetry as work  # noqa: PLC0415

    if of not in work.COUNTS:
        fail(Exit.USAGE, f"there is no benchmark of {of!r}; there are {', '.join(work.COUNTS)}")
    messages, duration_s = count or work.COUNTS[of], seconds(duration)
    _carry_out(lambda place, tell: work.bench(place, of, rounds, messages, duration_s, tell), as_json=as_json)


def _carry_out(work: "Callable[[Home, Tell], Answer]", *, as_json: bool) -> None:
    from loadtest.bench.place import servers  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of ending it take the servers down
    try:
        with errors_as_sentences(), servers(home(), say) as place, display() as tell:
            answer = work(place, tell)
    except KeyboardInterrupt:
        say("interrupted; nothing was left running")
        sys.exit(Exit.INTERRUPTED)
    if as_json:
        answer_json(answer.document())
    else:
        _show(answer)


def _show(answer: "Answer") -> None:
    out.print(f"[bold]{answer.work}[/], medians of {len(answer.figures[0].rounds)} rounds by turns")
    for who in ("project", "anchor"):
        out.print(f"[dim]{who:<8}[/] {getattr(answer, who)}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for heading in ("project", "anchor", "ratio", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in answer.figures:
        cells = (figure.median.project, figure.median.anchor, figure.ratio_median, figure.difference_median)
        table.add_row(figure.unit, *("" if cell is None else f"{cell:,g}" for cell in cells))
    out.print(table)
