"""One line that says why a message was lost, doubled or made up, from what was written down. Pure.

Each sentence says what was seen and when, and where nothing was seen it says so: a guess is not an explanation.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from services.auditor.journal import Commit, Ending, Journal, Said, part_of
from services.auditor.stores import Seen
from services.domain.messages import Coordinates

_LANE_S: Final = 60.0  # a call, its time-out and the tiers that it may pass, longer than any single effect takes


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one bad message on one hop."""

    effect: str
    state: str
    message_id: str | None
    parts: Sequence[str]  # whose processes do this hop: arm.X and retry.X, or the publisher's
    made: float | None  # when its intent was committed, or its id was made
    copies: Sequence[Coordinates] = ()
    seen: Sequence[Seen] = ()  # in the order of time
    reason: str = ""  # what the checkers said
    claimed: tuple[float, str] | None = None  # an email: when, and by which life


def clock(at: float) -> str:
    """A time as the logs and pages show it."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3]


def why(hop: str, case: Case, journal: Journal) -> str:
    """Why the message is in its state. Empty: nothing that was written down says it."""
    tell = _TELL.get((hop, case.state), _others)
    return tell(case, journal)


def _process_lost(case: Case, journal: Journal) -> str:
    if case.reason:
        return case.reason
    if dropped := _event(case, journal, "effect.dropped"):
        failed, detail = dropped.fields.get("effect"), dropped.fields.get("detail", "")
        return f"{failed} failed at {clock(dropped.at)}, its offset was committed before, nothing tries again: {detail}"
    for at in reversed(case.copies):
        if found := next((c for part in case.parts if (c := journal.passed(part, at))), None):
            if began := journal.skipped(found, at):
                return _passed_by_the_dead(at, found, began, journal)
            end = journal.ending(found.process, found.at, found.at + _LANE_S)
            passed = f"offset {at.offset} committed at {clock(found.at)}"
            return f"{passed}, {found.process} {_after(end, found.at)}, no effect" if end else f"{passed}, no effect"
    if first := _first_ending(case, journal):
        process, ending = first
        since = f" {ending.at - case.made:+.1f} s after it was accepted" if case.made else ""
        return f"its group's offset is above it, {process} {ending.what} at {clock(ending.at)}{since}, no effect"
    return ""


def _passed_by_the_dead(at: Coordinates, found: Commit, began: tuple[int, float], journal: Journal) -> str:
    """The commit was confirmed, and its process did not live to write that down."""
    offset, since = began
    stood = f"the group stood at {offset}, above offset {at.offset}, when {found.process} began at {clock(since)}"
    if end := journal.last_ending(part_of(found.process), since):
        process, ending = end
        return f"{stood}: {process} had committed it, {ending.what} at {clock(ending.at)}, no effect"
    return f"{stood}, no effect"


def _process_duplicated(case: Case, journal: Journal) -> str:
    times = sorted(case.seen)
    if len(times) < 2:
        return ""
    first, second = times[0], times[1]
    process = journal.processes.get(first.life, "")
    again = f"again at {clock(second.at)}"
    if first.where != second.where:
        return f"applied for {first.where} at {clock(first.at)}, {again} for {second.where}: two records of one id"
    if deferred := _event(case, journal, "message.deferred", first.at - _LANE_S, second.at + 0.5):
        what = f"{deferred.fields.get('reason')}: {deferred.fields.get('detail', '')}".rstrip(": ")
        return f"applied at {clock(first.at)}, then tried again as a whole ({what[:80]}), {again}"
    if process and (end := journal.ending(process, first.at, second.at)):
        return f"applied at {clock(first.at)}, {process} {_after(end, first.at)} before the offset's commit, {again}"
    if fault := _struck(case, journal, first.at, second.at):
        return f"applied at {clock(first.at)}, its offset not committed ({fault}), {again}"
    other = "another process" if second.life != first.life else "the same process"
    return f"applied at {clock(first.at)}, and delivered to {other} {again}" if process else ""


def _process_unexpected(case: Case, _: Journal) -> str:
    if case.reason:
        return case.reason
    seen = f" at {clock(case.seen[0].at)} for {case.seen[0].where}" if case.seen else ""
    return f"applied{seen}, but no record on the topics asks for it"


def _uncertain(case: Case, journal: Journal) -> str:
    if case.claimed is None:
        return ""
    at, life = case.claimed
    process = journal.processes.get(life, "its sender")
    end = journal.ending(process, at)
    what = _after(end, at) if end else "got no answer that says it"
    return f"claimed at {clock(at)}, {process} {what}: nobody knows whether it was sent"


def _publish_lost(case: Case, journal: Journal) -> str:
    at = f"committed at {clock(case.made)}" if case.made else "committed"
    if case.reason:
        return f"{at}, {case.reason}"
    if case.made and (end := _first_ending(case, journal, case.made + _LANE_S)):
        process, ending = end
        return f"{at}, {process} {_after(ending, case.made)} before it was published, in no outbox and on no topic"
    return f"{at}, in no outbox and on no topic: its outbox row is gone"


def _publish_duplicated(case: Case, journal: Journal) -> str:
    times = sorted(case.seen)
    if len(times) < 2:
        return ""
    first, second = times[0], times[1]
    twice = f"published at {clock(first.at)} and at {clock(second.at)}"
    for process in journal.processes_of(case.parts):
        if end := journal.ending(process, first.at, second.at + 0.5):
            return f"{twice}: {process} {_after(end, first.at)} before its row was removed"
    fault = _struck(case, journal, first.at, second.at)
    return f"{twice} ({fault})" if fault else f"{twice}, the removal of its row was not confirmed between"


def _publish_unexpected(case: Case, journal: Journal) -> str:
    if case.reason:
        return case.reason
    at = case.seen[0].at if case.seen else case.made
    if at is None:
        return "on the topic, and no intent has this id"
    if end := _first_ending(case, journal, at + _LANE_S):
        process, ending = end
        return f"published at {clock(at)}, {process} {_after(ending, at)} before its commit: there is no intent"
    return f"published at {clock(at)}, its transaction did not commit: no intent has this id"


def _others(case: Case, _: Journal) -> str:
    return case.reason


def _after(end: Ending, at: float) -> str:
    return f"{end.what} at t{end.at - at:+.2f} s"


def _event(
    case: Case, journal: Journal, name: str, first: float = 0.0, last: float = float("inf")
) -> Said | None:  # fmt: skip
    lines = (line for part in case.parts for line in journal.about(case.message_id, part))
    return next((line for line in lines if line.event == name and first <= line.at <= last), None)


def _first_ending(case: Case, journal: Journal, before: float = float("inf")) -> tuple[str, Ending] | None:
    """The first end of one of the processes after the message was made."""
    if case.made is None:
        return None
    ends = [
        (end, process)
        for process in journal.processes_of(case.parts)
        if (end := journal.ending_after(process, case.made, before))
    ]
    return (min(ends)[1], min(ends)[0]) if ends else None


def _struck(case: Case, journal: Journal, first: float, last: float) -> str:
    """What struck the parts, or the servers that they need, in this time."""
    needed = {*case.parts, "kafka", "postgres", "provider"}
    struck = [f for f in journal.overlapping(first, last) if part_of(f.target) in needed or _misbehaves(f.target)]
    return f"{struck[0].fault} of {struck[0].target} at {clock(struck[0].started)}" if struck else ""


def _misbehaves(target: str) -> bool:
    return target.startswith("provider.")  # a failpoint of the third party: armed, it answers wrongly


_TELL: Final = {
    ("process", "lost"): _process_lost,
    ("process", "duplicated"): _process_duplicated,
    ("process", "unexpected"): _process_unexpected,
    ("process", "uncertain"): _uncertain,
    ("publish", "lost"): _publish_lost,
    ("publish", "duplicated"): _publish_duplicated,
    ("publish", "unexpected"): _publish_unexpected,
}
