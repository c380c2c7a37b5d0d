"""`lab replay`."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException

from lab.dlq import failpoints_of_lab, settings_of_lab
from lab.load import display
from lab.operations import trace_operation
from lab.output import Exit, answer_json, fail, home, out, say
from lab.stack import Json
from services.failpoints import InjectedError
from services.replay.asking import make_plan, read_asked
from services.replay.copying import copy
from services.replay.plan import Plan
from services.replay.window import WindowError


def replay(
    arm: Annotated[str | None, typer.Option(help="The arm that gets the records again, it alone.")] = None,
    topic: Annotated[str | None, typer.Option(help="orders.v1 or refunds.v1.")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="2026-11-23T12:00:00 (UTC) or 10m (ago).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, or now; excluded.")] = None,
    offsets: Annotated[
        str | None, typer.Option(help="PARTITION:FIRST-LAST,…; both included. Instead of --from and --to.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Names the replay; given again, it is resumed.")] = None,
    force: Annotated[bool, typer.Option(help="Also what is older than the arm's dedup window.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; copy nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a past window of a topic to one arm again. Killed half way, it is resumed by its id with nothing doubled."""
    now = datetime.now(UTC)
    with _sentences(id_):
        asked = read_asked(arm, topic, begin, end, offsets, id_, now)
    place = home()
    settings = settings_of_lab(place)
    with _sentences(id_):
        plan, positions = make_plan(settings, asked, id_, now, force=force)
        done = sum(positions[span.partition] - span.first for span in plan.spans)
        if dry_run:
            _tell(plan, done, 0, dry_run=True, as_json=as_json)
            return
    failpoints = failpoints_of_lab(place, "replay")
    if plan.id != id_:
        say(f"replay {plan.id}: if it is cut off, `lab replay --id {plan.id}` goes on")
    start_ns = time.time_ns()
    with _sentences(plan.id), display() as line:
        copied = copy(settings.kafka, plan, failpoints, lambda n: line(f"{done + n} of {plan.count} records copied"))
    about = {"messaging.destination.name": plan.topic, "delivery.arm": plan.arm, "delivery.count": done + copied}
    trace_operation(place, settings, "replay", plan.id, start_ns, about)
    _tell(plan, done, copied, dry_run=False, as_json=as_json)


def _tell(plan: Plan, done: int, copied: int, *, dry_run: bool, as_json: bool) -> None:
    window: list[dict[str, Any]] = [{"partition": s.partition, "from": s.first, "to": s.last} for s in plan.spans]
    if as_json:
        answer_json(
            {
                "id": plan.id, "arm": plan.arm, "topic": plan.topic, "to": plan.target, "window": window,
                "records": plan.count, "copied_before": done, "copied": copied, "dry_run": dry_run,
            }
        )  # fmt: skip
        return
    spans = ", ".join(f"{s.partition}:{s.first}-{s.last}" for s in plan.spans)
    before = f", {done:,} of them before" if done else ""
    if dry_run:
        out.print(
            f"{plan.count:,} records of {plan.topic} ({spans}) would be copied to {plan.target}{before}", markup=False
        )
    else:
        out.print(
            f"{done + copied:,} records of {plan.topic} ({spans}) copied to {plan.target}{before}",
            markup=False,
            soft_wrap=True,
        )


@contextlib.contextmanager
def _sentences(id_: str | None) -> Iterator[None]:
    again = f"`lab replay --id {id_}` goes on from there" if id_ else "nothing was copied"
    try:
        yield
    except WindowError as error:
        fail(Exit.USAGE, str(error))
    except InjectedError as error:
        fail(Exit.FAILED, f"{error}: {again}")
    except KafkaException as error:
        fail(Exit.NOT_UP, f"the broker does not answer as it should ({error.args[0].str()}): {again}")
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, f"interrupted: {again}")
