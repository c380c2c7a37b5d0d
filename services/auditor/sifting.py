"""Judges each hop of what was taken in: what is plain is counted, all else goes to the checkers."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from functools import partial
from typing import Any

from services.auditor.applications import Known, taken
from services.auditor.bulk import Bulk
from services.auditor.evidence import Case, Describe, name_of
from services.auditor.history import Holdings, Key, Multimap, Outbox, ProcessLook, Published, PublishLook
from services.auditor.judge import (
    Judgement,
    judge_accept,
    judge_process,
    judge_publish,
    letter_vanished,
    seem_lost,
    without_a_line,
)
from services.auditor.stores import Application
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.audit import AuditRow
from services.domain.messages import Coordinates

# What an arm holds by now, and what it did for some messages by then.
LookAgain = Callable[[Set[Key]], Awaitable[tuple[Holdings, Sequence[Application]]]]


def accept_cases(bulk: Bulk, arm: PublisherArm, topic: str, runs: Set[bytes]) -> list[Case]:
    """The hop accept of one kind; `runs`: the facts of those of which every key must be in the client ledger."""
    cases = []
    for some in bulk.accepted(topic, runs):
        row = AuditRow(hop="accept", arm=arm.name, effect="intent")
        unasked = without_a_line(some.answers, some.intents, runs)
        judgement = judge_accept(row, some.answers, some.intents, unasked)
        cases.append(_case(judgement, some.plain, partial(_of_key, some.intents.by_key)))
    return cases


def publish_cases(
    bulk: Bulk, arm: str, topic: str, topics: Collection[str], outbox: Outbox, second: PublishLook, *, truncated: bool
) -> list[Case]:  # fmt: skip
    """The hop publish of one topic of an arm that has these; `outbox`: at the first look."""
    bulk.hold([*outbox.pending, *outbox.set_aside])
    cases = []
    for some in bulk.publications(topic, topics):
        looks = PublishLook(outbox, some.published), second
        row = AuditRow(hop="publish", arm=arm, effect="publication")
        judgement = judge_publish(row, topic, some.ids, looks, truncated=truncated)
        cases.append(_case(judgement, some.plain, partial(_of_publish, looks)))
    return cases


async def process_cases(
    bulk: Bulk,
    arm: ConsumerArm,
    effect: str,
    topics: Collection[str],
    holdings: Holdings,
    lives: Mapping[str, str],
    again: LookAgain,
) -> list[Case]:
    """The hop process of one arm and effect, of the records of these topics; `lives`: whose process a life is of.

    Raises what `again` raises.
    """
    letters, emails = holdings.letters, holdings.emails if effect == "email" else {}
    bulk.hold([*letters.of, *emails], [*letters.at, *holdings.sent_on])
    others = [life for life, owner in lives.items() if owner != arm.name]
    cases = []
    for some in bulk.processed(effect, topics, others):
        published, known = some.published, Known(some.published, lives, bulk.firsts)
        first = second = ProcessLook(holdings, taken(arm, effect, known, some.found))
        suspects = seem_lost(effect, arm, published, first)
        if suspects:
            held, found = await again(suspects)
            second = ProcessLook(held, taken(arm, effect, known, found))
        row = AuditRow(hop="process", arm=arm.name, effect=effect)
        judgement = judge_process(row, arm, published, (first, second), suspects)
        cases.append(_case(judgement, some.plain, partial(_of_process, published, second.holdings, effect)))
    return cases


def _case(judgement: Judgement[Any], plain: int, describe: Describe) -> Case:
    """What is said of its messages is said now, so that nothing else of them is kept."""
    judgement.row.expected += plain
    judgement.row.applied_once += plain
    said = {key: fields for key in judgement.applied if (fields := describe(key)) != _bare(key)}
    return Case(judgement, lambda key: said.get(key) or _bare(key))


def _bare(key: Any) -> dict[str, Any]:
    """What is said of a message of which nothing else is known."""
    at = [str(key)] if isinstance(key, Coordinates) else []  # an output that names no record that we know
    return {"message_id": name_of(key), "at": at, "reason": None}


def _of_key(made: Multimap[str, bytes], key: str) -> dict[str, Any]:
    ids = [name_of(message_id) for message_id in made[key]]
    many = f"intents {', '.join(map(str, ids))}" if len(ids) > 1 else None
    return {"message_id": ids[0] if ids else None, "at": [], "key": key, "reason": many}


def _of_publish(looks: tuple[PublishLook, PublishLook], key: Key) -> dict[str, Any]:
    at = [str(copy) for look in looks for copy in look.published.copies[key]]
    return {"message_id": name_of(key), "at": at, "reason": looks[0].outbox.set_aside.get(key)}


def _of_process(published: Published, holdings: Holdings, effect: str, key: Key) -> dict[str, Any]:
    copies = published.copies[key]
    reason = holdings.letter(key, copies) or (holdings.emails.get(key) if effect == "email" else None)
    reason = reason or letter_vanished(holdings, copies) or None
    fields = _bare(key) if not copies else {"message_id": name_of(key), "at": [str(copy) for copy in copies]}
    return {**fields, "reason": reason}
