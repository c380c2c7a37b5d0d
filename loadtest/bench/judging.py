"""`python -m loadtest.bench.judging make|judge FILE MESSAGES`: a history on disk, made, or judged.

A process of its own, so that its memory is that of the work. The history: so many intents, a record each, applied by
one arm, and damage of known size. The answer of `judge` is one JSON line.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Final

from services.auditor.bulk import PARTS, Bulk, wanted
from services.auditor.history import Holdings, Outbox
from services.domain.arms import CONSUMER_ARMS
from services.domain.audit import AuditRow
from services.domain.messages import ORDERS

ARM: Final = CONSUMER_ARMS["at_least_once"]
_MEMORY_MB: Final = 512
DAMAGE: Final = {"lost": 101, "duplicated": 1_009, "unexpected": 53, "unpublished": 17}
_MAKE: Final = """
CREATE OR REPLACE TEMP MACRO id_of(n) AS (lpad(to_hex(1767225600000 + n // 200), 12, '0') || '7'
    || lpad(to_hex(n % 200), 3, '0') || '8' || substr(md5(n::VARCHAR), 1, 15))::UUID;
INSERT INTO intents SELECT id_of(range), '{topic}' FROM range({many});
INSERT INTO records SELECT id_of(range), '{topic}', range % 6, range // 6, {record}
  FROM range({many}) WHERE range >= {unpublished};
INSERT INTO applied SELECT '{arm}', 'record', id_of(range) FROM range({unpublished} + {lost}, {many});
INSERT INTO applied SELECT '{arm}', 'record', id_of(range) FROM range({many} - {duplicated}, {many});
INSERT INTO applied SELECT '{arm}', 'record', id_of(range) FROM range({many}, {many} + {unexpected});
CHECKPOINT;
"""


def make(file: Path, many: int) -> None:
    """The history, with its damage."""
    bulk = Bulk(file, memory_mb=2_048)
    topic, arm = ORDERS.topic, ARM.name
    bulk.database.execute(_MAKE.format(topic=topic, arm=arm, many=many, record=wanted("record"), **DAMAGE))
    bulk.set_held(arm, (), {(topic, part): many for part in range(6)})
    bulk.close()


def judge(file: Path, many: int) -> dict[str, float]:
    """Both hops; raises AssertionError when what was found is not what was done."""
    began = time.monotonic()
    bulk = Bulk(file, memory_mb=_MEMORY_MB)
    committed = {(ORDERS.topic, part): many for part in range(6)}
    publish, process = AuditRow(hop="", arm="", effect=""), AuditRow(hop="", arm="", effect="")
    for row, judged in (
        (publish, bulk.judge_publish("outbox", ORDERS.topic, Outbox())),
        (process, bulk.judge_process(ARM, "record", Holdings(committed))),
    ):
        for one in judged:
            one.settle()
            row.add(one.row)
    took_s = time.monotonic() - began
    bulk.close()
    found = (publish.lost, publish.expected, process.lost, process.duplicated, process.unexpected, process.unexplained)
    done = (DAMAGE["unpublished"], many, DAMAGE["lost"], DAMAGE["duplicated"], DAMAGE["unexpected"], 0)
    if found != done:
        raise AssertionError(f"found {found}, done was {done}")
    return {"judge_s": took_s, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "parts": PARTS}


if __name__ == "__main__":
    what, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "make":
        make(path, count)
    else:
        print(json.dumps(judge(path, count)))
