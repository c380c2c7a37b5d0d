"""Attempts without a span: what a life had in hand, or even did, of which no span tells. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from services.domain.messages import Coordinates
from services.story.ledgers import Row

# killed: the life ended with the record in its hand. not_sampled: it was handled, and nobody asked for spans.
# in_hand: it is at work. unknown: neither its end nor the end of its work is in the logs that are kept.
Fate = Literal["killed", "not_sampled", "in_hand", "unknown"]


class Attempt(msgspec.Struct, frozen=True):
    """What one life of a process did with the message, as far as logs and ledgers know."""

    process: str  # as in `lab status`; the arm's name where only a ledger knows of it
    life: str
    fate: Fate
    at: str  # topic/partition/offset
    effects: list[str]  # that the ledgers have of it
    time_s: float


def without_spans(
    spans: Sequence[Mapping[str, Any]], chunks: Sequence[Mapping[str, Any]], lives: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
) -> list[Attempt]:  # fmt: skip
    """The attempts of which no `process` span is there, in the order of time.

    `chunks`: log events that cover a record of the message; `lives`: beginnings and ends of processes.
    """
    sampled = any(span["name"] == "INSERT intents" for span in spans)
    told = {span["resource"]["service.instance.id"] for span in spans if span["name"].startswith("process ")}
    over, names = _over(lives), {str(event["life"]): str(event["service.name"]) for event in (*lives, *chunks)}
    received = {life: event for life, event in _first(chunks, "offset.received") if life not in told}
    applied = {life for life, _ in _first(chunks, "offset.applied")}
    did: dict[str, list[Row]] = {}
    for row in rows:
        if row.life not in told and not row.effect.startswith("letter"):
            did.setdefault(row.life, []).append(row)
    attempts = [
        Attempt(
            process=names.get(life, did[life][0].arm if life in did else ""),
            life=life,
            fate=_fate(life, applied, over, names, sampled=sampled),
            at=str(received[life]["covers"]) if life in received else str(did[life][0].at),
            effects=sorted({row.effect for row in did.get(life, [])}),
            time_s=_seconds(received[life]) if life in received else did[life][0].at_s,
        )
        for life in dict.fromkeys((*received, *did))
    ]
    return sorted(attempts, key=lambda attempt: attempt.time_s)


def _fate(
    life: str, applied: Collection[str], over: Collection[str], names: Mapping[str, str], *, sampled: bool
) -> Fate:  # fmt: skip
    """A sampled message that was applied had its span, unless the life ended before it was made or sent."""
    if life in applied and not sampled:
        return "not_sampled"
    if life in over:
        return "killed"
    return "in_hand" if life in names and life not in applied else "unknown"


def _over(lives: Iterable[Mapping[str, Any]]) -> set[str]:
    """Lives that ended: another one of the same process began after them, or they were asked to end."""
    current: dict[str, str] = {}
    over = set()
    for event in lives:
        name, life = str(event["service.name"]), str(event["life"])
        if event["event"] == "process.stopping":
            over.add(life)
        elif (before := current.get(name)) is not None and before != life:
            over.add(before)
        current[name] = life
    return over


def _first(events: Iterable[Mapping[str, Any]], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen = set()
    for event in events:
        if event["event"] == name and event["life"] not in seen:
            seen.add(event["life"])
            yield str(event["life"]), event


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(event["time"])).timestamp()


def places_of(
    spans: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]], rows: Iterable[Row]
) -> list[Coordinates]:
    """Every place where a record of the message was seen to lie."""
    texts = [str(event["at"]) for event in events if event.get("at")]
    found = {row.at for row in rows}
    for span in spans:
        attributes = span["attributes"]
        if "messaging.kafka.offset" in attributes:
            partition = int(attributes["messaging.destination.partition.id"])
            topic = attributes["messaging.destination.name"]
            found.add(Coordinates(topic, partition, attributes["messaging.kafka.offset"]))
        if attributes.get("delivery.origin"):
            texts.append(str(attributes["delivery.origin"]))
    for text in texts:
        place = text.rsplit("/", 2)
        found.add(Coordinates(place[0], int(place[1]), int(place[2])))
    return sorted(found)
