"""`lab dashboards push | check | annotate`: the boards in a Grafana that you have."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lab.output import Exit, answer_json, fail, home, out, say
from services.stack.nemesis import NemesisReader

if TYPE_CHECKING:  # `requests` takes its time, and the other commands do without
    from lab.grafana import Grafana

app = typer.Typer(help="The boards in any Grafana.", no_args_is_help=True)

Url = Annotated[str, typer.Option(envvar="LAB_GRAFANA_URL", help="The Grafana, with http:// or https://.")]
Token = Annotated[str, typer.Option(envvar="LAB_GRAFANA_TOKEN", help="A service account's token.")]
User = Annotated[str, typer.Option(envvar="LAB_GRAFANA_USER", help="user:password, instead of a token.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LAB_GRAFANA_PASSWORD_FILE", exists=True, dir_okay=False, help="Holds the password of --user USER."
    ),
]
Sources = Annotated[str, typer.Option(help="prometheus=UID,auditor=UID: what the two are called there.")]
Console = Annotated[str, typer.Option(help="Where runbooks are.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

DEFAULT_URL: Final = "http://127.0.0.1:21032"
CONSOLE: Final = "http://127.0.0.1:21030"
_AGAIN_S: Final = 2.0
_LONGEST_S: Final = 30.0


def _grafana(
    url: str, token: str, user: str, password_file: Path | None, sources: str = "", console: str = CONSOLE
) -> "Grafana":
    from lab.grafana import Grafana, Target  # noqa: PLC0415

    named = dict(source.partition("=")[::2] for source in sources.split(",") if source)
    if not (token or user):
        fail(Exit.USAGE, "say --token or --user, or set LAB_GRAFANA_TOKEN or LAB_GRAFANA_USER")
    if unknown := named.keys() - {"prometheus", "auditor"}:
        fail(Exit.USAGE, f"unknown source {sorted(unknown)[0]!r}: the boards ask prometheus and auditor")
    if password_file:
        if not user or ":" in user:
            fail(Exit.USAGE, "--password-file holds the password of --user NAME: say the name, without a password")
        user = f"{user}:{password_file.read_text().strip()}"
    return Grafana(Target(url, token, user, console, named))


@contextmanager
def _unavailable_as_sentence() -> Iterator[None]:
    from lab.grafana import Unavailable  # noqa: PLC0415

    try:
        yield
    except Unavailable as error:
        fail(Exit.FAILED, str(error))


@app.command()
def push(
    url: Url = DEFAULT_URL, token: Token = "", user: User = "", password_file: PasswordFile = None,
    sources: Sources = "", console: Console = CONSOLE,
) -> None:  # fmt: skip
    """Make or replace the five boards there."""
    with _unavailable_as_sentence():
        for title in _grafana(url, token, user, password_file, sources, console).push():
            say(f"pushed: {title}")


@app.command()
def check(
    url: Url = DEFAULT_URL, token: Token = "", user: User = "", password_file: PasswordFile = None,
    sources: Sources = "", console: Console = CONSOLE, as_json: Json = False,
) -> None:  # fmt: skip
    """Say of each board whether it is there as committed; exit code 1 when one is not."""
    with _unavailable_as_sentence():
        found = _grafana(url, token, user, password_file, sources, console).check()
    if as_json:
        answer_json(found)
    else:
        for title, state in found.items():
            out.print(f"[{'green' if state == 'same' else 'red'}]{state:<8}[/] {title}")
    if set(found.values()) != {"same"}:
        raise SystemExit(Exit.FAILED)


@app.command()
def annotate(
    url: Url = DEFAULT_URL, token: Token = "", user: User = "", password_file: PasswordFile = None,
    follow: Annotated[bool, typer.Option(help="Go on as faults come; while Grafana is away, they wait.")] = False,
) -> None:  # fmt: skip
    """Post every fault of this lab as a window on the charts. What is there already is not posted again."""
    grafana, reader = _grafana(url, token, user, password_file), NemesisReader(home().nemesis_log)
    if not follow:
        with _unavailable_as_sentence():
            _post(grafana, reader)
        return
    with suppress(KeyboardInterrupt):
        _follow(grafana, reader)


def _follow(grafana: "Grafana", reader: NemesisReader) -> None:
    from lab.grafana import Unavailable  # noqa: PLC0415

    pause_s = _AGAIN_S
    while True:
        try:
            _post(grafana, reader)
            pause_s = _AGAIN_S
        except Unavailable as error:
            pause_s = min(2 * pause_s, _LONGEST_S)
            say(f"{error}; again in {pause_s:g} s")
        time.sleep(pause_s)


def _post(grafana: "Grafana", reader: NemesisReader) -> None:
    """One round: post what is due. Raises Unavailable."""
    from lab.grafana import due  # noqa: PLC0415

    reader.new()
    for fault, annotation in list(due(reader.faults.values(), grafana.annotated())):
        grafana.annotate(fault, annotation)
        say(f"posted: {fault.fault} {fault.target}")
