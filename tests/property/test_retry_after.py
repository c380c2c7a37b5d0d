"""Retry-After, whatever the other side writes there: a bounded number of seconds, and the one that was meant."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.domain.failure_policy import Later, next_place, of_http
from services.payments.third_party import LONGEST_RETRY_AFTER_S, retry_after_s

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = "Mon, 23 Nov 2026"
# what is almost a date: pieces of dates in any order, with numbers that no calendar has
pieces = st.sampled_from(
    ["Mon,", "Mon", "23", "Nov", "-", "2026", "99999", "0", "12:00:00", "25:61:61", "12:", ":", "GMT", "-0000",
     "+9999", "+99999999999", "(", ")", ",", "9" * 400]
)  # fmt: skip
almost_dates = st.lists(pieces, max_size=9).map(" ".join)


@given(st.one_of(st.text(), st.text("0123456789", max_size=5000), almost_dates))
@example("9" * 400)
@example("1e400")
@example("-1")
@example("\u0663")  # a decimal digit for Python, none for HTTP
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_any_text_gives_a_delay_with_which_a_place_is_found(text: str) -> None:
    delay_s = retry_after_s(text, NOW)
    assert 0 <= delay_s <= LONGEST_RETRY_AFTER_S
    place = next_place(of_http(429, "", delay_s), attempts=1, draw=0.5)
    assert isinstance(place, Later)
    assert int(place.delay_s * 1000) >= int(delay_s * 1000)


@given(st.integers(0, 10**6))
def test_seconds_are_seconds_up_to_the_longest(seconds: int) -> None:
    assert retry_after_s(f" {seconds} ", NOW) == min(seconds, LONGEST_RETRY_AFTER_S)


@given(st.integers(-(10**8), 10**8), st.integers(-23, 23))
def test_a_date_is_waited_for_wherever_it_was_written(seconds: int, hours: int) -> None:
    until = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=hours)))
    assert retry_after_s(format_datetime(until), NOW) == min(max(seconds, 0), LONGEST_RETRY_AFTER_S)


@pytest.mark.parametrize(
    "text", [f"{DAY} 12:01:30 GMT", f"{DAY} 12:01:30", "Monday, 23-Nov-26 12:01:30 GMT", "Mon Nov 23 12:01:30 2026"]
)
def test_the_forms_of_an_http_date(text: str) -> None:
    assert retry_after_s(text, NOW) == 90
