"""The table of long proofs, their results, and the page that is made of them."""

import msgspec

from loadtest.storms import page
from loadtest.storms.bench import harm, violations
from loadtest.storms.proof import Finding, Result, left, read, write
from loadtest.storms.table import PROOFS
from services.domain.arms import CONSUMER_ARMS
from services.domain.audit import AuditRow
from services.stack.parts import of_arms

HELD = Result(
    proof=PROOFS[0].name, at="2026-11-24 09:00", commit="abc", seed=1, took_s=9.0, requests=400,
    found=(Finding("lost", "0", True), Finding("doubled", "3")),
)  # fmt: skip


def test_each_proof_has_a_name_of_its_own_and_arms_that_there_are() -> None:
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)
    for proof in PROOFS:
        assert of_arms(proof.publishers, proof.consumers)


def test_every_arm_is_frozen_and_made_a_zombie() -> None:
    names = {proof.name for proof in PROOFS}
    assert {f"{what}.{arm}" for what in ("freeze", "zombie") for arm in CONSUMER_ARMS} <= names
    assert {f"freeze.{process}" for process in ("relay", "orders", "cdc", "provider")} <= names


def test_each_server_is_killed_five_times_and_both_at_once_too() -> None:
    promised = {proof.name: proof.promise for proof in PROOFS if proof.name.startswith("killed.")}
    assert promised.keys() == {"killed.broker", "killed.database", "killed.both"}
    assert all("killed 5 times" in promise for promise in promised.values())


def test_a_result_holds_when_all_that_was_promised_held() -> None:
    assert HELD.holds
    assert not msgspec.structs.replace(HELD, stopped="the lab did not come up").holds
    assert not msgspec.structs.replace(HELD, found=(*HELD.found, Finding("lost", "1", False))).holds
    assert not msgspec.structs.replace(HELD, found=(Finding("doubled", "3"),)).holds, "nothing was promised"


def test_what_has_not_held_yet_is_left(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "storms.json"
    assert left(PROOFS, read(file)) == list(PROOFS)
    write(msgspec.structs.replace(HELD, stopped="at first"), file)
    assert left(PROOFS, read(file)) == list(PROOFS)
    write(HELD, file)
    assert left(PROOFS, read(file)) == list(PROOFS[1:])
    write(msgspec.structs.replace(HELD, proof=PROOFS[1].name), file)
    assert left(PROOFS, read(file)) == list(PROOFS[2:])


def test_the_page_names_each_proof_and_what_was_seen_of_it() -> None:
    broken = msgspec.structs.replace(HELD, proof=PROOFS[1].name, found=(Finding("a | b", "1", False),))
    text = page.page({result.proof: result for result in (HELD, broken)})
    for proof in PROOFS:
        assert f"## {proof.name}\n" in text
    assert text.count("Not run yet.") == len(PROOFS) - 2
    assert "| doubled | 3 |  |" in text
    assert "| a \\| b | 1 | ✗ |" in text
    assert "**does not hold**" in text


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    assert page.FILE.read_text() == page.page(read()), "out of date: python -m loadtest.storms --page"


def test_a_count_is_a_violation_where_it_is_promised_and_damage_where_it_is_not() -> None:
    row = AuditRow(hop="process", arm="at_least_once", effect="charge", expected=9, duplicated=2, lost=1)
    assert (list(violations(row)), harm(row)) == (["1 lost"], "2 duplicated")
    control = AuditRow(hop="process", arm="stock_faust", effect="charge", lost=1, waiting=2, unexplained=1)
    assert (list(violations(control)), harm(control)) == (["1 unexplained"], "1 lost, 2 waiting")
