"""`lab fault list | arm | clear | history | inject | tamper`."""

import asyncio
import secrets
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.markup import escape

from lab.output import Exit, answer_json, errors_as_sentences, fail, home, out, say
from lab.stack import Json
from loadtest.data_faults import MAX_COUNT, TOPICS, InjectionError
from loadtest.data_faults import inject as put
from loadtest.tampering import MAX_COUNT as TAMPERED_AT_MOST
from loadtest.tampering import TamperingError, tamper
from services.domain.arms import CONSUMER_ARMS
from services.domain.effects import EFFECTS
from services.failpoints.grammar import FailpointError, check_name, parse
from services.failpoints.names import DATA_FAULTS, FAILPOINTS, TAMPERINGS, Failpoint
from services.settings import read_settings
from services.stack import client
from services.stack.errors import NotAllowed
from services.stack.nemesis import Fault, read_faults

app = typer.Typer(help="Arm faults at named places, clear them, and see what was done.", no_args_is_help=True)

_EXAMPLES: Final = 5
Point = Annotated[str, typer.Argument(help="A failpoint of `lab fault list`.")]


@app.command("list")
def listing(
    names: Annotated[bool, typer.Option("--names", help="The names alone; the lab need not be up.")] = False,
    as_json: Json = False,
) -> None:
    """Show every failpoint: who passes it, what is armed there, how often it was passed and acted."""
    place = home()
    up = place.read_state() is not None
    now: dict[str, Any] = {"allowed": False, "seed": None, "armed": [], "passes": []}
    with errors_as_sentences():
        if up and not names:
            now = client.failpoints(place)
    points = [_with(point, now) for point in FAILPOINTS.values()]
    if as_json:
        answer_json({"allowed": now["allowed"], "seed": now["seed"], "failpoints": points})
    elif names:
        sys.stdout.writelines(f"{name}\n" for name in FAILPOINTS)
    else:
        _show_points(points)
        if now["allowed"]:
            say(f"the random choices of this lab's faults are those of seed {now['seed']}")
    if names:
        return
    if not up:
        fail(Exit.NOT_UP, "the lab is not up, so nothing is armed: start it with `lab up --faults`")
    if not now["allowed"]:
        say("this lab was started without faults: nothing can be armed; `lab down` and `lab up --faults` allow them")


def _with(point: Failpoint, now: dict[str, Any]) -> dict[str, Any]:
    """A failpoint with what is armed there, and its passes by process (counted while something is armed)."""
    armed = [{k: v for k, v in a.items() if k != "failpoint"} for a in now["armed"] if a["failpoint"] == point.name]
    passes = {p["process"]: p["passes"] for p in now["passes"] if p["failpoint"] == point.name}
    return {**msgspec.to_builtins(point), "arms": point.arms, "armed": armed, "passes": passes}


def _show_points(points: Iterable[dict[str, Any]]) -> None:
    for point in points:
        out.print(f"[bold]{point['name']}[/]  [dim]{', '.join(point['owners'])}[/]", soft_wrap=True)
        out.print(f"  [dim]{point['happened']}; not yet: {point['not_yet']}[/]", soft_wrap=True)
        for armed in point["armed"]:
            spent = ", spent" if armed["spent"] else ""
            counts = f"passed {armed['passes']}, acted {armed['acted']}{spent}"
            out.print(f"  [yellow]armed[/] {armed['action']}  {counts}", soft_wrap=True)
        if point["passes"]:
            passes = ", ".join(f"{process} {count}" for process, count in point["passes"].items())
            out.print(f"  passes while armed: {passes}", soft_wrap=True)


@app.command()
def arm(
    name: Point,
    action: Annotated[
        list[str],
        typer.Argument(help="kill, pause:SECONDS, error:KIND or delay:MS; then p=0..1 nth=N count=N arm=NAME."),
    ],
) -> None:
    """Arm a failpoint: from now on its passes do what ACTION says."""
    text = " ".join(action)
    with errors_as_sentences():
        _check(lambda: parse(name, text))
        answer = client.arm(home(), name, text)
    known = ", ".join(answer["known_to"]) or "no process yet"
    say(f"armed: {name} {answer['armed']} (known to {known}); `lab fault clear {name}` ends it")


@app.command()
def clear(name: Annotated[str | None, typer.Argument(help="A failpoint; all of them by default.")] = None) -> None:
    """Disarm one failpoint or all; pauses and delays under way end."""
    with errors_as_sentences():
        if name is not None:
            _check(lambda: check_name(name))
        answer = client.clear(home(), name)
    for gone in answer["cleared"]:
        whose = f" arm={gone['arm']}" if gone["arm"] else ""
        say(f"cleared: {gone['failpoint']}{whose} (passed {gone['passes']}, acted {gone['acted']})")
    if not answer["cleared"]:
        say("nothing was armed" + (f" at {name}" if name else ""))


def _check(read: Any) -> None:
    """What is wrong with the words is said whether the lab is up or not."""
    try:
        read()
    except FailpointError as error:
        fail(Exit.USAGE, str(error))


@app.command()
def history(
    last: Annotated[int | None, typer.Option(help="Only so many, the newest.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Show every fault of this lab with its window, the newest last; also when the lab is down."""
    faults = read_faults(home().nemesis_log)
    faults = faults[-last:] if last else faults
    if as_json:
        answer_json({"faults": faults})
    elif faults:
        _show_faults(faults)
    else:
        say("no fault was injected in this lab")


def _show_faults(faults: list[Fault]) -> None:
    now = time.time()
    wide = max(len(fault.target) for fault in faults)
    out.print(f"[dim]{'began (UTC)':<16} {'lasted':>12}  {'fault':<8} {'target':<{wide}}  by[/]", soft_wrap=True)
    for fault in faults:
        began = datetime.fromtimestamp(fault.started, UTC).strftime("%m-%d %H:%M:%S.%f")[:-5]
        details = escape(" ".join(f"{name}={value}" for name, value in fault.details.items()))
        what = f"{fault.fault:<8} {fault.target:<{wide}}  {fault.by:<9}"
        out.print(f"{began:<16} {_lasted(fault, now)}  {what} [dim]{details}[/]", soft_wrap=True)


def _lasted(fault: Fault, now: float) -> str:
    if fault.ended is None or fault.ended > now:
        return f"[yellow]{f'since {now - fault.started:.0f} s':>12}[/]"
    return f"{max(0.0, fault.ended - fault.started):10.1f} s"


@app.command()
def inject(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(DATA_FAULTS)}.")],
    topic: Annotated[str, typer.Option(help=f"{' or '.join(TOPICS)}.")] = TOPICS[0],
    count: Annotated[int, typer.Option(help="How many records.", min=1, max=MAX_COUNT)] = 1,
    run: Annotated[str | None, typer.Option(help="Made from records of this run; of any by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses the records; drawn and printed when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Put bad records onto a topic beside what the publishers put there, marked as injected."""
    if kind not in DATA_FAULTS:
        fail(Exit.USAGE, f"unknown data fault {kind!r}; the kinds are {', '.join(DATA_FAULTS)}")
    if topic not in TOPICS:
        fail(Exit.USAGE, f"unknown topic {topic!r}; the topics are {', '.join(TOPICS)}")
    place = home()
    seed = secrets.randbelow(2**31) if seed is None else seed
    with errors_as_sentences():
        if not client.failpoints(place)["allowed"]:
            fail(Exit.USAGE, str(NotAllowed()))
        try:
            injected = put(place.addresses()["LAB_KAFKA"], place.injected_log, kind, topic, count, seed=seed, run=run)
        except InjectionError as error:
            fail(Exit.FAILED, str(error))
        client.note_data(place, kind, topic, len(injected))
    if as_json:
        answer_json({"kind": kind, "topic": topic, "seed": seed, "injected": injected})
        return
    for record in injected[:_EXAMPLES]:
        say(f"{kind}: {topic}/{record.partition}/{record.offset} {record.message_id or 'no message id'}")
    more = f", {len(injected) - _EXAMPLES} more in {place.injected_log}" if len(injected) > _EXAMPLES else ""
    say(f"injected {len(injected)} (seed {seed}){more}")


@app.command("tamper")
def tamper_with(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(TAMPERINGS)}.")],
    arm: Annotated[str, typer.Argument(help="The consumer arm to whose effects it is done.")],
    effect: Annotated[str, typer.Option(help=f"{', '.join(EFFECTS)}.")] = "charge",
    count: Annotated[int, typer.Option(help="To how many, the newest.", min=1, max=TAMPERED_AT_MOST)] = 1,
    as_json: Json = False,
) -> None:
    """Change an arm's applied effects behind everybody's back, to see the auditor find it. Nothing undoes it."""
    if kind not in TAMPERINGS:
        fail(Exit.USAGE, f"unknown tampering {kind!r}; the kinds are {', '.join(TAMPERINGS)}")
    if arm not in CONSUMER_ARMS:
        fail(Exit.USAGE, f"unknown consumer arm {arm!r}; the arms are {', '.join(CONSUMER_ARMS)}")
    if effect not in EFFECTS or effect not in CONSUMER_ARMS[arm].effects:
        have = [one for one in EFFECTS if one in CONSUMER_ARMS[arm].effects]
        fail(Exit.USAGE, f"unknown effect {effect!r}; those of {arm} that can be tampered with are {', '.join(have)}")
    place = home()
    with errors_as_sentences():
        if not client.failpoints(place)["allowed"]:
            fail(Exit.USAGE, str(NotAllowed()))
        settings = read_settings({**place.addresses(), "LAB_HOME": str(place.path)})
        try:
            done = asyncio.run(tamper(settings, kind, CONSUMER_ARMS[arm], effect, count))
        except TamperingError as error:
            fail(Exit.FAILED, str(error))
        for message_id in done[:_EXAMPLES]:  # said before anything else may fail
            say(f"{kind}: {effect} of {arm} {message_id}; its life: `lab explain {message_id}`")
        client.note_data(place, kind, f"{arm}/{effect}", len(done))
    if as_json:
        answer_json({"kind": kind, "arm": arm, "effect": effect, "message_ids": done})
        return
    say(f"{TAMPERINGS[kind]} ({len(done)}); `lab audit` names it")
