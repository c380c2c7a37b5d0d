"""The failure policy: what is tried again, when, and when no more."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.failure_policy import (
    FIRST_DELAY_S,
    GIVE_UP_AFTER_S,
    LONGEST_DELAY_S,
    RETRYABLE_STATUS,
    TOO_LATE_STATUS,
    DeadLetter,
    Failure,
    GiveUp,
    Retry,
    decide,
    of_http,
    of_sqlstate,
)

attempts = st.integers(1, 10_000)
draws = st.floats(0, 1)
patient = st.floats(0, GIVE_UP_AFTER_S, exclude_max=True)
waits = st.floats(0, 1e9)
sqlstates = st.from_regex(r"[0-9A-Z]{5}", fullmatch=True)


@given(attempts, patient, draws)
def test_delays_lie_between_half_and_the_whole_of_what_they_grow_to(attempt: int, elapsed: float, draw: float) -> None:
    decision = decide(Failure("timeout", True), attempt=attempt, elapsed_s=elapsed, draw=draw)
    assert isinstance(decision, Retry)
    announced = min(FIRST_DELAY_S * 2 ** min(attempt - 1, 16), LONGEST_DELAY_S)
    assert announced / 2 <= decision.delay_s <= announced <= LONGEST_DELAY_S


@given(attempts, patient, draws, draws)
def test_jitter_only_ever_takes_away(attempt: int, elapsed: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    early = decide(Failure("busy", True), attempt=attempt, elapsed_s=elapsed, draw=high)
    late = decide(Failure("busy", True), attempt=attempt, elapsed_s=elapsed, draw=low)
    assert isinstance(early, Retry)
    assert isinstance(late, Retry)
    assert early.delay_s <= late.delay_s


@given(attempts, patient, draws, waits)
def test_retry_after_is_honoured_but_never_longer_than_the_patience(
    attempt: int, elapsed: float, draw: float, wait: float
) -> None:
    failure = of_http(429, "", wait)
    decision = decide(failure, attempt=attempt, elapsed_s=elapsed, draw=draw)
    assert isinstance(decision, Retry)
    assert min(wait, GIVE_UP_AFTER_S) <= decision.delay_s <= max(GIVE_UP_AFTER_S, LONGEST_DELAY_S)


@given(attempts, st.floats(0, 1e9), draws, waits)
def test_what_is_not_retryable_is_never_tried_again(attempt: int, elapsed: float, draw: float, wait: float) -> None:
    failure = Failure("refused", False, "", wait)
    assert decide(failure, attempt=attempt, elapsed_s=elapsed, draw=draw) == DeadLetter("refused")


@given(attempts, st.floats(GIVE_UP_AFTER_S, 1e9), draws)
def test_what_is_retryable_is_given_up_in_the_end(attempt: int, elapsed: float, draw: float) -> None:
    assert decide(Failure("database", True), attempt=attempt, elapsed_s=elapsed, draw=draw) == GiveUp("database")


@given(draws)
def test_all_tries_of_one_call_are_bounded_in_number(draw: float) -> None:
    elapsed, attempt = 0.0, 1
    while isinstance(
        decision := decide(Failure("connection", True), attempt=attempt, elapsed_s=elapsed, draw=draw), Retry
    ):
        elapsed, attempt = elapsed + decision.delay_s, attempt + 1
    assert attempt < 2 * GIVE_UP_AFTER_S / LONGEST_DELAY_S + 20


@given(st.integers(400, 599))
def test_of_http_the_table_and_all_5xx_are_retryable(status: int) -> None:
    failure = of_http(status)
    assert failure.retryable is (status >= 500 or status in RETRYABLE_STATUS)
    assert failure.retryable or failure.reason == ("uncertain" if status == TOO_LATE_STATUS else "refused")


@given(sqlstates)
def test_of_sqlstates_data_and_integrity_errors_are_never_retryable(sqlstate: str) -> None:
    failure = of_sqlstate(sqlstate)
    if sqlstate[:2] in ("22", "23", "42", "XX"):
        assert not failure.retryable
    if sqlstate[:2] in ("08", "40", "57"):
        assert failure.retryable
