"""`lab demo`: start everything, load with kills, drain, audit, and the verdict on one screen."""

import asyncio
import sys
import time
from collections import Counter
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table

from lab.load import display, totals_line
from lab.output import Exit, answer_json, err, errors_as_sentences, fail, home, out, say, seconds
from loadtest.demo import DEMO, DEMO_ARMS, Strike
from loadtest.run import Load, start
from loadtest.totals import Snapshot
from services.auditor.audit import audit
from services.auditor.exercised import met_again
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.audit import AuditDocument, AuditRow
from services.domain.verdict import Chances, Judgement, judge, worst
from services.settings import Settings, read_settings
from services.stack import client, control
from services.stack.drain import Arms, drain
from services.stack.home import Home
from services.stack.nemesis import NemesisReader
from services.stack.parts import of_arms

DRAIN_S: Final = 90.0
_COLOURS: Final = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
_EXITS: Final = {"PASS": Exit.DONE, "FAIL": Exit.FAILED, "INCONCLUSIVE": Exit.NOT_UP}


def demo(
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 50.0,
    duration: Annotated[str, typer.Option(help="How long the load lasts: 60s, 5m.")] = "60s",
    seed: Annotated[int | None, typer.Option(help="The plan's seed; drawn and printed when it is not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Start the lab, send load while consumers and the relay are killed, judge every promise. Ctrl-C ends it all."""
    place = home()
    try:
        duration_s = seconds(duration)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    try:
        with errors_as_sentences():
            control.up(place, faults=True, seed=seed or 1, only=of_arms(consumers=DEMO_ARMS), say=say)
            result = _Demo(place).carry_out(rate, duration_s, seed)
    except KeyboardInterrupt:
        say("interrupted: ending everything")
        control.down(place, say)
        sys.exit(Exit.FAILED)
    if as_json:
        answer_json(result.document())
    else:
        _show(result, place)
    sys.exit(_EXITS[result.verdict])


class Result(msgspec.Struct, frozen=True):
    """What a demo found."""

    totals: Snapshot
    audited: AuditDocument
    judged: list[tuple[AuditRow, Judgement]]
    faults: list[dict[str, Any]]
    report: str
    met_again: int

    @property
    def verdict(self) -> Any:
        return worst(judgement.verdict for _, judgement in self.judged)

    def document(self) -> dict[str, Any]:
        """The shape of `lab run --json`."""
        rows = [{**msgspec.to_builtins(row), **msgspec.to_builtins(judgement)} for row, judgement in self.judged]
        return {
            "scenario": "demo",
            "run": self.totals.run,
            "seed": self.totals.seed,
            "verdict": self.verdict,
            "closes": self.audited.closes,
            "rows": rows,
            "faults": self.faults,
            "alerts": [],
            "report": self.report,
            "load": msgspec.to_builtins(self.totals),
        }


class _Demo:
    """The steps, in order."""

    def __init__(self, place: Home) -> None:
        self._home = place
        self._nemesis = NemesisReader(place.nemesis_log, from_end=True)
        # a lab that was up may have more arms: what nobody struck at has nothing to be judged by
        self._arms = Arms((PUBLISHER_ARMS["outbox"],), tuple(CONSUMER_ARMS[name] for name in DEMO_ARMS))

    def carry_out(self, rate: float, duration_s: float, seed: int | None) -> Result:
        client.clear(self._home)
        load = start(self._home, rate, duration_s, seed)
        plan = load.plan
        say(f"load: {plan.planned} requests in {duration_s:g} s, run {plan.run}, seed {plan.seed}")
        try:
            totals = self._strike_under_load(load, duration_s)
        finally:
            load.stop()
            client.clear(self._home)
        self._drain()
        settings = read_settings({**self._home.addresses(), "LAB_HOME": str(self._home.path)})
        audited, met = asyncio.run(_audit(settings, plan.run, self._arms))
        return self._judge(totals, audited, met)

    def _strike_under_load(self, load: Load, duration_s: float) -> Snapshot:
        began = time.monotonic()
        waiting = list(DEMO)
        with display() as show:
            shown = 0.0
            while load.poll() is None:
                elapsed_s = time.monotonic() - began
                while waiting and elapsed_s >= waiting[0].at * duration_s:
                    self._arm(waiting.pop(0), elapsed_s)
                for fault in self._nemesis.new():
                    if fault.by == "failpoint":
                        say(f"{elapsed_s:4.0f} s  SIGKILL  {fault.target} at {fault.details['failpoint']}")
                if elapsed_s - shown >= (1.0 if err.is_terminal else 10.0):
                    shown = elapsed_s
                    show(f"{elapsed_s:4.0f} s  {totals_line(load.snapshot())}")
                time.sleep(0.1)
        return load.wait()

    def _arm(self, strike: Strike, elapsed_s: float) -> None:
        client.arm(self._home, strike.failpoint, strike.action, by="scenario")
        say(f"{elapsed_s:4.0f} s  armed    {strike.failpoint}: {strike.action}")

    def _drain(self) -> None:
        say("drain: until nothing waits any more")
        addresses = self._home.addresses()
        postgres, kafka = addresses["LAB_POSTGRES"], addresses["LAB_KAFKA"]
        left = asyncio.run(drain(postgres, kafka, DRAIN_S, lambda _: None, self._arms))
        for waiting in left:
            say(f"  still waiting: {waiting}")

    def _judge(self, totals: Snapshot, audited: AuditDocument, met: dict[str, int]) -> Result:
        self._nemesis.new()
        kills = [fault for fault in self._nemesis.faults.values() if fault.by == "failpoint"]
        chances = Chances(
            kills=Counter(fault.target.partition("#")[0] for fault in kills),
            met_again=met,
            unknown_answers=totals.retried,
            replayed=totals.replayed,
        )
        file = self._home.path / "runs" / totals.run / "verdict.json"
        faults = [
            {"name": f.details["failpoint"], "target": f.target, "started": f.started, "ended": f.ended} for f in kills
        ]
        causes = audited.dead_letter_causes
        judged = [(row, judge(row, chances, audited.rows, causes=causes.get(row.name, {}))) for row in audited.rows]
        result = Result(totals, audited, judged, faults, str(file), sum(met.values()))
        file.write_bytes(msgspec.json.format(msgspec.json.encode(result.document()), indent=2))
        return result


async def _audit(settings: Settings, run: str, arms: Arms) -> tuple[AuditDocument, dict[str, int]]:
    say("audit: every store read once, the topics from offset 0")
    document = await audit(settings, run, arms=arms.consumers, publishers=arms.publishers)
    return document, await met_again(settings, run)


def _show(result: Result, place: Home) -> None:
    totals, verdict = result.totals, result.verdict
    closes = "the law closes" if result.audited.closes else "the law does NOT close"
    out.print(
        f"\n[bold {_COLOURS[verdict]}]{verdict}[/]  {totals.acknowledged} of {totals.sent} requests acknowledged, "
        f"{len(result.faults)} processes killed, {closes}",
        soft_wrap=True,
    )
    out.print(_table(result))
    for row, judgement in result.judged:
        if judgement.why:
            out.print(f"[yellow]{row.name}[/]: {judgement.why}", soft_wrap=True)
    out.print(_lesson(result), style="dim", soft_wrap=True)
    _say_where(place, totals)


def _table(result: Result) -> Table:
    """A row a promise: counts that are promised to be 0 carry a mark. Fits into 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading in ("hop", "arm", "effect"):
        table.add_column(heading, no_wrap=True)
    any_open = any(_still_open(row) for row, _ in result.judged)
    for heading in ("expected", "once", "duplicated", "lost", *(["open"] if any_open else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row, judgement in result.judged:
        cells = [row.hop, row.arm, row.effect, str(row.expected), str(row.applied_once)]
        cells += [_count(row.duplicated, promised="no_duplicate" in judgement.promise)]
        cells += [_count(row.lost, promised="no_loss" in judgement.promise)]
        cells += [str(_still_open(row))] if any_open else []
        mark = f"[{_COLOURS[judgement.verdict]}]{judgement.verdict}[/]" if judgement.verdict else "[dim]none[/]"
        table.add_row(*cells, mark)
    return table


def _still_open(row: AuditRow) -> int:
    return row.waiting + row.dead_lettered + row.discarded + row.uncertain + row.unexplained


def _count(count: int, *, promised: bool) -> str:
    if promised:
        return f"[bold red]{count} ✗[/]" if count else "[green]0 ✓[/]"
    return f"[yellow]{count}[/]  " if count else "[dim]0[/]  "


def _lesson(result: Result) -> str:
    def total(arm: str, count: str) -> int:
        return sum(getattr(row, count) for row, _ in result.judged if row.arm == arm)

    lost, doubled = total("at_most_once", "lost"), total("at_least_once", "duplicated")
    return (
        f"Killed between commit and effect, at_most_once lost {lost}. Killed between effect and commit, at_least_once "
        f"did {doubled} twice; effectively_once met {result.met_again} applied ids again and did none twice. "
        "✓ marks what is promised."
    )


def _say_where(place: Home, totals: Snapshot) -> None:
    out.print()
    for name, url in client.status(place)["urls"].items():
        out.print(f"[dim]{name:<12}[/] {url}")
    out.print(f"[dim]{'evidence':<12}[/] lab audit --run {totals.run}")
    out.print(f"[dim]{'stop':<12}[/] make down      [dim](the lab is still up; its data stays)[/]")
