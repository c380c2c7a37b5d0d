"""From judgements to the document: rows of both kinds made one, and the messages behind the counts."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from uuid import UUID

import msgspec

from services.auditor.history import Key
from services.auditor.judge import LISTED_AT_MOST, Judgement
from services.domain.audit import LISTED, AuditRow, Evidence
from services.domain.messages import Coordinates

Describe = Callable[[Any], Mapping[str, Any]]  # fields of Evidence


class Case(msgspec.Struct):
    """A judgement, and what is to be said of a message of it."""

    judgement: Judgement[Any]
    describe: Describe


def name_of(key: Key) -> str | None:
    """The message id as text; None for a record that carries none."""
    if isinstance(key, Coordinates):
        return None
    return str(UUID(bytes=key)) if isinstance(key, bytes) else key


def rows_of(cases: Collection[Case]) -> list[AuditRow]:
    """One row a hop, arm and effect, in the order of the cases."""
    rows: dict[str, AuditRow] = {}
    for case in cases:
        row = case.judgement.row
        total = rows.setdefault(row.name, AuditRow(hop=row.hop, arm=row.arm, effect=row.effect))
        total.add(row)
    return list(rows.values())


def causes_of(cases: Collection[Case]) -> dict[str, dict[str, int]]:
    """By row name and cause: how many messages are dead-lettered."""
    causes: dict[str, Counter[str]] = {}
    for case in cases:
        if case.judgement.causes:
            causes.setdefault(case.judgement.row.name, Counter()).update(case.judgement.causes)
    return {name: dict(counts) for name, counts in causes.items()}


def evidence_of(cases: Collection[Case]) -> Iterator[Evidence]:
    """The listed messages, at most LISTED_AT_MOST a row and state."""
    given: Counter[tuple[str, str]] = Counter()
    for case in cases:
        row = case.judgement.row
        for state, keys in case.judgement.listed.items():
            for key in keys[: LISTED_AT_MOST - given[row.name, state]]:
                given[row.name, state] += 1
                fields = dict(case.describe(key))
                if state == "unexpected":
                    fields["reason"] = case.judgement.wrong.get(key) or fields.get("reason")
                yield Evidence(
                    hop=row.hop,
                    arm=row.arm,
                    effect=row.effect,
                    state=state,
                    applications=case.judgement.applied[key],
                    **fields,
                )


def left_out(rows: Collection[AuditRow], evidence: Collection[Evidence]) -> dict[str, int]:
    """By `row name/state`: how many messages are counted and not listed."""
    given = Counter((f"{e.hop}/{e.arm}/{e.effect}", e.state) for e in evidence)
    counts = {(row.name, state): getattr(row, state) for row in rows for state in LISTED}
    return {f"{name}/{state}": n - given[name, state] for (name, state), n in counts.items() if n > given[name, state]}


def trace_id(traceparent: str) -> str | None:
    """The trace id of a W3C `traceparent`, if it is one."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else None
