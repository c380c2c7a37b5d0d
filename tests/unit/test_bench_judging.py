"""The benchmark of the audit finds the damage that it has done itself, and sees when something is missing."""

from contextlib import closing
from pathlib import Path

import pytest

from loadtest.bench.judging import check, judge, make
from services.auditor.bulk import Bulk

MANY = 5_000


def test_it_finds_what_it_has_done_and_nothing_else(tmp_path: Path) -> None:
    with closing(Bulk(tmp_path, parts=3)) as bulk:
        make(bulk, MANY)
        rows = judge(bulk, MANY)
        check(rows, MANY)
        for count in ("lost", "applied_once", "unexpected"):
            before = getattr(rows[1], count)
            setattr(rows[1], count, before + 1)
            with pytest.raises(AssertionError):
                check(rows, MANY)
            setattr(rows[1], count, before)
