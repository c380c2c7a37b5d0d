"""`python -m loadtest.bench.judging FOLDER MESSAGES ROUNDS`: a history, and its judging, by what an audit calls.

A process of its own, so that its memory is that of the work. The history: so many keys called and answered, an intent
and a record each, applied by one arm, and damage of known size. Each round is one JSON line.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Final

from services.auditor.bulk import PART, Bulk
from services.auditor.evidence import Case, rows_of
from services.auditor.history import Holdings, Key, Outbox, Published, PublishLook
from services.auditor.sifting import accept_cases, process_cases, publish_cases
from services.auditor.stores import Application
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.audit import AuditRow
from services.domain.messages import ORDERS

ARM: Final = CONSUMER_ARMS["at_least_once"]
_PUBLISHER: Final = PUBLISHER_ARMS[DEFAULT_PUBLISHER]
_PARTITIONS: Final = 6
_ALL_AT_ONCE: Final = 1_000_000  # messages made by one statement
DAMAGE: Final = {"lost": 101, "duplicated": 1_009, "unexpected": 53, "unpublished": 17, "unmade": 7}
_MACROS: Final = """
CREATE OR REPLACE TEMP MACRO id_of(n) AS (lpad(to_hex(1767225600000 + n // 200), 12, '0') || '7'
    || lpad(to_hex(n % 200), 3, '0') || '8' || substr(md5(n::VARCHAR), 1, 15))::UUID;
CREATE OR REPLACE TEMP MACRO digest_of(n) AS unhex(substr(md5(n::VARCHAR), 1, 16));
CREATE OR REPLACE TEMP MACRO facts_of(n) AS unhex(md5(n::VARCHAR) || substr(md5(n::VARCHAR), 1, 8) || '0badcafe');
"""
# Some messages at a time, then each part takes its own. It goes by another hash than an audit does: to SQL it is one,
# and the second look, which asks for single messages, finds none of those that are lost in any part.
_SOME: Final = """
CREATE OR REPLACE TEMP TABLE made AS
SELECT range AS n, id_of(range) AS id, 'key-' || range AS name, facts_of(range) AS facts, digest_of(range) AS digest,
       range % {partitions} AS log, range // {partitions} AS place, hash(id_of(range)) % {parts}::UBIGINT AS part,
       hash('key-' || range) % {parts}::UBIGINT AS name_part
  FROM range({first}, {last});
"""
_MAKE: Final = """
INSERT INTO said_{part} SELECT '{topic}', name, n, '' FROM made WHERE n < {many} AND name_part = {part};
INSERT INTO said_{part} SELECT '{topic}', name, {many} + n, 'acknowledged'
  FROM made WHERE n < {many} AND name_part = {part};
INSERT INTO keys_{part} SELECT '{topic}', name, id, digest || unhex('0badcafe')
  FROM made WHERE n >= {unmade} AND n < {many} AND name_part = {part};
INSERT INTO intents_{part} SELECT '{topic}', id, digest || unhex('0badcafe')
  FROM made WHERE n >= {unmade} AND n < {many} AND part = {part};
INSERT INTO records_{part} SELECT id, log, place, 1, false, true, facts || digest
  FROM made WHERE n >= {unmade} + {unpublished} AND n < {many} AND part = {part};
INSERT INTO applied_{part} SELECT id, true, log, place, 'life', facts
  FROM made WHERE n >= {unmade} + {unpublished} + {lost} AND part = {part};
INSERT INTO applied_{part} SELECT id, true, log, place, 'life', facts
  FROM made WHERE n >= {many} - {duplicated} AND n < {many} AND part = {part};
"""


def make(bulk: Bulk, many: int) -> None:
    """The history, with its damage."""
    topic = _PUBLISHER.topic(ORDERS)
    for partition in range(_PARTITIONS):
        bulk.number_of(topic, partition)
    named = {"topic": topic, "many": many, "partitions": _PARTITIONS, "parts": len(bulk.parts), **DAMAGE}
    bulk.database.execute(_MACROS)
    end = many + DAMAGE["unexpected"]
    for first in range(0, end, _ALL_AT_ONCE):
        bulk.database.execute(_SOME.format(**named, first=first, last=min(end, first + _ALL_AT_ONCE)))
        for part in bulk.parts:
            bulk.database.execute(_MAKE.format(**named, part=part))


def judge(bulk: Bulk, many: int) -> list[AuditRow]:
    """All hops."""
    topic = _PUBLISHER.topic(ORDERS)
    holdings = Holdings({(topic, partition): many for partition in range(_PARTITIONS)})

    async def again(messages: Set[Key]) -> tuple[Holdings, Sequence[Application]]:
        return holdings, bulk.applications(messages)

    second = PublishLook(Outbox(), Published())
    cases: list[Case] = accept_cases(bulk, _PUBLISHER, topic, set())
    cases += publish_cases(bulk, _PUBLISHER.name, topic, [topic], Outbox(), second, truncated=False)
    bulk.set_committed(holdings.committed, {})
    cases += asyncio.run(process_cases(bulk, ARM, "record", [topic], holdings, {}, again))
    for case in cases:
        case.judgement.settle()
    return rows_of(cases)


def check(rows: list[AuditRow], many: int) -> None:
    """Raises AssertionError when what was found is not what was done."""
    accept, publish, process = rows
    found = {
        "unmade": accept.lost, "unpublished": publish.lost, "lost": process.lost, "duplicated": process.duplicated,
        "unexpected": process.unexpected,
    }  # fmt: skip
    expected = [row.expected + row.unexplained for row in rows]
    done = [many, many - DAMAGE["unmade"], many - DAMAGE["unmade"] - DAMAGE["unpublished"]]
    once = [row.applied_once for row in rows]
    whole = [
        done[0] - DAMAGE["unmade"],
        done[1] - DAMAGE["unpublished"],
        done[2] - DAMAGE["lost"] - DAMAGE["duplicated"],
    ]
    others = accept.unexpected + publish.unexpected
    if (found, expected, once, others) != ({name: DAMAGE[name] for name in found}, done, whole, 0):
        raise AssertionError(f"found {found} and {once} of {expected}, done was {DAMAGE} to {done}")


def peak_mb() -> float:
    """The most memory that was held since it was last set back, in MiB."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def main(folder: Path, many: int, rounds: int) -> None:
    """Print a line a round."""
    with closing(Bulk(folder, parts=1 + many // PART)) as bulk:
        make(bulk, many)
        for _ in range(rounds):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again from here: proc(5)
            began = time.monotonic()
            rows = judge(bulk, many)
            took_s = time.monotonic() - began
            check(rows, many)
            size = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file())
            print(json.dumps({"judge_s": took_s, "peak_mb": peak_mb(), "disk_mb": size / 2**20}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
