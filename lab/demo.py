"""`lab demo`: the tour, a gentle load that keeps the pages alive, and where to look next."""

import sys
import time
from typing import Annotated, Final

import typer

from lab.output import Exit, answer_json, errors_as_sentences, home, out, say
from lab.run import EXITS, document, play, seed_of
from lab.stack import Json
from lab.verdicts import show
from loadtest.kept import Played
from loadtest.scenario import read
from services.stack import client, control
from services.stack.home import Home

TOUR: Final = "tour"
_READY_S: Final = 20.0
_AFTER_S: Final = 15.0  # what the last scrapes and evaluations have to say of a run


def demo(
    seed: Annotated[
        int | None, typer.Option(help="Of requests, keys and faults; drawn and printed if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take the tour: every arm under load and kills, and a verdict. The lab stays up, under a gentle load.

    After Ctrl-C what there was is still audited (a second one ends that, too), and nothing is left running.
    """
    place = home()
    try:
        _tour(place, seed, as_json)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != Exit.INTERRUPTED:
            raise
        _end(place)
        sys.exit(Exit.INTERRUPTED)


def _tour(place: Home, seed: int | None, as_json: bool) -> None:
    """Exits with the verdict's code, or as interrupted; Ctrl-C may come at any time."""
    scenario = read(TOUR)
    played = play(place, scenario, seed_of(seed, scenario))
    if not played.interrupted:
        with errors_as_sentences():
            _load_gently(place)
    if as_json:
        answer_json(document(played))
    else:
        show(played)
    if played.interrupted:
        sys.exit(Exit.INTERRUPTED)
    if not as_json:
        _next(place, played)
    sys.exit(EXITS[played.verdict])


def _end(place: Home) -> None:
    with errors_as_sentences():
        control.down(place, say)
    say("nothing was left running; the data stays")


def _load_gently(place: Home) -> None:
    """Start the gentle load and wait until it is at it; a lab without it is as good a lab."""
    client.call(place, "POST", "/scale", {"name": "load", "replicas": 1})
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if all(p["ready"] for p in client.status(place)["processes"] if p["name"].startswith("load#")):
            return
        time.sleep(0.2)
    say("the gentle load does not get ready: see `lab logs load`")


def _next(place: Home, played: Played) -> None:
    """Three commands and where to look."""
    for command, what in (
        (f"lab audit --run {played.run}", "every message that was lost or doubled, from the stores themselves"),
        ("lab run zombie", "a consumer that is frozen, wakes up and goes on; `lab scenarios` lists the others"),
        ("make down", "end it; the data stays (a gentle load of 5 requests a second runs until then)"),
    ):
        out.print(f"  {command:<28} [dim]{what}[/]", soft_wrap=True)
    out.print(f"  {address(place, played)}", soft_wrap=True, markup=False)
    urls = client.status(place)["urls"]
    others = [f"{name} {urls[name]}" for name in ("prometheus", "alertmanager", "zipkin") if name in urls]
    out.print(f"  [dim]{' · '.join(others)}[/]", soft_wrap=True)


def address(place: Home, played: Played) -> str:
    """The page of the run's own time."""
    urls = client.status(place)["urls"]
    if "console" in urls:
        return f"{urls['console']}/?from={played.began:.0f}&to={played.ended + _AFTER_S:.0f}"
    return played.report
