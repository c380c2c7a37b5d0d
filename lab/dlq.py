"""`lab dlq list | show | redrive | discard`."""

import asyncio
import contextlib
import getpass
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar, get_args
from uuid import UUID

import msgspec
import typer
from confluent_kafka import KafkaException
from rich.markup import escape
from rich.table import Table

from lab.load import display
from lab.operations import trace_operation
from lab.output import Exit, answer_json, errors_as_sentences, fail, home, out, seconds
from lab.stack import Json
from services.failpoints import Failpoints, InjectedError
from services.letters import letters as library
from services.letters.discard import discard as carry_out_discard
from services.letters.letters import ARMS, Letter, Name, Selection, State, UnknownLetter, parse_name
from services.letters.parked import Desk, NotParked, Outcome, check_parked
from services.letters.redrive import redrive as carry_out_redrive
from services.settings import Settings, read_settings
from services.stack import client
from services.stack.home import Home
from services.storage.postgres import AWAY, connect

app = typer.Typer(help="Dead letters: list, show, redrive, discard.", no_args_is_help=True)

T = TypeVar("T")
_COLOURS: Final = {"parked": "yellow", "redriven": "cyan", "discarded": "dim"}
_SHOWN: Final = 2_000  # bytes of a value, for people
_EXAMPLES: Final = 5

Arm = Annotated[str | None, typer.Option(help="Only letters of this arm.")]
Reason = Annotated[str | None, typer.Option(help="Only letters for this reason.")]
Since = Annotated[str | None, typer.Option(help="Only letters parked in the last 10m, 2h.")]
MessageId = Annotated[str | None, typer.Option("--id", help="Only letters of this message id.")]
Why = Annotated[str | None, typer.Option(help="The reason for it; kept in the letter's log. Required.")]
Names = Annotated[list[str] | None, typer.Argument(help="Letters as `lab dlq list` names them: ARM/NUMBER …")]
All = Annotated[bool, typer.Option("--all", help="All parked letters of all arms.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]


@app.command("list")
def list_(
    arm: Arm = None,
    reason: Reason = None,
    state: Annotated[str | None, typer.Option(help="parked, redriven or discarded.")] = None,
    since: Since = None,
    message_id: MessageId = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest N.")] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, newest last."""
    selection = _selection(arm, reason, since, message_id, state)
    found, matching = _at_the_desk(lambda desk: library.listed(desk.database, selection, limit), changing=False)
    if as_json:
        answer_json({"letters": found, "matching": matching})
        return
    if not found:
        out.print("no dead letter" + (" matches" if any((arm, reason, state, since, message_id)) else ""))
        return
    out.print(_table(found))
    if matching > len(found):
        out.print(f"[dim]the newest {len(found)} of {matching:,}; --limit shows more[/]")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="ARM/NUMBER")],
    as_json: Json = False,
) -> None:
    """Show one letter: why it is there, its record, what was done with it."""
    name = _names([letter])[0]

    async def look(desk: Desk) -> dict[str, Any]:
        (found,) = await library.named(desk.database, [name])
        contents = await library.contents(desk.database, name)
        entries = await library.log(desk.database, name)
        return {
            **msgspec.to_builtins(found),
            "key": _readable(contents.key),
            "headers": [[header, _readable(value)] for header, value in contents.headers],
            "value": _readable(contents.value),
            "log": msgspec.to_builtins(entries),
        }

    document = _at_the_desk(look, changing=False)
    if as_json:
        answer_json(document)
    else:
        _show(document)


@app.command()
def redrive(
    letters: Names = None,
    arm: Arm = None,
    reason: Reason = None,
    since: Since = None,
    message_id: MessageId = None,
    everything: All = False,
    why: Why = None,
    force: Annotated[bool, typer.Option(help="Also what came back three times or is older than the inbox.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send letters to their arms again, through the outbox. Done again, it takes what is still parked."""
    selection = _chosen(letters, arm, reason, since, message_id, everything=everything)
    note = _note(why, dry_run=dry_run)
    settings = settings_of_lab(home())

    async def carry_out(desk: Desk, tell: Callable[[Outcome], None], *, try_only: bool) -> Outcome:
        window_s, start_ns = settings.dedup_window_s, time.time_ns()
        outcome = await carry_out_redrive(desk, selection, tell, window_s=window_s, force=force, dry_run=try_only)
        if outcome.changed and not try_only:
            count = {"delivery.count": outcome.changed}
            trace_operation(home(), settings, "redrive", outcome.operation, start_ns, count)
        return outcome

    _change("redriven", selection, note, carry_out, dry_run=dry_run, as_json=as_json)


@app.command()
def discard(
    letters: Names = None,
    arm: Arm = None,
    reason: Reason = None,
    since: Since = None,
    message_id: MessageId = None,
    everything: All = False,
    why: Why = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Decide that letters are never applied. effectively_once skips later copies of them, too."""
    selection = _chosen(letters, arm, reason, since, message_id, everything=everything)
    note = _note(why, dry_run=dry_run)

    async def carry_out(desk: Desk, tell: Callable[[Outcome], None], *, try_only: bool) -> Outcome:
        return await carry_out_discard(desk, selection, tell, dry_run=try_only)

    _change("discarded", selection, note, carry_out, dry_run=dry_run, as_json=as_json)


def _change(
    word: str, selection: Selection, why: str, carry_out: Any, *, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Change what was selected. Letters that were named are changed all or not at all."""

    async def change(desk: Desk) -> Outcome:
        if selection.names is not None:
            await check_parked(desk.database, selection.names)
            tried = await carry_out(desk, lambda _: None, try_only=True)
            if tried.left_out:
                raise NotParked(_left_out(tried) + "; nothing was changed")
        with display() as line:
            return await carry_out(desk, lambda so_far: line(f"{so_far.changed} {word}"), try_only=dry_run)  # type: ignore[no-any-return]

    outcome: Outcome = _at_the_desk(change, why, changing=not dry_run)
    if as_json:
        answer_json(
            {"operation": outcome.operation, "dry_run": dry_run, word: outcome.changed, "left_out": outcome.left_out}
        )
    else:
        would = "would be " if dry_run else ""
        out.print(f"{outcome.changed:,} letter{'s' * (outcome.changed != 1)} {would}{word}", soft_wrap=True)
    if outcome.left_out:
        fail(Exit.FAILED, _left_out(outcome))


def _left_out(outcome: Outcome) -> str:
    first = "; ".join(f"{letter} {why}" for letter, why in list(outcome.left_out.items())[:_EXAMPLES])
    more = len(outcome.left_out) - _EXAMPLES
    return f"left out: {first}" + (f" and {more:,} more" if more > 0 else "")


def _at_the_desk(work: Callable[[Desk], Awaitable[T]], why: str = "", *, changing: bool) -> T:
    """Do what needs the lab's stores; what goes wrong becomes a sentence. Who only looks needs no token."""
    place = home()
    if place.read_state() is None:
        fail(Exit.NOT_UP, "the lab is not up: start it with `lab up`")
    failpoints = failpoints_of_lab(place, "redrive") if changing else Failpoints("redrive", "", "", allowed=False)
    addresses = place.addresses()

    async def connected() -> T:
        database = await connect(addresses["LAB_POSTGRES"], "payments", name="lab dlq")
        try:
            return await work(Desk(database, addresses["LAB_KAFKA"], failpoints, _actor(), why))
        finally:
            await database.close(timeout=1)

    with _sentences():
        return asyncio.run(connected())


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except UnknownLetter as error:
        fail(Exit.USAGE, str(error))
    except NotParked as error:
        fail(Exit.FAILED, str(error))
    except InjectedError as error:
        fail(Exit.FAILED, f"{error}: what was changed stays changed, and doing it again goes on from there")
    except KafkaException as error:
        fail(Exit.NOT_UP, f"the broker does not answer as it should ({error.args[0].str()}); see `lab status`")
    except AWAY as error:
        again = "what was changed stays changed, and doing it again goes on from there"
        fail(Exit.NOT_UP, f"the database does not answer as it should ({error or type(error).__name__}): {again}")
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, "interrupted: what was changed stays changed, and doing it again goes on from there")


def settings_of_lab(place: Home) -> Settings:
    """The settings that the running lab was started with, and its addresses; ends with a sentence when it is not up.

    Not those of the caller's shell: what an arm remembers depends on the window that the arm has.
    """
    with errors_as_sentences():
        told = client.call(place, "GET", "/status", timeout_s=10)
    return read_settings({**told["settings"], **place.addresses(), "LAB_HOME": str(place.path)})


def failpoints_of_lab(place: Home, command: str) -> Failpoints:
    """The failpoints of a command that changes something. Ends with a sentence when the lab's token is not the right
    one, with faults or without: before anything is changed.
    """
    with errors_as_sentences():
        allowed = bool(client.failpoints(place)["allowed"])
        return Failpoints(command, place.supervisor_url, place.token, allowed=allowed)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid {os.getuid()}"


def _chosen(
    letters: Sequence[str] | None,
    arm: str | None,
    reason: str | None,
    since: str | None,
    message_id: str | None,
    *,
    everything: bool,
) -> Selection:
    """What a command that changes letters is about. Nothing is meant that was not said."""
    filtered = any((arm, reason, since, message_id))
    if letters:
        names = sorted(set(_names(letters)))
        if filtered or everything:
            fail(Exit.USAGE, "name letters, or choose them with --arm, --reason, --since, --id or --all; not both")
        return Selection(arms=sorted({name.arm for name in names}), names=names)
    if not filtered and not everything:
        fail(
            Exit.USAGE,
            "which letters? name them (ARM/NUMBER), choose with --arm, --reason, --since, --id, or say --all",
        )
    if filtered and everything:
        fail(Exit.USAGE, "--all means all of them: leave out --arm, --reason, --since and --id")
    return _selection(arm, reason, since, message_id)


def _names(letters: Sequence[str]) -> list[Name]:
    try:
        return [parse_name(text) for text in letters]
    except UnknownLetter as error:
        fail(Exit.USAGE, str(error))


def _selection(
    arm: str | None, reason: str | None, since: str | None, message_id: str | None, state: str | None = None
) -> Selection:
    if arm is not None and arm not in ARMS:
        fail(Exit.USAGE, f"unknown arm {arm!r}; the arms that keep dead letters are {', '.join(ARMS)}")
    if state is not None and state not in get_args(State):
        fail(Exit.USAGE, f"unknown state {state!r}; the states are {', '.join(get_args(State))}")
    try:
        return Selection(
            arms=tuple(ARMS) if arm is None else (arm,),
            reason=reason,
            state=state,  # type: ignore[arg-type]  # checked above
            since=None if since is None else datetime.now(UTC) - timedelta(seconds=seconds(since)),
            message_id=None if message_id is None else UUID(message_id),
        )
    except ValueError as error:
        fail(Exit.USAGE, f"--id {message_id!r} is no UUID" if "UUID" in str(error) else str(error))


def _note(why: str | None, *, dry_run: bool) -> str:
    if not (why or "").strip() and not dry_run:
        fail(Exit.USAGE, "say why, with --why TEXT: it is kept with who and when in each letter's log")
    return (why or "").strip()


def _table(letters: Sequence[Letter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading in ("letter", "state", "rounds", "reason", "message id", "origin", "age"):
        right = heading in ("rounds", "age")
        table.add_column(heading, no_wrap=heading != "message id", justify="right" if right else "left")
    now = datetime.now(UTC)
    for letter in letters:
        table.add_row(
            letter.letter,
            f"[{_COLOURS[letter.state]}]{letter.state}[/]",
            str(letter.rounds or ""),
            escape(letter.reason),
            str(letter.message_id or "none"),
            letter.origin,
            _age((now - letter.last_failure).total_seconds()),
        )
    return table


def _age(age_s: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if age_s >= size:
            return f"{age_s / size:.0f}{unit}"
    return f"{max(age_s, 0):.0f}s"


def _readable(data: bytes | None) -> str | None:
    """Bytes for people: as text where they are printable UTF-8, else in hexadecimal digits after `hex:`."""
    if data is None:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode()
        if all(c.isprintable() or c in "\n\t" for c in text):
            return text
    return f"hex:{data.hex()}"


def _show(document: dict[str, Any]) -> None:
    for name in ("letter", "state", "rounds", "reason", "detail", "message_id", "run", "origin", "attempts"):
        out.print(f"[dim]{name.replace('_', ' '):<14}[/] {escape(str(document[name]))}", soft_wrap=True)
    for name in ("first_failure", "last_failure"):
        out.print(f"[dim]{name.replace('_', ' '):<14}[/] {document[name]}", soft_wrap=True)
    out.print(f"[dim]{'key':<14}[/] {escape(str(document['key']))}", soft_wrap=True)
    for name, value in document["headers"]:
        out.print(f"[dim]{'header':<14}[/] {escape(name)}: {escape(str(value))}", soft_wrap=True)
    value = document["value"] or f"not in the table: null, or too large for it; the record lies at {document['origin']}"
    cut = f"… ({len(value):,} characters, --json shows all)" if len(value) > _SHOWN else ""
    out.print(f"[dim]{'value':<14}[/] {escape(value[:_SHOWN])}{cut}", soft_wrap=True)
    for entry in document["log"]:
        said = f"{entry['at']} {entry['action']} by {entry['actor']}: {entry['why']}"
        out.print(f"[dim]{'log':<14}[/] {escape(said)}", soft_wrap=True)
