"""What the auditor has found, kept in the database `auditor`: evidence for people, counters for alerts.

The counters are sums over rows that are never removed, so they only rise, over restarts, too.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from services.auditor.evidence import name_of
from services.auditor.history import Key, key_of
from services.auditor.judge import LISTED_AT_MOST
from services.auditor.live import Found
from services.auditor.stores import Connections
from services.domain.audit import COUNTS, AuditDocument, AuditRow, Evidence, Window
from services.domain.messages import Coordinates
from services.domain.verdict import promises_of
from services.settings import Settings
from services.storage.postgres import statements

_SQL: Final = statements(Path(__file__).parent / "findings.sql")
_TOLD_AT_ONCE: Final = 50
RowName = tuple[str, str, str]  # hop, arm, effect


class Totals(msgspec.Struct, frozen=True):
    """How many messages (of duplicated ones: extra applications) were ever found, and taken back."""

    found: dict[tuple[RowName, str], int]  # by row and state
    taken_back: dict[tuple[str, str], int]  # by hop and arm


class Findings:
    """The database `auditor`. All methods raise Unreachable.

    `arms`: those that are audited. A lab may run with others than before: what was found of those stands as it is.
    """

    def __init__(self, settings: Settings, arms: Iterable[str]) -> None:
        self._server, self._connections, self._arms = settings.ledger, Connections(), list(arms)

    async def totals(self) -> Totals:
        """What the counters stand at."""
        found, taken_back = dict[tuple[RowName, str], int](), dict[tuple[str, str], int]()
        for hop, arm, effect, state, many, back in await self._fetch("totals"):
            found[(hop, arm, effect), state] = many
            if state == "lost":
                taken_back[hop, arm] = taken_back.get((hop, arm), 0) + back
        return Totals(found, taken_back)

    async def write(self, found: Sequence[Found]) -> None:
        """Take in what a pass has found, and what it has taken back."""
        new = [one for one in found if one.many]
        if new:
            columns = list(zip(*(one.row.split("/") for one in new), strict=True))
            names, many = [text_of(one.key) for one in new], [one.many for one in new]
            await self._fetch("found", *map(list, columns), [one.state for one in new], names, many)
        gone = [one for one in found if not one.many]
        if gone:
            columns = list(zip(*(one.row.split("/") for one in gone), strict=True))
            await self._fetch("gone", *map(list, columns), [o.state for o in gone], [text_of(o.key) for o in gone])

    async def reconcile(self, standing: Sequence[Found]) -> None:
        """Take back all that was lost or unexpected and is not among these: found by a life or a reading before."""
        places = [(*one.row.split("/"), one.state, text_of(one.key)) for one in standing]
        columns = list(map(list, zip(*places, strict=True))) if places else [[] for _ in range(5)]
        await self._fetch("reconcile", *columns, self._arms)

    async def write_rows(self, at: datetime, rows: Collection[AuditRow]) -> None:
        """What the last pass counted."""
        names = [[row.hop for row in rows], [row.arm for row in rows], [row.effect for row in rows]]
        counts = [[getattr(row, count) for row in rows] for count in COUNTS]
        await self._fetch("write_rows", at, *names, *counts)

    async def write_promises(self, rows: Iterable[AuditRow]) -> None:
        """What is promised of each row."""
        promised = [(r.hop, r.arm, r.effect, promise) for r in rows for promise in sorted(promises_of(r))]
        if promised:
            await self._fetch("write_promises", *map(list, zip(*promised, strict=True)))

    async def untold(self) -> list[Evidence]:
        """Some of the findings that nobody has looked into yet, the newest first."""
        return [
            Evidence(
                hop=hop, arm=arm, effect=effect, state=state, at=[], applications=many + (state == "duplicated"),
                message_id=message if isinstance(key_of(message), bytes) else None,
                key=message if hop == "accept" else None,
            )
            for hop, arm, effect, state, message, many in await self._fetch("untold", _TOLD_AT_ONCE, self._arms)
        ]  # fmt: skip

    async def standing(self) -> list[Evidence]:
        """What is bad by now, the newest first; as many as an audit lists of one state."""
        return [
            Evidence(
                hop=hop, arm=arm, effect=effect, state=state, at=list(at), applications=many + (state == "duplicated"),
                message_id=message if hop != "accept" and isinstance(key_of(message), bytes) else None,
                key=message if hop == "accept" else None, trace_id=trace_id, last_seen=last_seen, attempts=attempts,
                faults=msgspec.json.decode(faults, type=list[Window]), why=why or None,
            )
            for hop, arm, effect, state, message, many, at, trace_id, last_seen, attempts, faults, why in (
                await self._fetch("standing", LISTED_AT_MOST)
            )
        ]  # fmt: skip

    async def tell(self, told: Sequence[Evidence]) -> None:
        """Complete findings by what was found out about them."""
        for item in told:
            faults = msgspec.json.encode(item.faults).decode()
            await self._fetch(
                "tell", item.hop, item.arm, item.effect, item.state, item.message_id or item.key or "",
                item.trace_id, item.at, item.last_seen, item.attempts, faults, item.why or "",
            )  # fmt: skip

    async def keep(self, document: AuditDocument) -> None:
        """Keep a final audit."""
        text = msgspec.json.encode(document).decode()
        await self._fetch("keep", document.at, document.run, document.closes, text)

    async def close(self) -> None:
        """Let go of the database."""
        await self._connections.close()

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        return await self._connections.fetch(self._server, "auditor", _SQL[statement], *arguments)


def text_of(key: Key) -> str:
    """A message as people name it."""
    return str(key) if isinstance(key, Coordinates) else name_of(key) or ""


def now() -> datetime:
    """The time that rows are written under."""
    return datetime.now(UTC)
