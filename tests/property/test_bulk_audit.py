"""The audit on disk against the one in memory: the same rows and the same messages, whatever happened."""

from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.auditor.bulk import Bulk
from services.auditor.history import Key, Outbox, Published, PublishLook
from services.auditor.judge import Judgement, judge_publish
from services.domain.arms import ConsumerArm
from services.domain.audit import AuditRow
from services.domain.messages import Coordinates
from tests.property.test_audit import TOPIC, Told, judged, key, processes


def total(judgements: list[Judgement[Key]]) -> tuple[AuditRow, dict[str, set[Key]]]:
    """What several judgements come to together."""
    row = AuditRow(hop=judgements[0].row.hop, arm=judgements[0].row.arm, effect=judgements[0].row.effect)
    listed: dict[str, set[Key]] = {}
    for one in judgements:
        one.settle()
        row.add(one.row)
        for state, keys in one.listed.items():
            listed.setdefault(state, set()).update(keys)
    return row, {state: keys for state, keys in listed.items() if keys}


@settings(deadline=None, max_examples=40)
@given(processes())
def test_on_disk_the_row_is_that_of_the_checkers_in_memory(told: Told) -> None:
    with TemporaryDirectory() as folder:
        bulk = Bulk(Path(folder) / "taken.duckdb")
        copies = told.published.copies
        records = [(key, at, ("record", "email")) for key in copies.keys() for at in copies[key]]  # noqa: SIM118
        bulk.take_records(records)
        bulk.take_applied("tried", "email", [key for key, many in told.applied.of.items() for _ in range(many)])
        close = {key for key, at, _ in records if at in told.holdings.letters.at or at in told.holdings.sent_on}
        bulk.set_held("tried", close | told.holdings.emails.keys(), told.holdings.committed)
        row, listed = total(bulk.judge_process(ConsumerArm("tried", "", {}), "email", told.holdings))
        bulk.close()
    expected, in_memory = total([judged(told, "email")])
    assert row == expected
    assert listed == in_memory


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.integers(1, 12), st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), max_size=12))
def test_so_it_is_on_the_hop_publish(fates: dict[int, tuple[bool, bool, int]]) -> None:
    published, offset = Published(), 0
    for number, (_, _, copies) in fates.items():
        for _ in range(copies):
            published.add(Coordinates(TOPIC, 0, offset), [("ce_id", str(UUID(int=number)).encode())])
            offset += 1
    ids = {key(number) for number, (asked, _, _) in fates.items() if asked}
    outbox = Outbox({key(number) for number, (_, waits, _) in fates.items() if waits})
    with TemporaryDirectory() as folder:
        bulk = Bulk(Path(folder) / "taken.duckdb")
        bulk.take_intents(TOPIC, sorted(ids, key=repr))
        copies_of = published.copies
        bulk.take_records([(k, at, ("record",)) for k in copies_of.keys() for at in copies_of[k]])  # noqa: SIM118
        bulk.set_held("outbox", outbox.pending, {})
        row, listed = total(bulk.judge_publish("outbox", TOPIC, outbox))
        bulk.close()
    look = PublishLook(outbox, published)
    whole = AuditRow(hop="publish", arm="outbox", effect="publication")
    expected, in_memory = total([judge_publish(whole, TOPIC, ids, (look, look), truncated=False)])
    assert row == expected
    assert listed == in_memory
