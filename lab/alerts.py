"""`lab alerts list | test | calm`: what is alarmed, and the proof that it is."""

import sys
import time
from typing import Annotated

import typer
from rich.table import Table

from lab.output import Exit, answer_json, errors_as_sentences, fail, home, out, say
from loadtest import run as load
from loadtest.alerts import fired
from loadtest.drills import (
    CALM_MINUTES,
    DRILLS,
    LIMIT_S,
    RATE,
    Calm,
    Measured,
    NotFired,
    Range,
    keep,
    keep_calm,
    measured,
    median_s,
    todo,
)

app = typer.Typer(help="Alerts: what was measured of them, and the drills that measure.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(metavar="[ALERT...]", help="Only these.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Rate = Annotated[float, typer.Option(help="Requests a second meanwhile.", min=0.1)]


@app.command("list")
def listing(as_json: Json = False) -> None:
    """Show each alert with its drill and the delays that were measured."""
    results = measured()
    if as_json:
        answer_json({name: results.get(name, []) for name in DRILLS})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("alert", "median", "rounds", "how it is made to fire"):
        table.add_column(heading, no_wrap=heading != "how it is made to fire")
    for name, drill in DRILLS.items():
        rounds = results.get(name, [])
        median = f"{median_s(rounds):.1f} s" if rounds else "not measured"
        table.add_row(name, median, f"{len(rounds)}/{drill.rounds}", "; ".join(drill.strike) or "always fires")
    out.print(table)


@app.command("test")
def drill(
    alerts: Names = None,
    rate: Rate = RATE,
    minutes: Annotated[float, typer.Option(help="Stop after so long; the next time goes on.", min=0.1)] = 600.0,
    again: Annotated[bool, typer.Option(help="Measure anew what is measured already.")] = False,
    as_json: Json = False,
) -> None:
    """Make alerts fire on the running lab (`lab up --faults`) and measure from the fault to the receipt of the page."""
    if unknown := set(alerts or ()) - DRILLS.keys():
        fail(Exit.USAGE, f"unknown alert {sorted(unknown)[0]!r}; the alerts are: {', '.join(DRILLS)}")
    results = measured()
    if again:
        results = {name: rounds for name, rounds in results.items() if alerts and name not in alerts}
    place, ends, bad = home(), time.monotonic() + 60 * minutes, list[str]()
    with errors_as_sentences():
        try:
            ground = Range(place, say)
        except NotFired as error:
            fail(Exit.NOT_UP, str(error))
        sent = load.start(place, rate=rate, duration_s=60 * minutes + 300)
        try:
            for one, left in todo(alerts or (), results):
                if not ground.can(one):
                    say(f"{one.name}: needs `lab up --faults --publishers outbox,{','.join(one.publishers)}`")
                    continue
                for _ in range(left):
                    if time.monotonic() > ends:
                        break
                    try:
                        found = ground.play(one)
                    except NotFired as error:
                        say(f"{one.name}: {error}")
                        bad.append(one.name)
                        break
                    results[one.name] = [*results.get(one.name, ()), found][-one.rounds :]
                    keep(results)
                    say(f"{one.name}: {found.delay_s:.1f} s after {found.fault} ({found.severity}): {found.summary}")
        finally:
            sent.stop()
    if as_json:
        answer_json(results)
    sys.exit(Exit.FAILED if bad or _too_slow(results) else Exit.DONE)


def _too_slow(results: dict[str, list[Measured]]) -> list[str]:
    slow = [
        name
        for name, rounds in results.items()
        if DRILLS[name].rounds > 1 and len(rounds) >= DRILLS[name].rounds and median_s(rounds) > LIMIT_S
    ]
    for name in slow:
        say(f"{name}: the median of {median_s(results[name]):.1f} s is above {LIMIT_S:g} s")
    return slow


@app.command()
def calm(
    minutes: Annotated[float, typer.Option(help="How long; 30 and more are written down.", min=0.1)] = CALM_MINUTES,
    rate: Rate = RATE,
) -> None:  # fmt: skip
    """Send load without faults to a lab that has lost messages: nobody may be paged of anything but Watchdog.

    Exit code 1 when somebody is, 2 when the lab has lost nothing yet.
    """
    with errors_as_sentences():
        try:
            ground = Range(home(), say)
            if not (lost := sum(ground.series("delivery_audit_lost_total").values())):
                fail(Exit.USAGE, "this lab has lost nothing yet, so its calm proves little: `lab run tour` first")
            ground.become_calm()
            began = time.time()
            sent = load.start(home(), rate=rate, duration_s=60 * minutes)
            try:
                if not sent.wait().carried_out:
                    fail(Exit.FAILED, "the load ended before its time: see `lab logs load`")
            finally:
                sent.stop()
            ended = time.time()
            time.sleep(LIMIT_S)  # so long a page of what happened last may take
            rose = fired(home().addresses()["LAB_PROMETHEUS"], began, time.time(), ())
        except NotFired as error:
            fail(Exit.NOT_UP, str(error))
    if rose is None or "Watchdog" not in {one.name for one in rose}:
        fail(Exit.FAILED, "Prometheus does not say that Watchdog fired: nobody would have been paged")
    pages = [page for page in ground.pages() if page["started"] >= began and page["name"] != "Watchdog"]
    paged = {page["name"] for page in pages}
    said = [f"{page['name']} ({page['severity']}): {page['summary']}" for page in pages]
    said += [f"{one.name} fired, and no page came" for one in rose if one.name not in {*paged, "Watchdog"}]
    for line in said:
        say(line)
    if minutes >= CALM_MINUTES:
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(began))
        keep_calm(Calm(round((ended - began) / 60, 1), rate, int(lost), said, at))
    say(f"{minutes:g} minutes of load: {len(said)} alerts besides Watchdog")
    sys.exit(Exit.FAILED if said else Exit.DONE)
