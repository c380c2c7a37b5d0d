"""`lab telemetry`: what the lab says of itself, and whether it says the truth."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from lab.output import Exit, answer_json, fail, home, out, seconds
from lab.stack import Json
from services.domain.observed import EXPLAINS_S, WINDOW_S
from services.stack.running import arms_of
from services.storage.postgres import AWAY
from services.telemetry.catalogue import EVENTS, METRICS, Metric
from services.telemetry.spans import ATTRIBUTES, SPANS

if TYPE_CHECKING:
    from services.auditor.gap import SignalGap

app = typer.Typer(help="What the lab says of itself, and whether the stores say the same.", no_args_is_help=True)

_CATALOGUES: Final = ("metrics", "spans", "events")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Everything that the lab can emit: metrics, spans and log events."""
    if as_json:
        answer_json(catalogue())
        return
    for title in _CATALOGUES:
        rows = catalogue()[title]
        table = Table("name", "description", title=f"{len(rows)} {title}", title_justify="left", box=None, expand=True)
        for row in rows:
            table.add_row(row.get("prometheus", row["name"]), row["description"])
        out.print(table)
        out.print()


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """The catalogue as one document: `metrics`, `spans`, `events`, `attributes`."""
    return {
        "metrics": [_metric(metric) for metric in METRICS.values()],
        "spans": [_fields(span) for span in SPANS.values()],
        "events": [_fields(event) for event in EVENTS.values()],
        "attributes": [_fields(attribute) for attribute in ATTRIBUTES.values()],
    }


def _metric(metric: Metric) -> dict[str, Any]:
    values = {
        label: sorted({value for emitter in metric.emitters for value in emitter.values.get(label, ())})
        for label in metric.labels
    }
    return {
        "name": metric.name,
        "prometheus": metric.prometheus,
        "kind": metric.kind,
        "unit": metric.unit,
        "description": metric.description,
        "labels": values,
        "owners": list(metric.owners),
        "emitted": metric.emitted,
    }


def _fields(entry: Any) -> dict[str, Any]:
    return {field: getattr(entry, field) for field in entry.__struct_fields__}


@app.command()
def gap(
    window: Annotated[str, typer.Option(help="How far back lives are looked at.")] = f"{WINDOW_S:g}s",
    timeout: Annotated[str, typer.Option(help="How long one more scrape is waited for.")] = "10s",
    explains: Annotated[
        str, typer.Option(help="How long after its last scrape a life can have gone on.")
    ] = f"{EXPLAINS_S:g}s",
    as_json: Json = False,
) -> None:
    """Compare what every life counted with what it left in the stores. Exit code 1: something is unexplained."""
    # the CLI starts without what only this needs
    from services.auditor.gap import GapReader, settled  # noqa: PLC0415
    from services.auditor.scrapes import PrometheusAway  # noqa: PLC0415

    place = home()
    if place.read_state() is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    addresses = place.addresses()
    reader = GapReader(addresses["LAB_POSTGRES"], addresses["LAB_LEDGER"], addresses["LAB_PROMETHEUS"])
    try:
        window_s, timeout_s, explains_s = seconds(window), seconds(timeout), seconds(explains)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    try:
        gaps = asyncio.run(settled(reader, arms_of(place).consumers, timeout_s, window_s, explains_s))
    except PrometheusAway as error:
        fail(Exit.NOT_UP, str(error))
    except AWAY as error:
        fail(Exit.NOT_UP, f"a database does not answer ({error}); see `lab status`")
    unexplained = sum(one.unexplained for one in gaps)
    if as_json:
        answer_json({"unexplained": unexplained, "signals": gaps})
    else:
        _show(gaps)
    raise typer.Exit(Exit.FAILED if unexplained else Exit.DONE)


def _show(gaps: "Sequence[SignalGap]") -> None:
    table = Table("arm", "signal", box=None)
    for heading in ("rows", "counted", "after the last scrape", "without an answer", "unexplained"):
        table.add_column(heading, justify="right")
    for one in gaps:
        figures = (one.rows, one.counted, one.after_scrape, one.unanswered, one.unexplained)
        table.add_row(one.arm, one.signal, *map(str, figures), style="red" if one.unexplained else "")
    out.print(table)
