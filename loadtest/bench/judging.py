"""`python -m loadtest.bench.judging FILE MESSAGES ROUNDS`: a history on disk, and its judging, by what an audit calls.

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

from services.auditor.bulk import Bulk
from services.auditor.evidence import Case, rows_of
from services.auditor.history import Holdings, Key, Outbox, Published, PublishLook
from services.auditor.sifting import Lives, accept_cases, process_cases, publish_cases
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
_MAKE: Final = """
INSERT INTO said SELECT '{topic}', 'key-' || range, range, '' FROM range({first}, {last});
INSERT INTO said SELECT '{topic}', 'key-' || range, {many} + range, 'acknowledged' FROM range({first}, {last});
INSERT INTO intents SELECT '{topic}', id_of(range), 'key-' || range, digest_of(range) || unhex('0badcafe')
  FROM range({first}, {last}) WHERE range >= {unmade};
INSERT INTO records SELECT id_of(range), range % {partitions}, range // {partitions}, 1, false, true,
                           facts_of(range) || digest_of(range)
  FROM range({first}, {last}) WHERE range >= {unmade} + {unpublished};
INSERT INTO applied SELECT id_of(range), true, range % {partitions}, range // {partitions}, 'life', facts_of(range)
  FROM range({first}, {last}) WHERE range >= {unmade} + {unpublished} + {lost};
"""
_MORE: Final = """
INSERT INTO applied SELECT id_of(range), true, range % {partitions}, range // {partitions}, 'life', facts_of(range)
  FROM range({many} - {duplicated}, {many} + {unexpected});
"""


def make(bulk: Bulk, many: int) -> None:
    """The history, with its damage."""
    topic = _PUBLISHER.topic(ORDERS)
    for partition in range(_PARTITIONS):
        bulk.number_of(topic, partition)
    named = {"topic": topic, "many": many, "partitions": _PARTITIONS, **DAMAGE}
    bulk.database.execute(_MACROS)
    for first in range(0, many, _ALL_AT_ONCE):
        bulk.database.execute(_MAKE.format(**named, first=first, last=min(many, first + _ALL_AT_ONCE)))
    bulk.database.execute(_MORE.format(**named))


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
    cases += asyncio.run(process_cases(bulk, ARM, "record", [topic], holdings, Lives({}), again))
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
    if (found, expected) != ({name: DAMAGE[name] for name in found}, done):
        raise AssertionError(f"found {found} of {expected}, done was {DAMAGE} to {done}")


def peak_mb() -> float:
    """The most memory that was held since it was last set back, in MiB."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def main(file: Path, many: int, rounds: int) -> None:
    """Print a line a round."""
    with closing(Bulk(file)) as bulk:
        make(bulk, many)
        for _ in range(rounds):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again from here: proc(5)
            began = time.monotonic()
            rows = judge(bulk, many)
            took_s = time.monotonic() - began
            check(rows, many)
            size = sum(part.stat().st_size for part in file.parent.rglob("*") if part.is_file())
            print(json.dumps({"judge_s": took_s, "peak_mb": peak_mb(), "disk_mb": size / 2**20}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
