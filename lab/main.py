"""`lab`: the one command line."""

import sys

try:
    import typer

    from lab import alerts, audit, bench, dashboards, demo, dlq, explain, fault, load, replay, stack, telemetry, trace
    from lab import run as scenario
except ModuleNotFoundError as error:
    sys.exit(f"the library {error.name} is missing in {sys.prefix}: run `make setup`")

app = typer.Typer(
    name="lab",
    help="See and prove what a message pipeline loses and doubles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    stack.up, stack.down, stack.status, stack.logs, stack.doctor, stack.env,
    load.load, load.drain, audit.audit, explain.explain, trace.trace, replay.replay, demo.demo,
    scenario.run, scenario.scenarios, scenario.runs, scenario.report,
    stack.kill, stack.freeze, stack.thaw, stack.restart, stack.scale,
):  # fmt: skip
    app.command()(command)
app.add_typer(dlq.app, name="dlq")
app.add_typer(fault.app, name="fault")
app.add_typer(bench.app, name="bench")
app.add_typer(dashboards.app, name="dashboards")
app.add_typer(alerts.app, name="alerts")
app.add_typer(telemetry.app, name="telemetry")


def run() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    run()
