"""`lab run | scenarios | runs | report`."""

import asyncio
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from confluent_kafka import KafkaException
from rich.markup import escape
from rich.table import Table

from lab.load import display
from lab.output import Exit, answer_json, err, fail, home, out, say
from lab.stack import Json
from lab.verdicts import COLOURS, show
from loadtest import scenario as scenarios_
from loadtest.contained import obstacles
from loadtest.kept import Played, kept, read_kept
from loadtest.live import ArmNow, words
from loadtest.own import with_arm
from loadtest.play import Player, fits
from loadtest.report import MARKDOWN_FILE, write
from loadtest.scenario import Scenario, ScenarioError
from loadtest.timeline import Timeline, timeline
from loadtest.totals import Snapshot
from services.auditor.audit import Unreachable
from services.settings import read_settings
from services.stack import client, control, grafana
from services.stack.client import NotUp, Refused
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.launch import PASSED_ON
from services.stack.own import Manifest, build, read_manifest, resolved
from services.storage.postgres import AWAY

EXITS: Final = {"PASS": Exit.DONE, "FAIL": Exit.FAILED, "INCONCLUSIVE": Exit.NOT_UP}
_LINE_EVERY_S: Final = 10.0  # where stderr is no terminal
_LAST: Final = 20


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario of `lab scenarios`, or a .toml file.")],
    seed: Annotated[
        int | None, typer.Option(help="Of requests, keys and faults; drawn and printed if not given.")
    ] = None,
    arm: Annotated[
        Path | None, typer.Option(help="The manifest of a consumer of your own, judged beside the others.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Play a scenario: load and faults by a seed, then drain, audit and a verdict. Starts the lab that it needs.

    Exit code 0: PASS, 1: FAIL, 3: INCONCLUSIVE, 2: not played. Ctrl-C ends it early and audits what there is.
    """
    try:
        chosen = scenarios_.read(scenario)
    except ScenarioError as error:
        fail(Exit.USAGE, str(error))
    place = home()
    manifest = None if arm is None else _manifest(place, arm)
    played = play(place, chosen if manifest is None else with_arm(chosen, manifest), seed_of(seed, chosen), manifest)
    if as_json:
        answer_json(document(played))
    else:
        show(played)
    sys.exit(EXITS[played.verdict])


def _manifest(place: Home, file: Path) -> Manifest:
    """The consumer, built and ready to be started; ends with a sentence when that does not work."""
    try:
        manifest = resolved(read_manifest(file), place)
        build(manifest)
    except StackError as error:
        fail(Exit.USAGE, str(error))
    return manifest


def seed_of(given: int | None, scenario: Scenario) -> int:
    """The seed of a run: what was given, what the scenario says, or drawn."""
    if given is not None:
        return given
    return secrets.randbelow(10**6) if scenario.seed is None else scenario.seed


def play(place: Home, scenario: Scenario, seed: int, own: Manifest | None = None) -> Played:
    """Play it on the lab of this place, which is started, or started anew, as it is needed."""
    try:
        _make_ready(place, scenario, seed)
        with display() as line:
            player = Player(place, scenario, seed, own=own, say=say, show=_Progress(line))
            plan = scenario.plan(player.run, seed)
            say(f"{scenario.name}: {scenario.teaches}")
            say(f"load: {plan.planned} requests in {plan.duration_s:g} s, run {player.run}, seed {seed}")
            played = player.play()
    except (NotUp, Refused, StackError, Unreachable, *AWAY, KafkaException) as error:
        fail(Exit.USAGE, f"it could not be played: {error or type(error).__name__}")
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, "interrupted: nothing was audited; the lab is as it is, `lab down` ends it")
    write_report(place, played)
    return played


def _make_ready(place: Home, scenario: Scenario, seed: int) -> None:
    """A lab with the arms, the settings and the faults that the scenario needs."""
    given = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    now = client.status(place)
    if place.hosts and now["state"] != "down" and (why := "\n".join(obstacles(now, scenario, given))):
        raise StackError(why)
    why = fits(now, scenario, given) if now["state"] != "down" else ""
    guests = grafana.wanted() if why or now["state"] == "down" else ()
    if why:
        say(f"the lab does not fit the scenario ({why}): it is started anew, its data stays")
        control.down(place, say)
    control.up(
        place,
        faults=True,
        seed=seed,
        only=scenario.parts(),
        guests=guests,
        settings=scenario.environment,
        say=say,
    )


def write_report(place: Home, played: Played) -> Path:
    """Write the report of a run; its pictures need the lab's stores. Returns the HTML file."""
    settings = read_settings({**place.addresses(), "LAB_HOME": str(place.path)})
    try:
        pictures = asyncio.run(timeline(place.path, settings, played))
    except (*AWAY, KafkaException, OSError, msgspec.DecodeError) as error:
        why = f"the lab's stores cannot be read: {error or type(error).__name__}"
        pictures = Timeline(played.began, 1.0, [], [], why)
    return write(place.path, played, pictures)


def report(
    run: Annotated[str, typer.Argument(help="A run of `lab runs`.")],
    markdown_: Annotated[bool, typer.Option("--markdown", help="As Markdown on stdout, for a pull request.")] = False,
) -> None:
    """Say where the report of a run lies: one HTML file that needs no network. It is made anew when the lab is up."""
    place = home()
    played = read_kept(place.path, run)
    if played is None:
        known = ", ".join(p.run for p in kept(place.path)) or "none yet"
        fail(Exit.USAGE, f"unknown run {run!r}; the runs are: {known}")
    file = Path(played.report)
    if place.read_state() is not None or not file.exists():
        file = write_report(place, played)
    out.print(file.with_name(MARKDOWN_FILE).read_text() if markdown_ else str(file), markup=False, soft_wrap=True)


class _Progress:
    """The totals in one line, now and then."""

    def __init__(self, line: Any) -> None:
        self._line, self._shown = line, 0.0

    def __call__(self, elapsed_s: float, totals: Snapshot, arms: list[ArmNow]) -> None:
        if elapsed_s - self._shown >= (1.0 if err.is_terminal else _LINE_EVERY_S):
            self._shown = elapsed_s
            counts = f"sent {totals.sent}/{totals.planned} · acknowledged {totals.acknowledged}"
            self._line(f"{elapsed_s:4.0f} s  {counts} · {words(arms)}".rstrip(" ·"))


def document(played: Played) -> dict[str, Any]:
    """The answer for machines; the evidence lies beside the rows, the audit's other fields under `audit`."""
    answer: dict[str, Any] = msgspec.to_builtins(played)
    audit = answer.pop("audit")
    del audit["rows"]
    return {**answer, "evidence": audit.pop("evidence"), "audit": audit}


def scenarios(as_json: Json = False) -> None:
    """List the scenarios, and what each teaches in one line."""
    try:
        found = [scenarios_.read(name) for name in scenarios_.names()]
    except ScenarioError as error:
        fail(Exit.USAGE, str(error))
    if as_json:
        fields = ("name", "teaches", "expect", "long")
        answer_json(
            {
                "scenarios": [
                    {
                        **{field: getattr(one, field) for field in fields},
                        "duration_s": one.load.duration_s,
                        "publishers": one.arms.publishers,
                        "consumers": one.arms.consumers,
                    }
                    for one in found
                ]
            }
        )
        return
    wide = max(len(one.name) for one in found)
    for one in found:
        out.print(f"[bold]{one.name:<{wide}}[/]  {escape(one.teaches)}", soft_wrap=True)
    out.print("[dim]`lab run NAME` plays one, `lab runs` lists what was played[/]")


def runs(
    last: Annotated[int, typer.Option(min=1, help="Only so many, the newest.")] = _LAST,
    as_json: Json = False,
) -> None:
    """List the runs that were played on this lab, newest last."""
    found = list(kept(home().path))[-last:]
    if as_json:
        answer_json(
            {
                "runs": [
                    {"run": p.run, "scenario": p.scenario, "seed": p.seed, "verdict": p.verdict, "began": p.began,
                     "report": p.report}
                    for p in found
                ]
            }
        )  # fmt: skip
        return
    if not found:
        say("no scenario was played on this lab: `lab scenarios` lists them")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("run", "began (UTC)", "verdict", "requests", "faults", "report"):
        table.add_column(heading, no_wrap=True)
    for p in found:
        began = datetime.fromtimestamp(p.began, UTC).strftime("%m-%d %H:%M:%S")
        verdict = f"[{COLOURS[p.verdict]}]{p.verdict}[/]"
        table.add_row(p.run, began, verdict, str(p.load.sent), str(len(p.faults)), p.report)
    out.print(table)
