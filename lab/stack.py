"""`lab up | down | status | logs | doctor | env | kill | freeze | thaw | restart | scale`."""

import json
import shlex
import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from lab.output import Exit, answer_json, errors_as_sentences, fail, home, out, say
from services.domain.arms import DEFAULT_PUBLISHER
from services.stack import client, control, grafana
from services.stack.checks import disk, guests, hints, problems
from services.stack.logfiles import tail
from services.stack.parts import PARTS, UnknownPart, find, of_arms

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Name = Annotated[str, typer.Argument(help="A process (relay#0) or all replicas of a part (relay).")]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="Processes (relay#0) or all replicas of parts (relay): all at once."),
]

_STATE_COLOURS = {"ready": "green", "done": "green", "failed": "red", "held": "yellow", "frozen": "cyan"}


def up(
    faults: Annotated[bool, typer.Option(help="Allow failpoints to be armed in this lab.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice of the faults.")] = 1,
    only: Annotated[str, typer.Option(help="Parts, with commas: start these and what they need.")] = "",
    publishers: Annotated[str, typer.Option(help="Publisher arms, with commas.")] = DEFAULT_PUBLISHER,
    arms: Annotated[str, typer.Option(help="Consumer arms, with commas; all by default.")] = "",
) -> None:
    """Start the lab: downloads what is missing, waits until every part is ready. A second time it changes nothing."""
    begun = time.monotonic()
    _not_from_inside("up --wait")
    with errors_as_sentences():
        chosen = _named(only) or of_arms(_named(publishers), _named(arms))
        try:
            beside = () if only else grafana.wanted()
            answer = control.up(home(), faults=faults, seed=seed, only=chosen, guests=beside, say=say)
        except KeyboardInterrupt:
            fail(Exit.INTERRUPTED, "interrupted; nothing was left running")
    say(f"up after {time.monotonic() - begun:.0f} s; `lab status` shows the parts, `lab down` ends them")
    if answer["faults"]:
        say(f"the random choices of its faults are those of seed {answer['seed']}")
    for name, url in answer["urls"].items():
        out.print(f"{name:<12} {url}", markup=False)


def _not_from_inside(words: str) -> None:
    if home().hosts:
        fail(Exit.USAGE, f"this lab runs in containers: `docker compose {words}`, on your machine, is for them")


def _named(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def down() -> None:
    """End the lab; no process and no port is left, the data stays."""
    _not_from_inside("down")
    with errors_as_sentences():
        ended = control.down(home(), say)
    say("down; the data is kept" if ended else "the lab was not up")


def status(as_json: Json = False) -> None:
    """Show every process: state, restarts, memory."""
    with errors_as_sentences():
        answer = client.status(home())
    if as_json:
        answer_json(answer)
        return
    not_ready = [p["name"] for p in answer["processes"] if not p["ready"]]
    colour = {"up": "green", "partial": "yellow"}.get(answer["state"], "red")
    text = f", not ready: {', '.join(not_ready)}" if not_ready else ""
    out.print(f"[bold {colour}]{answer['state']}[/] · {len(answer['processes'])} processes{text}")
    if not answer["processes"]:
        out.print("start it with `lab up`")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("process", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("restarts", "pid", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is", no_wrap=True, style="dim", overflow="ellipsis", ratio=1)  # gives way to the rest
    for p in answer["processes"]:
        state = f"[{_STATE_COLOURS.get(p['state'], 'yellow')}]{p['state']}[/]"
        memory = f"{p['rss_bytes'] / 2**20:.0f} MiB" if p["rss_bytes"] else ""
        table.add_row(p["name"], state, str(p["restarts"] or ""), str(p["pid"] or ""), memory, p["gloss"])
    out.print(table)
    for p in answer["processes"]:
        if p["why"]:
            mended = f"; `lab restart {p['name']}` when it is mended" if p["state"] == "failed" else ""
            out.print(f"[yellow]{p['name']}[/] {escape(p['why'])}{mended}", soft_wrap=True)
    for name, url in answer["urls"].items():
        out.print(f"[dim]{name:<12}[/] {url}")
    if home().hosts:
        out.print("[dim]from outside of the containers: the same ports of 127.0.0.1[/]")


def logs(
    name: Annotated[str, typer.Argument(help="A process, or `supervisor`.")] = "",
    message: Annotated[
        str, typer.Option("--message", help="Of one message, over all processes: its events, and its chunks'.")
    ] = "",
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many lines from the end.", min=1)] = 40,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they were written.")] = False,
) -> None:
    """Show the log of one process, or what all logs say of one message."""
    if bool(name) == bool(message):
        fail(Exit.USAGE, "say the name of a process, or --message ID")
    if message:
        from lab.trace import show_lines  # noqa: PLC0415  # it imports this module's words

        show_lines(message, as_json=as_json)
        return
    with errors_as_sentences():
        name = name if name == "supervisor" else _process_name(name)
    file = home().log_file(name)
    if not file.exists():
        fail(Exit.FAILED, f"{name} has no log at {file}: it was never started in this lab")
    with suppress(KeyboardInterrupt):  # the way to end --follow
        for line in tail(file, lines, follow=follow):
            if as_json:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            else:
                out.print(readable(line), soft_wrap=True)


def _process_name(name: str) -> str:
    try:
        part, replica = find(name)
    except UnknownPart:
        guest = name if "#" in name else f"{name}#0"  # a consumer of the user's own is in no table
        if home().log_file(guest).exists():
            return guest
        raise
    return part.instance(replica or 0)


def readable(line: str) -> str:
    """A JSON line as people read it; anything else as it is."""
    try:
        record: dict[str, Any] = json.loads(line)
        head = f"[dim]{record.pop('time')[11:23]}[/] "
        level, event = record.pop("level"), record.pop("event")
    except (ValueError, KeyError, TypeError, AttributeError):
        return escape(line)
    for noise in ("service.name", "life"):
        record.pop(noise, None)
    colour = {"error": "red", "warning": "yellow"}.get(level, "green")
    rest = " ".join(f"[dim]{escape(key)}=[/]{escape(str(value))}" for key, value in record.items())
    return f"{head}[{colour}]{event}[/] {rest}"


def doctor(as_json: Json = False) -> None:
    """Look at this machine: what keeps the lab from starting, and what could be better."""
    place = home()
    running = place.read_state() is not None
    with errors_as_sentences():
        wrong, beside = guests()
        found = [*wrong, *(disk(place) if running else problems(place, [*PARTS, *beside]))]
        better = [] if place.hosts else hints(place)  # they are about what containers bring along
    if as_json:
        answer_json({"ok": not found, "up": running, "problems": found, "hints": better})
    else:
        for text in found:
            out.print(f"[red]problem[/] {text}", soft_wrap=True)
        for text in better:
            out.print(f"[yellow]hint[/]    {text}", soft_wrap=True)
        verdict = "[green]ok[/] nothing keeps the lab from starting" if not found else "the lab would not start"
        out.print("[green]ok[/] the lab is up" if running else verdict)
    if found:
        sys.exit(Exit.FAILED)


def env() -> None:
    """Print `export LAB_…` lines for a shell or a consumer of your own (holds the database password)."""
    place = home()
    if place.read_state() is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    for name, value in {**place.addresses(), "LAB_HOME": str(place.path)}.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def kill(
    names: Names,
    hold: Annotated[bool, typer.Option(help="Keep them down until `lab restart`.")] = False,
) -> None:
    """SIGKILL processes at once (Postgres: its whole tree); the supervisor starts them again."""
    _act("kill", names, hold=hold)


def freeze(names: Names) -> None:
    """SIGSTOP processes; `lab thaw` lets them go on."""
    _act("freeze", names)


def thaw(names: Names) -> None:
    """SIGCONT frozen processes."""
    _act("thaw", names)


def restart(names: Names) -> None:
    """End processes in good order and start them again; starts those that are held or have failed."""
    _act("restart", names)


def scale(name: Name, replicas: Annotated[int, typer.Argument(min=0, help="How many there shall be.")]) -> None:
    """Add or end replicas of a part."""
    with errors_as_sentences():
        answer = client.call(home(), "POST", "/scale", {"name": name, "replicas": replicas})
    say(f"{answer['name']}: {answer['replicas']} replicas")


def _act(action: str, names: list[str], *, hold: bool = False) -> None:
    with errors_as_sentences():
        unknown = [why for name in names if (why := _unknown(name))]
        if unknown:  # said whether the lab is up or not
            fail(Exit.USAGE, "\n".join(unknown))
        answer = client.act(home(), action, *names, hold=hold)
    for process in answer["processes"]:
        say(f"{action}: {process['name']} (pid {process['pid'] or 'none'})")


def _unknown(name: str) -> str:
    try:
        find(name)
    except UnknownPart as error:
        own = any(p["name"].partition("#")[0] == name.partition("#")[0] for p in client.status(home())["processes"])
        return "" if own else str(error)  # a consumer of the user's own is known to the supervisor alone
    return ""
