"""Observed against audited, on lives that are made up: what is explained and what is not."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.observed import EXPLAINS_S, NEVER, Gap, Rows, Scrape, gap_of, total

TIMES = st.lists(st.floats(0, 100), max_size=30)


def rows_of(times: list[float], scrape: Scrape) -> Rows:
    return Rows(
        len(times),
        sum(at <= scrape.counted_until for at in times),
        sum(at <= scrape.answered for at in times),
    )


@given(TIMES, st.floats(0, 100), st.floats(0, 5), st.data())
def test_a_life_that_counts_what_it_does_has_no_unexplained_gap_whenever_it_dies(
    times: list[float], scraped_at: float, in_hand_s: float, data: st.DataObject
) -> None:
    scrape = Scrape(scraped_at, max(0.0, scraped_at - in_hand_s))
    rows = rows_of(times, scrape)
    counted = rows.certain + data.draw(st.integers(0, rows.possible - rows.certain))  # of work in hand some is counted
    gap = gap_of(rows, counted)
    assert gap.unexplained == 0
    assert 0 <= gap.missing <= gap.after_scrape


@given(TIMES, st.integers(1, 10))
def test_counts_that_were_lost_before_the_scrape_are_unexplained(times: list[float], lost: int) -> None:
    rows = rows_of(times, Scrape(100, 100))
    counted = max(0, rows.all - lost)
    assert gap_of(rows, counted).unexplained == rows.all - counted


@given(TIMES, st.integers(1, 10))
def test_counts_of_what_was_not_done_are_unexplained(times: list[float], more: int) -> None:
    rows = rows_of(times, Scrape(100, 100))
    assert gap_of(rows, rows.all + more).unexplained == more


@given(TIMES, st.integers(0, 10))
def test_an_effect_without_an_answer_may_be_there_or_not(times: list[float], uncertain: int) -> None:
    rows = rows_of(times, Scrape(100, 100))
    unanswered = min(uncertain, rows.all)
    gap = gap_of(rows, rows.all - unanswered, uncertain)
    assert (gap.missing, gap.unanswered, gap.unexplained) == (unanswered, unanswered, 0)
    gap = gap_of(rows, rows.all, uncertain)
    assert (gap.missing, gap.unanswered, gap.unexplained) == (0, 0, 0)


def test_a_life_that_was_never_scraped_explains_all_its_rows() -> None:
    gap = gap_of(rows_of([1.5, 2.5], NEVER), 0)
    assert (gap.missing, gap.after_scrape, gap.unexplained) == (2, 2, 0)


@given(TIMES)
def test_what_a_life_did_long_after_its_last_scrape_is_unexplained(times: list[float]) -> None:
    rows = Rows(len(times), 0, 0, late=sum(at > EXPLAINS_S for at in times))
    assert gap_of(rows, 0).unexplained == rows.late


def test_lives_are_summed_and_do_not_make_up_for_each_other() -> None:
    assert total([gap_of(Rows(5, 5, 5), 3), gap_of(Rows(5, 5, 5), 7)]) == Gap(10, 10, 0, 0, 4)
