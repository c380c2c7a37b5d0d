"""The verdict on a terminal: the answer first, on one screen."""

import pytest
from rich.console import Console

from lab import verdicts
from tests.unit.test_report import played, row

ARMS = ("at_least_once", "effectively_once", "at_most_once", "kafka_transactions")


def test_the_verdict_is_first_then_the_table_damage_and_in_one_line_what_held(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(width=100, no_color=True)
    monkeypatch.setattr(verdicts, "out", out)
    with out.capture() as capture:
        verdicts.show(played(*(row(arm) for arm in ARMS), row("stock_faust", None, lost=2)))
    lines = capture.get().strip().splitlines()
    assert lines[0].startswith("PASS  ")
    assert [line.split()[1] for line in lines[2:7]] == [*ARMS, "stock_faust"]
    assert lines[7:9] == [
        "stock_faust LOST 2 charges, as expected: it commits what nobody has acknowledged",
        f"as promised (✓): {', '.join(ARMS)}",
    ]
    assert lines[9].startswith("by what each was put to the test: ")
    assert len(lines) == 10


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_who_kept_one_promise_of_two_is_not_among_those_that_kept_them(
    verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Console(width=100, no_color=True)
    monkeypatch.setattr(verdicts, "out", out)
    lost = int(verdict == "FAIL")
    rows = (
        row("outbox", hop="accept", effect="intent"),
        row("outbox", verdict, hop="publish", effect="publication", lost=lost),
        row("at_least_once"),
    )
    with out.capture() as capture:
        verdicts.show(played(*rows))
    assert "as promised (✓): at_least_once\n" in capture.get()
