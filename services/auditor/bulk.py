"""Ten million messages: what was taken in lies in a DuckDB file, and SQL puts aside all that is plain.

A message is plain on a hop when one record of it was published, one application done, the group is past it and nothing
holds it. Those are counted by SQL, in parts by the hash of the id, so that no part's join outgrows the memory. All
others go, some thousands at a time, to the same checkers that judge everything else: what they mean is said once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import duckdb

from services.auditor.history import Applied, Holdings, Key, Outbox, ProcessLook, Published, PublishLook
from services.auditor.judge import Judgement, judge_process, judge_publish, seem_lost
from services.domain.arms import ConsumerArm
from services.domain.audit import AuditRow
from services.domain.effects import EFFECTS
from services.domain.messages import Coordinates

PARTS: Final = 16
_AT_ONCE: Final = 20_000  # messages that are not plain, judged together
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS intents (id UUID, topic VARCHAR);
CREATE TABLE IF NOT EXISTS records (id UUID, topic VARCHAR, part UINTEGER, place UBIGINT, wants UTINYINT);
CREATE TABLE IF NOT EXISTS applied (arm VARCHAR, effect VARCHAR, id UUID);
CREATE TABLE IF NOT EXISTS held (arm VARCHAR, id UUID);
CREATE TABLE IF NOT EXISTS committed (arm VARCHAR, topic VARCHAR, part UINTEGER, upto UBIGINT);
"""
_PUBLISH: Final = """
CREATE OR REPLACE TEMP TABLE found AS
SELECT coalesce(i.id, r.id) AS id, i.id IS NOT NULL AS asked, coalesce(r.copies, 0) AS done,
       h.id IS NULL AND coalesce(r.copies, 0) = 1 AS plain
  FROM (SELECT id FROM intents WHERE topic = $topic AND hash(id) % {parts} = {part}) i
  FULL JOIN (SELECT id, count(*) AS copies FROM records WHERE topic = $topic AND hash(id) % {parts} = {part}
              GROUP BY id) r ON r.id = i.id
  LEFT JOIN (SELECT DISTINCT id FROM held WHERE arm = $arm) h ON h.id = coalesce(i.id, r.id)
"""
_PROCESS: Final = """
CREATE OR REPLACE TEMP TABLE found AS
SELECT coalesce(r.id, a.id) AS id, r.id IS NOT NULL AS asked, coalesce(a.many, 0) AS done,
       h.id IS NULL AND coalesce(r.copies, 0) = 1 AND r.passed AND coalesce(a.many, 0) = 1 AS plain
  FROM (SELECT id, count(*) AS copies, bool_and(place < coalesce(c.upto, 0)) AS passed
          FROM records LEFT JOIN (FROM committed WHERE arm = $arm) c USING (topic, part)
         WHERE hash(id) % {parts} = {part} AND (wants & $wanted) > 0 GROUP BY id) r
  FULL JOIN (SELECT id, count(*) AS many FROM applied
              WHERE arm = $arm AND effect = $effect AND hash(id) % {parts} = {part} GROUP BY id) a ON a.id = r.id
  LEFT JOIN (SELECT DISTINCT id FROM held WHERE arm = $arm) h ON h.id = coalesce(r.id, a.id)
"""


class Bulk:
    """A DuckDB file with what was taken in. One process has it open at a time."""

    def __init__(self, file: Path, *, memory_mb: int = 512, threads: int = 2) -> None:
        self.database: Any = duckdb.connect(str(file))
        self.database.execute(f"SET memory_limit = '{memory_mb}MB'; SET threads = {threads}")
        self.database.execute(f"SET temp_directory = '{file}.tmp'; SET preserve_insertion_order = false")
        self.database.execute(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def take_intents(self, topic: str, ids: Sequence[Key]) -> None:
        """Intents whose records belong on the topic."""
        self._insert("intents", [_uuids(ids), [topic] * len(ids)])

    def take_records(self, records: Sequence[tuple[Key, Coordinates, Iterable[str]]]) -> None:
        """Records of the topics, and which effects each wants."""
        columns: list[list[Any]] = [
            _uuids(key for key, _, _ in records),
            [at.topic for _, at, _ in records],
            [at.partition for _, at, _ in records],
            [at.offset for _, at, _ in records],
            [sum(wanted(effect) for effect in effects) for _, _, effects in records],
        ]
        self._insert("records", columns)

    def take_applied(self, arm: str, effect: str, ids: Sequence[Key]) -> None:
        """Applications of an effect, an id each."""
        self._insert("applied", [[arm] * len(ids), [effect] * len(ids), _uuids(ids)])

    def set_held(self, arm: str, ids: Iterable[Key], committed: Mapping[tuple[str, int], int]) -> None:
        """Where the arm's group stands; and the messages that something holds or that are to be looked at closely."""
        self.database.execute("DELETE FROM held WHERE arm = $1; ", [arm])
        self.database.execute("DELETE FROM committed WHERE arm = $1", [arm])
        keys = _uuids(ids)
        self._insert("held", [[arm] * len(keys), keys])
        rows = [(arm, topic, part, upto) for (topic, part), upto in committed.items()]
        if rows:
            self.database.executemany("INSERT INTO committed VALUES (?, ?, ?, ?)", rows)

    def judge_publish(self, arm: str, topic: str, outbox: Outbox) -> list[Judgement[Key]]:
        """The hop publish of one topic: what is plain as one judgement, the rest as several. Add up their rows."""
        plain = AuditRow(hop="publish", arm=arm, effect="publication")
        rest: list[Judgement[Key]] = []
        for part in range(PARTS):
            self._find(_PUBLISH, part, {"topic": topic, "arm": arm})
            self._count_plain(plain)
            for found in self._others():
                published = self._published(found)
                ids = {key for key, (asked, _) in found.items() if asked}
                look = PublishLook(outbox, published)
                row = AuditRow(hop="publish", arm=arm, effect="publication")
                rest.append(judge_publish(row, topic, ids, (look, look), truncated=False))
        return [_alone(plain), *rest]

    def judge_process(self, arm: ConsumerArm, effect: str, holdings: Holdings) -> list[Judgement[Key]]:
        """The hop process of one arm and effect, as above."""
        plain = AuditRow(hop="process", arm=arm.name, effect=effect)
        rest: list[Judgement[Key]] = []
        for part in range(PARTS):
            self._find(_PROCESS, part, {"arm": arm.name, "effect": effect, "wanted": wanted(effect)})
            self._count_plain(plain)
            for found in self._others():
                published = self._published(found)
                look = ProcessLook(holdings, Applied({key: done for key, (_, done) in found.items() if done}))
                suspects = seem_lost(effect, arm, published, look)
                row = AuditRow(hop="process", arm=arm.name, effect=effect)
                rest.append(judge_process(row, arm, published, (look, look), suspects))
        return [_alone(plain), *rest]

    def _find(self, query: str, part: int, parameters: dict[str, Any]) -> None:
        self.database.execute(query.format(parts=PARTS, part=part), parameters)

    def _count_plain(self, row: AuditRow) -> None:
        (many,) = self.database.execute("SELECT count(*) FROM found WHERE plain AND asked").fetchone()
        row.expected += many
        row.applied_once += many

    def _others(self) -> Iterator[dict[Key, tuple[bool, int]]]:
        """What is not plain, some at a time: whether it is asked for, and how often it was done."""
        rows = self.database.execute("SELECT id, asked, done FROM found WHERE NOT (plain AND asked)").fetchall()
        for first in range(0, len(rows), _AT_ONCE):
            yield {row[0].bytes: (row[1], row[2]) for row in rows[first : first + _AT_ONCE]}

    def _published(self, found: Mapping[Key, Any]) -> Published:
        """The records of these messages."""
        published = Published()
        rows = self.database.execute(
            "SELECT r.id, r.topic, r.part, r.place, r.wants FROM records r "
            "SEMI JOIN (SELECT unnest($1::UUID[]) AS id) w ON w.id = r.id ORDER BY ALL",
            [_uuids(found)],
        )
        for message_id, topic, part, place, wants in rows.fetchall():
            effects = ",".join(effect for effect in EFFECTS if wants & wanted(effect))
            headers = [("ce_id", str(message_id).encode()), ("lab-effects", effects.encode())]
            published.add(Coordinates(topic, part, place), headers)
        return published

    def _insert(self, table: str, columns: Sequence[Sequence[Any]]) -> None:
        if columns[0]:
            places = ", ".join(f"unnest(${number})" for number in range(1, len(columns) + 1))
            self.database.execute(f"INSERT INTO {table} SELECT {places}", list(columns))  # our own names


def wanted(effect: str) -> int:
    """An effect's bit; an output is every record's."""
    return 1 << EFFECTS.index(effect) if effect in EFFECTS else 1


def _uuids(keys: Iterable[Key]) -> list[UUID]:
    return [UUID(bytes=key) for key in keys if isinstance(key, bytes)]


def _alone(row: AuditRow) -> Judgement[Key]:
    return Judgement(row, {}, set(), {}, Counter())
