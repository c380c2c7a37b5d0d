"""What can be said of a run while it lasts, arm by arm: how far behind, what was doubled, what is lost so far.

Losses are the auditor's word, from its metrics, where there is one in the lab: a second look a grace later, and it may
take one back. Everything else is counted in the arms' own tables.
"""

import asyncio
import re
import threading
import time
import urllib.request
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, ConsumerArm, PublisherArm
from services.settings import Settings
from services.stack.home import Home
from services.stack.parts import PARTS
from services.storage.postgres import AWAY, connect

EVERY_S: Final = 3.0
_SHARE: Final = 0.05  # of the time at most that is spent on looking
_ACCEPTED: Final = "SELECT count(*) FROM intents WHERE run = $1"
_APPLIED: Final = (
    "SELECT count(*) AS many, count(DISTINCT message_id) AS once, count(DISTINCT {unit}) AS units "
    "FROM {schema}.records WHERE run = $1 AND status = 'applied'"
)
_UNITS: Final = {True: '(topic, partition, "offset")', False: "message_id"}  # whether an arm promises per record
_METRIC: Final = re.compile(r"^delivery_audit_messages\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


class ArmNow(msgspec.Struct, frozen=True):
    """One arm. `lost` is None where nobody audits."""

    name: str
    behind: int
    doubled: int
    lost: int | None = None


class Watch:
    """Looks beside the run, in a thread of its own, and never disturbs it: what does not answer is not shown."""

    def __init__(
        self, home: Home, settings: Settings, run: str, publisher: PublisherArm, arms: Collection[ConsumerArm]
    ) -> None:
        self.now: list[ArmNow] = []
        self._settings, self._run, self._publisher = settings, run, publisher
        self._arms = [arm for arm in arms if arm.name in CONSUMER_ARMS]
        auditor = PARTS.get("auditor")
        self._metrics = f"{home.admin_url(auditor)}/metrics" if auditor else ""
        self._lost_before = self._lost()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="live", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()

    def _look(self) -> None:
        pause_s = EVERY_S
        while not self._over.wait(pause_s):
            begun = time.monotonic()
            try:
                self.now = asyncio.run(self._count())
            except AWAY:
                continue  # a fault of this run's own, most likely
            pause_s = max(EVERY_S, (time.monotonic() - begun) / _SHARE)

    async def _count(self) -> list[ArmNow]:
        accepted = 0
        for kind in self._publisher.kinds:
            row = await self._one(self._publisher.database(kind), _ACCEPTED)
            accepted += row["count"]
        lost = self._lost()
        found = []
        for arm in self._arms:
            row = await self._one("payments", _APPLIED.format(schema=arm.schema, unit=_UNITS[arm.per_record]))
            gone = max(0, lost[arm.name] - self._lost_before.get(arm.name, 0)) if arm.name in lost else None
            behind = max(0, accepted - row["once"] - (gone or 0))
            found.append(ArmNow(arm.name, behind, row["many"] - row["units"], gone))
        return found

    async def _one(self, database: str, query: str) -> Any:
        connection = await connect(self._settings.postgres, database, name="live")
        try:
            return await connection.fetchrow(query, self._run, timeout=5)
        finally:
            await connection.close(timeout=1)

    def _lost(self) -> dict[str, int]:
        """By arm, over all runs; nothing where nobody audits."""
        try:
            with urllib.request.urlopen(self._metrics, timeout=1) as answer:  # noqa: S310  # our own auditor
                text = answer.read().decode()
        except (OSError, ValueError):
            return {}
        return lost_now(text)


def lost_now(text: str) -> dict[str, int]:
    """By arm, from the auditor's metrics: messages of which an effect is lost by its last pass (of the effects the most
    often lost one)."""
    found: dict[str, int] = {}
    for labels, value in _METRIC.findall(text):
        named = dict(_LABEL.findall(labels))
        if (named.get("hop"), named.get("state")) == ("process", "lost"):
            found[named["arm"]] = max(found.get(named["arm"], 0), int(float(value)))
    return found


def words(arms: Collection[ArmNow]) -> str:
    """One line: who is behind, who has doubled and who has lost so far."""
    return " · ".join(text for text in _words(arms) if text)


def _words(arms: Collection[ArmNow]) -> Iterator[str]:
    for what in ("behind", "doubled", "lost"):
        shown = [f"{arm.name} {count}" for arm in arms if (count := getattr(arm, what))]
        yield f"{what}: {', '.join(shown)}" if shown else ""
