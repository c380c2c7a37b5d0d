"""The reference tables of the docs, made from the code that they describe: `python -m lab.reference` writes them.

A test compares `docs/reference.md` with what this module would write.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from services.domain import failure_policy as policy
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.circuit import FIRST_PAUSE_S, LONGEST_PAUSE_S, OPEN_AFTER
from services.failpoints.names import DATA_FAULTS, ERRORS, FAILPOINTS, TAMPERINGS
from services.settings import Settings
from services.stack.parts import PARTS, SUPERVISOR_PORT
from services.telemetry.catalogue import EVENTS
from services.telemetry.spans import SPANS

FILE: Final = Path(__file__).parent.parent / "docs" / "reference.md"
_PROMISES: Final = {"no_loss": "lost 0", "no_duplicate": "duplicated 0"}


def reference() -> str:
    """The whole page."""
    return "\n".join(_sections()) + "\n"


def _sections() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the code by `make docs`; a test fails when it is out of date. Words: see the README."
    yield from section("Publisher arms", ("arm", "how", "promise"), _publishers())
    yield from section("Consumer arms", ("arm", "how", "promise by effect"), _consumers())
    tiered = " and ".join(f"`{arm.name}`" for arm in CONSUMER_ARMS.values() if arm.retries)
    yield from section("Failed calls to the provider", ("failure", f"what follows in {tiered}"), _of_calls())
    yield from _other_arms()
    yield from section("Failures of stores and broker", ("failure", "what follows"), _of_stores())
    yield from section("Failpoints", ("name", "passed by", "has happened", "has not"), _failpoints())
    yield from section("Actions of a failpoint", ("action", "what a pass does"), _actions())
    yield from section("Errors at failpoints", ("where", "kinds", "what `error:KIND` does"), _errors())
    yield from section("Data faults", ("kind", "what `lab fault inject` puts onto a topic"), _data_faults())
    yield from section("Tampering", ("kind", "what `lab fault tamper` does to an arm's effect"), _tamperings())
    yield from section("Processes and ports", ("process", "what it is", "port", "admin", "memory bound"), _parts())
    yield from section("Settings", ("variable", "default"), _settings())
    yield ""
    yield "Metrics are in [telemetry.md](telemetry.md), with which number to trust for what."
    yield from section("Spans", ("span", "name", "kind", "parent", "links to", "what it is"), _spans())
    yield from section("Log events", ("event", "what it says"), _events())


def section(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A heading and a table."""
    yield ""
    yield f"## {title}"
    yield ""
    yield f"| {' | '.join(headings)} |"
    yield "|" + " --- |" * len(headings)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _promise(promises: Iterable[str]) -> str:
    return ", ".join(_PROMISES[promise] for promise in sorted(promises, reverse=True)) or "none"


def _publishers() -> Iterator[tuple[str, ...]]:
    for arm in PUBLISHER_ARMS.values():
        yield f"`{arm.name}`", arm.gloss, _promise(arm.promises)


def _consumers() -> Iterator[tuple[str, ...]]:
    for arm in CONSUMER_ARMS.values():
        yield f"`{arm.name}`", arm.gloss, "; ".join(f"{e}: {_promise(p)}" for e, p in arm.promises.items())


def _of_calls() -> Iterator[tuple[str, ...]]:
    again = f"{_tiers()}; after {policy.ATTEMPTS} attempts dead-lettered as `attempts`"
    yield "time-out, connection lost, HTTP 5xx", again
    for status, reason in policy.RETRYABLE_STATUS.items():
        yield f"HTTP {status} ({reason.replace('_', ' ')})", again
    yield "no connection", "the same tiers, but it is no attempt: the provider was not called"
    yield (
        f"{OPEN_AFTER} in a row of no connection, time-out, connection lost or HTTP 5xx",
        f"the process calls nobody for {FIRST_PAUSE_S:g} s, doubled up to {LONGEST_PAUSE_S:g} s, until one trial call "
        "is answered: who waits and the trial use no attempt",
    )
    yield (
        f"HTTP {policy.TOO_LATE_STATUS} (a key that is not known, after the time up to which a repeat is safe)",
        "dead-lettered at once as `uncertain`",
    )
    yield "other HTTP 4xx", "dead-lettered at once as `refused`"
    yield "bytes that cannot be decoded, unknown type, invalid payload, no message id", "dead-lettered at once"
    yield "same message id with another payload", "dead-lettered at once as `conflict`, with both digests"
    yield (
        "an email of `effectively_once`",
        "no connection and HTTP 429: called again later; anything else that may pass: *uncertain*, never called again",
    )


def _tiers() -> str:
    """Where a message waits after each of its attempts, as the policy itself says."""
    failure = policy.Failure("timeout", retryable=True)
    places = [policy.next_place(failure, attempts=n, draw=0) for n in range(1, policy.ATTEMPTS)]
    names = [place.tier.name for place in places if isinstance(place, policy.Later)]
    steps = [f"{names.index(tier.name) + 1} in `{tier.name}`" for tier in policy.TIERS]
    return (
        f"waits after attempt {', '.join(steps)} and there from then on, less up to {policy.JITTER:.0%} of it, never "
        "less than `Retry-After` asks"
    )


def _other_arms() -> Iterator[str]:
    """What the table of calls does not say of the arms without tiers."""
    yield ""
    yield (
        "`kafka_transactions` has neither tiers nor circuit breaker: it aborts and does the whole batch again, and a "
        f"message for which the provider was really called {policy.ATTEMPTS} times in vain is dead-lettered inside the "
        "transaction. `at_most_once` and `stock_faust` try once."
    )


def _of_stores() -> Iterator[tuple[str, ...]]:
    delays = f"{policy.FIRST_DELAY_S:g} s, doubled up to {policy.LONGEST_DELAY_S:g} s, less up to half of it"
    again = f"tried again in place after {delays}, however often"
    ended = "the process ends with an error; its records stay uncommitted and come again"
    yield "no answer in time, no connection, connection lost", again
    yield f"SQLSTATE {', '.join(policy.RETRYABLE_SQLSTATE)}…", again
    yield "a record for a tier or the dead letters that the broker does not confirm", again
    yield f"any of these for longer than {policy.GIVE_UP_AFTER_S:g} s", ended
    yield "a record for a tier or the dead letters that the broker refuses for ever", "its digest goes there instead"
    yield (
        "other SQLSTATE",
        f"{ended}; `kafka_transactions` halves its batch until it has the record, and dead-letters that as `refused`",
    )


def _failpoints() -> Iterator[tuple[str, ...]]:
    for point in FAILPOINTS.values():
        yield f"`{point.name}`", ", ".join(point.owners), point.happened, point.not_yet


def _errors() -> Iterator[tuple[str, ...]]:
    for start, meaning in ERRORS.items():
        kinds = next(
            point.errors for name, point in FAILPOINTS.items() if name.startswith(start) and point.on_error == meaning
        )
        yield f"`{start}`" if start in FAILPOINTS else f"`{start}…`", ", ".join(kinds), meaning


def _actions() -> Iterator[tuple[str, ...]]:
    yield "`kill`", "SIGKILL of the process itself"
    yield "`pause:SECONDS`, `delay:MS`", "it waits, and then goes on"
    yield "`error:KIND`", "it fails: see the next table"
    yield "`p=0..1` `nth=N` `count=N`", "the chance at each pass; the first pass that acts; how often at most"
    yield "`arm=NAME`", "only passes for this arm, or of this process, count; in the provider, calls of this account"
    yield (
        "`LAB_FAILPOINTS=NAME=ACTION; …`",
        "the same in the environment of `lab up --faults`: armed before anything starts",
    )


def _data_faults() -> Iterator[tuple[str, ...]]:
    for kind, gloss in DATA_FAULTS.items():
        yield f"`{kind}`", gloss


def _tamperings() -> Iterator[tuple[str, ...]]:
    for kind, gloss in TAMPERINGS.items():
        yield f"`{kind}`", gloss


def _parts() -> Iterator[tuple[str, ...]]:
    yield "supervisor", "starts, probes, restarts, kills and freezes the rest", f"+{SUPERVISOR_PORT}", "", ""
    for part in PARTS.values():
        ports = [f"+{port}" for port in (part.port, part.second_port) if port]
        admin = f"+{part.admin_port}" if part.admin_port else ""
        yield f"`{part.instance(0)}`", part.gloss, ", ".join(ports), admin, f"{part.memory_mb} MiB"


def _settings() -> Iterator[tuple[str, ...]]:
    defaults = zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    for name, default in defaults:
        yield f"`LAB_{name.upper()}`", f"`{default}`" if default != "" else ""


def _spans() -> Iterator[tuple[str, ...]]:
    for span in SPANS.values():
        title = span.title.replace("_", ".")
        yield f"`{span.name}`", f"`{title}`", span.kind, span.parent, ", ".join(span.links), span.description


def _events() -> Iterator[tuple[str, ...]]:
    for event in EVENTS.values():
        yield f"`{event.name}`", event.description


def main() -> None:
    """Write the page."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(reference())


if __name__ == "__main__":
    main()
