"""`lab`: the one command line."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import typer

# Where each command is, in the order of `lab --help`. A start is as long as its imports: only the module of the command
# that is called is one of them.
COMMANDS: Final = (
    "stack.up", "stack.down", "stack.status", "stack.logs", "stack.doctor", "stack.env",
    "load.load", "load.drain", "audit.audit", "explain.explain", "trace.trace", "replay.replay", "demo.demo",
    "run.run", "run.scenarios", "run.runs", "run.report",
    "stack.kill", "stack.freeze", "stack.thaw", "stack.restart", "stack.scale",
)  # fmt: skip
GROUPS: Final = ("dlq", "fault", "bench", "dashboards", "alerts", "telemetry")


def application(word: str = "") -> "typer.Typer":
    """The command line of this command or group; of all of them where the word is none.

    Raises ModuleNotFoundError.
    """
    import typer  # noqa: PLC0415  # may be what is missing

    app = typer.Typer(
        name="lab",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_lab)  # one command alone is a command all the same, and not the whole of `lab`
    named = [path for path in (*COMMANDS, *GROUPS) if path.rpartition(".")[2] == word]
    for path in named or (*COMMANDS, *GROUPS):
        module, _, command = path.partition(".")
        found = import_module(f"lab.{module}")
        if command:
            app.command()(getattr(found, command))
        else:
            app.add_typer(found.app, name=module)
    return app


def _lab() -> None:
    """See and prove what a message pipeline loses and doubles."""


def run() -> None:
    """The entry point."""
    try:
        app = application(*sys.argv[1:2])
    except ModuleNotFoundError as error:
        sys.exit(f"the library {error.name} is missing in {sys.prefix}: run `make setup`")
    app()


if __name__ == "__main__":
    run()
