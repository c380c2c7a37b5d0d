"""`lab load | drain`."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.live import Live
from rich.text import Text

from lab.output import Exit, answer_json, err, errors_as_sentences, fail, home, out, say, seconds
from loadtest.run import WEB_PORT, Load, start
from loadtest.totals import Snapshot
from services.stack.client import NotUp, status
from services.stack.drain import Waiting
from services.stack.drain import drain as wait_until_drained
from services.stack.running import arms_of

_LIVE_EVERY_S: Final = 1.0
_LINE_EVERY_S: Final = 5.0  # where stderr is no terminal


def load(
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 50.0,
    duration: Annotated[str, typer.Option(help="How long: 60s, 10m, 2h.")] = "60s",
    seed: Annotated[int | None, typer.Option(help="The plan's seed; drawn and printed when it is not given.")] = None,
    run: Annotated[str | None, typer.Option(help="The run's id; made from the time and the seed by default.")] = None,
    web: Annotated[bool, typer.Option(help="Locust's own page, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Send orders and refunds at a steady rate, whatever the answers; Ctrl-C ends it."""
    place = home()
    try:
        with errors_as_sentences():
            under_way = start(place, rate, seconds(duration), seed, run, web=web)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    plan = under_way.plan
    say(f"run {plan.run}, seed {plan.seed}: {plan.planned} requests in {plan.duration_s:g} s")
    if web:
        say(f"Locust's page: http://{place.bind}:{place.port(WEB_PORT)} (Ctrl-C ends it)")
    try:
        _follow(under_way)
        ended_by = f"see {place.logs / 'load.log'}"
    except KeyboardInterrupt:
        ended_by = "interrupted"
    finally:
        totals = under_way.stop()
    _tell(totals, as_json=as_json)
    if not totals.carried_out:
        say(f"the plan was not carried out to its end: {ended_by}")
    sys.exit(Exit.DONE if totals.carried_out and totals.acknowledged else Exit.FAILED)


def _follow(under_way: Load) -> None:
    """Show the totals until Locust has ended."""
    begun = shown = time.monotonic()
    with display() as show:
        while under_way.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - shown >= (_LIVE_EVERY_S if err.is_terminal else _LINE_EVERY_S):
                shown = time.monotonic()
                show(f"{shown - begun:4.0f} s  {totals_line(under_way.snapshot())}")


@contextlib.contextmanager
def display() -> Iterator[Any]:
    """A function that shows a line: on a terminal in place of the last one."""
    if not err.is_terminal:
        yield say
        return
    with Live(console=err, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True)


def totals_line(totals: Snapshot) -> str:
    counts = {
        "sent": f"{totals.sent}/{totals.planned}", "acknowledged": totals.acknowledged, "refused": totals.refused,
        "unknown": totals.unknown, "not sent": totals.not_sent, "retried": totals.retried, "replayed": totals.replayed,
    }  # fmt: skip
    return "  ".join(f"{name} {count}" for name, count in counts.items()) + f"  p95 {totals.latency_ms.p95:g} ms"


def _tell(totals: Snapshot, *, as_json: bool) -> None:
    if as_json:
        document = msgspec.to_builtins(totals)
        del document["in_flight"]  # nothing is, in the end
        answer_json(document)
        return
    latency = totals.latency_ms
    out.print(f"run {totals.run}, seed {totals.seed}: {totals.planned} planned, {totals.sent} sent", markup=False)
    for name in ("acknowledged", "refused", "unknown", "not_sent", "retried", "replayed"):
        out.print(f"  {name.replace('_', ' '):<13} {getattr(totals, name)}")
    out.print(f"  latency       p50 {latency.p50:g}  p95 {latency.p95:g}  p99 {latency.p99:g} ms")


def drain(
    timeout: Annotated[str, typer.Option(help="How long to wait at most: 60s, 10m.")] = "60s",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Wait until nothing waits: outboxes and retry tiers empty, every group at the end of its topics, emails sent."""
    place = home()
    try:
        timeout_s = seconds(timeout)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    with errors_as_sentences():
        if status(place)["state"] == "down":
            raise NotUp("the lab is not up: start it with `lab up`")
    begun = time.monotonic()
    with display() as show:
        addresses = place.addresses()
        left = asyncio.run(
            wait_until_drained(
                addresses["LAB_POSTGRES"], addresses["LAB_KAFKA"], timeout_s, _Progress(show), arms_of(place)
            )
        )
    waited_s = round(time.monotonic() - begun, 1)
    if as_json:
        answer_json({"drained": not left, "waited_s": waited_s, "waiting": left})
    if left:
        fail(Exit.NOT_UP, f"not drained after {waited_s:g} s: " + "; ".join(map(str, left)))
    say(f"drained: nothing waits ({waited_s:g} s)")


class _Progress:
    """Shows what waits, and on no terminal only when a while has passed."""

    def __init__(self, show: Any) -> None:
        self._show, self._shown = show, 0.0

    def __call__(self, found: list[Waiting]) -> None:
        if err.is_terminal or time.monotonic() - self._shown >= _LINE_EVERY_S:
            self._shown = time.monotonic()
            self._show("waiting: " + ("; ".join(map(str, found)) or "nothing, looking again"))
